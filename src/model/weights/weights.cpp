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

[[noreturn]] void fail_not_finite(const std::string& origin) {
    core::fail(
        ExitCode::corrupt_input,
        "{} has a value that is no finite number (NaN, infinity, or too large for the type that is computed with); "
        "get the file again, or another model",
        origin);
}

/// What programs that quantise write about activations, which are not quantised here.
bool is_of_activations(std::string_view name) {
    constexpr std::array suffixes = {".input_scale", ".input_global_scale", ".q_scale", ".k_scale", ".v_scale",
                                     ".kv_scale"};
    return std::any_of(suffixes.begin(), suffixes.end(), [&](const char* suffix) { return name.ends_with(suffix); });
}

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

bool is_in_layers(const std::string& name, const Architecture& architecture) {
    return layer_of(name) < architecture.layers;
}

/// Calls use(name, matrix) for all matrices of the model.
template <class Use>
void for_each_matrix(const io::TensorSource& tensors, const Architecture& architecture, const Use& use) {
    for (const std::string& tensor : tensors.names()) {
        const auto name = StoredMatrix::name_of(tensor);
        const io::TensorInfo& info = tensors.info(tensor);
        if (name && info.shape.size() > 1 && (io::is_number(info.dtype) || is_code(info.dtype)) &&
            is_in_layers(tensor, architecture)) {
            if (const auto matrix = StoredMatrix::find(tensors, architecture.quantisation, *name)) {
                use(*name, *matrix);
            }
        }
    }
}

/// Tensors of several dimensions are weights; codes that belong to no matrix of a kind that is read would be left out.
void refuse_unknown_codes(const io::TensorSource& tensors, const Architecture& architecture,
                          const std::set<std::string>& known) {
    for (const std::string& name : tensors.names()) {
        const io::TensorInfo& info = tensors.info(name);
        core::require(
            info.shape.size() < 2 || !is_code(info.dtype) || known.contains(name) || !is_in_layers(name, architecture),
            ExitCode::usage,
            "{}: tensor {} has dtype {}, which is that of quantised weights of a kind that is not read "
            "(docs/formats.md lists those that are); use the model's original weights, or convert them",
            info.file.string(), core::printable(name), io::dtype_name(info.dtype));
    }
}

