// A tape owns a pass: whatever happens between a forward and its backward changes nothing; and layers below the lowest
// one that trains keep nothing.
#include "core/enumeration.hpp"
#include "support/small_decoder.hpp"

#include <gtest/gtest.h>

#include <array>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace moesaic::model {
namespace {

using test::random_batch;
using test::small_architecture;
using test::SmallDecoder;

LoraSettings everywhere_with_dropout() {
    LoraSettings settings = test::adapters_everywhere();
    settings.dropout = 0.4;
    return settings;
}

/// All gradients by the names of their tensors.
std::map<std::string, std::vector<double>> gradients_of(LoraParameters<double>& lora) {
    std::map<std::string, std::vector<double>> all;
    for (const auto& bucket : lora.buckets) {
        for (const LoraTensor& tensor : bucket->tensors) {
            const auto view = bucket->view(tensor, bucket->gradients);
            all[tensor.name].assign(view.data(), view.data() + tensor.size());
        }
    }
    return all;
}

/// The small models have a window, a dense layer, RoPE that depends on the longest sequence, and latent attention.
class TapeOfFamily : public testing::TestWithParam<std::string> {
protected:
    static Architecture architecture() {
        nlohmann::json config = test::small_config(GetParam());
        if (GetParam() == "qwen3_moe") {
            config["max_position_embeddings"] = 4;
            config["rope_scaling"] = {{"type", "dynamic"}, {"factor", 3.0}};
        }
        return test::read_config(config);
    }
};

TEST_P(TapeOfFamily, PassesBetweenAForwardAndItsBackwardChangeNoGradient) {
    const Architecture model_architecture = architecture();
    const ops::TokenBatch batch = random_batch(std::array<index_t, 3>{5, 1, 7}, model_architecture.vocabulary, 4);
    const ops::TokenBatch other = random_batch(std::array<index_t, 2>{13, 6}, model_architecture.vocabulary, 9);
    const Matrix<double> grad = test::random_matrix<double>(batch.rows(), model_architecture.hidden, 3);
    const Matrix<double> other_grad = test::random_matrix<double>(other.rows(), model_architecture.hidden, 5);
    std::map<std::string, std::vector<double>> expected;
    for (const ops::Activations activations : core::values_of<ops::Activations>()) {
        SCOPED_TRACE(core::name_of(activations));
        SmallDecoder<double> model(model_architecture, mpi::Communicator::self(), 64, {}, everywhere_with_dropout(), 0,
                                   activations);
        Decoder<double>& decoder = model.decoder;
        Matrix<double> gradient;
        const auto backward = [&](Tape<double>& tape, const Matrix<double>& of_hidden) {
            gradient.resize(of_hidden.rows(), of_hidden.cols());
            std::copy(of_hidden.flat().begin(), of_hidden.flat().end(), gradient.data());
            decoder.lora().clear_gradients();
            decoder.backward(tape, gradient);
            return gradients_of(decoder.lora());
        };
        Tape<double> tape;
        decoder.forward(batch, tape, true);
        const auto undisturbed = backward(tape, grad);
        expected = expected.empty() ? undisturbed : expected;
        EXPECT_EQ(undisturbed, expected) << "whatever is kept, or computed again";

        Tape<double> first;
        Tape<double> second;
        Tape<double> evaluated;
        decoder.forward(batch, first, true);
        decoder.forward(other, second, true);
        decoder.forward(other, evaluated, false);
        const auto of_other = backward(second, other_grad);
        decoder.forward(other, evaluated, false);
        EXPECT_EQ(backward(first, grad), expected);
        EXPECT_EQ(backward(second, other_grad), of_other);
        EXPECT_NE(of_other, expected);
        EXPECT_EQ(backward(first, grad), expected) << "a tape may be read more than once";
    }
}
INSTANTIATE_TEST_SUITE_P(Families, TapeOfFamily,
                         testing::Values("qwen3_moe", "mixtral", "qwen2_moe", "deepseek_v2", "deepseek_v3"));

/// An adapter of exactly these modules of those that the model has.
LoraSettings adapter_of(const Architecture& architecture, const std::function<bool(const std::string&)>& has) {
    LoraSettings everywhere = test::adapters_everywhere();
    everywhere.modules.emplace();
    for (const LayerPlan& layer : plan_layers(architecture, {.lora = test::adapters_everywhere()}, {})) {
        for (const BlockPlan* block : {&layer.mixer, &layer.feed_forward}) {
            for (const ProjectionPlan& projection : block->projections) {
                for (std::size_t m = 0; m < projection.modules.size(); ++m) {
                    if (has(projection.modules[m])) {
                        everywhere.modules->emplace(projection.modules[m], projection.specs[m]);
                    }
                }
            }
        }
    }
    return everywhere;
}

std::size_t bytes_kept(const Tape<double>& tape) {
    std::size_t bytes = 0;
    for (const BlockTape<double>& block : tape.blocks) {
        bytes += (block.stream.size() + block.input.size()) * sizeof(double) + (block.state != nullptr ? 1 : 0);
    }
    return bytes;
}

/// Calls use(name, element of `some`, the same element of `all`) for all elements that are no padding.
template <class Use>
void for_each_pair(LoraParameters<double>& some, LoraParameters<double>& all,
                   Matrix<double> ParameterBucket<double>::*storage, const Use& use) {
    for (const auto& bucket : some.buckets) {
        for (const LoraTensor& tensor : bucket->tensors) {
            for (const auto& other : all.buckets) {
                for (const LoraTensor& same : other->tensors) {
                    for (index_t m = 0; same.name == tensor.name && m < tensor.count(); ++m) {
                        const auto of_some = bucket->matrix(tensor, m, (*bucket).*storage);
                        const auto of_all = other->matrix(same, m, (*other).*storage);
                        for (index_t i = 0; i < tensor.unpadded_rows(m); ++i) {
                            for (index_t j = 0; j < tensor.unpadded_cols(m); ++j) {
                                use(tensor.name, of_some(i, j), of_all(i, j));
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Steps follow each other, and gradients of what is adapted are those that it has when everything is: the other
/// adapters are made to add nothing.
void expect_trains_alone(const std::string& family, const std::function<bool(const std::string&)>& has,
                         std::size_t lowest_block, ops::Activations activations) {
    SCOPED_TRACE(core::name_of(activations));
    const Architecture architecture = small_architecture(family);
    SmallDecoder<double> part(architecture, mpi::Communicator::self(), 32, {}, adapter_of(architecture, has), 0,
                              activations);
    SmallDecoder<double> whole(architecture, mpi::Communicator::self(), 32, {},
                               adapter_of(architecture, [](auto&) { return true; }));
    for (const auto& bucket : whole.decoder.lora().buckets) {
        for (const LoraTensor& tensor : bucket->tensors) {
            for (index_t m = 0; m < tensor.count(); ++m) {
                const auto matrix = bucket->matrix(tensor, m, bucket->values);
                if (!has(tensor.modules[static_cast<std::size_t>(m)]) && tensor.factor == ops::LoraFactor::b) {
                    for (index_t row = 0; row < matrix.rows(); ++row) {
                        std::fill_n(matrix[row], matrix.cols(), 0.0);
                    }
                }
            }
        }
    }
    whole.decoder.update_lora();
    // Random values depend on the padded rank, which the largest adapter of a layer decides.
    for_each_pair(part.decoder.lora(), whole.decoder.lora(), &ParameterBucket<double>::values,
                  [](const std::string&, double& to, double from) { to = from; });
    part.decoder.update_lora();
    const ops::TokenBatch batch = random_batch(std::array<index_t, 3>{5, 1, 7}, architecture.vocabulary, 4);
    const double expected_loss = whole.loss(batch, true);
    for (int step = 0; step < 3; ++step) {
        part.decoder.lora().clear_gradients();
        EXPECT_NEAR(part.loss(batch, true), expected_loss, 1e-12);
    }
    std::size_t compared = 0;
    for_each_pair(part.decoder.lora(), whole.decoder.lora(), &ParameterBucket<double>::gradients,
                  [&](const std::string& name, double found, double expected) {
                      ++compared;
                      EXPECT_NEAR(found, expected, 1e-11) << name;
                  });
    EXPECT_GT(compared, 0U);
    const bool by_layer = activations == ops::Activations::layer;
    for (std::size_t b = 0; b < part.tape.blocks.size(); ++b) {
        const BlockTape<double>& kept = part.tape.blocks[b];
        const bool goes_back = b >= lowest_block;
        const bool is_first = b % 2 == 0 || b == lowest_block;  // of a layer
        EXPECT_EQ(kept.stream.size() > 0, goes_back && (!by_layer || is_first)) << b;
        EXPECT_EQ(kept.state != nullptr, goes_back && !by_layer) << b;
        EXPECT_EQ(kept.input.size() > 0, goes_back && !by_layer) << b;
    }
    EXPECT_LE(bytes_kept(part.tape), bytes_kept(whole.tape));
}

void expect_trains_alone(const std::string& family, const std::function<bool(const std::string&)>& has,
                         std::size_t lowest_block) {
    for (const ops::Activations activations : core::values_of<ops::Activations>()) {
        expect_trains_alone(family, has, lowest_block, activations);
    }
}

bool contains(const std::string& name, const char* text) {
    return name.find(text) != std::string::npos;
}

/// The small models have three layers: blocks 0 to 5.
TEST(Adapters, ThatLeaveLayersOutTrain) {
    for (const char* family : {"qwen3_moe", "deepseek_v3", "mixtral"}) {
        SCOPED_TRACE(family);
        expect_trains_alone(
            family, [](const std::string& m) { return contains(m, "layers.1.") || contains(m, "layers.2."); }, 2);
        expect_trains_alone(
            family, [](const std::string& m) { return contains(m, "layers.2."); }, 4);
        expect_trains_alone(
            family, [](const std::string& m) { return contains(m, "layers.1."); }, 2);
    }
}

TEST(Adapters, ThatLeaveProjectionsOutTrain) {
    expect_trains_alone(
        "qwen3_moe", [](const std::string& m) { return contains(m, "layers.1.") && !contains(m, "self_attn"); }, 3);
    expect_trains_alone(
        "qwen3_moe", [](const std::string& m) { return contains(m, "layers.2.mlp.experts") && contains(m, "up_proj"); },
        5);
    expect_trains_alone(
        "deepseek_v3", [](const std::string& m) { return contains(m, "layers.2.self_attn.kv_b_proj"); }, 4);
    expect_trains_alone(
        "deepseek_v3", [](const std::string& m) { return contains(m, "shared_experts.down_proj"); }, 3);
}

TEST(Adapters, ThatLeaveExpertsOutTrain) {
    expect_trains_alone(
        "qwen3_moe", [](const std::string& m) { return contains(m, "layers.2.mlp.experts.1."); }, 5);
    expect_trains_alone(
        "mixtral", [](const std::string& m) { return contains(m, "experts.0.w2") || contains(m, "layers.2"); }, 1);
}

}  // namespace
}  // namespace moesaic::model
