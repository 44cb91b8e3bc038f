#include "train/memory_plan.hpp"

#include "core/scalar.hpp"
#include "model/adapters/lora_parameters.hpp"
#include "model/decoder.hpp"
#include "model/tape.hpp"
#include "ops/expert_backend.hpp"
#include "ops/loss.hpp"
#include "ops/weights/packed_weights.hpp"
#include "train/step_work.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <optional>
#include <string_view>
#include <vector>

namespace moesaic::train {
namespace {

using model::Architecture;
using model::BlockPlan;
using model::LayerPlan;
using model::ProjectionPlan;

constexpr double float_bytes = sizeof(float);

/// Rows in a pass of the rank that has most, and what becomes of them; floating point, because sizes in a hostile file
/// may overflow integers.
ops::RowCounts count_rows(const Architecture& architecture, const MemoryRequest& request, const PassSize& pass) {
    using ops::Rows;
    const auto groups = static_cast<double>(request.expert_ranks);
    const auto experts = static_cast<double>(architecture.experts);
    const auto choices = static_cast<double>(architecture.experts_per_token);
    const double held = std::ceil(experts / groups);
    const double share = share_of_tokens(experts, held, choices);
    const auto tokens = static_cast<double>(pass.tokens);
    const double ranks_of_replica = groups * static_cast<double>(request.tensor_ranks);
    const double ranks = ranks_of_replica * static_cast<double>(request.data_ranks);
    const double parts = pass.sequences > 0 ? static_cast<double>(pass.sequences) : ranks;
    const double of_rank = std::ceil(parts / ranks);
    const double of_replica = std::ceil(tokens * std::min(of_rank * ranks_of_replica, parts) / parts);
    ops::RowCounts rows;
    rows[Rows::own] = std::ceil(tokens * of_rank / parts);
    rows[Rows::targets] = std::min(rows[Rows::own], static_cast<double>(ops::targets_per_block));
    rows[Rows::sent] = rows[Rows::own] * groups * share;
    rows[Rows::threads] = static_cast<double>(request.threads);
    ops::ExpertConfig held_experts;
    held_experts.experts = static_cast<index_t>(held);
    count_routed(held_experts, std::ceil(of_replica * share), experts > 0 ? of_replica * choices * held / experts : 0,
                 rows);
    // From the ranks at the same place of all groups, which may have all that there is.
    rows[Rows::received] = rows[Rows::arrived] * std::min(rows[Rows::own] * groups / std::max(of_replica, 1.0), 1.0);
    return rows;
}

/// The layers as the rank holds them that has most: slices of the last ranks are the longest.
std::vector<LayerPlan> layers_of(const Architecture& architecture, const model::DecoderSettings& settings,
                                 const MemoryRequest& request) {
    return model::plan_layers(
        architecture, settings,
        {request.expert_ranks - 1, request.expert_ranks, request.tensor_ranks - 1, request.tensor_ranks});
}

/// Calls use(projection) for all of a layer.
template <class Use>
void for_each_projection(const LayerPlan& layer, const Use& use) {
    for (const BlockPlan* block : {&layer.mixer, &layer.feed_forward}) {
        std::for_each(block->projections.begin(), block->projections.end(), use);
    }
}
/// The same for all layers.
template <class Use>
void for_each_projection(const std::vector<LayerPlan>& layers, const Use& use) {
    for (const LayerPlan& layer : layers) {
        for_each_projection(layer, use);
    }
}

/// Bytes of a matrix [rows, cols]; floating point as above.
double packed(ops::WeightFormat format, index_t rows, index_t cols) {
    return static_cast<double>(ops::blocks_of(rows)) *
           static_cast<double>(ops::PackedWeights::bytes_of(format, ops::kernel_block, cols));
}

/// Elements of the LoRA factors of one rank by who else holds them.
using LoraElements = std::map<model::Holders, double>;

LoraElements lora_elements(const std::vector<LayerPlan>& layers) {
    LoraElements elements;
    for_each_projection(layers, [&](const ProjectionPlan& projection) {
        const double per_feature =
            static_cast<double>(projection.held.extent) * static_cast<double>(projection.lora_rank);
        elements[holders_of(projection, ops::LoraFactor::a)] +=
            per_feature * static_cast<double>(projection.local_in());
        elements[holders_of(projection, ops::LoraFactor::b)] +=
            per_feature * static_cast<double>(projection.local_out());
    });
    return elements;
}

/// Elements that rank 0 holds at most while it puts a bucket of factors together from those of all ranks, to write it:
/// a layer's factors with the same holders are a bucket (model::LoraParameters, AdapterStore::collect).
double elements_to_save(const std::vector<LayerPlan>& layers, const MemoryRequest& request) {
    struct Bucket {
        double held = 0;
        double whole = 0;
        double joining = 0;  ///< of the largest tensor whose pieces come from several places
    };
    double most = 0;
    for (const LayerPlan& layer : layers) {
        std::map<model::Holders, Bucket> buckets;
        for_each_projection(layer, [&](const ProjectionPlan& p) {
            for (const ops::LoraFactor factor : {ops::LoraFactor::a, ops::LoraFactor::b}) {
                const bool is_a = factor == ops::LoraFactor::a;
                const model::Holders holders = holders_of(p, factor);
                const double matrix = static_cast<double>(p.lora_rank) * static_cast<double>(is_a ? p.in : p.out);
                const double of_group = static_cast<double>(p.held.extent) * matrix;
                const bool is_joined =
                    holders == model::Holders::data_group || (p.is_routed() && request.expert_ranks > 1);
                Bucket& bucket = buckets[holders];
                bucket.held += static_cast<double>(p.held.extent) * static_cast<double>(p.lora_rank) *
                               static_cast<double>(is_a ? p.local_in() : p.local_out());
                bucket.whole += static_cast<double>(p.count()) * matrix;
                bucket.joining = std::max(bucket.joining, is_joined ? of_group : 0);
            }
        });
        for (const auto& [holders, bucket] : buckets) {
            most = std::max(most, bucket.held + bucket.whole + bucket.joining);
        }
    }
    return most;
}

/// What a walk over the blocks finds for rows and kernels like these.
class BlockBuffers {
public:
    BlockBuffers(const Architecture& architecture, const ops::RowCounts& rows, const ops::ElementBytes& elements)
        : rows_(rows),
          elements_(elements),
          stream_(bytes_of(model::plan_stream(architecture), true)),
          norm_(bytes_of(model::plan_norm(architecture), true)) {}

