// Quantised matrices as files hold them: the weights of any slice, codes as they are in packed memory, fused experts,
// and files that do not hold together. The reference cases say that the weights are the right ones.
#include "model/weights/stored_matrix.hpp"

#include "core/error.hpp"
#include "io/json.hpp"
#include "kernels/kernel_set.hpp"
#include "model/weights/weights.hpp"
#include "ops/weights/packed_weights.hpp"
#include "support/raw_tensors.hpp"
#include "support/temporary_folder.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <map>
#include <string>
#include <vector>

namespace moesaic::model {
namespace {

using core::ExitCode;
using test::RawTensor;
using test::RawTensors;
namespace fs = std::filesystem;

const fs::path cases = MOESAIC_TEST_DATA "/quantised";

std::vector<std::string> case_names() {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(cases)) {
        names.push_back(entry.path().filename().string());
    }
    std::sort(names.begin(), names.end());
    return names;
}

class StoredMatrixTest : public testing::TestWithParam<std::string> {
protected:
    [[nodiscard]] static Architecture architecture_of(const std::string& name) {
        return read_architecture(cases / name);
    }
    /// Weights of all experts, as a source of weights delivers them.
    [[nodiscard]] static std::vector<core::Matrix<float>> experts_of(const io::TensorSource& source,
                                                                     const Architecture& architecture) {
        const CheckpointWeights<float> weights(source, architecture);
        std::vector<core::Matrix<float>> all;
        for (const std::string& projection :
             {architecture.names.gate, architecture.names.up, architecture.names.down}) {
            const bool down = projection == architecture.names.down;
            const index_t out = down ? architecture.hidden : architecture.expert_intermediate;
            const index_t in = down ? architecture.expert_intermediate : architecture.hidden;
            for (index_t e = 0; e < architecture.experts; ++e) {
                all.emplace_back(out, in);
                weights.read(architecture.expert_module(0, e, projection) + ".weight", {out, in, 0, 0}, all.back());
            }
        }
        return all;
    }
    /// The error of a case whose tensors were changed.
    template <class Change>
    std::pair<ExitCode, std::string> error_with(const std::string& name, const Change& change) {
        RawTensors tensors = test::read_raw(cases / name / "model.safetensors");
        Architecture architecture = architecture_of(name);
        change(tensors, architecture);
        const fs::path file = folder_ / "changed.safetensors";
        test::write_raw(file, tensors);
        try {
            const io::TensorSource source = io::TensorSource::open_file(file);
            fit_to_checkpoint(source, architecture);
            static_cast<void>(experts_of(source, architecture));
        } catch (const core::Error& error) {
            return {error.code(), error.what()};
        }
        return {ExitCode::success, ""};
    }
    template <class Change>
    void expect_error(const std::string& name, ExitCode code, const std::string& part, const Change& change) {
        const auto [found, message] = error_with(name, change);
        EXPECT_EQ(found, code) << name << ": " << message;
        EXPECT_NE(message.find(part), std::string::npos) << name << ": " << message;
    }

