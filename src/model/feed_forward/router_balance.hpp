// How evenly routers spread tokens over experts: the auxiliary loss that asks for it, and counts.
#pragma once

#include "model/families/architecture.hpp"
#include "model/tape.hpp"
#include "mpi/communicator.hpp"

#include <span>
#include <vector>

namespace moesaic::model {

/// The load-balancing loss of transformers (load_balancing_loss_func; Fedus et al., "Switch Transformers", 2021) over
/// the tokens of all ranks in one pass and all MoE layers together, as if they were one: E * sum over experts of the
/// share of tokens that have the expert among their K most probable ones times the mean probability of the expert.
/// Probabilities are the softmax of the router's logits, whatever the router makes of them.
struct RouterBalance {
    double loss = 0;
    std::vector<double> gradient;  ///< [E] with respect to the probabilities of any token in any layer
};

/// Collective over `world`. The tape must be that of a saved forward pass of a model with `keep_probabilities`.
template <class T>
[[nodiscard]] RouterBalance router_balance(const Architecture& architecture, const Tape<T>& tape,
                                           const mpi::Communicator& world);

/// The softmax probabilities [T, E] that a MoE layer's tape holds.
template <class T>
[[nodiscard]] MatrixView<const accumulator_t<T>> router_probabilities(const Architecture& architecture,
                                                                      const LayerTape<T>& tape) {
    return architecture.router.scoring == ops::Scoring::softmax ? tape.scores : tape.probabilities;
}

/// Adds to grad_logits [T, E] what a gradient [E] of the probabilities [T, E] of every row gives.
template <class A>
void add_balance_gradient(MatrixView<const A> probabilities, std::span<const A> gradient, MatrixView<A> grad_logits);

/// Adds how many rows of a saved forward pass go to each expert to `counts`, [MoE layers * E].
template <class T>
void count_experts(const Architecture& architecture, const Tape<T>& tape, std::span<index_t> counts);

/// How uneven the load is.
struct ExpertLoad {
    double largest_ratio = 0;  ///< largest load of an expert over the mean of its layer, of all layers
    index_t unused = 0;        ///< experts without a token, in all layers together
};

/// `counts`: [MoE layers * experts].
[[nodiscard]] ExpertLoad expert_load(std::span<const index_t> counts, index_t experts);

}  // namespace moesaic::model