    void add(const std::vector<LayerPlan>& layers, bool training, ops::Activations activations) {
        bool below = true;
        for (const LayerPlan& layer : layers) {
            bool is_first = true;  // of those that backward goes through
            for (const BlockPlan* block : {&layer.mixer, &layer.feed_forward}) {
                below = below && !block->is_trainable();
                const bool keep = training && !below;
                const model::KeptOfBlock kept =
                    keep ? model::kept_of_block(activations, is_first) : model::KeptOfBlock();
                is_first = is_first && !keep;
                const bool mixes = block == &layer.mixer;
                add_to_tape(kept.stream, mixes ? "stream of mixers" : "stream of networks", stream_);
                add_to_tape(kept.state, mixes ? "norm of mixers" : "norm of networks", norm_);
                add_to_tape(kept.state, block->kind, bytes_of(block->state, keep));
                add_shared(block->scratch, keep);
                exchange_.add(block->exchange, rows_, elements_, keep);
                for (const std::vector<ops::BufferPlan>& call : block->calls) {
                    longest_call_ = std::max(longest_call_, bytes_of(call, keep));
                }
            }
        }
    }
    void add_shared(const std::vector<ops::BufferPlan>& buffers, bool with_backward) {
        shared_.add(buffers, rows_, elements_, with_backward);
    }

