// The plans of a training run that moesaic plan prints: its own, and those of others like it.
#pragma once

#include "app/train_configuration.hpp"
#include "host/placement.hpp"
#include "train/grid_choice.hpp"

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace moesaic::app {

using core::index_t;

/// How many ranks the user wants a plan for; 0: those that run, or the fewest that the sizes of the grid need.
struct WantedRanks {
    index_t all = 0;
    index_t of_host = 0;
};

/// The ranks that are planned for, whether they run or not.
struct PlannedRanks {
    index_t count = 1;
    host::Placement placement;  ///< of a rank that runs
    bool run = false;           ///< as many as are planned
    index_t of_node = 1;
    index_t threads = 1;  ///< of each

    /// Throws a usage error if they are too many.
    PlannedRanks(const mpi::Communicator& world, const WantedRanks& wanted, const TrainConfiguration& configuration,
                 host::Placement placed);
    /// Bytes that a rank may use.
    [[nodiscard]] double memory() const { return train::memory_of_rank(placement, of_node); }
};

/// Sizes of passes. Without data every sequence is taken to have data.max_length tokens.
class PassSizes {
public:
    PassSizes(const mpi::Communicator& world, const TrainConfiguration& configuration, index_t vocabulary);
    /// The largest that so many ranks can meet.
    [[nodiscard]] train::PassSize most(const train::BatchSettings& batches, index_t ranks);
    [[nodiscard]] const std::optional<train::TrainingData>& data() const noexcept { return data_; }

private:
    std::optional<train::TrainingData> data_;
    index_t length_;
    std::map<std::pair<index_t, index_t>, index_t> tokens_;
};

/// Plans of a training run: the one that it will have, and others.
class RunPlans {
public:
    /// Collective. Reads the data. All arguments must outlive the object.
    RunPlans(const mpi::Communicator& world, const TrainConfiguration& configuration,
             const model::Architecture& architecture, const PlannedRanks& ranks);

    /// Grids that the options allow.
    [[nodiscard]] const std::vector<mpi::GridShape>& grids() const noexcept { return grids_; }
    /// Takes the best of the grids on a machine with such rates.
    void choose_grid(const train::MachineRates& rates);
    /// All of them, the best one first.
    [[nodiscard]] const std::vector<train::GridOption>& options() const noexcept { return compared_; }

    [[nodiscard]] const train::PassChoice& choice() const noexcept { return choice_; }
    [[nodiscard]] train::MemoryPlan plan() { return plan_(choice_); }
    [[nodiscard]] train::PassSize pass() { return sizes_.most(batches().with(choice_.micro_batch), ranks_.count); }
    [[nodiscard]] const std::optional<train::TrainingData>& data() const noexcept { return sizes_.data(); }
    [[nodiscard]] std::vector<train::Suggestion> suggestions() { return suggest(plan_, options_, bytes_); }

    [[nodiscard]] double bytes() const noexcept { return bytes_; }

    /// Steps of the run and, on a machine with such rates, their time.
    [[nodiscard]] std::string describe_steps(const std::optional<train::MachineRates>& rates) const;
    /// What each choice of train.activations keeps of a token for backward, in all layers.
    [[nodiscard]] std::string describe_activations();
    /// What fits on other ranks and in other formats.
    [[nodiscard]] std::string describe_what_fits();

private:
    [[nodiscard]] const train::BatchSettings& batches() const noexcept { return configuration_.train.batches; }
    [[nodiscard]] train::GridQuestion question() const;
    /// Goes on with this grid.
    void take(const mpi::GridShape& grid);

    const TrainConfiguration& configuration_;
    const model::Architecture& architecture_;
    const PlannedRanks& ranks_;
    double bytes_;  ///< that a rank may use
    PassSizes sizes_;
    train::PassPlanner planner_;
    train::PlanOfPasses plan_;
    train::PassOptions options_;
    train::PassChoice choice_;
    std::vector<mpi::GridShape> grids_;
    std::vector<train::GridOption> compared_;
};

}  // namespace moesaic::app
