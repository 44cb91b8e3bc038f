// Which modules are adapted, and how.
#include "model/adapters/lora_settings.hpp"

#include "core/error.hpp"

#include <gtest/gtest.h>

namespace moesaic::model {
namespace {

TEST(ModulePatterns, MatchTheLastPartsOfNamesAndTheFirstOneCounts) {
    const auto patterns = ModulePatterns::parse("lora.rank_pattern", "layers.1.self_attn.q_proj=3,q_proj=4,o.*=5");
    EXPECT_EQ(patterns.value_of("model.layers.1.self_attn.q_proj", 8), 3);
    EXPECT_EQ(patterns.value_of("model.layers.2.self_attn.q_proj", 8), 4);
    EXPECT_EQ(patterns.value_of("model.layers.2.self_attn.o_proj", 8), 5);
    EXPECT_EQ(patterns.value_of("model.layers.2.self_attn.kq_proj", 8), 8);
    for (const char* text : {"q_proj", "q_proj=", "q_proj=x", "q_proj=-1", "=3", "(=3", "q_proj=1,", ",q_proj=1"}) {
        EXPECT_THROW(static_cast<void>(ModulePatterns::parse("lora.rank_pattern", text)), core::Error) << text;
    }
    EXPECT_TRUE(ModulePatterns::parse("lora.rank_pattern", "").empty());
    LoraSettings settings;
    settings.rank_pattern = ModulePatterns::parse("lora.rank_pattern", "q_proj=1.5");
    EXPECT_THROW(static_cast<void>(settings.spec_of(LoraTarget::experts, "q_proj")), core::Error);
}

TEST(LoraSettings, ScaleByTheRootOfTheRankIfRankStabilised) {
    const LoraSettings plain{4, 2.0, false};
    const LoraSettings stabilised{4, 2.0, true};
    EXPECT_EQ(plain.spec_of(LoraTarget::experts, "m").scale, 0.5);
    EXPECT_EQ(stabilised.spec_of(LoraTarget::experts, "m").scale, 1.0);
    EXPECT_EQ(plain.spec_of(LoraTarget::attention, "m").lora_rank, 0);
}

}  // namespace
}  // namespace moesaic::model
