// A small decoder with random weights and LoRA factors, equal at any rank count.
#pragma once

#include "model/decoder.hpp"
#include "model/feed_forward/router_balance.hpp"
#include "ops/loss.hpp"
#include "support/grids.hpp"
#include "support/random_model.hpp"

namespace moesaic::test {

using namespace moesaic::model;  // NOLINT(google-build-using-namespace): this header speaks of little else

/// LoRA factors with B different from zero, so that every gradient is.
template <class Sum>
void randomise(LoraParameters<Sum>& lora) {
    lora.initialise(5);
    for (const auto& bucket : lora.buckets) {
        for (const LoraTensor& tensor : bucket->tensors) {
            const core::CounterRandom random(9, test::hash_of(tensor.name));
            for (index_t m = tensor.held.begin; m < tensor.held.end(); ++m) {
                const MatrixView<Sum> matrix = bucket->matrix(tensor, m, bucket->values);
                for (index_t i = 0; i < tensor.local_rows; ++i) {
                    for (index_t j = 0; j < tensor.local_cols; ++j) {
                        const index_t row = i + tensor.row_begin();
                        const index_t col = j + tensor.col_begin();
                        const auto index = static_cast<std::uint64_t>((m * tensor.rows + row) * tensor.cols + col);
                        const bool is_padding =
                            (tensor.factor == ops::LoraFactor::a ? row : col) >= tensor.lora_rank_of(m);
                        matrix(i, j) = is_padding ? Sum(0) : static_cast<Sum>(0.3 * random.normal(index));
                    }
                }
            }
        }
    }
}

/// Adapters on everything that the small model has, of several ranks and scales.
inline LoraSettings adapters_everywhere() {
    LoraSettings settings{
        3, 2.0, true, {LoraTarget::experts, LoraTarget::attention, LoraTarget::shared, LoraTarget::dense}};
    settings.rank_pattern = ModulePatterns::parse("rank_pattern", "experts.2.up_proj=5,o_proj=1");
    settings.alpha_pattern = ModulePatterns::parse("alpha_pattern", "q_proj=7,experts.1.down_proj=3");
    return settings;
}

template <class Scalar>
struct SmallDecoder {
    using Sum = accumulator_t<Scalar>;

    SmallDecoder(const Architecture& architecture, const mpi::Communicator& world, index_t max_tokens,
                 const std::optional<mpi::GridShape>& shape = {}, const LoraSettings& lora = {2, 3.0, false},
                 double aux = 0, ops::Activations activations = ops::Activations::retain, const char* isa = "portable",
                 index_t chunks = 0)
        : kernels(isa, 2),  // as by default
          grid(world, shape_or_slices(shape, world)),
          decoder(architecture,
                  {.lora = lora,
                   .activations = activations,
                   .max_tokens = max_tokens,
                   .keep_probabilities = aux > 0,
                   .chunks = chunks},
                  kernels, grid),
          aux_coefficient(aux) {
        decoder.load(RandomWeights<Scalar>());
        randomise(decoder.lora());
        decoder.update_lora();
    }
    /// Sum of negative log-probabilities of this rank's targets; with gradients, and dropout, if asked for. With an
    /// auxiliary loss, which needs a saved pass, gradients must be asked for; rank 0 adds it.
    double loss(const ops::TokenBatch& batch, bool with_gradients) {
        const auto hidden = decoder.forward(batch, tape, with_gradients);
        const auto targets = ops::targets_of(batch);
        grad_hidden.resize(with_gradients ? hidden.rows() : 0, hidden.cols());
        double sum = 0;
        for (const auto& result :
             ops::cross_entropy<Scalar>(kernels, hidden, decoder.head(), targets, 1.0, grad_hidden, scratch)) {
            sum -= result.log_probability;
        }
        RouterBalance balance;
        if (aux_coefficient > 0) {
            balance = router_balance(tape.load, grid.world());
            for (double& gradient : balance.gradient) {
                gradient *= aux_coefficient;
            }
            sum += grid.world().is_root() ? aux_coefficient * balance.loss : 0;
        }
        if (with_gradients) {
            decoder.backward(tape, grad_hidden, balance.gradient);
        }
        return sum;
    }

    kernels::KernelSet kernels;
    mpi::ProcessGrid grid;
    Decoder<Scalar> decoder;
    double aux_coefficient;
    Tape<Scalar> tape;
    Matrix<Sum> grad_hidden;  // [T, H]
    ops::LossScratch<Scalar> scratch;
};

}  // namespace moesaic::test
