// Gradients of a small decoder against differences in double.
#pragma once

#include "support/small_decoder.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <span>
#include <vector>

namespace moesaic::test {

/// Moves all elements of a tensor along a random direction of length 1 and compares the loss's change with what its
/// gradients say, for one tensor after the other. `saved`: the loss is that of a pass with gradients.
inline void expect_gradients_match(SmallDecoder<double>& model, const ops::TokenBatch& batch, bool saved) {
    const auto& buckets = model.decoder.lora().buckets;
    model.decoder.lora().clear_gradients();
    model.loss(batch, true);
    std::vector<std::vector<double>> gradients;  // before further passes add to them
    for (const auto& bucket : buckets) {
        gradients.emplace_back(bucket->gradients.data(), bucket->gradients.data() + bucket->size());
    }
    for (std::size_t b = 0; b < buckets.size(); ++b) {
        for (const LoraTensor& tensor : buckets[b]->tensors) {
            const auto size = static_cast<std::size_t>(tensor.size());
            const double length = std::sqrt(static_cast<double>(size));
            const Matrix<double> direction = random_matrix<double>(1, tensor.size(), hash_of(tensor.name), 1 / length);
            const std::span<double> values =
                buckets[b]->values.flat().subspan(static_cast<std::size_t>(tensor.offset), size);
            const std::vector<double> start(values.begin(), values.end());
            double distance = 0;
            const auto loss_at_distance = [&] {
                for (std::size_t i = 0; i < size; ++i) {
                    values[i] = start[i] + distance * direction.data()[i];
                }
                model.decoder.update_lora();
                return model.loss(batch, saved);
            };
            const double expected = central_difference(loss_at_distance, distance);
            loss_at_distance();  // back to the start
            const double found =
                std::inner_product(direction.data(), direction.data() + size, gradients[b].data() + tensor.offset, 0.0);
            EXPECT_NEAR(found, expected, 1e-7 * (1 + std::abs(expected))) << tensor.name;
        }
    }
}

}  // namespace moesaic::test
