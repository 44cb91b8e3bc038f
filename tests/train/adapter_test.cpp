// Adapters in both layouts: what is written is read again, and what does not fit is refused by name.
#include "core/error.hpp"
#include "core/options.hpp"
#include "io/files.hpp"
#include "io/json.hpp"
#include "io/safetensors.hpp"
#include "support/grids.hpp"
#include "support/shared_folder.hpp"
#include "support/small_decoder.hpp"
#include "train/adapter_store.hpp"

#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>

namespace moesaic::train {
namespace {

using core::Error;
using core::ExitCode;
using mpi::Communicator;
using nlohmann::json;
using test::SharedFolder;
using test::SmallDecoder;

struct Adapted {
    explicit Adapted(const Communicator& world, const model::LoraSettings& lora,
                     const std::optional<mpi::GridShape>& shape = {})
        : model(test::small_architecture(), world, 64, shape, lora), store(model.decoder.lora(), model.grid) {}
    void save(const std::filesystem::path& folder, AdapterLayout layout) const {
        store.save(folder, layout, "base", model.decoder.architecture(), 7);
    }
    void load(const std::filesystem::path& folder) { store.load(folder, test::small_architecture()); }

    SmallDecoder<float> model;
    AdapterStore store;
};

/// s B A of every module, row after row, on rank 0.
std::map<std::string, std::vector<double>> products(Adapted& adapted) {
    std::map<std::string, std::vector<double>> result;
    std::map<std::string, FullTensor> tensors;
    adapted.store.for_each_tensor([&](const FullTensor& full) {
        FullTensor& copy = tensors[full.tensor->name];
        copy.tensor = full.tensor;
        copy.values.resize(full.values.rows(), full.values.cols());
        std::copy_n(full.values.data(), full.values.size(), copy.values.data());
    });
    for (const auto& [name, b] : tensors) {
        if (b.tensor->factor == ops::LoraFactor::a) {
            continue;
        }
        const FullTensor& a_of_it = tensors.at(name.substr(0, name.size() - 1) + "A");
        for (index_t m = 0; m < b.tensor->count(); ++m) {
            const model::AdapterSpec spec = b.tensor->specs[static_cast<std::size_t>(m)];
            std::vector<double>& product = result[b.tensor->modules[static_cast<std::size_t>(m)]];
            for (index_t i = 0; i < b.tensor->rows; ++i) {
                for (index_t j = 0; j < a_of_it.tensor->cols; ++j) {
                    double sum = 0;
                    for (index_t r = 0; r < spec.lora_rank; ++r) {
                        sum += spec.scale * double{b.matrix(m)(i, r)} * double{a_of_it.matrix(m)(r, j)};
                    }
                    product.push_back(sum);
                }
            }
        }
    }
    return result;
}

void expect_equal(const std::map<std::string, std::vector<double>>& found,
                  const std::map<std::string, std::vector<double>>& expected) {
    ASSERT_EQ(found.size(), expected.size());
    for (const auto& [module, values] : expected) {
        ASSERT_EQ(found.count(module), 1U) << module;
        for (std::size_t i = 0; i < values.size(); ++i) {
            ASSERT_NEAR(found.at(module)[i], values[i], 1e-6 * (1 + std::abs(values[i]))) << module;
        }
    }
}

class AdapterLayouts : public testing::TestWithParam<AdapterLayout> {};

TEST_P(AdapterLayouts, SurviveTheRoundTripAtAnotherRankCount) {
    for (const model::LoraSettings& lora : {model::LoraSettings{2, 3.0}, test::adapters_everywhere()}) {
        const SharedFolder folder;
        Adapted together(Communicator::world(), lora);
        together.save(folder / "adapter", GetParam());
        const model::LoraSettings settings = read_adapter_settings(folder / "adapter", test::small_architecture());
        EXPECT_EQ(settings.rank, lora.rank);
        EXPECT_EQ(settings.alpha, lora.alpha);
        EXPECT_EQ(settings.rank_stabilised, lora.rank_stabilised);
        Adapted alone(Communicator::self(), settings);
        alone.load(folder / "adapter");
        const auto expected = products(together);
        const auto found = products(alone);
        if (Communicator::world().is_root()) {
            EXPECT_EQ(found.size(), lora.targets.size() == 1 ? 30U : 30U + 12U + 3U);
            expect_equal(found, expected);
        }

        // And back on all ranks: each reads its experts' slices.
        for (const mpi::GridShape& shape : test::grids_of(Communicator::world().size())) {
            SCOPED_TRACE(describe(shape));
            Adapted again(Communicator::world(), settings, shape);
            again.load(folder / "adapter");
            const auto reread = products(again);
            again.save(folder / "copy", GetParam());
            if (Communicator::world().is_root()) {
                expect_equal(reread, expected);
                constexpr std::size_t limit = 1 << 24;
                EXPECT_EQ(io::read_file(folder / "copy/adapter_model.safetensors", limit),
                          io::read_file(folder / "adapter/adapter_model.safetensors", limit));
            }
        }
    }
}
INSTANTIATE_TEST_SUITE_P(All, AdapterLayouts, testing::Values(AdapterLayout::per_expert, AdapterLayout::fused),
                         [](const auto& layout) {
                             return layout.param == AdapterLayout::fused ? "fused" : "per_expert";
                         });

/// Factors as PEFT left them, with the ranks of gate and up side by side.
TEST(AdapterOfPeft, IsTheSameInBothLayouts) {
    const std::filesystem::path folder = MOESAIC_TEST_DATA "/qwen3_moe_attention";
    const model::Architecture architecture = model::read_architecture(folder);
    const kernels::KernelSet kernels("portable");
    const mpi::ProcessGrid grid(Communicator::world(), test::shape_or_slices({}, Communicator::world()));
    std::vector<std::unique_ptr<model::Decoder<float>>> decoders;
    for (const char* name : {"adapter_init", "adapter_init_fused"}) {
        model::LoraSettings settings = read_adapter_settings(folder / name, architecture);
        EXPECT_EQ(settings.modules->size(), 24U + 8U);
        decoders.push_back(std::make_unique<model::Decoder<float>>(
            architecture, model::DecoderSettings{settings, ops::Activations::retain, 8}, kernels, grid));
        AdapterStore(decoders.back()->lora(), grid).load(folder / name, architecture);
    }
    const auto& buckets = decoders[0]->lora().buckets;
    for (std::size_t b = 0; b < buckets.size(); ++b) {
        const auto& other = *decoders[1]->lora().buckets[b];
        ASSERT_EQ(buckets[b]->size(), other.size());
        double sum = 0;
        for (index_t i = 0; i < other.size(); ++i) {
            ASSERT_EQ(buckets[b]->values.data()[i], other.values.data()[i]);
            sum += std::abs(double{other.values.data()[i]});
        }
        EXPECT_GT(sum, 0);
        for (std::size_t t = 0; t < other.tensors.size(); ++t) {
            EXPECT_EQ(buckets[b]->tensors[t].specs, other.tensors[t].specs);
        }
    }
}

/// Gate and up that share all ranks of a fused pair, as training with PEFT leaves them.
TEST(AdapterOfPeft, MayShareRanksOfGateAndUp) {
    const SharedFolder folder;
    Adapted whole(Communicator::world(), {2, 3.0});
    whole.save(folder / "adapter", AdapterLayout::fused);
    if (Communicator::world().is_root()) {
        const auto file = folder / "adapter/adapter_model.safetensors";
        const std::string name = "base_model.model.model.layers.1.mlp.experts.base_layer.lora_B.weight";
        const auto source = io::TensorSource::open_file(file);
        std::vector<io::TensorToWrite> headers;
        for (const std::string& tensor : source.names()) {
            headers.push_back({tensor, source.info(tensor).shape});
        }
        io::write_safetensors<float>(folder / "changed", headers, {}, [&](std::size_t i, std::span<float> out) {
            source.read<float>(headers[i].name, {out.data(), headers[i].shape[0], headers[i].shape[1]});
            if (headers[i].name == name) {
                out[out.size() / 2 - 1] = 0.5F;  // last output of gate, last rank of the last expert
            }
        });
        std::filesystem::rename(folder / "changed", file);
    }
    Communicator::world().barrier();
    const model::LoraSettings settings = read_adapter_settings(folder / "adapter", test::small_architecture());
    EXPECT_EQ(settings.modules->at("model.layers.1.mlp.experts.0.gate_proj"), (model::AdapterSpec{4, 1.5}));
    EXPECT_EQ(settings.modules->at("model.layers.1.mlp.experts.0.down_proj"), (model::AdapterSpec{2, 1.5}));
    EXPECT_EQ(settings.modules->at("model.layers.2.mlp.experts.0.gate_proj"), (model::AdapterSpec{2, 1.5}));
    Adapted shared(Communicator::world(), settings);
    shared.load(folder / "adapter");
    auto expected = products(whole);
    const auto found = products(shared);
    if (Communicator::world().is_root()) {
        EXPECT_NE(found.at("model.layers.1.mlp.experts.4.gate_proj"),
                  expected.at("model.layers.1.mlp.experts.4.gate_proj"));
        expected["model.layers.1.mlp.experts.4.gate_proj"] = found.at("model.layers.1.mlp.experts.4.gate_proj");
        expect_equal(found, expected);
    }
}

/// What is wrong with an adapter after `change` was applied to its configuration.
template <class Change>
std::string error_of(const Change& change, const model::Architecture& architecture = test::small_architecture()) {
    const SharedFolder folder;
    Adapted adapted(Communicator::world(), test::adapters_everywhere());
    adapted.save(folder / "adapter", AdapterLayout::per_expert);
    if (Communicator::world().is_root()) {
        json config = io::read_json(folder / "adapter/adapter_config.json");
        change(config);
        io::write_file_atomically(folder / "adapter/adapter_config.json", config.dump());
    }
    Communicator::world().barrier();
    std::string message = "no error";
    try {
        const model::LoraSettings settings = read_adapter_settings(folder / "adapter", architecture);
        model::Decoder<float> decoder(architecture, {settings, ops::Activations::retain, 8}, adapted.model.kernels,
                                      adapted.model.grid);
        AdapterStore(decoder.lora(), adapted.model.grid).load(folder / "adapter", architecture);
    } catch (const Error& error) {
        message = error.what();
    }
    Communicator::world().barrier();
    return message;
}

TEST(Adapter, RefusesWhatItDoesNotUnderstandByName) {
    EXPECT_EQ(error_of([](json&) {}), "no error");
    const std::vector<std::pair<std::string, json>> changes = {{"use_dora", true},
                                                               {"bias", "all"},
                                                               {"lora_bias", true},
                                                               {"fan_in_fan_out", true},
                                                               {"peft_type", "IA3"},
                                                               {"modules_to_save", {"lm_head"}},
                                                               {"layer_replication", {{0, 2}}},
                                                               {"init_lora_weights", "pissa"},
                                                               {"use_rslora", "yes"},
                                                               {"lora_alpha", -1},
                                                               {"rank_pattern", {{"(", 3}}},
                                                               {"alpha_pattern", {{"q_proj", 0}}}};
    for (const auto& [key, value] : changes) {
        const std::string message = error_of([&, name = key, to = value](json& config) { config[name] = to; });
        EXPECT_NE(message.find(key == "rank_pattern" ? "regular expression" : key), std::string::npos) << message;
    }
}

TEST(Adapter, MustFitItsConfigurationAndTheModel) {
    EXPECT_NE(error_of([](json& config) { config["r"] = 4; }).find("has rank 3 (adapter_config.json says 4)"),
              std::string::npos);
    model::Architecture other = test::small_architecture();
    other.expert_intermediate = 12;
    EXPECT_NE(error_of([](json&) {}, other).find("the model needs"), std::string::npos);
    other = test::small_architecture();
    other.layers = 2;
    other.is_moe.pop_back();
    const std::string message = error_of([](json&) {}, other);
    EXPECT_NE(message.find("adapts 19 modules that the model does not have"), std::string::npos) << message;
    EXPECT_NE(message.find("model.layers.2."), std::string::npos) << message;
}

TEST(Adapter, SaysItsStep) {
    const SharedFolder folder;
    EXPECT_FALSE(adapter_step(folder / "adapter"));
    Adapted(Communicator::world(), {2, 4.0}).save(folder / "adapter", AdapterLayout::fused);
    EXPECT_EQ(adapter_step(folder / "adapter"), 7);
    Communicator::world().barrier();
    if (Communicator::world().is_root()) {
        std::ofstream(folder / "adapter/adapter_model.safetensors") << "no adapter";
    }
    Communicator::world().barrier();
    EXPECT_FALSE(adapter_step(folder / "adapter"));
}

/// Tensors of an adapter that were lost: one of a pair, and all of a kind that its configuration names.
TEST(Adapter, LostTensorsAreNoticed) {
    const auto read_without = [](const std::string& lost) {
        const SharedFolder folder;
        Adapted adapted(Communicator::world(), {2, 4.0});
        adapted.save(folder / "adapter", AdapterLayout::per_expert);
        if (Communicator::world().is_root()) {
            const io::TensorSource whole = io::TensorSource::open_file(folder / "adapter/adapter_model.safetensors");
            std::vector<io::TensorToWrite> kept;
            for (const std::string& name : whole.names()) {
                if (name.find(lost) == std::string::npos) {
                    kept.push_back({name, whole.info(name).shape});
                }
            }
            io::write_safetensors<float>(folder / "rest.safetensors", kept, {}, [](std::size_t, auto) {});
            std::filesystem::rename(folder / "rest.safetensors", folder / "adapter/adapter_model.safetensors");
        }
        Communicator::world().barrier();
        std::string text;
        try {
            text = fmt::format(
                "{}", fmt::join(read_adapter_settings(folder / "adapter", test::small_architecture()).warnings, "\n"));
        } catch (const Error& error) {
            EXPECT_EQ(error.code(), ExitCode::corrupt_input);
            text = error.what();
        }
        Communicator::world().barrier();
        return text;
    };
    EXPECT_NE(read_without("layers.1.mlp.experts.0.up_proj.lora_A")
                  .find("layers.1.mlp.experts.0.up_proj.lora_B.weight has no lora_A beside it"),
              std::string::npos);
    EXPECT_EQ(read_without("layers.1.mlp.experts.0.up_proj."), "");  // others are left
    EXPECT_NE(
        read_without(".up_proj.").find("no tensors for up_proj, which target_modules of adapter_config.json names"),
        std::string::npos);
}

/// The text of the configuration of a rank-3 adapter of experts is changed by hand: the order of its keys counts.
TEST(Adapter, PatternsCountInTheOrderOfTheFile) {
    const auto scale_of = [](const std::string& patterns) {
        const SharedFolder folder;
        Adapted adapted(Communicator::world(), {2, 4.0});
        adapted.save(folder / "adapter", AdapterLayout::per_expert);
        if (Communicator::world().is_root()) {
            const auto file = folder / "adapter/adapter_config.json";
            std::string text = io::read_file(file, 1U << 20U);
            const std::string none = R"("alpha_pattern": {})";
            text.replace(text.find(none), none.size(), R"("alpha_pattern": )" + patterns);
            io::write_file_atomically(file, text);
        }
        Communicator::world().barrier();
        const auto settings = read_adapter_settings(folder / "adapter", test::small_architecture());
        Communicator::world().barrier();
        return settings.modules->at("model.layers.1.mlp.experts.0.down_proj").scale;
    };
    EXPECT_EQ(scale_of(R"({"experts.0.down_proj": 64, "down_proj": 16})"), 32);
    EXPECT_EQ(scale_of(R"({"down_proj": 16, "experts.0.down_proj": 64})"), 8);
}

TEST(Adapter, UnknownFieldsAreNamedAndThoseOfPeftAreNot) {
    const auto warning_of = [](const json& fields) {
        const SharedFolder folder;
        Adapted adapted(Communicator::world(), {2, 4.0});
        adapted.save(folder / "adapter", AdapterLayout::per_expert);
        if (Communicator::world().is_root()) {
            json config = io::read_json(folder / "adapter/adapter_config.json");
            config.update(fields);
            io::write_file_atomically(folder / "adapter/adapter_config.json", config.dump());
        }
        Communicator::world().barrier();
        const auto settings = read_adapter_settings(folder / "adapter", test::small_architecture());
        Communicator::world().barrier();
        return fmt::format("{}", fmt::join(settings.warnings, "\n"));
    };
    EXPECT_EQ(warning_of({{"alora_invocation_tokens", nullptr},
                          {"arrow_config", nullptr},
                          {"auto_mapping", nullptr},
                          {"corda_config", nullptr},
                          {"ensure_weight_tying", false},
                          {"eva_config", nullptr},
                          {"exclude_modules", nullptr},
                          {"kasa_config", nullptr},
                          {"layers_pattern", nullptr},
                          {"layers_to_transform", nullptr},
                          {"loftq_config", json::object()},
                          {"lora_bias", false},
                          {"megatron_config", nullptr},
                          {"megatron_core", "megatron.core"},
                          {"monteclora_config", nullptr},
                          {"peft_version", "0.21.0"},
                          {"qalora_group_size", 16},
                          {"revision", nullptr},
                          {"trainable_token_indices", nullptr},
                          {"use_bdlora", nullptr},
                          {"use_qalora", false},
                          {"velora_config", nullptr}}),
              "");
    const std::string warning = warning_of({{"colour", "blue"}});
    EXPECT_NE(warning.find("adapter_config.json: a key is not known and has no effect: colour"), std::string::npos)
        << warning;
}

/// Replaces the file of weights by one with these changes.
template <class Change>
std::pair<ExitCode, std::string> error_with_weights(const Change& change) {
    const SharedFolder folder;
    Adapted adapted(Communicator::world(), {2, 3.0});
    adapted.save(folder / "adapter", AdapterLayout::per_expert);
    if (Communicator::world().is_root()) {
        const auto file = folder / "adapter/adapter_model.safetensors";
        const auto source = io::TensorSource::open_file(file);
        std::vector<io::TensorToWrite> headers;
        for (const std::string& tensor : source.names()) {
            headers.push_back({tensor, source.info(tensor).shape});
        }
        change(source, headers, folder / "changed");
        std::filesystem::rename(folder / "changed", file);
    }
    Communicator::world().barrier();
    std::pair<ExitCode, std::string> found = {ExitCode::success, ""};
    try {
        const model::LoraSettings settings = read_adapter_settings(folder / "adapter", test::small_architecture());
        Adapted(Communicator::self(), settings).load(folder / "adapter");
    } catch (const Error& error) {
        found = {error.code(), error.what()};
    }
    Communicator::world().barrier();
    return found;
}

TEST(Adapter, WithoutTensorsIsRefused) {
    const auto [code, message] = error_with_weights([](const auto&, auto&, const std::filesystem::path& file) {
        io::write_safetensors<float>(file, {}, {}, [](std::size_t, std::span<float>) {});
    });
    EXPECT_EQ(code, ExitCode::corrupt_input);
    EXPECT_NE(message.find("has no tensors"), std::string::npos) << message;
}

TEST(Adapter, MustBeFinite) {
    const std::string name = "base_model.model.model.layers.1.mlp.experts.4.up_proj.lora_B.weight";
    const auto [code, message] =
        error_with_weights([&](const io::TensorSource& source, auto& headers, const std::filesystem::path& file) {
            io::write_safetensors<float>(file, headers, {}, [&](std::size_t i, std::span<float> out) {
                source.read<float>(headers[i].name, {out.data(), headers[i].shape[0], headers[i].shape[1]});
                if (headers[i].name == name) {
                    out.back() = std::numeric_limits<float>::quiet_NaN();
                }
            });
        });
    EXPECT_EQ(code, ExitCode::corrupt_input);
    EXPECT_NE(message.find("tensor " + name + " has a value that is no finite number"), std::string::npos) << message;
}

core::OptionSet given(model::LoraSettings& lora, const std::vector<std::string>& arguments) {
    core::OptionSet options;
    lora.declare(options);
    options.parse(arguments, false);
    return options;
}

/// What a run starts from is what the adapter says, whatever the options' defaults are; a given option must agree, even
/// if it is given the default.
TEST(Adapter, DecidesTheSettingsOfARunThatStartsFromIt) {
    const SharedFolder folder;
    Adapted adapted(Communicator::world(), {4, 6.0});
    adapted.save(folder / "adapter", AdapterLayout::per_expert);
    const auto start = [&](const std::vector<std::string>& arguments) {
        model::LoraSettings wanted;
        const core::OptionSet options = given(wanted, arguments);
        return settings_to_start_from(folder / "adapter", test::small_architecture(), wanted, options);
    };
    const model::LoraSettings settings = start({"--lora.dropout", "0.25"});
    EXPECT_EQ(settings.rank, 4);
    EXPECT_EQ(settings.alpha, 6);
    EXPECT_EQ(settings.dropout, 0.25);
    EXPECT_EQ(settings.targets, std::set<model::LoraTarget>{model::LoraTarget::experts});
    EXPECT_EQ(start({"--lora.rank", "4", "--lora.targets", "experts"}).rank, 4);
    for (const auto& [key, value] : {std::pair("--lora.rank", "8"), std::pair("--lora.alpha", "16"),
                                     std::pair("--lora.rslora", "true"), std::pair("--lora.targets", "attention")}) {
        try {
            static_cast<void>(start({key, value}));
            ADD_FAILURE() << key;
        } catch (const Error& error) {
            EXPECT_EQ(error.code(), ExitCode::usage);
            EXPECT_NE(std::string(error.what()).find(std::string(key).substr(2) + " contradicts the adapter"),
                      std::string::npos)
                << error.what();
        }
    }
    Communicator::world().barrier();
}

}  // namespace
}  // namespace moesaic::train
