// How many sequences a pass takes, and what else would fit, from what the memory holds.
#pragma once

#include "core/matrix.hpp"
#include "mpi/process_grid.hpp"
#include "ops/expert_workspace.hpp"
#include "ops/weights/weight_format.hpp"
#include "train/runtime.hpp"

#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

namespace moesaic::train {

/// What the memory of a rank depends on, and what can be changed if there is not enough of it.
struct PassChoice {
    index_t micro_batch = 0;  ///< sequences per rank and pass; 0: all of an optimizer step
    ops::Activations activations = ops::Activations::retain;
    ops::WeightChoice weights = ops::WeightChoice::automatic;
    mpi::GridShape grid = {1, 1, 1};  ///< complete
    model::WeightSharing share = model::WeightSharing::none;
};

/// Plans the memory of the rank that needs most.
using PlanOfPasses = std::function<MemoryPlan(const PassChoice&)>;

/// Plans of one model, for whatever is chosen.
class PassPlanner {
public:
    /// The architecture has the formats of the files. `request` says how a rank computes; its grid, pass and sharing,
    /// and `settings.activations`, are those of each choice.
    PassPlanner(model::Architecture as_stored, model::DecoderSettings settings, const MemoryRequest& request);

    /// With passes of this size.
    [[nodiscard]] MemoryPlan plan(const PassChoice& choice, const PassSize& pass);

private:
    model::Architecture as_stored_;
    model::DecoderSettings settings_;
    MemoryRequest request_;
    std::map<std::tuple<ops::Activations, model::WeightSharing, index_t, index_t, index_t>, MemoryPlanner> planners_;
};

/// What is planned, as the user asks for it.
struct PassOptions {
    PassChoice wanted;       ///< micro_batch 0: the most that fit
    index_t batch_size = 1;  ///< sequences of an optimizer step, all ranks together
    index_t experts = 1;     ///< of a layer: the most groups that can hold different ones
    bool integers = false;   ///< experts multiply weights as they are, in INT8
    std::string_view micro_batch_key = "train.micro_batch";  ///< options, for messages
    std::string_view activations_key = "train.activations";

    /// Sequences of a rank in an optimizer step, if they are spread evenly over so many.
    [[nodiscard]] index_t most_of_rank(index_t ranks) const;
};

/// Sequences per rank and pass: what is set; or 0, which is all, or the largest part of a rank's by halves that needs
/// no more than `bytes`; 1 if nothing fits.
[[nodiscard]] index_t choose_micro_batch(const PlanOfPasses& plan, const PassOptions& options, double bytes);

/// A change of options with which a rank needs no more than it has.
struct Suggestion {
    std::string options;  ///< as for the command line: "--train.activations recompute --train.micro_batch 1"
    double bytes = 0;     ///< that a rank needs then
    index_t ranks = 0;    ///< more than there are, or 0

    /// "--parallel.expert 4 (12.3 GiB per rank, 8 ranks on 4 hosts)".
    [[nodiscard]] std::string describe(index_t node_ranks) const;
};

/// Changes that make a run fit that does not, the cheapest first: other passes, replicated weights once per host,
/// experts shared by the ranks that are there, weights in fewer bits, more ranks with these, more ranks alone. Of each
/// kind the first one that fits, with other passes only if they have to be. Empty if nothing helps.
[[nodiscard]] std::vector<Suggestion> suggest(const PlanOfPasses& plan, const PassOptions& options, double bytes);

/// As an advice for require_memory; empty if there is none.
[[nodiscard]] std::string advice(const std::vector<Suggestion>& suggestions, index_t node_ranks);

/// Collective. The choice for the memory that the ranks have. Throws with ExitCode::out_of_resources what does not fit
/// even so.
[[nodiscard]] PassChoice fit_passes(const Ranks& ranks, const std::string& model, const PlanOfPasses& plan,
                                    const PassOptions& options);

}  // namespace moesaic::train
