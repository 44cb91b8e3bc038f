#include "bench/step_plans.hpp"

#include "bench/step_run.hpp"
#include "model/weights/synthetic.hpp"

namespace moesaic::bench {

StepPlans::StepPlans(const train::Ranks& ranks, const mpi::GridSettings& wanted, const StepWorkload& workload)
    : workload_(workload), wanted_(wanted), lora_(workload.decoder.lora), steps_(train::steps_of(ranks)) {
    lora_.alpha = static_cast<double>(lora_.rank);
    ranks.world.agree([&] {
        architecture_ = train::read_architecture(workload.model, wanted, kernels::Precision::bf16);
        train::fit_to_checkpoint(workload.model, architecture_);
    });
    model::DecoderSettings settings = workload.decoder;
    settings.lora = lora_;
    train::MemoryRequest request = train::memory_request(ranks, sizeof(core::bf16), train::Purpose::training);
    request.saves = false;
    planner_ = std::make_unique<train::PassPlanner>(architecture_, settings, request);
    plan_ = [this](const train::PassChoice& choice) {
        const index_t of_grid = choice.grid.ranks();
        return planner_->plan(choice, {tokens_of_pass(choice.micro_batch, of_grid),
                                       workload_.batches.with(choice.micro_batch).per_pass(of_grid)});
    };
    steps_.activations = workload.decoder.activations;
    steps_.batch_size = workload.batches.batch_size;
    steps_.sequence_length = static_cast<double>(workload.length);
    steps_.chunks = workload.decoder.chunks;
    if (workload.model.router_skew > 0) {
        steps_.popularity = model::skewed_popularity(architecture_.experts, architecture_.experts_per_token,
                                                     workload.model.router_skew);
    }
}

train::PassOptions StepPlans::options(const mpi::GridShape& grid) const {
    return {.wanted = {workload_.batches.micro_batch, workload_.decoder.activations, workload_.model.weights, grid,
                       workload_.model.share},
            .batch_size = workload_.batches.batch_size,
            .experts = architecture_.experts,
            .integers = workload_.model.uses_integers(),
            .micro_batch_key = micro_batch_key,
            .activations_key = activations_key};
}

train::GridQuestion StepPlans::question() const {
    return {.wanted = workload_.model.settle(wanted_),
            .architecture = architecture_,
            .lora = lora_,
            .steps = steps_,
            .plan = plan_,
            .options = options({})};
}

std::unique_ptr<model::Decoder<core::bf16>> load_random_factors(const train::Runtime& runtime,
                                                                const model::Architecture& architecture,
                                                                const StepWorkload& workload) {
    auto decoder = train::load_model<core::bf16>(runtime, architecture, workload.model, workload.decoder,
                                                 train::Purpose::training);
    randomise(decoder->lora(), 0);
    decoder->update_lora();
    return decoder;
}

}  // namespace moesaic::bench
