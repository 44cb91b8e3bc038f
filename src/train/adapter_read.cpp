// Reading adapters in both layouts.
#include "core/counted.hpp"
#include "core/error.hpp"
#include "core/finite.hpp"
#include "core/text.hpp"
#include "core/trace.hpp"
#include "io/safetensors.hpp"
#include "train/adapter_config.hpp"
#include "train/adapter_store.hpp"

#include <algorithm>
#include <map>
#include <set>

namespace moesaic::train {
namespace {

using core::ExitCode;
using core::Matrix;
using core::MatrixView;
using model::AdapterSpec;
using model::LoraTensor;
using ops::LoraFactor;

/// No module of a model has a longer name; matching patterns against names of any length could exhaust the stack.
constexpr std::size_t longest_name = 512;

/// Where the factors of one module are. In a fused tensor the LoRA ranks of an expert are rows of A below each other,
/// and every `stride`-th column of B.
struct ModulePlace {
    std::string a_tensor;
    std::string b_tensor;
    AdapterSpec spec;
    bool is_fused = false;
    index_t first_row_of_a = 0;
    index_t first_col_of_b = 0;
    index_t col_stride_of_b = 1;
    index_t first_row_of_b = 0;
};

/// An opened adapter: which modules it adapts, and their factors.
class AdapterFile {
public:
    AdapterFile(const std::filesystem::path& folder, const model::Architecture& architecture);

    [[nodiscard]] const model::LoraSettings& settings() const { return settings_; }
    [[nodiscard]] const std::map<std::string, ModulePlace>& modules() const { return modules_; }
    [[nodiscard]] const std::string& source() const { return source_; }
    /// Fills `out` with the block of factor A [R, in] or B [out, R] that begins at the given row and column.
    void read(const std::string& module, LoraFactor factor, MatrixView<float> out, index_t row, index_t col);
    /// Throws unless the module's factors have the sizes that the model needs.
    void check_size(const std::string& module, LoraFactor factor, index_t rows, index_t cols) const;

private:
    void find_modules();
    /// Of modules that the configuration names and no tensor adapts.
    void warn_of_missing(const std::vector<std::string>& target_modules);
    void find_fused(index_t layer, const std::string& folder);
    void add_fused_gate_up(index_t layer, const std::string& stem, index_t lora_rank);
    void add_fused(index_t layer, const std::string& stem, const std::string& projection, AdapterSpec spec,
                   index_t first_lora_rank, index_t file_lora_rank, index_t first_row_of_b);
    [[nodiscard]] AdapterSpec spec_in_config(const std::string& module, const std::string& tensor,
                                             index_t lora_rank) const;
    [[nodiscard]] MatrixView<const float> whole(const std::string& tensor);

