// A small decoder with random weights and LoRA factors, equal at any rank count.
#pragma once

#include "model/decoder.hpp"
#include "model/loss.hpp"
#include "support/random_model.hpp"

namespace moesaic::test {

using namespace moesaic::model;  // NOLINT(google-build-using-namespace): this header speaks of little else

/// LoRA factors with B different from zero, so that every gradient is.
template <class A>
void randomise(LoraParameters<A>& lora) {
    lora.initialise(5);
    for (const auto& bucket : lora.buckets) {
        for (const LoraTensor& tensor : bucket->tensors) {
            const MatrixView<A> all = bucket->view(tensor, bucket->values);
            const core::CounterRandom random(9, test::hash_of(tensor.name));
            for (index_t m = 0; m < tensor.count(); ++m) {
                for (index_t i = 0; i < tensor.local_rows; ++i) {
                    for (index_t j = 0; j < tensor.local_cols; ++j) {
                        const index_t row = i + (tensor.sharding == Sharding::rows ? tensor.sharded_begin : 0);
                        const index_t col = j + (tensor.sharding == Sharding::columns ? tensor.sharded_begin : 0);
                        const auto index = static_cast<std::uint64_t>((m * tensor.rows + row) * tensor.cols + col);
                        all(m * tensor.local_rows + i, j) = static_cast<A>(0.3 * random.normal(index));
                    }
                }
            }
        }
    }
}

template <class T>
struct SmallDecoder {
    using A = accumulator_t<T>;

    SmallDecoder(const Architecture& architecture, const mpi::Communicator& world, index_t max_tokens,
                 index_t tensor_ranks = 0, const LoraSettings& lora = {2, 3.0, false})
        : kernels("portable"),
          grid(world, tensor_ranks > 0 ? tensor_ranks : world.size(), 0),
          decoder(architecture, {.lora = lora, .max_tokens = max_tokens}, kernels, grid) {
        decoder.load(RandomWeights<T>());
        randomise(decoder.lora());
        decoder.update_lora();
    }
    /// Sum of negative log-probabilities of this rank's targets; with gradients if asked for.
    double loss(const TokenBatch& batch, bool with_gradients) {
        const auto hidden = decoder.forward(batch, tape, with_gradients);
        const auto targets = targets_of(batch);
        Matrix<A> grad(with_gradients ? hidden.rows() : 0, hidden.cols());
        double sum = 0;
        for (const auto& result : cross_entropy<T>(kernels, hidden, decoder.head(), targets, 1.0, grad, scratch)) {
            sum -= result.log_probability;
        }
        if (with_gradients) {
            decoder.backward(batch, tape, grad);
        }
        return sum;
    }

    kernels::KernelSet kernels;
    mpi::ProcessGrid grid;
    Decoder<T> decoder;
    Tape<T> tape;
    LossScratch<T> scratch;
};

}  // namespace moesaic::test
