// Writing adapters in both layouts.
#include "core/trace.hpp"
#include "io/files.hpp"
#include "io/json.hpp"
#include "io/safetensors.hpp"
#include "train/adapter_config.hpp"
#include "train/adapter_store.hpp"

#include <algorithm>
#include <exception>

namespace moesaic::train {
namespace {

using core::MatrixView;
using model::AdapterSpec;
using model::LoraTensor;
using ops::LoraFactor;
using Bucket = model::ParameterBucket<float>;

constexpr const char* step_key = "step";  // of the metadata

/// A tensor of the file: its size, the bucket that its values are in, and how they get into place.
struct FileTensor {
    io::TensorToWrite header;
    std::size_t bucket;
    std::function<void(const std::vector<FullTensor>& of_bucket, MatrixView<float> out)> fill;
};

struct Contents {
    std::vector<FileTensor> tensors;
    std::vector<AdaptedModule> modules;
};

/// Each module by itself, without the padding of its LoRA rank.
void add_by_module(const Bucket& bucket, std::size_t index, Contents& contents) {
    for (std::size_t t = 0; t < bucket.tensors.size(); ++t) {
        const LoraTensor& tensor = bucket.tensors[t];
        for (index_t m = 0; m < tensor.count(); ++m) {
            if (tensor.lora_rank_of(m) == 0) {
                continue;
            }
            contents.tensors.push_back({{tensor.adapter_name(m), {tensor.unpadded_rows(m), tensor.unpadded_cols(m)}},
                                        index,
                                        [t, m](const std::vector<FullTensor>& of_bucket, MatrixView<float> out) {
                                            for (index_t row = 0; row < out.rows(); ++row) {
                                                std::copy_n(of_bucket[t].matrix(m)[row], out.cols(), out[row]);
                                            }
                                        }});
            if (tensor.factor == LoraFactor::a) {
                contents.modules.push_back(
                    {tensor.modules[static_cast<std::size_t>(m)], tensor.specs[static_cast<std::size_t>(m)]});
            }
        }
    }
}

/// The adapter of a fused parameter that holds the given tensors of a bucket, one per projection: LoRA ranks of all of
/// them one after the other, and one scale, which B makes up for where a module has another.
struct FusedPair {
    std::vector<std::size_t> tensors;  // in the bucket
    index_t lora_rank = 0;             // of each projection
    double scale = 0;

    FusedPair(const Bucket& bucket, std::vector<std::size_t> tensors_of_bucket)
        : tensors(std::move(tensors_of_bucket)) {
        for (const std::size_t t : tensors) {
            for (const AdapterSpec& spec : bucket.tensors[t].specs) {
                lora_rank = std::max(lora_rank, spec.lora_rank);
                scale = scale == 0 ? spec.scale : scale;
            }
        }
    }
    [[nodiscard]] index_t all_lora_ranks() const { return lora_rank * static_cast<index_t>(tensors.size()); }

