#include "ops/expert_stack.hpp"

#include "core/error.hpp"

#include <algorithm>
#include <utility>

namespace moesaic::ops {

using core::bf16;
using core::ExitCode;

namespace {

template <class S>
void copy(MatrixView<const S> from, Matrix<S>& to) {
    to.resize(from.rows(), from.cols());
    for (index_t row = 0; row < from.rows(); ++row) {
        std::copy_n(from[row], from.cols(), to.view()[row]);
    }
}

}  // namespace

template <class Scalar>
ExpertStack<Scalar>::ExpertStack(std::unique_ptr<ExpertBackend<Scalar>> experts, index_t max_cache_depth)
    : experts_(std::move(experts)), max_depth_(max_cache_depth) {
    core::require(max_depth_ > 0, ExitCode::usage,
                  "layer {}: max_cache_depth = {} (must be positive); correct the configuration",
                  experts_->config().layer, max_depth_);
}

template <class Scalar>
typename ExpertStack<Scalar>::Entry& ExpertStack<Scalar>::entry_of(MatrixView<const Scalar> hidden,
                                                                   MatrixView<const Sum> weights,
                                                                   bool save_for_backward, const Dropout& dropout) {
    experts_->require_ready("forward");  // what is in flight uses its entry
    core::require(!save_for_backward || depth_ < max_depth_, ExitCode::runtime_failure,
                  "layer {}: forward to save with {} saved already (max_cache_depth is {}); run backward first, or "
                  "raise it",
                  experts_->config().layer, depth_, max_depth_);
    if (save_for_backward && static_cast<index_t>(entries_.size()) == depth_) {
        entries_.push_back(std::make_unique<Entry>());
    }
    Entry& entry = save_for_backward ? *entries_[static_cast<std::size_t>(depth_)] : unsaved_;
    copy(hidden, entry.hidden);
    copy(weights, entry.weights);
    entry.tokens.assign(dropout.rows.begin(), dropout.rows.end());
    return entry;
}

template <class Scalar>
ExpertRows<Scalar> ExpertStack<Scalar>::rows_of(const Entry& entry, MatrixView<const std::int32_t> expert_ids,
                                                Dropout dropout) {
    dropout.rows = entry.tokens;
    return {entry.hidden, expert_ids, entry.weights, dropout};
}

template <class Scalar>
const SavedExperts<Scalar>& ExpertStack<Scalar>::latest() const {
    core::require(depth_ > 0, ExitCode::runtime_failure,
                  "layer {}: backward with 0 saved forwards (at least 1 is needed); call forward with "
                  "save_for_backward first",
                  experts_->config().layer);
    return entries_[static_cast<std::size_t>(depth_) - 1]->saved;
}

template <class Scalar>
MatrixView<const accumulator_t<Scalar>> ExpertStack<Scalar>::forward(MatrixView<const Scalar> hidden,
                                                                     MatrixView<const std::int32_t> expert_ids,
                                                                     MatrixView<const Sum> weights,
                                                                     bool save_for_backward, const Dropout& dropout) {
    Entry& entry = entry_of(hidden, weights, save_for_backward, dropout);
    const auto output = experts_->forward(rows_of(entry, expert_ids, dropout), entry.saved, save_for_backward);
    depth_ += save_for_backward ? 1 : 0;
    return output;
}

template <class Scalar>
ExpertGradients<Scalar> ExpertStack<Scalar>::backward(MatrixView<const Scalar> grad_output, bool with_input_gradients) {
    const ExpertGradients<Scalar> gradients = experts_->backward(latest(), grad_output, with_input_gradients);
    --depth_;
    return gradients;
}

template <class Scalar>
void ExpertStack<Scalar>::submit_forward(MatrixView<const Scalar> hidden, MatrixView<const std::int32_t> expert_ids,
                                         MatrixView<const Sum> weights, bool save_for_backward,
                                         const Dropout& dropout) {
    Entry& entry = entry_of(hidden, weights, save_for_backward, dropout);
    copy(expert_ids, submitted_ids_);
    experts_->submit_forward(rows_of(entry, submitted_ids_, dropout), entry.saved, save_for_backward);
    saves_submitted_ = save_for_backward;
}

template <class Scalar>
MatrixView<const accumulator_t<Scalar>> ExpertStack<Scalar>::sync_forward() {
    const auto output = experts_->sync_forward();
    depth_ += saves_submitted_ ? 1 : 0;
    return output;
}

template <class Scalar>
void ExpertStack<Scalar>::submit_backward(MatrixView<const Scalar> grad_output, bool with_input_gradients) {
    experts_->submit_backward(latest(), grad_output, with_input_gradients);
}

template <class Scalar>
ExpertGradients<Scalar> ExpertStack<Scalar>::sync_backward() {
    const ExpertGradients<Scalar> gradients = experts_->sync_backward();
    --depth_;
    return gradients;
}

template <class Scalar>
void ExpertStack<Scalar>::clear_cache() {
    experts_->clear_cache();
    entries_.clear();
    depth_ = 0;
    unsaved_ = {};
}

template class ExpertStack<bf16>;
template class ExpertStack<float>;
template class ExpertStack<double>;

}  // namespace moesaic::ops
