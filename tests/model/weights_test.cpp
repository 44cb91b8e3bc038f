// Checkpoints of small models in all layouts, whole, incomplete and with more than the model needs.
#include "core/error.hpp"
#include "support/grids.hpp"
#include "support/small_decoder.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace moesaic::model {
namespace {

using test::random_batch;
using test::RandomWeights;
using test::small_architecture;
using test::SmallDecoder;

struct Tensor {
    std::vector<index_t> shape;
    std::vector<float> values;
};
using Tensors = std::map<std::string, Tensor>;

/// Keeps whole tensors as the model asks for parts of them.
class Recorder final : public WeightSource<float> {
public:
    void read(const std::string& name, const TensorSlice& part, MatrixView<float> out) const override {
        Matrix<float> whole(part.rows, part.cols);
        random_.read(name, {part.rows, part.cols, 0, 0}, whole);
        keep(name, {part.rows, part.cols}, whole);
        random_.read(name, part, out);
    }
    void read_full_precision(const std::string& name, TensorRole role, MatrixView<float> out) const override {
        Matrix<float> whole(out.rows(), out.cols());
        random_.read_full_precision(name, role, whole);
        random_.read_full_precision(name, role, out);
        keep(name,
             role != TensorRole::matrix ? std::vector<index_t>{out.cols()}
                                        : std::vector<index_t>{out.rows(), out.cols()},
             whole);
    }
    [[nodiscard]] const Tensors& tensors() const { return tensors_; }

private:
    void keep(const std::string& name, std::vector<index_t> shape, const Matrix<float>& whole) const {
        const std::lock_guard lock(mutex_);
        tensors_[name] = {std::move(shape), {whole.data(), whole.data() + whole.size()}};
    }

    RandomWeights<float> random_;
    mutable std::mutex mutex_;
    mutable Tensors tensors_;
};

/// Experts in one tensor per layer, as transformers 5 holds them.
Tensors fuse(const Tensors& tensors, const Architecture& architecture) {
    Tensors fused;
    const TensorNames& names = architecture.names;
    const std::string folder = names.expert.substr(0, names.expert.find('{'));
    for (const auto& [name, tensor] : tensors) {
        const auto at = name.find(folder);
        const auto router = name.find(names.router + ".weight");
        if (router != std::string::npos) {
            fused[name.substr(0, router) + "mlp.gate.weight"] = tensor;
        } else if (at == std::string::npos) {
            fused[name] = tensor;
        }
    }
    const index_t hidden = architecture.hidden;
    const index_t intermediate = architecture.expert_intermediate;
    for (index_t layer = 0; layer < architecture.layers; ++layer) {
        if (!architecture.is_moe[static_cast<std::size_t>(layer)]) {
            continue;
        }
        Tensor gate_and_up = {{architecture.experts, 2 * intermediate, hidden}, {}};
        Tensor down = {{architecture.experts, hidden, intermediate}, {}};
        for (index_t e = 0; e < architecture.experts; ++e) {
            const auto append = [&](const std::string& projection, Tensor& to) {
                const auto& values = tensors.at(architecture.expert_module(layer, e, projection) + ".weight").values;
                to.values.insert(to.values.end(), values.begin(), values.end());
            };
            append(names.gate, gate_and_up);
            append(names.up, gate_and_up);
            append(names.down, down);
        }
        fused[architecture.layer(layer) + "mlp.experts.gate_up_proj"] = gate_and_up;
        fused[architecture.layer(layer) + "mlp.experts.down_proj"] = down;
    }
    return fused;
}

class WeightsTest : public testing::TestWithParam<std::string> {
protected:
    WeightsTest()
        : architecture_(small_architecture(GetParam())),
          file_(std::filesystem::temp_directory_path() /
                ("moesaic-weights-test-" + std::to_string(getpid()) + ".safetensors")) {
        SmallDecoder<float> model(architecture_, mpi::Communicator::self(), 32);
        const Recorder recorder;
        model.decoder.load(recorder);
        tensors_ = recorder.tensors();
    }
    ~WeightsTest() override { std::filesystem::remove(file_); }

