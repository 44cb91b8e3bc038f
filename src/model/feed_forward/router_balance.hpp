// How evenly routers spread tokens over experts: counts, and the auxiliary loss that asks for it.
#pragma once

#include "core/matrix.hpp"
#include "mpi/communicator.hpp"

#include <cstdint>
#include <span>
#include <vector>

namespace moesaic::model {

using core::index_t;
using core::MatrixView;

/// Where the routers of a pass sent this rank's rows, summed layer by layer as the pass goes on.
struct RouterLoad {
    std::vector<index_t> counts;        ///< [MoE layers * E] rows that go to each expert
    std::vector<double> choices;        ///< [E] rows of all layers that have it among their K most probable experts
    std::vector<double> probabilities;  ///< [E] sums over the rows of all layers
    double rows = 0;                    ///< of all layers, where probabilities are wanted

    /// Adds the rows of the next MoE layer. `probabilities_of_rows` [T, E] may be empty.
    template <class Sum>
    void add(MatrixView<const std::int32_t> expert_ids,  // [T, K]
             index_t experts, MatrixView<const Sum> probabilities_of_rows);
};

/// The load-balancing loss of transformers (load_balancing_loss_func; Fedus et al., "Switch Transformers", 2021) over
/// the tokens of all ranks in one pass and all MoE layers together, as if they were one: E * sum over experts of the
/// share of tokens that have the expert among their K most probable ones times the mean probability of the expert.
/// Probabilities are the softmax of the router's logits, whatever the router makes of them.
struct RouterBalance {
    double loss = 0;
    std::vector<double> gradient;  ///< [E] with respect to the probabilities of any token in any layer
};

/// Collective over `world`. The load must be that of a saved forward pass of a model with `keep_probabilities`.
[[nodiscard]] RouterBalance router_balance(const RouterLoad& load, const mpi::Communicator& world);

/// Adds to grad_logits [T, E] what a gradient [E] of the probabilities [T, E] of every row gives.
template <class Sum>
void add_balance_gradient(MatrixView<const Sum> probabilities, std::span<const Sum> gradient,
                          MatrixView<Sum> grad_logits);

/// How uneven the load is.
struct ExpertLoad {
    double largest_ratio = 0;  ///< largest load of an expert over the mean of its layer, of all layers
    index_t unused = 0;        ///< experts without a token, in all layers together
};

/// `counts`: [MoE layers * experts].
[[nodiscard]] ExpertLoad expert_load(std::span<const index_t> counts, index_t experts);

}  // namespace moesaic::model
