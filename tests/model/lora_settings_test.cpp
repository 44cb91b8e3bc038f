// Which modules are adapted, and how.
#include "model/adapters/lora_settings.hpp"

#include "core/error.hpp"
#include "model/adapters/adapted_modules.hpp"
#include "support/small_configs.hpp"

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

/// Expressions that backtrack without end are found out, wherever they come from.
TEST(ModulePatterns, ComeToAnEnd) {
    const std::string module = "model.layers.0.mlp.experts.0.down_proj";
    for (const std::string& pattern : {std::string("(.*)*(.*)*(.*)*x"), std::string("(.*.*)*(.*.*)*z"),
                                       "(" + std::string(60, 'a') + "?)" + std::string(400, '?')}) {
        try {
            ModulePatterns patterns;
            patterns.add("lora.rank_pattern", pattern, 4);
            EXPECT_EQ(patterns.value_of(module, 8), 8) << pattern;
        } catch (const core::Error& error) {
            EXPECT_EQ(error.code(), core::ExitCode::usage);
            EXPECT_NE(std::string(error.what()).find("lora.rank_pattern"), std::string::npos) << error.what();
        }
    }
    EXPECT_THROW(static_cast<void>(ModulePatterns::parse("x", std::string(5000, '*') + "=4")), core::Error);
    EXPECT_THROW(static_cast<void>(ModulePatterns::parse("x", "q_proj=inf")), core::Error);
    EXPECT_THROW(static_cast<void>(ModulePatterns::parse("x", "q_proj=nan")), core::Error);
}

TEST(ModulePatterns, AreWrittenAsTheyAreRead) {
    const std::string text = "layers\\.0\\..*=3,q_proj=4.5";
    EXPECT_EQ(ModulePatterns::parse("x", text).text(), text);
    EXPECT_EQ(ModulePatterns().text(), "");
}

std::string error_of(const LoraSettings& settings, const std::string& family = "qwen3_moe") {
    try {
        check_adapters(test::small_architecture(family), settings);
    } catch (const core::Error& error) {
        EXPECT_EQ(error.code(), core::ExitCode::usage);
        return error.what();
    }
    return "";
}

TEST(AdaptedModules, MustExist) {
    LoraSettings settings;
    EXPECT_EQ(error_of(settings), "");
    settings.rank_pattern = ModulePatterns::parse("x", "nosuch_proj=64");
    EXPECT_NE(error_of(settings).find("lora.rank_pattern: the pattern nosuch_proj matches no adapted module (their "
                                      "names end in down_proj, gate_proj, up_proj)"),
              std::string::npos)
        << error_of(settings);
    settings.rank_pattern = {};
    settings.alpha_pattern = ModulePatterns::parse("x", "q_proj=64");  // of attention, which is not adapted
    EXPECT_NE(error_of(settings).find("lora.alpha_pattern: the pattern q_proj"), std::string::npos);
    settings.targets = {LoraTarget::experts, LoraTarget::attention};
    EXPECT_EQ(error_of(settings), "");
    settings.targets = {LoraTarget::shared};
    EXPECT_NE(error_of(settings).find("lora.targets has shared"), std::string::npos);
    EXPECT_NE(error_of(settings).find("experts, attention, dense"), std::string::npos) << error_of(settings);
    settings.alpha_pattern = {};
    EXPECT_EQ(error_of(settings, "deepseek_v3"), "");
    settings.modules.emplace();
    EXPECT_NE(error_of(settings).find("nothing would be trained"), std::string::npos);
}

/// Three layers of which the first is dense; 5 experts; hidden size 18, experts' 10, 4 x 6 queries, 2 x 6 keys.
TEST(AdaptedModules, AreSummedUpByKind) {
    LoraSettings settings;
    settings.rank = 4;
    settings.targets = {LoraTarget::experts, LoraTarget::attention, LoraTarget::dense};
    settings.rank_pattern = ModulePatterns::parse("x", "experts.3.up_proj=7");
    const AdaptedModules adapted = adapted_modules(test::small_architecture(), settings);
    EXPECT_EQ(adapted.targets, settings.targets);
    std::vector<std::string> names;
    double parameters = 0;
    for (const AdaptedKind& kind : adapted.kinds) {
        names.push_back(kind.name);
        parameters += kind.parameters;
    }
    EXPECT_EQ(names, (std::vector<std::string>{"experts", "o_proj", "q_proj", "k_proj", "v_proj", "dense gate_proj",
                                               "dense up_proj", "dense down_proj"}));
    EXPECT_EQ(adapted.kinds[1].modules, 3);
    EXPECT_EQ(adapted.kinds[1].parameters, 3 * 4 * (18 + 24));
    EXPECT_EQ(adapted.kinds[0].modules, 2 * 5 * 3);
    EXPECT_EQ(adapted.kinds[0].least_rank, 4);
    EXPECT_EQ(adapted.kinds[0].largest_rank, 7);
    EXPECT_EQ(adapted.parameters, parameters);
    // Embedding and head, attention with its norms, the dense network, experts and routers, norms.
    EXPECT_EQ(adapted.model_parameters, 2 * 29 * 18 + 3 * (2 * 24 * 18 + 2 * 12 * 18 + 2 * 6) + 3 * 11 * 18 +
                                            2 * (5 * 3 * 10 * 18 + 5 * 18) + 7 * 18);
    EXPECT_NE(describe(adapted).find("30 x experts (ranks 4 to 7), 3 x o_proj (rank 4), "), std::string::npos)
        << describe(adapted);
    EXPECT_NE(describe(adapted).find(" parameters ("), std::string::npos);
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