    template <class S = float>
    io::TensorSource stored(const Tensors& tensors) {
        std::vector<io::TensorToWrite> list;
        std::vector<const Tensor*> order;
        for (const auto& [name, tensor] : tensors) {
            list.push_back({name, tensor.shape});
            order.push_back(&tensor);
        }
        io::write_safetensors<S>(file_, list, {}, [&](std::size_t i, std::span<S> data) {
            std::transform(order[i]->values.begin(), order[i]->values.end(), data.begin(),
                           [](float value) { return S(value); });
        });
        return io::TensorSource::open_file(file_);
    }
    /// Loss of a batch over all ranks, and what was not used.
    std::pair<double, std::string> loss_with(const Tensors& tensors, const std::optional<mpi::GridShape>& shape = {}) {
        const io::TensorSource source = stored(tensors);
        const CheckpointWeights<float> weights(source, architecture_);
        const mpi::Communicator world = mpi::Communicator::world();
        SmallDecoder<float> model(architecture_, world, 64, shape);
        model.decoder.load(weights);
        weights.check_complete();
        const ops::TokenBatch batch = random_batch(std::array<index_t, 2>{5, 9}, architecture_.vocabulary, 4);
        return {model.loss(batch, false), weights.unused()};
    }
    std::pair<core::ExitCode, std::string> error_of(const Tensors& tensors) {
        try {
            loss_with(tensors);
        } catch (const core::Error& error) {
            return {error.code(), error.what()};
        }
        return {core::ExitCode::success, ""};
    }

    /// The same of a rank that has the model by itself.
    std::pair<core::ExitCode, std::string> error_alone(const Tensors& tensors) {
        const io::TensorSource source = stored(tensors);
        SmallDecoder<float> model(architecture_, mpi::Communicator::self(), 64);
        try {
            model.decoder.load(CheckpointWeights<float>(source, architecture_));
        } catch (const core::Error& error) {
            return {error.code(), error.what()};
        }
        return {core::ExitCode::success, ""};
    }