    const model::Architecture& architecture_;
    std::string source_;
    io::TensorSource file_;
    model::LoraSettings settings_;
    std::set<std::string> unused_;
    std::map<std::string, ModulePlace> modules_;
    std::string cached_name_;  // fused tensors are read as a whole, once for all experts
    Matrix<float> cached_;
};

AdapterFile::AdapterFile(const std::filesystem::path& folder, const model::Architecture& architecture)
    : architecture_(architecture),
      source_((folder / adapter_weights_name).string()),
      file_(io::TensorSource::open_file(source_)) {
    AdapterConfig config = read_adapter_config(folder);
    settings_ = std::move(config.settings);
    const auto names = file_.names();
    unused_.insert(names.begin(), names.end());
    find_modules();
    warn_of_missing(config.target_modules);
    settings_.modules.emplace();
    for (const auto& [module, place] : modules_) {
        settings_.modules->emplace(module, place.spec);
    }
}

/// The adapter that the configuration gives a module, which must have the LoRA rank of its tensor.
AdapterSpec AdapterFile::spec_in_config(const std::string& module, const std::string& tensor, index_t lora_rank) const {
    const double expected = settings_.rank_pattern.value_of(module, static_cast<double>(settings_.rank));
    core::require(lora_rank > 0 && static_cast<double>(lora_rank) == expected, ExitCode::corrupt_input,
                  "{}: tensor {} has rank {} ({} says {}); use files that belong together", source_,
                  core::printable(tensor), lora_rank, adapter_config_name, expected);
    return {lora_rank, settings_.scale(lora_rank, settings_.alpha_pattern.value_of(module, settings_.alpha))};
}

void AdapterFile::find_modules() {
    for (index_t layer = 0; layer < architecture_.layers; ++layer) {
        for (const char* folder : {fused_outer, fused_inner}) {
            const std::string stem = peft_prefix + architecture_.layer(layer) + folder;
            if (file_.contains(stem + a_suffix)) {
                find_fused(layer, stem);
            }
        }
    }
    const std::string prefix = peft_prefix;
    const std::string suffix = a_suffix;
    for (const std::string& name : std::vector<std::string>(unused_.begin(), unused_.end())) {
        if (name.size() <= longest_name && name.starts_with(prefix) && name.ends_with(suffix)) {
            const std::string module = name.substr(prefix.size(), name.size() - prefix.size() - suffix.size());
            ModulePlace place;
            place.a_tensor = name;
            place.b_tensor = prefix + module + b_suffix;
            place.spec = spec_in_config(module, name, file_.info(name).rows());
            unused_.erase(name);
            unused_.erase(place.b_tensor);
            modules_.emplace(module, place);
        }
    }
    for (const std::string& name : unused_) {
        core::require(!name.starts_with(prefix) || !name.ends_with(b_suffix), ExitCode::corrupt_input,
                      "{}: {} has no lora_A beside it (factors come in pairs); save the adapter again", source_,
                      core::printable(name));
    }
    core::require(unused_.empty(), ExitCode::usage,
                  "{} has {} besides LoRA factors of linear modules ({}); use an adapter without, or with PEFT's names "
                  "({}MODULE{})",
                  source_, core::counted(unused_.size(), "tensor"),
                  core::joined(std::vector<std::string>(unused_.begin(), unused_.end()), 3), prefix, suffix);
    core::require(!modules_.empty(), ExitCode::corrupt_input,
                  "{} has no tensors (an adapter is a pair of factors for each adapted module); save the adapter again",
                  source_);
}

void AdapterFile::warn_of_missing(const std::vector<std::string>& target_modules) {
    std::vector<std::string> missing;
    for (const std::string& target : target_modules) {
        if (std::none_of(modules_.begin(), modules_.end(), [&](const auto& module) {
                return module.first == target || module.first.ends_with('.' + target);
            })) {
            missing.push_back(core::printable(target));
        }
    }
    if (!missing.empty()) {
        settings_.warnings.push_back(fmt::format(
            "warning: {}: no tensors for {}, which target_modules of {} names; such modules are not adapted", source_,
            core::joined(missing), adapter_config_name));
    }
}

/// Which of the two parameters a fused pair adapts is said by its sizes: A is [E R, in] and B [out, R E].
void AdapterFile::find_fused(index_t layer, const std::string& stem) {
    const io::TensorInfo& a = file_.info(stem + a_suffix);
    const io::TensorInfo& b = file_.info(stem + b_suffix);
    const index_t hidden = architecture_.hidden;
    const index_t intermediate = architecture_.expert_intermediate;
    const bool is_down = a.cols() == intermediate && b.rows() == hidden;
    const bool is_gate_up = a.cols() == hidden && b.rows() == 2 * intermediate;
    core::require(
        (is_down || is_gate_up) && a.rows() == b.cols() && a.rows() > 0 && a.rows() % architecture_.experts == 0,
        ExitCode::usage,
        "{}: tensors {}.lora_A and .lora_B are [{}, {}] and [{}, {}] (fused factors of {} with "
        "intermediate size {} and hidden size {} are expected); use an adapter that was made for this model",
        source_, stem, a.rows(), a.cols(), b.rows(), b.cols(), core::counted(architecture_.experts, "expert"),
        intermediate, hidden);
    unused_.erase(stem + a_suffix);
    unused_.erase(stem + b_suffix);
    const index_t lora_rank = a.rows() / architecture_.experts;
    if (is_gate_up) {
        add_fused_gate_up(layer, stem, lora_rank);
    } else {
        const AdapterSpec spec = spec_in_config(architecture_.layer(layer) + fused_down, stem + a_suffix, lora_rank);
        add_fused(layer, stem, architecture_.names.down, spec, 0, lora_rank, 0);
    }
}

/// Gate and up either have half of the LoRA ranks each, the rest of B being zero, or they share all of them.
void AdapterFile::add_fused_gate_up(index_t layer, const std::string& stem, index_t lora_rank) {
    const index_t intermediate = architecture_.expert_intermediate;
    AdapterSpec spec = spec_in_config(architecture_.layer(layer) + fused_gate_up, stem + a_suffix, lora_rank);
    const MatrixView<const float> b = whole(stem + b_suffix);
    const index_t half = b.cols() / 2;
    bool is_split = lora_rank % 2 == 0;
    for (index_t row = 0; row < b.rows() && is_split; ++row) {
        const float* foreign = b[row] + (row < intermediate ? half : 0);
        is_split = std::all_of(foreign, foreign + half, [](float value) { return value == 0; });
    }
    spec.lora_rank = is_split ? lora_rank / 2 : lora_rank;
    add_fused(layer, stem, architecture_.names.gate, spec, 0, lora_rank, 0);
    add_fused(layer, stem, architecture_.names.up, spec, is_split ? lora_rank / 2 : 0, lora_rank, intermediate);
}

void AdapterFile::add_fused(index_t layer, const std::string& stem, const std::string& projection, AdapterSpec spec,
                            index_t first_lora_rank, index_t file_lora_rank, index_t first_row_of_b) {
    const index_t experts = architecture_.experts;
    for (index_t e = 0; e < experts; ++e) {
        modules_.emplace(architecture_.expert_module(layer, e, projection),
                         ModulePlace{stem + a_suffix, stem + b_suffix, spec, true, e * file_lora_rank + first_lora_rank,
                                     first_lora_rank * experts + e, experts, first_row_of_b});
    }
}

MatrixView<const float> AdapterFile::whole(const std::string& tensor) {
    if (cached_name_ != tensor) {
        const io::TensorInfo& info = file_.info(tensor);
        cached_.resize(info.rows(), info.cols());
        cached_name_.clear();
        file_.read<float>(tensor, cached_);
        cached_name_ = tensor;
    }
    return std::as_const(cached_).view();
}

void AdapterFile::check_size(const std::string& module, LoraFactor factor, index_t rows, index_t cols) const {
    const ModulePlace& place = modules_.at(module);
    if (!place.is_fused) {  // fused ones were checked
        const std::string& name = factor == LoraFactor::a ? place.a_tensor : place.b_tensor;
        const io::TensorInfo& info = file_.info(name);
        core::require(
            info.rows() == rows && info.cols() == cols, ExitCode::usage,
            "{}: tensor {} is [{}, {}] (the model needs [{}, {}]); use an adapter that was made for this model",
            source_, name, info.rows(), info.cols(), rows, cols);
    }
}

void AdapterFile::read(const std::string& module, LoraFactor factor, MatrixView<float> out, index_t row, index_t col) {
    const ModulePlace& place = modules_.at(module);
    const bool is_a = factor == LoraFactor::a;
    if (!place.is_fused) {
        file_.read<float>(is_a ? place.a_tensor : place.b_tensor, out, row, col);
        return;
    }
    const MatrixView<const float> all = whole(is_a ? place.a_tensor : place.b_tensor);
    for (index_t i = 0; i < out.rows(); ++i) {
        for (index_t j = 0; j < out.cols(); ++j) {
            out(i, j) =
                is_a ? all(place.first_row_of_a + row + i, col + j)
                     : all(place.first_row_of_b + row + i, place.first_col_of_b + (col + j) * place.col_stride_of_b);
        }
    }
}

}  // namespace

model::LoraSettings read_adapter_settings(const std::filesystem::path& folder,
                                          const model::Architecture& architecture) {
    return AdapterFile(folder, architecture).settings();
}

void AdapterStore::load(const std::filesystem::path& folder, const model::Architecture& architecture) {
    const core::trace::Scope scope(core::scopes::adapter_load);
    AdapterFile file(folder, architecture);
    std::set<std::string> unknown;
    for (const auto& [module, place] : file.modules()) {
        unknown.insert(module);
    }
    for (const auto& bucket : parameters_.buckets) {
        for (const LoraTensor& tensor : bucket->tensors) {
            std::fill_n(bucket->view(tensor, bucket->values).data(), tensor.size(), 0.0F);
            for (index_t m = 0; m < tensor.count(); ++m) {
                const std::string& module = tensor.modules[static_cast<std::size_t>(m)];
                if (tensor.lora_rank_of(m) == 0) {
                    continue;
                }
                file.check_size(module, tensor.factor, tensor.unpadded_rows(m), tensor.unpadded_cols(m));
                unknown.erase(module);
                if (!tensor.held.contains(m)) {
                    continue;
                }
                const MatrixView<float> matrix = bucket->matrix(tensor, m, bucket->values);
                const bool is_a = tensor.factor == LoraFactor::a;
                file.read(module, tensor.factor,
                          is_a ? matrix.rows(0, tensor.lora_rank_of(m)) : matrix.columns(0, tensor.lora_rank_of(m)),
                          tensor.row_begin(), tensor.col_begin());
                core::require(core::all_finite(matrix), ExitCode::corrupt_input,
                              "{}: tensor {} has a value that is no finite number (NaN or infinity); use an adapter of "
                              "a run that did not diverge",
                              file.source(), tensor.adapter_name(m));
            }
        }
    }
    core::require(unknown.empty(), ExitCode::usage,
                  "{} adapts {} that the model does not have, or of a kind that is not adapted (the first is {}); "
                  "use an adapter that was made for this model",
                  file.source(), core::counted(unknown.size(), "module"), unknown.empty() ? "" : *unknown.begin());
}

}  // namespace moesaic::train