    /// Bytes of a tape: what it keeps of all blocks; for the rest of it, blocks take turns.
    [[nodiscard]] double tape() const {
        return std::accumulate(passing_.begin(), passing_.end(), kept_,
                               [](double sum, const auto& passing) { return sum + passing.second; });
    }
    /// Bytes of work buffers.
    [[nodiscard]] double work() const { return shared_.bytes() + longest_call_; }
    /// Of these, what functions hold while they run.
    [[nodiscard]] double longest_call() const { return longest_call_; }
    /// Bytes of work buffers that rows travel through.
    [[nodiscard]] double exchange() const { return exchange_.bytes(); }

private:
    /// What blocks of one name take turns with is as large as the largest.
    void add_to_tape(bool is_kept, std::string_view name, double bytes) {
        if (is_kept) {
            kept_ += bytes;
        } else {
            double& passing = passing_[name];
            passing = std::max(passing, bytes);
        }
    }
    [[nodiscard]] double bytes_of(const std::vector<ops::BufferPlan>& buffers, bool with_backward) const {
        return ops::bytes_of(buffers, rows_, elements_, with_backward);
    }

    ops::RowCounts rows_;
    ops::ElementBytes elements_;
    double stream_;  ///< before a block
    double norm_;    ///< and its norm
    double kept_ = 0;
    std::map<std::string_view, double> passing_;
    double longest_call_ = 0;
    ops::SharedBuffers shared_;
    ops::SharedBuffers exchange_;
};

}  // namespace

std::string MemoryPlan::Item::name() const {
    std::string text(purpose);
    return format.empty() ? text : text.append(", ").append(format);
}

double MemoryPlan::total() const {
    return std::accumulate(items.begin(), items.end(), 0.0,
                           [](double sum, const Item& item) { return sum + item.bytes; });
}

double MemoryPlan::of(std::string_view purpose) const {
    const auto found =
        std::find_if(items.begin(), items.end(), [purpose](const Item& item) { return item.purpose == purpose; });
    return found == items.end() ? 0 : found->bytes;
}

double MemoryPlan::frozen_weights() const {
    return std::accumulate(items.begin(), items.end(), 0.0,
                           [](double sum, const Item& item) { return sum + (item.format.empty() ? 0 : item.bytes); });
}

MemoryPlanner::MemoryPlanner(const Architecture& architecture, const model::DecoderSettings& settings,
                             const MemoryRequest& request)
    : architecture_(architecture),
      request_(request),
      activations_(settings.activations),
      layers_(layers_of(architecture, settings, request)),
      elements_to_save_(request.training && request.saves ? elements_to_save(layers_, request) : 0) {}

MemoryPlan MemoryPlanner::plan(const PassSize& pass, std::optional<ops::WeightFormat> experts) const {
    MemoryPlan plan;
    add_weights(experts, plan);
    add_adapters(plan);
    add_buffers(pass, plan);
    return plan;
}

void MemoryPlanner::add_weights(std::optional<ops::WeightFormat> experts, MemoryPlan& plan) const {
    const Architecture& a = architecture_;
    const auto format_of = [&](std::optional<ops::WeightFormat> stored) {
        return request_.scalar_bytes == sizeof(float) ? ops::format_for<float>(stored)
                                                      : ops::format_for<core::bf16>(stored);
    };
    const ops::WeightFormat routed_format = format_of(experts ? experts : a.stored.experts);
    const ops::WeightFormat other_format = format_of(a.stored.projections);
    const ops::WeightFormat ends_format = format_of(a.stored.embedding);
    double routed = 0;
    double others = 0;
    auto wide = static_cast<double>(a.hidden);  // norms, biases, routers: in full precision
    for_each_projection(layers_, [&](const ProjectionPlan& projection) {
        const index_t out = projection.local_out();
        const index_t in = projection.local_in();
        const auto held = static_cast<double>(projection.held.extent);
        (projection.is_routed() ? routed : others) +=
            held * packed(projection.is_routed() ? routed_format : other_format, out, in);
        plan.parameters += held * static_cast<double>(out) * static_cast<double>(in);
        wide += projection.has_bias ? static_cast<double>(projection.out) : 0;
    });
    for (const LayerPlan& layer : layers_) {
        for (const BlockPlan* block : {&layer.mixer, &layer.feed_forward}) {
            wide += static_cast<double>(block->norm.cols);
            for (const model::TensorPlan& tensor : block->tensors) {
                wide += static_cast<double>(tensor.rows) * static_cast<double>(tensor.cols);
            }
        }
    }
    const double ends = a.tied_head ? 1 : 2;
    plan.parameters += wide + ends * static_cast<double>(a.vocabulary) * static_cast<double>(a.hidden);
    const double embedding_and_head = ends * packed(ends_format, a.vocabulary, a.hidden);
    const bool is_shared = request_.share == model::WeightSharing::host && request_.host_ranks > 1;
    const double sharers = is_shared ? static_cast<double>(request_.host_ranks) : 1;
    plan.shared = is_shared ? others + embedding_and_head : 0;
    plan.items = {{"experts", routed, ops::facts_of(routed_format).name},
                  {"attention and dense", others / sharers, ops::facts_of(other_format).name},
                  {"embedding and head", embedding_and_head / sharers, ops::facts_of(ends_format).name},
                  {"norms and routers", wide * float_bytes, ops::facts_of(ops::WeightFormat::fp32).name}};
}

void MemoryPlanner::add_adapters(MemoryPlan& plan) const {
    const auto slice_holders = static_cast<double>(request_.data_ranks);
    const double expert_holders = slice_holders * static_cast<double>(request_.tensor_ranks);
    double moments = 0;
    double reduced = 0;  // gradients, unless a rank's own are the only ones
    for (const auto& [held_by, held] : lora_elements(layers_)) {
        const double holders = held_by == model::Holders::data_group ? slice_holders
                               : held_by == model::Holders::data_and_tensor_groups
                                   ? expert_holders
                                   : expert_holders * static_cast<double>(request_.expert_ranks);
        const double owned = std::ceil(held / holders);
        plan.adapter_parameters += held;
        moments += 2 * owned;
        reduced += holders > 1 ? owned : 0;
    }
    const double factors = plan.adapter_parameters;
    const double training = request_.training ? 1 : 0;
    plan.items.push_back({"LoRA factors", factors * (float_bytes + static_cast<double>(request_.scalar_bytes))});
    plan.items.push_back({"gradients", float_bytes * (factors + training * reduced)});
    plan.items.push_back({"optimizer", float_bytes * training * moments});
}

void MemoryPlanner::add_buffers(const PassSize& pass, MemoryPlan& plan) const {
    BlockBuffers buffers(architecture_, count_rows(architecture_, request_, pass),
                         {static_cast<double>(request_.scalar_bytes), float_bytes,
                          static_cast<double>(request_.packed_bytes), request_.in_parts});
    buffers.add(layers_, request_.training, activations_);
    buffers.add_shared(model::plan_decoder(architecture_), request_.training);
    buffers.add_shared(ops::plan_loss(architecture_.hidden, architecture_.vocabulary), request_.training);
    buffers.add_shared({{"grad_hidden", ops::Rows::own, ops::Element::sum, architecture_.hidden, true}},
                       request_.training);
    plan.items.push_back({"activations", buffers.tape()});
    plan.items.push_back({"work buffers", buffers.work()});
    plan.items.push_back({"communication buffers", buffers.exchange()});
    const double more_to_save = float_bytes * elements_to_save_ - buffers.longest_call();  // nothing else runs then
    plan.items.push_back({"saving", std::max(more_to_save, 0.0)});
}

MemoryPlan plan_memory(const Architecture& architecture, const model::DecoderSettings& settings,
                       const MemoryRequest& request) {
    return MemoryPlanner(architecture, settings, request).plan(request.pass);
}

index_t packed_bytes(const kernels::KernelSet& kernels, index_t scalar_bytes) {
    return static_cast<index_t>(scalar_bytes == sizeof(float) ? ops::ElementBytes::of<float>(kernels).packed
                                                              : ops::ElementBytes::of<core::bf16>(kernels).packed);
}

}  // namespace moesaic::train