    Architecture architecture_;
    std::filesystem::path file_;
    Tensors tensors_;
};

/// Tensors of experts that another rank reads are neither missing nor unknown.
TEST_P(WeightsTest, AreReadByTheRanksThatNeedThem) {
    const auto [expected, all_used] = loss_with(tensors_);
    for (const mpi::GridShape& shape : test::grids_of(mpi::Communicator::world().size())) {
        const auto [loss, unused] = loss_with(tensors_, shape);
        EXPECT_NEAR(loss, expected, 1e-5 * expected) << describe(shape);
        EXPECT_EQ(unused, all_used);
    }
}

/// A BF16 checkpoint in FP32: its matrices stay as they are in memory, and nothing else changes.
TEST_P(WeightsTest, StayInBf16WhereTheCheckpointHasItAndGiveTheBitsOfFp32) {
    EXPECT_EQ(stored_formats(stored(tensors_), architecture_).experts, ops::WeightFormat::fp32);
    const io::TensorSource source = stored<core::bf16>(tensors_);
    const StoredFormats formats = stored_formats(source, architecture_);
    EXPECT_EQ(formats.experts, ops::WeightFormat::bf16);
    EXPECT_EQ(formats.projections, ops::WeightFormat::bf16);
    const ops::TokenBatch batch = random_batch(std::array<index_t, 2>{5, 9}, architecture_.vocabulary, 4);
    std::vector<double> losses;
    std::vector<std::size_t> bytes;
    std::vector<std::vector<float>> gradients;
    for (const StoredFormats& held : {StoredFormats(), formats}) {
        Architecture architecture = architecture_;
        architecture.stored = held;
        SmallDecoder<float> model(architecture, mpi::Communicator::world(), 64);
        model.decoder.load(CheckpointWeights<float>(source, architecture_));
        model.decoder.lora().clear_gradients();
        losses.push_back(model.loss(batch, true));
        bytes.push_back(model.decoder.head().bytes());
        for (const auto& bucket : model.decoder.lora().buckets) {
            gradients.emplace_back(bucket->gradients.flat().begin(), bucket->gradients.flat().end());
        }
    }
    EXPECT_EQ(losses[1], losses[0]);
    EXPECT_EQ(2 * bytes[1], bytes[0]);
    const auto half = static_cast<std::ptrdiff_t>(gradients.size() / 2);
    EXPECT_TRUE(std::equal(gradients.begin(), gradients.begin() + half, gradients.begin() + half));
}

/// Notes which parts were asked for.
class RecordingWeights final : public WeightSource<float> {
public:
    void read(const std::string& name, const TensorSlice& part, MatrixView<float> out) const override {
        {
            const std::lock_guard lock(mutex_);
            read_[name] = {part.row_begin, part.col_begin, out.rows(), out.cols()};
        }
        random_.read(name, part, out);
    }
    void read_full_precision(const std::string& name, TensorRole role, MatrixView<float> out) const override {
        random_.read_full_precision(name, role, out);
    }
    [[nodiscard]] std::vector<index_t> part_of(const std::string& name) const {
        const auto found = read_.find(name);
        return found == read_.end() ? std::vector<index_t>() : found->second;
    }

private:
    test::RandomWeights<float> random_;
    mutable std::mutex mutex_;
    mutable std::map<std::string, std::vector<index_t>> read_;
};

TEST(WeightsOfARank, AreItsSlicesOfItsExperts) {
    const Architecture architecture = test::small_architecture();
    const mpi::Communicator world = mpi::Communicator::world();
    const kernels::KernelSet kernels("portable");
    for (const mpi::GridShape& shape : test::grids_of(world.size())) {
        SCOPED_TRACE(describe(shape));
        const mpi::ProcessGrid grid(world, shape);
        const RecordingWeights source;
        Decoder<float>(architecture, {.lora = {}, .max_tokens = 8}, kernels, grid).load(source);
        const core::Slice experts = core::slice_of(5, grid.expert().rank(), shape.expert);
        const core::Slice slice = core::slice_of(10, grid.tensor().rank(), shape.tensor);
        for (index_t e = 0; e < 5; ++e) {
            const auto part_of = [&](const std::string& projection) {
                return source.part_of(architecture.expert_module(1, e, projection) + ".weight");
            };
            const std::vector<index_t> up = {slice.begin, 0, slice.extent, 18};
            const std::vector<index_t> down = {0, slice.begin, 18, slice.extent};
            EXPECT_EQ(part_of("gate_proj"), experts.contains(e) ? up : std::vector<index_t>());
            EXPECT_EQ(part_of("up_proj"), experts.contains(e) ? up : std::vector<index_t>());
            EXPECT_EQ(part_of("down_proj"), experts.contains(e) ? down : std::vector<index_t>());
        }
    }
}

TEST_P(WeightsTest, AreTheSameInBothLayouts) {
    const auto [expected, unused] = loss_with(tensors_);
    EXPECT_EQ(unused, "");
    const auto [found, unused_when_fused] = loss_with(fuse(tensors_, architecture_));
    EXPECT_EQ(found, expected);
    EXPECT_EQ(unused_when_fused, "");
}

TEST_P(WeightsTest, AreAllNamedWhereMissing) {
    const std::string last = architecture_.expert_module(2, 4, architecture_.names.down) + ".weight";
    Tensors tensors = tensors_;
    tensors.erase("lm_head.weight");
    tensors.erase(last);
    const auto [code, message] = error_of(tensors);
    EXPECT_EQ(code, core::ExitCode::corrupt_input);
    EXPECT_NE(message.find("2 tensors missing"), std::string::npos) << message;
    EXPECT_NE(message.find("lm_head.weight, " + last), std::string::npos) << message;

    tensors = fuse(tensors_, architecture_);
    tensors.erase("model.layers.2.mlp.experts.down_proj");
    EXPECT_NE(error_of(tensors).second.find(last), std::string::npos);
}

TEST_P(WeightsTest, MayBelongToFurtherLayersAndBuffers) {
    Tensors tensors = tensors_;
    const double expected = loss_with(tensors).first;
    tensors["model.layers.3.eh_proj.weight"] = tensors["model.layers.3.enorm.weight"] = {{2}, {1, 2}};
    tensors["model.layers.1.self_attn.rotary_emb.inv_freq"] = {{1}, {1}};
    const auto [found, unused] = loss_with(tensors);
    EXPECT_EQ(found, expected);
    EXPECT_NE(unused.find("3 tensors not used: *.rotary_emb.inv_freq, model.layers.3.* (2)"), std::string::npos)
        << unused;
}

TEST_P(WeightsTest, AreRefusedInLayersThatHaveNoUseForThem) {
    Tensors tensors = tensors_;
    tensors["model.layers.1.self_attn.sinks"] = {{1}, {1}};
    const auto [code, message] = error_of(tensors);
    EXPECT_EQ(code, core::ExitCode::usage);
    EXPECT_NE(message.find("model.layers.1.self_attn.sinks"), std::string::npos) << message;
}

TEST_P(WeightsTest, AreRefusedInAnotherShape) {
    Tensors tensors = fuse(tensors_, architecture_);
    Tensor& down = tensors["model.layers.2.mlp.experts.down_proj"];
    std::swap(down.shape[1], down.shape[2]);
    const auto [code, message] = error_of(tensors);
    EXPECT_EQ(code, core::ExitCode::corrupt_input);
    EXPECT_NE(message.find("model.layers.2.mlp.experts.down_proj has shape"), std::string::npos) << message;
}

/// In a matrix that is packed, of BF16 or FP32, in one of a fused layout, and in what stays as it is.
TEST_P(WeightsTest, MustBeFinite) {
    const std::string down = architecture_.expert_module(2, 4, architecture_.names.down) + ".weight";
    for (const float value : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
        for (const std::string& name :
             {down, std::string("model.norm.weight"), std::string("model.embed_tokens.weight"),
              architecture_.layer(2) + architecture_.names.router + ".weight"}) {
            Tensors tensors = tensors_;
            tensors.at(name).values.back() = value;
            const auto [code, message] = error_alone(tensors);
            EXPECT_EQ(code, core::ExitCode::corrupt_input) << name;
            EXPECT_NE(message.find(file_.string() + ": tensor " + name + " has a value that is no finite number"),
                      std::string::npos)
                << message;
        }
    }
    Tensors tensors = fuse(tensors_, architecture_);
    tensors.at("model.layers.2.mlp.experts.down_proj").values.back() = std::numeric_limits<float>::infinity();
    EXPECT_NE(error_alone(tensors).second.find("tensor model.layers.2.mlp.experts.down_proj has"), std::string::npos);
    tensors = tensors_;
    tensors.at(down).values.front() = std::numeric_limits<float>::max();  // no BF16 value is as large
    const io::TensorSource source = stored(tensors);
    SmallDecoder<core::bf16> model(architecture_, mpi::Communicator::self(), 64);
    EXPECT_THROW(model.decoder.load(CheckpointWeights<core::bf16>(source, architecture_)), core::Error);
}

/// Written by hand: a tensor of any dtype, full of zeros.
io::TensorSource of_dtype(const std::filesystem::path& file, const std::string& dtype, int bytes,
                          const std::string& second = "") {
    std::string header = R"({"model.layers.0.mlp.gate_proj.weight":{"dtype":")" + dtype +
                         R"(","shape":[2,3],"data_offsets":[0,)" + std::to_string(6 * bytes) + "]}";
    if (!second.empty()) {
        header += ",\"" + second + R"(":{"dtype":"F32","shape":[1],"data_offsets":[)" + std::to_string(6 * bytes) +
                  "," + std::to_string(6 * bytes + 4) + "]}";
    }
    header += "}";
    const std::uint64_t length = header.size();
    std::ofstream stream(file, std::ios::binary);
    stream.write(reinterpret_cast<const char*>(&length), sizeof(length));
    stream << header << std::string(static_cast<std::size_t>(6 * bytes + (second.empty() ? 0 : 4)), '\0');
    stream.close();
    return io::TensorSource::open_file(file);
}

