// The memory plan against published sizes and against what a decoder really holds.
#include "train/memory_plan.hpp"

#include "model/decoder.hpp"
#include "model/weights/synthetic.hpp"
#include "support/grids.hpp"
#include "support/random_model.hpp"
#include "train/adamw.hpp"

#include <gtest/gtest.h>

#include <algorithm>

namespace moesaic::train {
namespace {

const model::DecoderSettings settings = {.lora = {.rank = 16}, .max_tokens = 0};

TEST(MemoryPlan, WeightsAreThoseOfThePublishedModels) {
    // Billions of parameters as published; those of DeepSeek-V3 and GLM-4.5-Air are without the module for further
    // tokens.
    for (const auto& [name, billions] : {std::pair{"qwen3-30b-a3b", 30.5},
                                         {"qwen3-235b-a22b", 235.1},
                                         {"mixtral-8x7b", 46.7},
                                         {"mixtral-8x22b", 140.6},
                                         {"deepseek-v2-lite", 15.7},
                                         {"deepseek-v3", 671.0},
                                         {"kimi-k2", 1026.4},
                                         {"glm-4.5-air", 106.9}}) {
        const auto plan =
            plan_memory(model::synthetic_architecture(name), settings, {.pass = {2048}, .scalar_bytes = 2});
        // Besides their elements, matrices have gaps that keep their columns apart in caches: a block row of 24 blocks
        // takes 1/96 more.
        const double gaps = 1.0 + 1.0 / 96;
        EXPECT_NEAR(plan.parameters, 1e9 * billions, 5e6 * billions) << name;
        EXPECT_GT(plan.frozen_weights(), 2e9 * 0.995 * billions) << name;
        EXPECT_LT(plan.frozen_weights(), 2e9 * 1.005 * gaps * billions) << name;
        double sum = 0;
        for (const MemoryPlan::Item& item : plan.items) {
            sum += item.bytes;
        }
        EXPECT_EQ(plan.total(), sum);
        EXPECT_EQ(plan.of("nothing"), 0);
    }
}

/// In FP32, too, matrices stay as the checkpoint has them.
TEST(MemoryPlan, WeightsAreInTheFormatOfTheCheckpoint) {
    model::Architecture architecture = model::synthetic_architecture("mixtral-8x7b");
    const auto weights = [&](index_t scalar_bytes) {
        return plan_memory(architecture, settings, {.pass = {2048}, .scalar_bytes = scalar_bytes}).frozen_weights();
    };
    const double in_bf16 = weights(2);
    const double in_fp32 = weights(4);
    EXPECT_NEAR(in_fp32, 2 * in_bf16, 1e-3 * in_fp32);
    architecture.stored = {ops::WeightFormat::bf16, ops::WeightFormat::bf16, ops::WeightFormat::bf16};
    EXPECT_EQ(weights(4), in_bf16);
    EXPECT_EQ(weights(2), in_bf16);
    architecture.stored = {ops::WeightFormat::fp32, ops::WeightFormat::fp32, ops::WeightFormat::fp32};
    EXPECT_EQ(weights(4), in_fp32);
    EXPECT_EQ(weights(2), in_bf16);
}

/// A planner gives for every format and any tokens what a plan of its own does.
TEST(MemoryPlan, APlannerPlansAnyPass) {
    model::Architecture architecture = model::synthetic_architecture("deepseek-v2-lite");
    const MemoryPlanner planner(architecture, settings, {.expert_ranks = 2, .scalar_bytes = 2});
    for (const ops::WeightFormat format : {ops::WeightFormat::bf16, ops::WeightFormat::int4}) {
        architecture.stored.experts = format;
        const MemoryPlan plan = planner.plan({1000}, format);
        const MemoryPlan same =
            plan_memory(architecture, settings, {.pass = {1000}, .expert_ranks = 2, .scalar_bytes = 2});
        ASSERT_EQ(plan.items.size(), same.items.size());
        for (std::size_t i = 0; i < plan.items.size(); ++i) {
            EXPECT_EQ(plan.items[i].name(), same.items[i].name());
            EXPECT_EQ(plan.items[i].bytes, same.items[i].bytes) << plan.items[i].name();
        }
        EXPECT_EQ(plan.items.front().name(), format == ops::WeightFormat::bf16 ? "experts, BF16" : "experts, INT4");
    }
}

TEST(MemoryPlan, IsThatOfTheRankWithMostSequences) {
    const model::Architecture architecture = model::synthetic_architecture("qwen3-30b-a3b");
    const auto activations = [&](const MemoryRequest& request) {
        return plan_memory(architecture, settings, request).of("activations");
    };
    const double one_of_each = activations({.pass = {1024, 1}, .scalar_bytes = 2});
    EXPECT_EQ(activations({.pass = {2048, 2}, .data_ranks = 4, .scalar_bytes = 2}), one_of_each);
    EXPECT_EQ(activations({.pass = {4096, 4}, .data_ranks = 4, .scalar_bytes = 2}), one_of_each);
    EXPECT_EQ(activations({.pass = {5120, 5}, .data_ranks = 4, .scalar_bytes = 2}),
              activations({.pass = {2048}, .scalar_bytes = 2}));
    // The experts' part of all of a replica's tokens, whichever rank has them.
    const auto of_groups = [&](const PassSize& pass) {
        return activations({.pass = pass, .expert_ranks = 2, .tensor_ranks = 2, .scalar_bytes = 2});
    };
    EXPECT_GT(of_groups({2048, 2}), of_groups({2048, 4}));
    EXPECT_EQ(of_groups({2048, 4}), of_groups({2048}));
    EXPECT_LT(of_groups({2048, 2}), of_groups({4096, 4}));
}

TEST(MemoryPlan, RanksShareExpertsOptimizerAndTokens) {
    const model::Architecture architecture = model::synthetic_architecture("qwen3-30b-a3b");
    const auto one = plan_memory(architecture, settings, {.pass = {4096}, .scalar_bytes = 2});
    const auto slices = plan_memory(architecture, settings, {.pass = {4096}, .tensor_ranks = 4, .scalar_bytes = 2});
    const auto replicas = plan_memory(architecture, settings, {.pass = {4096}, .data_ranks = 4, .scalar_bytes = 2});
    EXPECT_LT(slices.frozen_weights(), one.frozen_weights() / 3);
    EXPECT_EQ(replicas.frozen_weights(), one.frozen_weights());
    // Gradients are reduced where several ranks hold the same factors: with slices, all but B of gate and up and A of
    // down, which have the intermediate size where the others have the hidden size.
    const auto hidden = static_cast<double>(architecture.hidden);
    const auto intermediate = static_cast<double>(architecture.expert_intermediate);
    const double sliced = intermediate / (hidden + intermediate);
    EXPECT_NEAR(replicas.of("gradients"), one.of("gradients") * (1 + 1.0 / 4), 1000);
    EXPECT_NEAR(slices.of("gradients"), one.of("gradients") * (1 + 1.0 / 4 - (1 - 1.0 / 4) * sliced - sliced / 4),
                1000);
    for (const auto& plan : {replicas, slices}) {
        EXPECT_NEAR(plan.of("optimizer"), one.of("optimizer") / 4, 1000);
    }
    const auto groups = plan_memory(architecture, settings, {.pass = {4096}, .expert_ranks = 4, .scalar_bytes = 2});
    EXPECT_NEAR(groups.frozen_weights(), slices.frozen_weights(), 1e-2 * slices.frozen_weights());
    EXPECT_NEAR(groups.of("optimizer"), one.of("optimizer") / 4, 1000);
    EXPECT_GT(groups.of("communication buffers"), 0);
    EXPECT_GT(slices.of("communication buffers"), 0);
    EXPECT_EQ(replicas.of("communication buffers"), 0) << "no rows travel";
    for (const auto& plan : {slices, groups, replicas}) {
        EXPECT_LT(plan.of("activations"), one.of("activations"));
    }
    // But for the places in which the rows of each expert begin.
    const double places = 48.0 * (128 + 1) * sizeof(index_t);
    EXPECT_NEAR(replicas.of("activations") - places, (one.of("activations") - places) / 4, 1);
}

/// The ranks of a host together count what they share once, and it is what they allocate, but for the ends of pages.
TEST(MemoryPlan, SharedWeightsCountOncePerHost) {
    for (const char* name : {"qwen3-30b-a3b", "deepseek-v2-lite", "glm-4.5-air"}) {
        const model::Architecture architecture = model::synthetic_architecture(name);
        const MemoryRequest request = {.pass = {4096}, .tensor_ranks = 4, .host_ranks = 4, .scalar_bytes = 2};
        MemoryRequest sharing = request;
        sharing.share = model::WeightSharing::host;
        const MemoryPlan own = plan_memory(architecture, settings, request);
        const MemoryPlan shared = plan_memory(architecture, settings, sharing);
        EXPECT_EQ(own.shared, 0);
        EXPECT_EQ(shared.shared, own.of("attention and dense") + own.of("embedding and head"));
        EXPECT_NEAR(4 * shared.total(), 4 * own.total() - 3 * shared.shared, 1);
        EXPECT_EQ(shared.of("experts"), own.of("experts"));
        EXPECT_EQ(shared.of("norms and routers"), own.of("norms and routers"));
        const auto layers = model::plan_layers(architecture, settings, {0, 1, 0, 4});
        const auto allocated = static_cast<double>(model::SharedWeights<core::bf16>::bytes_of(architecture, layers));
        EXPECT_GE(allocated, shared.shared);
        EXPECT_LT(allocated, 1.001 * shared.shared);
        sharing.host_ranks = 1;
        EXPECT_EQ(plan_memory(architecture, settings, sharing).total(), own.total()) << "a rank alone";
    }
}

/// The plan has the largest rank; slices and owned parts of ranks differ by an element or so of each tensor.
void expect_near(double planned, double held) {
    EXPECT_GE(1.02 * planned, held);
    EXPECT_LE(planned, 1.2 * held);
}

TEST(MemoryPlan, LoraIsWhatADecoderDeclares) {
    using enum model::LoraTarget;
    const model::Architecture architecture = test::small_architecture();
    const kernels::KernelSet kernels("portable");
    for (const std::set<model::LoraTarget>& targets : {std::set{experts}, {attention, dense}, {experts, attention}}) {
        for (const mpi::GridShape& shape : test::grids_of(mpi::Communicator::world().size())) {
            const mpi::ProcessGrid grid(mpi::Communicator::world(), shape);
            model::DecoderSettings small = settings;
            small.lora.rank = 4;
            small.lora.targets = targets;
            small.max_tokens = 8;
            model::Decoder<float> decoder(architecture, small, kernels, grid);
            const ShardedAdamW optimizer(decoder.lora(), kernels, grid, {});
            double factors = 0;
            double moments = 0;
            double reduced = 0;
            for (std::size_t b = 0; b < decoder.lora().buckets.size(); ++b) {
                factors += static_cast<double>(decoder.lora().buckets[b]->values.size());
                moments += static_cast<double>(optimizer.shard(b).first_moment.size() +
                                               optimizer.shard(b).second_moment.size());
                reduced += static_cast<double>(optimizer.shard(b).reduced.size());
            }
            const auto plan = plan_memory(architecture, small,
                                          {.pass = {8},
                                           .data_ranks = shape.data,
                                           .expert_ranks = shape.expert,
                                           .tensor_ranks = shape.tensor,
                                           .scalar_bytes = sizeof(float)});
            expect_near(plan.of("LoRA factors"), grid.world().max(factors) * 2 * sizeof(float));
            expect_near(plan.of("gradients"), grid.world().max(factors + reduced) * sizeof(float));
            expect_near(plan.of("optimizer"), grid.world().max(moments) * sizeof(float));
        }
    }
}

/// Ranks of patterns, and modules of an adapter that was read: exactly the bytes that a rank alone allocates.
TEST(MemoryPlan, LoraIsCountedWhateverDecidesOnIt) {
    const model::Architecture architecture = test::small_architecture("deepseek_v3");
    const kernels::KernelSet kernels("portable");
    const mpi::ProcessGrid grid(mpi::Communicator::self(), {});
    model::LoraSettings pattern{.rank = 4};
    pattern.targets = {model::LoraTarget::experts, model::LoraTarget::attention, model::LoraTarget::shared};
    pattern.rank_pattern = model::ModulePatterns::parse("rank_pattern", "layers.1.*down_proj=9,kv_b_proj=2,o_proj=13");
    model::LoraSettings upper{.rank = 4};
    upper.modules = {{"model.layers.2.self_attn.o_proj", {3, 1.0}}, {"model.layers.2.mlp.experts.1.up_proj", {7, 2.0}}};
    double all_layers = 0;
    for (const model::LoraSettings& lora : {pattern, upper}) {
        model::DecoderSettings small = settings;
        small.lora = lora;
        small.max_tokens = 8;
        model::Decoder<float> decoder(architecture, small, kernels, grid);
        const ShardedAdamW optimizer(decoder.lora(), kernels, grid, {});
        double factors = 0;
        for (const auto& bucket : decoder.lora().buckets) {
            factors += static_cast<double>(bucket->values.size());
        }
        const auto plan = plan_memory(architecture, small, {.pass = {8}, .scalar_bytes = sizeof(float)});
        EXPECT_EQ(plan.of("LoRA factors"), 2 * factors * sizeof(float));
        EXPECT_EQ(plan.of("gradients"), factors * sizeof(float));
        EXPECT_EQ(plan.adapter_parameters, factors);
        EXPECT_EQ(plan.of("optimizer"), 2 * factors * sizeof(float));
        if (all_layers == 0) {
            all_layers = plan.of("activations");
        } else {
            EXPECT_LT(plan.of("activations"), 0.7 * all_layers) << "layers below the adapter keep nothing";
        }
    }
}

TEST(MemoryPlan, RecomputingAndEvaluatingNeedLess) {
    const model::Architecture architecture = model::synthetic_architecture("qwen3-30b-a3b");
    MemoryRequest request = {.pass = {4096}, .scalar_bytes = 2};
    const auto retain = plan_memory(architecture, settings, request);
    model::DecoderSettings less = settings;
    less.activations = ops::Activations::recompute;
    const auto recompute = plan_memory(architecture, less, request);
    // Gate and up of 8 experts, 768 wide, and their products with A: 2 bytes each, 48 layers.
    EXPECT_EQ(retain.of("activations") - recompute.of("activations"), 48.0 * 4096 * 8 * 2 * (768 + 16) * 2);
    less.activations = ops::Activations::layer;
    const auto layer = plan_memory(architecture, less, request);
    // The stream before what backward goes through of 48 layers; and one layer at a time.
    EXPECT_EQ(layer.of("activations"), 48 * 4096.0 * 2048 * 4 + recompute.of("activations") / 48);
    request.training = false;
    EXPECT_LT(plan_memory(architecture, settings, request).total(), recompute.total());
}

}  // namespace
}  // namespace moesaic::train
