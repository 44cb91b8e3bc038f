#include "model/weights/weights.hpp"

#include "core/counted.hpp"
#include "core/error.hpp"
#include "core/finite.hpp"
#include "core/text.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <map>
#include <optional>
#include <set>

namespace moesaic::model {
namespace {

using core::ExitCode;

/// Names that a message lists at most.
constexpr std::size_t listed_names = 8;

constexpr std::size_t longest_line = 2000;

constexpr std::string_view layers_prefix = "model.layers.";

/// The number after "model.layers.", or -1.
index_t layer_of(std::string_view name) {
    index_t layer = -1;
    if (name.starts_with(layers_prefix)) {
        std::from_chars(name.data() + layers_prefix.size(), name.data() + name.size(), layer);
    }
    return layer;
}

bool is_rotary_buffer(std::string_view name) {
    return name.ends_with("rotary_emb.inv_freq");
}

/// The format that holds a dtype's elements as they are.
std::optional<ops::WeightFormat> format_of_dtype(io::DType dtype) {
    switch (dtype) {
        case io::DType::bf16:
            return ops::WeightFormat::bf16;
        case io::DType::f32:
            return ops::WeightFormat::fp32;
        case io::DType::f64:
            return ops::WeightFormat::fp64;
        default:
            return std::nullopt;
    }
}

[[noreturn]] void fail_not_finite(const std::string& origin) {
    core::fail(
        ExitCode::corrupt_input,
        "{} has a value that is no finite number (NaN, infinity, or too large for the type that is computed with); "
        "get the file again, or another model",
        origin);
}

constexpr const char* head_name = "lm_head.weight";

/// Scales of quantised weights beside the weights themselves, by what is behind the name of these.
constexpr const char* block_scale_suffix = "_scale_inv";

/// Whether elements of the dtype are codes of quantised weights, not numbers and no indices or masks either.
bool is_code(io::DType dtype) {
    switch (dtype) {
        case io::DType::i64:
        case io::DType::u64:
        case io::DType::c64:
        case io::DType::boolean:
            return false;
        default:
            return !io::is_number(dtype);
    }
}

/// Tensors of several dimensions are weights; FP8 ones are codes, too, unless their scales are there.
void refuse_quantised(const io::TensorSource& tensors) {
    for (const std::string& name : tensors.names()) {
        const io::TensorInfo& info = tensors.info(name);
        const bool lacks_scales = info.dtype == io::DType::f8_e4m3 && !tensors.contains(name + block_scale_suffix);
        core::require(info.shape.size() < 2 || !(is_code(info.dtype) || lacks_scales), ExitCode::usage,
                      "{}: tensor {} has dtype {}, which is that of quantised weights (BF16, F16, F32 and F64 are "
                      "supported); use the model's original weights, or convert them",
                      info.file.string(), core::printable(name), io::dtype_name(info.dtype));
    }
}

/// Whether two matrices of one shape hold the same numbers.
bool are_equal(const io::TensorSource& tensors, const std::string& one, const std::string& other) {
    constexpr index_t elements_at_once = index_t{1} << 20;
    const io::TensorInfo& info = tensors.info(one);
    if (info.shape != tensors.info(other).shape) {
        return false;
    }
    const index_t most = std::max<index_t>(1, elements_at_once / std::max<index_t>(1, info.cols()));
    core::Matrix<float> a;
    core::Matrix<float> b;
    for (index_t row = 0; row < info.rows(); row += most) {
        for (core::Matrix<float>* part : {&a, &b}) {
            part->resize(std::min(most, info.rows() - row), info.cols());
            tensors.read<float>(part == &a ? one : other, *part, row);
        }
        if (!std::equal(a.flat().begin(), a.flat().end(), b.flat().begin())) {
            return false;
        }
    }
    return true;
}

}  // namespace

void fit_to_checkpoint(const io::TensorSource& tensors, Architecture& architecture) {
    refuse_quantised(tensors);
    architecture.stored = stored_formats(tensors, architecture);
    if (architecture.tied_head && tensors.contains(head_name) && tensors.contains(embedding_name) &&
        !are_equal(tensors, head_name, embedding_name)) {
        architecture.tied_head = false;
        architecture.warning +=
            fmt::format("{}warning: {}: tie_word_embeddings = true in config.json, but {} differs from {}; it is used",
                        architecture.warning.empty() ? "" : "\n", tensors.path().string(), head_name, embedding_name);
    }
}

StoredFormats stored_formats(const io::TensorSource& tensors, const Architecture& architecture) {
    const std::array routers = {fmt::format(".{}.weight", architecture.names.router),
                                fmt::format(".{}.weight", TensorNames::fused_router)};
    std::set<std::optional<ops::WeightFormat>> experts;
    std::set<std::optional<ops::WeightFormat>> others;
    for (const std::string& name : tensors.names()) {
        const io::TensorInfo& info = tensors.info(name);
        if (info.shape.size() > 1 && !name.ends_with(routers[0]) && !name.ends_with(routers[1])) {
            (name.find(".experts.") == std::string::npos ? others : experts).insert(format_of_dtype(info.dtype));
        }
    }
    const auto common = [](const auto& formats) { return formats.size() == 1 ? *formats.begin() : std::nullopt; };
    return {common(experts), common(others)};
}

template <class Scalar>
void WeightSource<Scalar>::fill(const std::string& name, const TensorSlice& part, ops::PackedMatrix out) const {
    constexpr index_t elements_at_once = index_t{1} << 22;
    constexpr index_t block = ops::kernel_block;
    const index_t most = std::max<index_t>(1, elements_at_once / std::max<index_t>(1, out.cols()) / block) * block;
    core::Matrix<Scalar> plain;
    for (index_t first = 0; first < out.rows(); first += most) {
        plain.resize(std::min(most, out.rows() - first), out.cols());
        read(name, {part.rows, part.cols, part.row_begin + first, part.col_begin}, plain);
        if (!out.template assign_rows<Scalar>(first, plain)) {
            fail_not_finite(origin(name));
        }
    }
}

template <class Scalar>
CheckpointWeights<Scalar>::CheckpointWeights(const io::TensorSource& tensors, const Architecture& architecture)
    : tensors_(tensors), architecture_(architecture) {
    for (index_t layer = 0; layer < architecture.layers; ++layer) {
        if (architecture.is_moe[static_cast<std::size_t>(layer)] &&
            (tensors.contains(architecture.layer(layer) + TensorNames::fused_experts + "gate_up_proj") ||
             tensors.contains(architecture.layer(layer) + TensorNames::fused_experts + "down_proj"))) {
            place_fused_experts(layer);
        }
    }
}

template <class Scalar>
void CheckpointWeights<Scalar>::place_fused_experts(index_t layer) {
    const TensorNames& names = architecture_.names;
    const index_t hidden = architecture_.hidden;
    const index_t intermediate = architecture_.expert_intermediate;
    const std::string prefix = architecture_.layer(layer);
    const std::string gate_and_up = prefix + TensorNames::fused_experts + "gate_up_proj";
    const std::string down = prefix + TensorNames::fused_experts + "down_proj";
    for (index_t e = 0; e < architecture_.experts; ++e) {
        const auto place = [&](const std::string& projection, const Place& where) {
            renamed_[architecture_.expert_module(layer, e, projection) + ".weight"] = where;
        };
        const index_t all_rows = 2 * intermediate * architecture_.experts;
        place(names.gate, {gate_and_up, 2 * intermediate * e, all_rows});
        place(names.up, {gate_and_up, 2 * intermediate * e + intermediate, all_rows});
        place(names.down, {down, hidden * e, hidden * architecture_.experts});
    }
    // The family's own name of the router may be that of the other layout.
    renamed_[prefix + names.router + ".weight"] = {prefix + TensorNames::fused_router + ".weight"};
}

template <class Scalar>
typename CheckpointWeights<Scalar>::Place CheckpointWeights<Scalar>::place_of(const std::string& name) const {
    const auto renamed = renamed_.find(name);
    return tensors_.contains(name) || renamed == renamed_.end() ? Place{name} : renamed->second;
}

template <class Scalar>
template <class U>
bool CheckpointWeights<Scalar>::find(const std::string& name, index_t rows, index_t cols, MatrixView<U> out,
                                     Place& place) const {
    place = place_of(name);
    if (!tensors_.contains(place.stored)) {
        missing_.push_back(name);
        for (index_t row = 0; row < out.rows(); ++row) {
            std::fill_n(out[row], out.cols(), U{});
        }
        return false;
    }
    read_.insert(place.stored);
    const io::TensorInfo& info = tensors_.info(place.stored);
    core::require(io::is_number(info.dtype), ExitCode::usage,
                  "{}: tensor {} has dtype {}, which is no number that is read (BF16, F16, F32 and F64 are); use the "
                  "model's original weights",
                  info.file.string(), core::printable(place.stored), io::dtype_name(info.dtype));
    const index_t stored_rows = place.stored_rows > 0 ? place.stored_rows : rows;
    core::require(
        info.rows() == stored_rows && info.cols() == cols, ExitCode::corrupt_input,
        "{}: tensor {} has shape [{}] (config.json asks for {} rows of {} in all); use the config.json that belongs to "
        "the weights",
        info.file.string(), place.stored, fmt::join(info.shape, ", "), stored_rows, cols);
    return true;
}

template <class Scalar>
void CheckpointWeights<Scalar>::read(const std::string& name, const TensorSlice& part, MatrixView<Scalar> out) const {
    Place place;
    if (find(name, part.rows, part.cols, out, place)) {
        tensors_.read<Scalar>(place.stored, out, place.row_begin + part.row_begin, part.col_begin);
    }
}

template <class Scalar>
void CheckpointWeights<Scalar>::read_full_precision(const std::string& name, TensorRole,
                                                    MatrixView<accumulator_t<Scalar>> out) const {
    Place place;
    if (find(name, out.rows(), out.cols(), out, place)) {
        tensors_.read<accumulator_t<Scalar>>(place.stored, out, place.row_begin, 0);
        if (!core::all_finite(out)) {
            fail_not_finite(origin(name));
        }
    }
}

template <class Scalar>
std::string CheckpointWeights<Scalar>::origin(const std::string& name) const {
    const std::string stored = place_of(name).stored;
    return fmt::format("{}: tensor {}", tensors_.info(stored).file.string(), core::printable(stored));
}

template <class Scalar>
void CheckpointWeights<Scalar>::mark_read_elsewhere(const std::string& name) const {
    read_.insert(place_of(name).stored);
}

template <class Scalar>
std::vector<std::string> CheckpointWeights<Scalar>::unread() const {
    std::vector<std::string> names = tensors_.names();
    std::erase_if(names, [&](const std::string& name) { return read_.contains(name); });
    return names;
}

template <class Scalar>
void CheckpointWeights<Scalar>::check_complete() const {
    if (!missing_.empty()) {
        core::fail(ExitCode::corrupt_input,
                   "{}: {} missing (config.json asks for {}); complete the checkpoint, or use the "
                   "config.json that belongs to it",
                   tensors_.path().string(), core::counted(missing_.size(), "tensor"),
                   core::joined(missing_, listed_names));
    }
    for (const std::string& name : unread()) {
        const index_t layer = layer_of(name);
        core::require(layer < 0 || layer >= architecture_.layers || is_rotary_buffer(name), ExitCode::usage,
                      "{}: tensor {} is not supported (a {} model as config.json describes it has no such tensor, and "
                      "results would differ without it); use the config.json that belongs to the weights",
                      tensors_.path().string(), core::printable(name), architecture_.family);
    }
}

template <class Scalar>
std::string CheckpointWeights<Scalar>::unused() const {
    std::map<std::string, index_t> counts;  // tensors of further layers and buffers are counted together
    index_t all = 0;
    for (const std::string& name : unread()) {
        const index_t layer = layer_of(name);
        const std::string group = is_rotary_buffer(name) ? "*.rotary_emb.inv_freq"
                                  : layer >= 0           ? fmt::format("{}{}.*", layers_prefix, layer)
                                                         : name;
        ++counts[group];
        ++all;
    }
    std::vector<std::string> groups;
    for (const auto& [group, count] : counts) {
        groups.push_back(count > 1 ? fmt::format("{} ({})", group, count) : group);
    }
    return all == 0 ? std::string()
                    : core::printable(fmt::format("{}: {} not used: {}", tensors_.path().string(),
                                                  core::counted(all, "tensor"), core::joined(groups, listed_names)),
                                      longest_line);
}

template class WeightSource<core::bf16>;
template class WeightSource<float>;
template class WeightSource<double>;
template class CheckpointWeights<core::bf16>;
template class CheckpointWeights<float>;
template class CheckpointWeights<double>;

}  // namespace moesaic::model