/// Calls use(first, rows) for strips of whole blocks of a matrix that are read at once.
template <class Use>
void for_each_strip(index_t rows, index_t cols, const Use& use) {
    constexpr index_t elements_at_once = index_t{1} << 20;  // by each of several threads
    constexpr index_t block = ops::kernel_block;
    const index_t most = std::max<index_t>(1, elements_at_once / std::max<index_t>(1, cols) / block) * block;
    for (index_t first = 0; first < rows; first += most) {
        use(first, std::min(most, rows - first));
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

/// The formats, and the names of all tensors that matrices consist of.
StoredFormats survey(const io::TensorSource& tensors, const Architecture& architecture, std::set<std::string>& known) {
    const std::array routers = {fmt::format(".{}.weight", architecture.names.router),
                                fmt::format(".{}.weight", TensorNames::fused_router)};
    std::set<std::optional<ops::WeightFormat>> experts;
    std::set<std::optional<ops::WeightFormat>> projections;
    std::set<std::optional<ops::WeightFormat>> embedding;
    for_each_matrix(tensors, architecture, [&](const std::string& name, const StoredMatrix& matrix) {
        known.insert(matrix.tensors().begin(), matrix.tensors().end());
        if (!name.ends_with(routers[0]) && !name.ends_with(routers[1])) {
            auto& formats = layer_of(name) < 0                            ? embedding
                            : name.find(".experts.") == std::string::npos ? projections
                                                                          : experts;
            formats.insert(matrix.format());
        }
    });
    const auto common = [](const auto& formats) { return formats.size() == 1 ? *formats.begin() : std::nullopt; };
    return {common(experts), common(projections), common(embedding)};
}

}  // namespace

void fit_to_checkpoint(const io::TensorSource& tensors, Architecture& architecture) {
    std::set<std::string> known;
    architecture.stored = survey(tensors, architecture, known);
    refuse_unknown_codes(tensors, architecture, known);
    if (architecture.tied_head && tensors.contains(head_name) && tensors.contains(embedding_name) &&
        !are_equal(tensors, head_name, embedding_name)) {
        architecture.tied_head = false;
        architecture.warning +=
            fmt::format("{}warning: {}: tie_word_embeddings = true in config.json, but {} differs from {}; it is used",
                        architecture.warning.empty() ? "" : "\n", tensors.path().string(), head_name, embedding_name);
    }
}

StoredFormats stored_formats(const io::TensorSource& tensors, const Architecture& architecture) {
    std::set<std::string> known;
    return survey(tensors, architecture, known);
}

template <class Scalar>
void WeightSource<Scalar>::fill(const std::string& name, const TensorSlice& part, ops::PackedMatrix out) const {
    core::Matrix<Scalar> plain;
    for_each_strip(out.rows(), out.cols(), [&](index_t first, index_t rows) {
        plain.resize(rows, out.cols());
        read(name, {part.rows, part.cols, part.row_begin + first, part.col_begin}, plain);
        if (!out.template assign_rows<Scalar>(first, plain)) {
            fail_not_finite(origin(name));
        }
    });
}

template <class Scalar>
CheckpointWeights<Scalar>::CheckpointWeights(const io::TensorSource& tensors, const Architecture& architecture)
    : tensors_(tensors), architecture_(architecture) {
    for (index_t layer = 0; layer < architecture.layers; ++layer) {
        const auto has = [&](const char* tensor) {
            return tensors.contains(architecture.layer(layer) + TensorNames::fused_experts + tensor);
        };
        if (architecture.is_moe[static_cast<std::size_t>(layer)] &&
            (has("gate_up_proj") || has("down_proj") || has("gate_up_proj_blocks"))) {
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
    return renamed == renamed_.end() || tensors_.contains(name) ? Place{name} : renamed->second;
}

template <class Scalar>
std::optional<StoredMatrix> CheckpointWeights<Scalar>::find(const std::string& name, const TensorSlice& whole,
                                                            Place& place) const {
    place = place_of(name);
    std::optional<StoredMatrix> matrix = StoredMatrix::find(tensors_, architecture_.quantisation, place.stored);
    const std::lock_guard lock(mutex_);
    if (!matrix) {
        missing_.insert(name);
        return matrix;
    }
    read_.insert(matrix->tensors().begin(), matrix->tensors().end());
    const std::string& tensor = matrix->tensors().front();
    const io::TensorInfo& info = tensors_.info(tensor);
    const index_t stored_rows = place.stored_rows > 0 ? place.stored_rows : whole.rows;
    core::require(matrix->rows() == stored_rows && matrix->cols() == whole.cols, ExitCode::corrupt_input,
                  "{}: tensor {} has shape [{}] (config.json asks for {} rows of {} in all); use the config.json that "
                  "belongs to the weights",
                  info.file.string(), core::printable(tensor), fmt::join(info.shape, ", "), stored_rows, whole.cols);
    return matrix;
}

namespace {

template <class T>
void fill_zeros(MatrixView<T> out) {
    for (index_t row = 0; row < out.rows(); ++row) {
        std::fill_n(out[row], out.cols(), T{});
    }
}

}  // namespace

template <class Scalar>
void CheckpointWeights<Scalar>::read(const std::string& name, const TensorSlice& part, MatrixView<Scalar> out) const {
    Place place;
    if (const auto matrix = find(name, part, place)) {
        matrix->read(place.row_begin + part.row_begin, part.col_begin, out);
    } else {
        fill_zeros(out);
    }
}

template <class Scalar>
void CheckpointWeights<Scalar>::fill(const std::string& name, const TensorSlice& part, ops::PackedMatrix out) const {
    Place place;
    const auto matrix = find(name, part, place);
    if (!matrix || !matrix->is_coded() || matrix->format() != out.format()) {
        WeightSource<Scalar>::fill(name, part, out);
        return;
    }
    core::require(matrix->can_begin_at(part.col_begin), ExitCode::usage,
                  "{}: columns from {} on can't be held apart from those before them (they share a scale); use fewer "
                  "ranks per tensor group",
                  origin(name), part.col_begin);
    for_each_strip(out.rows(), out.cols(), [&](index_t first, index_t rows) {
        if (!out.assign_codes(first, matrix->read_codes(place.row_begin + part.row_begin + first, part.col_begin, rows,
                                                        out.cols()))) {
            fail_not_finite(origin(name));
        }
    });
}

template <class Scalar>
void CheckpointWeights<Scalar>::read_full_precision(const std::string& name, TensorRole,
                                                    MatrixView<accumulator_t<Scalar>> out) const {
    Place place;
    if (const auto matrix = find(name, {out.rows(), out.cols()}, place)) {
        matrix->read(place.row_begin, 0, out);
        if (!core::all_finite(out)) {
            fail_not_finite(origin(name));
        }
    } else {
        fill_zeros(out);
    }
}

template <class Scalar>
std::string CheckpointWeights<Scalar>::origin(const std::string& name) const {
    const auto matrix = StoredMatrix::find(tensors_, architecture_.quantisation, place_of(name).stored);
    const std::string tensor = matrix ? matrix->tensors().front() : name;
    return fmt::format("{}: tensor {}", (matrix ? tensors_.info(tensor).file : tensors_.path()).string(),
                       core::printable(tensor));
}

template <class Scalar>
void CheckpointWeights<Scalar>::mark_read_elsewhere(const std::string& name) const {
    if (const auto matrix = StoredMatrix::find(tensors_, architecture_.quantisation, place_of(name).stored)) {
        const std::lock_guard lock(mutex_);
        read_.insert(matrix->tensors().begin(), matrix->tensors().end());
    }
}

template <class Scalar>
std::vector<std::string> CheckpointWeights<Scalar>::unread() const {
    std::vector<std::string> names = tensors_.names();
    std::erase_if(names, [&](const std::string& name) { return read_.contains(name); });
    return names;
}

template <class Scalar>
bool CheckpointWeights<Scalar>::is_without_effect(const std::string& name) const {
    if (architecture_.quantisation.method == QuantisationMethod::none) {
        return false;
    }
    if (is_of_activations(name)) {
        return true;
    }
    if (!name.ends_with(".bias") || !io::is_number(tensors_.info(name).dtype)) {
        return false;
    }
    core::Matrix<float> bias(1, tensors_.info(name).cols());  // AutoGPTQ writes zeros where there is none
    tensors_.read<float>(name, bias);
    return std::all_of(bias.flat().begin(), bias.flat().end(), [](float value) { return value == 0; });
}

template <class Scalar>
void CheckpointWeights<Scalar>::check_complete() const {
    if (!missing_.empty()) {
        core::fail(ExitCode::corrupt_input,
                   "{}: {} missing (config.json asks for {}); complete the checkpoint, or use the "
                   "config.json that belongs to it",
                   tensors_.path().string(), core::counted(missing_.size(), "tensor"),
                   core::joined(std::vector(missing_.begin(), missing_.end()), listed_names));
    }
    for (const std::string& name : unread()) {
        const index_t layer = layer_of(name);
        core::require(layer < 0 || layer >= architecture_.layers || is_rotary_buffer(name) || is_without_effect(name),
                      ExitCode::usage,
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