TEST_P(WeightsTest, OfQuantisedKindsAreNamed) {
    for (const auto& [dtype, bytes] : {std::pair("U8", 1), std::pair("I8", 1), std::pair("I32", 4),
                                       std::pair("F8_E4M3", 1), std::pair("F8_E5M2", 1)}) {
        const io::TensorSource source = of_dtype(file_, dtype, bytes);
        try {
            fit_to_checkpoint(source, architecture_);
            ADD_FAILURE() << dtype;
        } catch (const core::Error& error) {
            EXPECT_EQ(error.code(), core::ExitCode::usage);
            const std::string message = error.what();
            EXPECT_NE(message.find("tensor model.layers.0.mlp.gate_proj.weight has dtype " + std::string(dtype)),
                      std::string::npos)
                << message;
        }
    }
    for (const auto& [dtype, bytes] : {std::pair("F16", 2), std::pair("I64", 8), std::pair("BOOL", 1)}) {
        EXPECT_NO_THROW(fit_to_checkpoint(of_dtype(file_, dtype, bytes), architecture_)) << dtype;
    }
    // Scales alone don't say what they belong to.
    EXPECT_THROW(fit_to_checkpoint(of_dtype(file_, "F8_E4M3", 1, "model.layers.0.mlp.gate_proj.weight_scale_inv"),
                                   architecture_),
                 core::Error);
    // Before its shape is compared.
    const io::TensorSource source = of_dtype(file_, "U8", 1);
    core::Matrix<float> out(7, 7);
    try {
        CheckpointWeights<float>(source, architecture_)
            .read("model.layers.0.mlp.gate_proj.weight", {.rows = 7, .cols = 7}, out);
        ADD_FAILURE();
    } catch (const core::Error& error) {
        EXPECT_NE(std::string(error.what()).find("dtype U8"), std::string::npos) << error.what();
    }
}