    /// A: row e * all_lora_ranks + i is LoRA rank i of expert e.
    void fill_a(const std::vector<FullTensor>& of_bucket, MatrixView<float> out) const {
        for (std::size_t p = 0; p < tensors.size(); ++p) {
            const FullTensor& full = of_bucket[tensors[p]];
            for (index_t e = 0; e < full.tensor->count(); ++e) {
                for (index_t i = 0; i < lora_rank; ++i) {
                    const index_t row = e * all_lora_ranks() + static_cast<index_t>(p) * lora_rank + i;
                    std::copy_n(full.matrix(e)[i], out.cols(), out[row]);
                }
            }
        }
    }
    /// B: column i * E + e is LoRA rank i of expert e; the projections' outputs are below each other.
    void fill_b(const std::vector<FullTensor>& of_bucket, MatrixView<float> out) const {
        std::fill_n(out.data(), out.rows() * out.cols(), 0.0F);
        index_t first_row = 0;
        for (std::size_t p = 0; p < tensors.size(); ++p) {
            const FullTensor& full = of_bucket[tensors[p]];
            const index_t experts = full.tensor->count();
            for (index_t e = 0; e < experts; ++e) {
                const double own_scale = full.tensor->specs[static_cast<std::size_t>(e)].scale;
                for (index_t row = 0; row < full.tensor->rows; ++row) {
                    for (index_t i = 0; i < lora_rank; ++i) {
                        const double value = full.matrix(e)(row, i);
                        out(first_row + row, (static_cast<index_t>(p) * lora_rank + i) * experts + e) =
                            static_cast<float>(own_scale == scale ? value : value * own_scale / scale);
                    }
                }
            }
            first_row += full.tensor->rows;
        }
    }
};

/// The tensor of a projection in a bucket of a layer's experts, which has one factor of each.
std::size_t tensor_of(const Bucket& bucket, ops::Projection projection) {
    const auto found = std::find_if(bucket.tensors.begin(), bucket.tensors.end(),
                                    [&](const LoraTensor& tensor) { return tensor.projection == projection; });
    return static_cast<std::size_t>(found - bucket.tensors.begin());
}

/// Gate and up together, and down, of such a bucket.
void add_fused(const Bucket& bucket, std::size_t index, const model::Architecture& architecture, Contents& contents) {
    const std::string layer = architecture.layer(*bucket.experts_of_layer);
    const auto add = [&](std::vector<std::size_t> tensors, const std::string& stem, const std::string& parameter) {
        const LoraTensor& first = bucket.tensors[tensors.front()];
        const index_t matrices = first.count();
        const FusedPair pair(bucket, std::move(tensors));
        if (pair.lora_rank == 0) {
            return;
        }
        const index_t outputs = static_cast<index_t>(pair.tensors.size()) * first.rows;
        if (first.factor == LoraFactor::a) {
            contents.tensors.push_back(
                {{peft_prefix + stem + a_suffix, {matrices * pair.all_lora_ranks(), first.cols}},
                 index,
                 [pair](const auto& of_bucket, MatrixView<float> out) { pair.fill_a(of_bucket, out); }});
            contents.modules.push_back({parameter, {pair.all_lora_ranks(), pair.scale}, true});
        } else {
            contents.tensors.push_back(
                {{peft_prefix + stem + b_suffix, {outputs, pair.all_lora_ranks() * matrices}},
                 index,
                 [pair](const auto& of_bucket, MatrixView<float> out) { pair.fill_b(of_bucket, out); }});
        }
    };
    add({tensor_of(bucket, ops::Projection::gate), tensor_of(bucket, ops::Projection::up)}, layer + fused_inner,
        layer + fused_gate_up);
    add({tensor_of(bucket, ops::Projection::down)}, layer + fused_outer, layer + fused_down);
}

Contents contents_of(AdapterLayout layout, const model::Architecture& architecture,
                     const model::LoraParameters<float>& parameters) {
    Contents contents;
    for (std::size_t b = 0; b < parameters.buckets.size(); ++b) {
        const Bucket& bucket = *parameters.buckets[b];
        if (layout == AdapterLayout::fused && bucket.experts_of_layer) {
            add_fused(bucket, b, architecture, contents);
        } else {
            add_by_module(bucket, b, contents);
        }
    }
    return contents;
}

}  // namespace

void AdapterStore::save(const std::filesystem::path& folder, AdapterLayout layout, const std::string& base_model,
                        const model::Architecture& architecture, index_t step) const {
    const core::trace::Scope scope(core::scopes::adapter_save);
    const Contents contents = contents_of(layout, architecture, parameters_);
    std::vector<io::TensorToWrite> headers;
    for (const FileTensor& tensor : contents.tensors) {
        headers.push_back(tensor.header);
    }
    std::size_t collected = 0;  // buckets so far; ranks other than 0 only take part in collecting
    std::vector<FullTensor> full;
    const auto collect_next = [&] {
        full.clear();
        full = collect(collected, [this](std::size_t bucket) { return values(bucket); });
        ++collected;
    };
    std::exception_ptr error;
    try {
        if (grid_.world().is_root()) {
            io::create_folder(folder);
            const std::map<std::string, std::string> metadata = {
                {"format", "pt"}, {"family", architecture.family}, {step_key, std::to_string(step)}};
            io::write_safetensors<float>(
                folder / adapter_weights_name, headers, metadata, [&](std::size_t i, std::span<float> out) {
                    const FileTensor& tensor = contents.tensors[i];
                    while (collected <= tensor.bucket) {
                        collect_next();
                    }
                    tensor.fill(full, {out.data(), tensor.header.shape[0], tensor.header.shape[1]});
                });
            io::write_file_atomically(
                folder / adapter_config_name,
                adapter_config(base_model, parameters_.settings, contents.modules).dump(2) + "\n");
        }
    } catch (...) {
        error = std::current_exception();
    }
    while (collected < parameters_.buckets.size()) {
        collect_next();
    }
    grid_.world().agree([&] {
        if (error != nullptr) {
            std::rethrow_exception(error);
        }
    });
}

std::optional<index_t> adapter_step(const std::filesystem::path& folder) {
    try {
        const io::TensorSource adapter = io::TensorSource::open_file(folder / adapter_weights_name);
        const auto step = adapter.metadata().find(step_key);
        return step == adapter.metadata().end() ? std::nullopt : std::optional(std::stoll(step->second));
    } catch (const std::exception&) {
        return std::nullopt;  // none, damaged, or of another program
    }
}

}  // namespace moesaic::train
