#include "bench/step_check.hpp"

#include "bench/console.hpp"
#include "bench/step_run.hpp"
#include "model/weights/synthetic.hpp"
#include "train/evaluation.hpp"
#include "train/memory_plan.hpp"
#include "train/session.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <utility>

namespace moesaic::bench {
namespace {

constexpr std::uint64_t seed = 1;
constexpr index_t length = 8;

/// Collective. The same for any Scalar and any number of ranks, but for rounding.
template <class Scalar>
StepOutput run_step(const model::Architecture& architecture, model::DecoderSettings settings,
                    const kernels::KernelSet& kernels, const mpi::ProcessGrid& grid, const train::Dataset& data) {
    settings.max_tokens = data.sequences() * length;
    auto decoder = std::make_unique<model::Decoder<Scalar>>(architecture, settings, kernels, grid);
    decoder->load(model::SyntheticWeights<Scalar>(seed));
    randomise(decoder->lora(), seed);
    decoder->update_lora();
    train::TrainSession<Scalar> session(std::move(decoder), data, settings_of_steps({.batch_size = data.sequences()}),
                                        kernels, grid);
    StepOutput result;
    for (index_t s = 0; s < data.sequences(); ++s) {
        for (const double value : train::target_log_probabilities<Scalar>(session.decoder(), kernels, grid, data, s)) {
            result.log_probabilities.push_back(static_cast<float>(value));
        }
    }
    session.compute_gradients();
    session.for_each_gradient([&](const train::FullTensor& full) {
        const auto values = full.values.flat();
        result.grad_lora.insert(result.grad_lora.end(), values.begin(), values.end());
    });
    return result;
}

/// || found - expected || / || expected - offset ||; NaN if a value is.
double relative_error(const std::vector<float>& found, const std::vector<float>& expected, double offset) {
    double error = 0;
    double norm = 0;
    for (std::size_t i = 0; i < expected.size(); ++i) {
        const double e = expected[i];
        error += (found[i] - e) * (found[i] - e);
        norm += (e - offset) * (e - offset);
    }
    return std::sqrt(error / norm);
}

}  // namespace

StepErrors compare(const StepOutput& found, const StepOutput& expected) {
    const std::vector<float>& values = expected.log_probabilities;
    const double mean = std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
    return {relative_error(found.log_probabilities, values, mean),
            relative_error(found.grad_lora, expected.grad_lora, 0)};
}

std::vector<measure::Check> checks_of(const StepErrors& errors) {
    return {{"error_log_probability", errors.log_probability, step_error_bound},
            {"error_grad_lora", errors.grad_lora, step_error_bound}};
}

model::Architecture model_of_check(const model::Architecture& architecture, index_t expert_groups) {
    constexpr index_t vocabulary = 512;
    constexpr index_t moe_layers = 2;  // the lower one gets its gradient through attention
    model::Architecture small = architecture;
    small.vocabulary = std::min(architecture.vocabulary, vocabulary);
    small.experts = small.experts_per_token = std::max(architecture.experts_per_token, expert_groups);
    small.router.groups = 1;
    small.router.chosen_groups = 1;
    for (index_t layers = 1; layers < architecture.layers && small.layers == architecture.layers; ++layers) {
        if (std::count(small.is_moe.begin(), small.is_moe.begin() + layers, true) == moe_layers) {
            small.limit_layers(layers);
        }
    }
    return small;
}

double memory_of_step_check(const model::Architecture& architecture, const model::DecoderSettings& settings,
                            index_t expert_groups) {
    // The step in FP32; the one in BF16 is over by then and needs less.
    const train::MemoryRequest reference = {
        .pass = {4 * length}, .scalar_bytes = sizeof(float), .packed_bytes = sizeof(float)};
    return train::plan_memory(model_of_check(architecture, expert_groups), settings, reference).total();
}

StepErrors measure_step_errors(const model::Architecture& architecture, const model::DecoderSettings& settings,
                               const kernels::KernelSet& kernels, const mpi::ProcessGrid& grid) {
    const model::Architecture small = model_of_check(architecture, grid.expert().size());
    const train::Dataset data =
        random_tokens(std::max<index_t>(4, grid.world().size()), length, small.vocabulary, seed);
    const StepOutput found = run_step<core::bf16>(small, settings, kernels, grid, data);
    StepErrors errors;
    grid.world().agree([&] {
        if (grid.world().is_root()) {
            const kernels::KernelSet portable("portable");
            const mpi::ProcessGrid alone(mpi::Communicator::self(), {});
            errors = compare(found, run_step<float>(small, settings, portable, alone, data));
        }
    });
    return errors;
}

void verify_step(Console& console, const model::Architecture& architecture, const model::DecoderSettings& settings,
                 const kernels::KernelSet& kernels, const mpi::ProcessGrid& grid) {
    const StepErrors errors = measure_step_errors(architecture, settings, kernels, grid);
    console.say("a step of a small model of the same widths, against FP32:");
    for (const measure::Check& check : checks_of(errors)) {  // known on rank 0, zeros elsewhere
        console.add_check(check.name, check.error, check.bound);
        console.say(fmt::format(" {} {:.2e}", check.name.substr(6), check.error));
    }
    console.say(fmt::format(" (at most {})\n", step_error_bound));
}

}  // namespace moesaic::bench