    test::TemporaryFolder folder_;
};

/// Slices begin anywhere, also inside groups, words and bytes.
TEST_P(StoredMatrixTest, SlicesAreThoseOfTheWhole) {
    const Architecture architecture = architecture_of(GetParam());
    const io::TensorSource source = io::TensorSource::open_model(cases / GetParam());
    for (const char* projection : {"gate_proj", "down_proj"}) {
        const auto matrix = StoredMatrix::find(source, architecture.quantisation,
                                               architecture.expert_module(0, 2, projection) + ".weight");
        ASSERT_TRUE(matrix);
        EXPECT_TRUE(matrix->is_coded());
        core::Matrix<float> whole(matrix->rows(), matrix->cols());
        matrix->read<float>(0, 0, whole);
        for (const index_t row : {0, 1, 33}) {
            for (const index_t col : {0, 1, 13, 32, 37}) {
                for (const auto& [rows, cols] : {std::pair<index_t, index_t>{1, 1}, {5, 7}, {17, 27}}) {
                    core::Matrix<float> part(rows, cols);
                    matrix->read<float>(row, col, part);
                    for (index_t r = 0; r < rows; ++r) {
                        for (index_t c = 0; c < cols; ++c) {
                            ASSERT_EQ(part.view()(r, c), whole.view()(row + r, col + c)) << row << " " << col;
                        }
                    }
                }
            }
        }
    }
}

/// What is packed as codes is what the codes stand for.
TEST_P(StoredMatrixTest, CodesStayAsTheyAreInPackedMemory) {
    Architecture architecture = architecture_of(GetParam());
    const io::TensorSource source = io::TensorSource::open_model(cases / GetParam());
    fit_to_checkpoint(source, architecture);
    const std::map<std::string, std::optional<ops::WeightFormat>> formats = {
        {"awq", ops::WeightFormat::uint4},
        {"fp8_block", ops::WeightFormat::fp8},
        {"fp8_channel", ops::WeightFormat::fp8},
        {"fp8_small_block", ops::WeightFormat::fp8},
        {"fp8_tensor", ops::WeightFormat::fp8},
        {"gptq", ops::WeightFormat::uint4},
        {"gptq_8_bits", std::nullopt},         // zero points
        {"gptq_by_activation", std::nullopt},  // columns of a group lie apart
        {"int4_group", ops::WeightFormat::int4},
        {"int4_zero_points", std::nullopt},  // groups of 16
        {"int4_zero_points_64", ops::WeightFormat::uint4},
        {"int8_channel", ops::WeightFormat::int8},
        {"mxfp4_compressed", ops::WeightFormat::mxfp4},
        {"nvfp4_compressed", ops::WeightFormat::nvfp4},
        {"nvfp4_modelopt", ops::WeightFormat::nvfp4}};
    EXPECT_EQ(architecture.stored.experts, formats.at(GetParam()));
    EXPECT_EQ(architecture.stored.projections, formats.at(GetParam()));
    EXPECT_EQ(architecture.stored.embedding, ops::WeightFormat::bf16);
    const kernels::KernelSet kernels("portable");
    const CheckpointWeights<float> weights(source, architecture);
    for (const char* projection : {"up_proj", "down_proj"}) {
        const std::string name = architecture.expert_module(0, 1, projection) + ".weight";
        const auto matrix = StoredMatrix::find(source, architecture.quantisation, name);
        ASSERT_TRUE(matrix);
        core::Matrix<float> expected(matrix->rows(), matrix->cols());
        matrix->read<float>(0, 0, expected);
        for (const index_t col : {0, 32}) {  // the slice of a rank
            ops::PackedWeights packed(architecture.stored.experts.value_or(ops::WeightFormat::fp32), matrix->rows(),
                                      matrix->cols() - col);
            weights.fill(name, {matrix->rows(), matrix->cols(), 0, col}, packed.matrix());
            std::vector<float> row(static_cast<std::size_t>(packed.cols()));
            for (index_t r = 0; r < packed.rows(); ++r) {
                packed.widen_row<float>(kernels, r, row.data());
                for (index_t c = 0; c < packed.cols(); ++c) {
                    ASSERT_EQ(row[static_cast<std::size_t>(c)], expected.view()(r, col + c))
                        << projection << " " << r << " " << c;
                }
            }
        }
    }
}

INSTANTIATE_TEST_SUITE_P(Layouts, StoredMatrixTest, testing::ValuesIn(case_names()));

/// Puts tensors of experts below each other, as transformers 5 and gpt-oss fuse them.
RawTensor stack(const RawTensors& tensors, const Architecture& architecture, const std::string& suffix, bool gate_up) {
    RawTensor all;
    for (index_t e = 0; e < architecture.experts; ++e) {
        for (const std::string& projection :
             gate_up ? std::vector<std::string>{"gate_proj", "up_proj"} : std::vector<std::string>{"down_proj"}) {
            const RawTensor& one = tensors.at(architecture.expert_module(0, e, projection) + suffix);
            all.dtype = one.dtype;
            all.bytes += one.bytes;
            all.shape = {architecture.experts, (gate_up ? 2 : 1) * one.shape[0], one.shape[1]};
        }
    }
    return all;
}

using FusedExperts = StoredMatrixTest;

TEST_F(FusedExperts, HaveTheWeightsOfExpertsOneByOne) {
    struct Layout {
        std::string name;
        std::string codes;
        std::string scales;
        std::string fused_codes;
        std::string fused_scales;
    };
    for (const Layout& layout : {Layout{"fp8_channel", ".weight", ".weight_scale", "", "_scale"},
                                 Layout{"mxfp4_compressed", ".weight_packed", ".weight_scale", "_blocks", "_scales"}}) {
        SCOPED_TRACE(layout.name);
        Architecture architecture = architecture_of(layout.name);
        const auto expected = experts_of(io::TensorSource::open_model(cases / layout.name), architecture);
        RawTensors tensors = test::read_raw(cases / layout.name / "model.safetensors");
        const std::string folder = "model.layers.0.mlp.experts.";
        for (const bool gate_up : {true, false}) {
            const std::string name = folder + (gate_up ? "gate_up_proj" : "down_proj");
            RawTensor codes = stack(tensors, architecture, layout.codes, gate_up);
            if (layout.fused_codes == "_blocks") {  // of 32 codes in 16 bytes
                codes.shape = {codes.shape[0], codes.shape[1], codes.shape[2] / 16, 16};
            }
            tensors[name + layout.fused_codes] = codes;
            tensors[name + layout.fused_scales] = stack(tensors, architecture, layout.scales, gate_up);
        }
        std::erase_if(tensors, [&](const auto& item) {
            return item.first.starts_with(folder) && item.first.find("gate_up_proj") == std::string::npos &&
                   !item.first.starts_with(folder + "down_proj");
        });
        const fs::path file = folder_ / "fused.safetensors";
        test::write_raw(file, tensors);
        const io::TensorSource source = io::TensorSource::open_file(file);
        fit_to_checkpoint(source, architecture);
        const auto found = experts_of(source, architecture);
        ASSERT_EQ(found.size(), expected.size());
        for (std::size_t i = 0; i < found.size(); ++i) {
            EXPECT_TRUE(std::ranges::equal(found[i].flat(), expected[i].flat())) << i;
        }
    }
}

using BrokenQuantisedModels = StoredMatrixTest;

const std::string expert = "model.layers.0.mlp.experts.1.up_proj";

TEST_F(BrokenQuantisedModels, LackTensorsThatMakeCodesNumbers) {
    for (const auto& [name, tensor] : std::map<std::string, std::string>{{"fp8_block", ".weight_scale_inv"},
                                                                         {"int4_group", ".weight_scale"},
                                                                         {"nvfp4_modelopt", ".weight_scale_2"},
                                                                         {"gptq", ".qzeros"},
                                                                         {"awq", ".scales"}}) {
        expect_error(name, ExitCode::corrupt_input, expert + tensor + " is missing",
                     [&, suffix = tensor](RawTensors& tensors, Architecture&) { tensors.erase(expert + suffix); });
    }
    expect_error("fp8_block", ExitCode::usage, "config.json has no quantization_config",
                 [](RawTensors&, Architecture& architecture) { architecture.quantisation = {}; });
    expect_error("gptq", ExitCode::usage, "names another method", [](RawTensors&, Architecture& architecture) {
        architecture.quantisation.method = QuantisationMethod::fp8;
    });
}

TEST_F(BrokenQuantisedModels, HaveGroupsOfAnotherSizeThanTheConfigurationSays) {
    for (const char* name : {"fp8_block", "int4_group", "nvfp4_compressed", "mxfp4_compressed", "gptq", "awq"}) {
        const index_t wrong = std::string(name) == "fp8_block" ? 64 : 128;
        expect_error(name, ExitCode::corrupt_input, "groups as in", [&](RawTensors&, Architecture& architecture) {
            architecture.quantisation.groups = {{1, wrong}};
        });
    }
    expect_error("int4_zero_points_64", ExitCode::corrupt_input, "zero points [8, 2] are expected",
                 [](RawTensors& tensors, Architecture&) {
                     tensors.at(expert + ".weight_zero_point").shape = {2, 8};
                 });
    expect_error("int4_group", ExitCode::corrupt_input, ".weight_shape has 64 x 256",
                 [](RawTensors& tensors, Architecture&) {
                     const std::array<std::int64_t, 2> shape = {64, 256};
                     std::memcpy(tensors.at(expert + ".weight_shape").bytes.data(), shape.data(), sizeof shape);
                 });
    expect_error("awq", ExitCode::corrupt_input, "config.json asks for 64 rows of 96",
                 [](RawTensors&, Architecture& architecture) { architecture.hidden = 96; });
}

TEST_F(BrokenQuantisedModels, HaveScalesOrCodesThatAreNoNumbers) {
    const auto put = [](RawTensor& tensor, const auto& value) {
        std::memcpy(tensor.bytes.data() + 4 * sizeof value, &value, sizeof value);
    };
    constexpr float infinite = std::numeric_limits<float>::infinity();
    expect_error("fp8_channel", ExitCode::corrupt_input, expert + ".weight_scale has a scale that is no finite number",
                 [&](RawTensors& tensors, Architecture&) { put(tensors.at(expert + ".weight_scale"), infinite); });
    expect_error(
        "gptq", ExitCode::corrupt_input, expert + ".scales has a scale that is no finite number",
        [&](RawTensors& tensors, Architecture&) { put(tensors.at(expert + ".scales"), std::uint16_t{0x7e00}); });
    expect_error(
        "mxfp4_compressed", ExitCode::corrupt_input, "a scale that is no finite number",
        [&](RawTensors& tensors, Architecture&) { put(tensors.at(expert + ".weight_scale"), std::uint8_t{0xff}); });
    for (const float scale : {0.0F, -1.0F, infinite}) {
        expect_error("nvfp4_modelopt", ExitCode::corrupt_input, "a scale that is no positive number",
                     [&](RawTensors& tensors, Architecture&) {
                         std::memcpy(tensors.at(expert + ".weight_scale_2").bytes.data(), &scale, sizeof scale);
                     });
    }
    expect_error("gptq_by_activation", ExitCode::corrupt_input, ".g_idx has columns out of order, which",
                 [](RawTensors&, Architecture& architecture) { architecture.quantisation.reorders_columns = false; });
    expect_error("gptq_by_activation", ExitCode::corrupt_input, expert + ".g_idx has group -1 for column 4",
                 [&](RawTensors& tensors, Architecture&) { put(tensors.at(expert + ".g_idx"), std::int32_t{-1}); });
}

TEST_F(BrokenQuantisedModels, HaveCodesOfKindsThatAreNotRead) {
    expect_error("awq", ExitCode::usage, "tensor model.layers.0.mlp.experts.1.up_proj.lut has dtype U8",
                 [](RawTensors& tensors, Architecture&) {
                     tensors[expert + ".lut"] = {"U8", {4, 4}, std::string(16, '\0')};
                 });
    expect_error("fp8_channel", ExitCode::usage, "has dtype F8_E5M2",
                 [](RawTensors& tensors, Architecture&) { tensors.at(expert + ".weight").dtype = "F8_E5M2"; });
    expect_error("gptq", ExitCode::corrupt_input, "a matrix of words of 32 bits",
                 [](RawTensors& tensors, Architecture&) {
                     RawTensor& words = tensors.at(expert + ".qweight");
                     words.dtype = "F32";
                 });
}

/// A file may have modules of 4 and of 8 bits: its configuration has the bits of each group, not of each module.
TEST_F(StoredMatrixTest, BitsOfPackedCodesAreThoseOfTheirMatrix) {
    Architecture architecture = architecture_of("int4_group");
    const io::TensorSource source = io::TensorSource::open_model(cases / "int4_group");
    const auto expected = experts_of(source, architecture);
    architecture.quantisation.bits = 8;
    const auto found = experts_of(source, architecture);
    for (std::size_t i = 0; i < found.size(); ++i) {
        EXPECT_TRUE(std::ranges::equal(found[i].flat(), expected[i].flat())) << i;
    }
}

/// NaN among codes shows when they are packed.
TEST_F(BrokenQuantisedModels, HaveCodesThatAreNaN) {
    RawTensors tensors = test::read_raw(cases / "fp8_channel" / "model.safetensors");
    tensors.at(expert + ".weight").bytes[5] = '\x7f';
    const fs::path file = folder_ / "nan.safetensors";
    test::write_raw(file, tensors);
    const io::TensorSource source = io::TensorSource::open_file(file);
    const Architecture architecture = architecture_of("fp8_channel");
    const CheckpointWeights<float> weights(source, architecture);
    for (const ops::WeightFormat format : {ops::WeightFormat::fp8, ops::WeightFormat::fp32, ops::WeightFormat::int8}) {
        ops::PackedWeights packed(format, architecture.expert_intermediate, architecture.hidden);
        try {
            weights.fill_whole(expert + ".weight", packed);
            ADD_FAILURE() << "no error";
        } catch (const core::Error& error) {
            EXPECT_EQ(error.code(), ExitCode::corrupt_input);
            EXPECT_NE(std::string(error.what()).find(expert + ".weight has a value that is no finite number"),
                      std::string::npos)
                << error.what();
        }
    }
}

}  // namespace
}  // namespace moesaic::model