/// As transformers 5 does: the configuration says tied, but the file has a head of its own.
TEST_P(WeightsTest, MayHaveAHeadThatOnlyTheConfigurationTies) {
    const double untied = loss_with(tensors_).first;
    Architecture tied = architecture_;
    tied.tied_head = true;
    Architecture found = tied;
    fit_to_checkpoint(stored(tensors_), found);
    EXPECT_FALSE(found.tied_head);
    EXPECT_NE(found.warning.find("lm_head.weight"), std::string::npos) << found.warning;
    std::swap(architecture_, found);
    EXPECT_EQ(loss_with(tensors_).first, untied);
    Tensors equal = tensors_;
    equal.at("lm_head.weight").values = equal.at("model.embed_tokens.weight").values;
    found = tied;
    fit_to_checkpoint(stored(equal), found);
    EXPECT_TRUE(found.tied_head);
    EXPECT_EQ(found.warning, "");
    equal.erase("lm_head.weight");
    fit_to_checkpoint(stored(equal), found);
    EXPECT_TRUE(found.tied_head);
}

INSTANTIATE_TEST_SUITE_P(Families, WeightsTest, testing::Values("mixtral", "qwen2_moe", "deepseek_v3", "glm4_moe"));

}  // namespace
}  // namespace moesaic::model
