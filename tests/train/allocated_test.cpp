// The memory plan against the bytes that a training step really allocates.
#include "core/enumeration.hpp"
#include "support/allocated_memory.hpp"
#include "support/grids.hpp"
#include "support/small_decoder.hpp"
#include "train/adamw.hpp"
#include "train/memory_plan.hpp"

#include <gtest/gtest.h>
#include <malloc.h>
#include <omp.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace moesaic::train {
namespace {

constexpr const char* isa = "auto";
constexpr index_t sequence_length = 128;
constexpr index_t tokens_of_rank = 8 * sequence_length;

/// Every token goes to all experts, so that no rank's rows depend on chance; large enough that what is counted is not
/// lost beside the names of modules.
model::Architecture architecture_of(const std::string& family) {
    nlohmann::json config = test::small_config(family);
    config.update(
        {{"hidden_size", 192}, {"vocab_size", 250}, {"num_experts_per_tok", 4}, {"max_position_embeddings", 256}});
    const bool dense_size_is_of_experts = !config.contains("moe_intermediate_size");
    config.update({{"intermediate_size", dense_size_is_of_experts ? 96 : 160}});
    for (const char* key : {"num_experts", "num_local_experts", "n_routed_experts"}) {
        if (config.contains(key)) {
            config[key] = 4;
        }
    }
    for (const auto& [key, value] : {std::pair{"moe_intermediate_size", 96},
                                     {"shared_expert_intermediate_size", 64},
                                     {"head_dim", 48},
                                     {"qk_nope_head_dim", 32},
                                     {"qk_rope_head_dim", 16},
                                     {"v_head_dim", 40},
                                     {"q_lora_rank", 72},
                                     {"kv_lora_rank", 56},
                                     {"n_group", 2},
                                     {"topk_group", 2}}) {
        if (config.contains(key)) {
            config[key] = value;
        }
    }
    return test::read_config(config);
}

/// Sequences of a rank, all of one length.
using Lengths = std::vector<index_t>;

/// What ranks have who share the work.
Lengths equal_share() {
    return Lengths(tokens_of_rank / sequence_length, sequence_length);
}

/// Bytes that two steps of a rank allocate at most, which save nothing.
template <class Scalar>
double allocated(const model::Architecture& architecture, const model::LoraSettings& lora, ops::Activations activations,
                 const std::optional<mpi::GridShape>& shape, const Lengths& lengths = equal_share()) {
    const mpi::Communicator& world = mpi::Communicator::world();
    const std::size_t before = test::allocated_bytes();
    test::reset_peak_bytes();
    {
        test::SmallDecoder<Scalar> small(architecture, world, tokens_of_rank * world.size(), shape, lora, 0,
                                         activations, isa);
        ShardedAdamW optimizer(small.decoder.lora(), small.kernels, small.grid, {});
        ops::TokenBatch batch =
            test::random_batch(lengths, architecture.vocabulary, static_cast<std::uint64_t>(world.rank()));
        batch.labels = batch.tokens;  // all rows are targets, as plans have it
        for (int step = 0; step < 2; ++step) {
            small.decoder.lora().clear_gradients();
            small.loss(batch, true);
            optimizer.reduce_gradients();
            optimizer.step(1e-3, 1);
            small.decoder.update_lora();
        }
    }
    return static_cast<double>(test::peak_bytes() - before);
}

template <class Scalar>
double planned(const model::Architecture& architecture, const model::LoraSettings& lora, ops::Activations activations,
               const mpi::GridShape& shape, const PassSize& pass) {
    const kernels::KernelSet kernels(isa, 2);
    return plan_memory(architecture, {.lora = lora, .activations = activations, .max_tokens = pass.tokens},
                       {.pass = pass,
                        .data_ranks = shape.data,
                        .expert_ranks = shape.expert,
                        .tensor_ranks = shape.tensor,
                        .threads = omp_get_max_threads(),
                        .scalar_bytes = sizeof(Scalar),
                        .packed_bytes = packed_bytes(kernels, sizeof(Scalar)),
                        .in_parts = kernels.operand_parts<Scalar>() == 2,
                        .saves = false})
        .total();
}

template <class Scalar>
void expect_as_planned(const model::Architecture& architecture, const model::LoraSettings& lora,
                       ops::Activations activations, const mpi::GridShape& shape) {
    const mpi::Communicator& world = mpi::Communicator::world();
    const double held = world.max(allocated<Scalar>(architecture, lora, activations, shape));
    const double plan = planned<Scalar>(architecture, lora, activations, shape, {tokens_of_rank * world.size()});
    EXPECT_NEAR(plan, held, 0.01 * held) << architecture.family << ", " << core::name_of(activations) << ", "
                                         << lora.targets.size() << " targets, " << shape.data << " x " << shape.expert
                                         << " x " << shape.tensor << ", " << sizeof(Scalar) << " bytes";
}

/// Adapters of experts alone, of everything with several ranks and dropout, and of the last layer alone.
std::vector<model::LoraSettings> adapters() {
    model::LoraSettings everywhere = test::adapters_everywhere();
    everywhere.dropout = 0.1;
    model::LoraSettings last;
    last.modules = {{"model.layers.2.self_attn.o_proj", {40, 1.0}}};
    return {model::LoraSettings{.rank = 8}, everywhere, last};
}

void expect_as_planned(const std::vector<std::string>& families) {
    mallopt(M_MMAP_THRESHOLD, 1 << 25);  // pages of their own would be counted as a whole
    // Buffers in which kernels pack operands, at most 1 MiB per thread, stay from run to run and are not planned.
    static_cast<void>(allocated<float>(architecture_of(families.front()), {}, ops::Activations::retain, {}));
    static_cast<void>(allocated<core::bf16>(architecture_of(families.front()), {}, ops::Activations::retain, {}));
    // Several ranks take their time: what is kept, and its type, then change from grid to grid and round to round.
    constexpr auto all_activations = core::values_of<ops::Activations>();
    const std::size_t at_a_time = mpi::Communicator::world().size() == 1 ? all_activations.size() : 1;
    std::size_t round = 0;
    for (const std::string& family : families) {
        for (const model::LoraSettings& lora : adapters()) {
            std::size_t turn = round++;
            for (const mpi::GridShape& shape : test::grids_of(mpi::Communicator::world().size())) {
                for (std::size_t i = 0; i < at_a_time; ++i) {
                    const ops::Activations activations = all_activations[(turn + i) % all_activations.size()];
                    turn % 2 == 1 ? expect_as_planned<core::bf16>(architecture_of(family), lora, activations, shape)
                                  : expect_as_planned<float>(architecture_of(family), lora, activations, shape);
                }
                ++turn;
            }
        }
    }
}

TEST(MemoryPlan, KnowsWhatWeightsThatAreMultipliedAsIntegersWant) {
    mallopt(M_MMAP_THRESHOLD, 1 << 25);
    model::Architecture architecture = architecture_of("qwen3_moe");
    architecture.stored.experts = ops::WeightFormat::int8_rows;
    static_cast<void>(allocated<core::bf16>(architecture, {}, ops::Activations::retain, {}));
    const std::vector<mpi::GridShape> grids = test::grids_of(mpi::Communicator::world().size());
    for (const ops::Activations activations : core::values_of<ops::Activations>()) {
        expect_as_planned<core::bf16>(architecture, adapters()[1], activations, grids.back());
    }
}

TEST(MemoryPlan, IsWhatAStepAllocates) {
    std::vector<std::string> families = test::family_names();
    if (mpi::Communicator::world().size() > 2) {
        // There are many grids, and what they share out is planned alike for all families: two of them will do.
        families = {families.front(), families.back()};
    }
    expect_as_planned(families);
}

/// One sequence for all: the last rank has its rows, and the longest slices; others have the rows that come to their
/// experts.
TEST(MemoryPlan, IsWhatARankAllocatesThatAloneHasASequence) {
    mallopt(M_MMAP_THRESHOLD, 1 << 25);
    const mpi::Communicator& world = mpi::Communicator::world();
    const model::Architecture architecture = architecture_of(test::family_names().front());
    const model::LoraSettings lora = adapters()[1];
    const Lengths mine = world.rank() + 1 == world.size() ? Lengths{tokens_of_rank} : Lengths{};
    for (const mpi::GridShape& shape : test::grids_of(world.size())) {
        const auto held = [&] {
            return world.max(allocated<float>(architecture, lora, ops::Activations::retain, shape, mine));
        };
        static_cast<void>(held());  // as above
        const double most = held();
        EXPECT_NEAR(planned<float>(architecture, lora, ops::Activations::retain, shape, {tokens_of_rank, 1}), most,
                    0.01 * most)
            << shape.data << " x " << shape.expert << " x " << shape.tensor;
    }
}

}  // namespace
}  // namespace moesaic::train
