#include "train/adamw.hpp"

#include "core/trace.hpp"

#include <algorithm>
#include <cmath>

namespace moesaic::train {

using core::MatrixView;
using core::trace::Scope;

ShardedAdamW::ShardedAdamW(model::LoraParameters<float>& parameters, const mpi::ProcessGrid& grid,
                           const AdamWSettings& settings)
    : parameters_(parameters), grid_(grid), settings_(settings), parts_(parameters.buckets.size()) {
    for (std::size_t b = 0; b < parts_.size(); ++b) {
        const index_t size = parameters.buckets[b]->size();
        const mpi::Communicator& owners = group(b);
        for (int r = 0; r < owners.size(); ++r) {
            parts_[b].counts.push_back(mpi::slice_of(size, r, owners.size()).extent);
        }
        const mpi::Slice mine = mpi::slice_of(size, owners.rank(), owners.size());
        parts_[b].begin = mine.begin;
        for (auto* values : {&parts_[b].gradients, &parts_[b].first_moment, &parts_[b].second_moment}) {
            values->assign(static_cast<std::size_t>(mine.extent), 0.0F);
        }
    }
}

const mpi::Communicator& ShardedAdamW::group(std::size_t bucket) const {
    return parameters_.buckets[bucket]->sharded ? grid_.data() : grid_.world();
}

void ShardedAdamW::reduce_gradients() {
    const Scope scope("gradients.reduce", "step");
    for (std::size_t b = 0; b < parts_.size(); ++b) {
        OwnedPart& part = parts_[b];
        core::Matrix<float>& all = parameters_.buckets[b]->gradients;
        group(b).reduce_scatter_rows<float>(
            MatrixView<const float>(all.data(), all.cols(), 1),
            MatrixView<float>(part.gradients.data(), static_cast<index_t>(part.gradients.size()), 1), part.counts);
    }
}

double ShardedAdamW::squared_norm() const {
    double sum = 0;
    for (const OwnedPart& part : parts_) {
        for (const float gradient : part.gradients) {
            sum += static_cast<double>(gradient) * static_cast<double>(gradient);
        }
    }
    return sum;
}

void ShardedAdamW::step(double learning_rate, double clip_scale) {
    const Scope scope("optimizer.step", "step");
    ++updates_;
    const auto beta1 = static_cast<float>(settings_.beta1);
    const auto beta2 = static_cast<float>(settings_.beta2);
    const auto updates = static_cast<double>(updates_);
    const auto step_size = static_cast<float>(learning_rate / (1.0 - std::pow(settings_.beta1, updates)));
    const auto correction = static_cast<float>(1.0 / std::sqrt(1.0 - std::pow(settings_.beta2, updates)));
    const auto decay = static_cast<float>(1.0 - learning_rate * settings_.weight_decay);
    const auto epsilon = static_cast<float>(settings_.epsilon);
    const auto clip = static_cast<float>(clip_scale);
    for (std::size_t b = 0; b < parts_.size(); ++b) {
        OwnedPart& part = parts_[b];
        core::Matrix<float>& all = parameters_.buckets[b]->values;
        const auto size = static_cast<index_t>(part.gradients.size());
        updated_.resize(part.gradients.size());
#pragma omp parallel for schedule(static)
        for (index_t i = 0; i < size; ++i) {
            const auto at = static_cast<std::size_t>(i);
            const float gradient = clip * part.gradients[at];
            float& first = part.first_moment[at];
            float& second = part.second_moment[at];
            first = beta1 * first + (1.0F - beta1) * gradient;
            second = beta2 * second + (1.0F - beta2) * gradient * gradient;
            updated_[at] =
                decay * all.data()[part.begin + i] - step_size * first / (std::sqrt(second) * correction + epsilon);
        }
        group(b).all_gather_rows<float>(MatrixView<const float>(updated_.data(), size, 1),
                                        MatrixView<float>(all.data(), all.cols(), 1), part.counts);
    }
}

}  // namespace moesaic::train
