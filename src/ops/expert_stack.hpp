// The expert backend for callers that have no tape: saved forwards are a stack inside.
#pragma once

#include "ops/expert_backend.hpp"

#include <cstdint>
#include <memory>
#include <vector>

namespace moesaic::ops {

/// Keeps what the forwards of a backend save, with copies of their inputs; a backward is that of the latest saved
/// forward, which is then forgotten. Wrong use throws core::Error with both numbers; the object stays usable.
template <class Scalar>
class ExpertStack {
public:
    using Sum = accumulator_t<Scalar>;

    /// At most `max_cache_depth` saved forwards may wait for their backward; a number that is not positive is a usage
    /// error.
    ExpertStack(std::unique_ptr<ExpertBackend<Scalar>> experts, index_t max_cache_depth);
    ExpertStack(const ExpertStack&) = delete;
    ExpertStack& operator=(const ExpertStack&) = delete;
    ~ExpertStack() { experts_->abandon(); }

    [[nodiscard]] ExpertBackend<Scalar>& experts() noexcept { return *experts_; }

    /// ExpertBackend::forward; the inputs need not stay. Saving one forward too many is an error.
    MatrixView<const Sum> forward(MatrixView<const Scalar> hidden,            // [T, H]
                                  MatrixView<const std::int32_t> expert_ids,  // [T, K]
                                  MatrixView<const Sum> weights,              // [T, K]
                                  bool save_for_backward, const Dropout& dropout = {});
    /// ExpertBackend::backward of the latest saved forward.
    ExpertGradients<Scalar> backward(MatrixView<const Scalar> grad_output, bool with_input_gradients = true);  // [T, H]

    /// The same without blocking; the gradient of an output must stay until the sync.
    void submit_forward(MatrixView<const Scalar> hidden, MatrixView<const std::int32_t> expert_ids,
                        MatrixView<const Sum> weights, bool save_for_backward, const Dropout& dropout = {});
    MatrixView<const Sum> sync_forward();
    void submit_backward(MatrixView<const Scalar> grad_output, bool with_input_gradients = true);
    ExpertGradients<Scalar> sync_backward();

    /// Forgets saved forwards and gives back their memory and that of the work buffers, which other layers share.
    void clear_cache();

private:
    /// Copies of a forward's inputs, which the handle refers to.
    struct Entry {
        Matrix<Scalar> hidden;              // [T, H]
        Matrix<Sum> weights;                // [T, K]
        std::vector<std::uint64_t> tokens;  // [T] or empty
        SavedExperts<Scalar> saved;
    };

    /// The entry of the next forward, with copies of its inputs, and these as the backend takes them.
    Entry& entry_of(MatrixView<const Scalar> hidden, MatrixView<const Sum> weights, bool save_for_backward,
                    const Dropout& dropout);
    [[nodiscard]] static ExpertRows<Scalar> rows_of(const Entry& entry, MatrixView<const std::int32_t> expert_ids,
                                                    Dropout dropout);
    [[nodiscard]] const SavedExperts<Scalar>& latest() const;

    std::unique_ptr<ExpertBackend<Scalar>> experts_;
    index_t max_depth_;
    std::vector<std::unique_ptr<Entry>> entries_;  // they are reused; the first depth_ of them are in use
    index_t depth_ = 0;
    Entry unsaved_;
    Matrix<std::int32_t> submitted_ids_;  // [T, K] of a forward in flight
    bool saves_submitted_ = false;
};

}  // namespace moesaic::ops
