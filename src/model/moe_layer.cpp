#include "core/trace.hpp"
#include "model/elementwise.hpp"
#include "model/feed_forward.hpp"
#include "model/grouped_experts.hpp"
#include "model/router.hpp"

#include <algorithm>
#include <utility>

namespace moesaic::model {
namespace {

using core::bf16;
using core::trace::Scope;

/// Name of a projection as it stands in checkpoints and adapters.
const std::string& projection_name(const TensorNames& names, Projection p) {
    return p == Projection::gate ? names.gate : p == Projection::up ? names.up : names.down;
}

/// One factor of one projection of all experts. The intermediate dimension is the output of gate and up, so rows of B,
/// and the input of down, so columns of A: these are complete on their rank, the other factors are summed over ranks.
LoraTensor expert_factor(const Architecture& architecture, index_t layer, Projection projection, LoraFactor factor,
                         index_t rank, mpi::Slice slice) {
    const bool down = projection == Projection::down;
    const bool is_a = factor == LoraFactor::a;
    const std::string& name = projection_name(architecture.names, projection);
    LoraTensor tensor;
    tensor.name = "layers." + std::to_string(layer) + ".experts." + name + (is_a ? ".lora_A" : ".lora_B");
    for (index_t e = 0; e < architecture.experts; ++e) {
        tensor.modules.push_back(architecture.expert_module(layer, e, name));
    }
    const index_t in = down ? architecture.expert_intermediate : architecture.hidden;
    const index_t out = down ? architecture.hidden : architecture.expert_intermediate;
    tensor.factor = factor;
    tensor.rows = tensor.local_rows = is_a ? rank : out;
    tensor.cols = tensor.local_cols = is_a ? in : rank;
    if (is_a == down) {
        tensor.sharding = is_a ? Sharding::columns : Sharding::rows;
        tensor.sharded_begin = slice.begin;
        (is_a ? tensor.local_cols : tensor.local_rows) = slice.extent;
    }
    return tensor;
}

/// The two buckets of a layer: factors that every rank of the tensor group has in part, and those that all have whole.
template <class A>
std::array<ParameterBucket<A>*, 2> add_buckets(LoraParameters<A>& parameters, const Architecture& architecture,
                                               index_t layer, mpi::Slice slice) {
    auto whole = std::make_unique<ParameterBucket<A>>();
    auto sharded = std::make_unique<ParameterBucket<A>>();
    sharded->sharded = true;
    for (const Projection p : projections) {
        for (const LoraFactor factor : {LoraFactor::a, LoraFactor::b}) {
            LoraTensor tensor = expert_factor(architecture, layer, p, factor, parameters.settings.rank, slice);
            (tensor.sharding == Sharding::none ? whole : sharded)->tensors.push_back(std::move(tensor));
        }
    }
    allocate(*whole);
    allocate(*sharded);
    const std::array<ParameterBucket<A>*, 2> added = {whole.get(), sharded.get()};
    parameters.buckets.push_back(std::move(whole));
    parameters.buckets.push_back(std::move(sharded));
    return added;
}

/// Views of all factors of a layer in its two buckets. Tensors lie in the order of projections, A before B, and of each
/// pair one is in either bucket.
template <class A>
ExpertFactors<A> factor_views(const std::array<ParameterBucket<A>*, 2>& buckets,
                              Matrix<A> ParameterBucket<A>::*storage) {
    ExpertFactors<A> views;
    for (const Projection p : projections) {
        for (ParameterBucket<A>* bucket : buckets) {
            const LoraTensor& tensor = bucket->tensors[static_cast<std::size_t>(p)];
            auto& pair = views[p];
            (tensor.factor == LoraFactor::a ? pair.a : pair.b) = bucket->view(tensor, bucket->*storage);
        }
    }
    return views;
}

template <class A>
ExpertFactors<const A> read_only(const ExpertFactors<A>& factors) {
    ExpertFactors<const A> result;
    for (const Projection p : projections) {
        result[p] = {factors[p].a, factors[p].b};
    }
    return result;
}

}  // namespace

template <class T>
MoeLayer<T>::MoeLayer(const Architecture& architecture, index_t layer, const DecoderSettings& settings,
                      const kernels::KernelSet& kernels, const mpi::ProcessGrid& grid, LoraParameters<A>& parameters,
                      std::shared_ptr<ExpertWorkspace<T>> workspace, std::shared_ptr<ExchangeScratch<T>> exchange)
    : architecture_(architecture),
      layer_(layer),
      kernels_(kernels),
      tensor_group_(grid.tensor()),
      slice_(mpi::slice_of(architecture.expert_intermediate, tensor_group_.rank(), tensor_group_.size())),
      exchange_(std::move(exchange)),
      router_weight_(architecture.experts, architecture.hidden) {
    ExpertConfig config;
    config.layer = layer;
    config.experts = architecture.experts;
    config.experts_per_token = architecture.experts_per_token;
    config.hidden = architecture.hidden;
    config.intermediate = slice_.extent;
    config.max_tokens = settings.max_tokens;
    config.activations = settings.activations;
    config.skip_lora = settings.lora.rank == 0 || settings.lora.targets.count(LoraTarget::experts) == 0;
    config.lora_rank = settings.lora.rank;
    config.lora_alpha = settings.lora.alpha;
    config.rank_stabilised = settings.lora.rank_stabilised;
    experts_ = std::make_unique<GroupedExperts<T>>(config, std::move(workspace), kernels);
    if (!config.skip_lora) {
        const auto buckets = add_buckets(parameters, architecture, layer, slice_);
        experts_->init_lora(read_only(factor_views(buckets, &ParameterBucket<A>::values)),
                            factor_views(buckets, &ParameterBucket<A>::gradients));
    }
}

template <class T>
void MoeLayer<T>::update_lora() {
    if (!experts_->config().skip_lora) {
        experts_->update_lora();
    }
}

template <class T>
void MoeLayer<T>::load(const WeightSource<T>& source) {
    source.read_exactly(architecture_.layer(layer_) + architecture_.names.router + ".weight", router_weight_);
    const index_t intermediate = architecture_.expert_intermediate;
    experts_->load_weights([&](index_t expert, Projection p, MatrixView<T> out) {
        const std::string name =
            architecture_.expert_module(layer_, expert, projection_name(architecture_.names, p)) + ".weight";
        const TensorPart part = p == Projection::down ? TensorPart{architecture_.hidden, intermediate, 0, slice_.begin}
                                                      : TensorPart{intermediate, architecture_.hidden, slice_.begin, 0};
        source.read(name, part, out);
    });
}

template <class T>
void MoeLayer<T>::forward(const RowCounts& rows, MatrixView<const A> input, LayerTape<T>& tape, MatrixView<A> output,
                          bool save) {
    const index_t mine = tape.feed_input.rows();
    const index_t choices = architecture_.experts_per_token;
    {
        const Scope scope("router.forward");
        tape.probabilities.resize(mine, architecture_.experts);
        tape.expert_ids.resize(mine, choices);
        tape.expert_weights.resize(mine, choices);
        kernels_.run(kernels::product<A>(input, false, router_weight_, true, tape.probabilities));
        route_forward<A>(kernels_.elementwise<A>(), tape.probabilities, architecture_.normalize_expert_weights,
                         tape.expert_ids, tape.expert_weights);
    }
    exchange_->all_rows.resize(rows.total, architecture_.hidden);
    exchange_->all_expert_ids.resize(rows.total, choices);
    exchange_->all_weights.resize(rows.total, choices);
    tensor_group_.all_gather_rows<T>(tape.feed_input, exchange_->all_rows, rows.of_rank);
    tensor_group_.all_gather_rows<std::int32_t>(tape.expert_ids, exchange_->all_expert_ids, rows.of_rank);
    tensor_group_.all_gather_rows<A>(tape.expert_weights, exchange_->all_weights, rows.of_rank);
    const MatrixView<const A> partial =
        experts_->forward(exchange_->all_rows, exchange_->all_expert_ids, exchange_->all_weights, save);
    tensor_group_.reduce_scatter_rows<A>(partial, output, rows.of_rank);
}

template <class T>
void MoeLayer<T>::backward(const RowCounts& rows, const LayerTape<T>& tape, MatrixView<const A> grad_output,
                           MatrixView<A> grad_input) {
    exchange_->all_rows.resize(rows.total, architecture_.hidden);
    tensor_group_.all_gather_rows<T>(as_operand<T>(kernels_.elementwise<T>(), grad_output, exchange_->grad_rows),
                                     exchange_->all_rows, rows.of_rank);
    const bool with_input_gradients = grad_input.cols() > 0;  // the same on all ranks, unlike the rows
    const ExpertGradients<T> partial = experts_->backward(exchange_->all_rows, with_input_gradients);
    if (!with_input_gradients) {
        return;
    }
    exchange_->grad_weights.resize(grad_output.rows(), architecture_.experts_per_token);
    tensor_group_.reduce_scatter_rows<A>(partial.input, grad_input, rows.of_rank);
    tensor_group_.reduce_scatter_rows<A>(partial.weights, exchange_->grad_weights, rows.of_rank);

    const Scope scope("router.backward");
    exchange_->grad_logits.resize(grad_output.rows(), architecture_.experts);
    route_backward<A>(tape.probabilities, architecture_.normalize_expert_weights, tape.expert_ids, tape.expert_weights,
                      exchange_->grad_weights, exchange_->grad_logits);
    kernels_.run(kernels::product<A>(exchange_->grad_logits, false, router_weight_, false, grad_input, 1, true));
}

template class MoeLayer<bf16>;
template class MoeLayer<float>;
template class MoeLayer<double>;

}  // namespace moesaic::model
