// The plans of a training run that moesaic plan prints: its own, and those of others like it.
#pragma once

#include "app/train_configuration.hpp"
#include "bench/step_time.hpp"
#include "host/placement.hpp"
#include "train/pass_size.hpp"

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace moesaic::app {

using core::index_t;

/// The ranks that are planned for, whether they run or not.
struct PlannedRanks {
    mpi::GridShape grid;
    host::Placement placement;  ///< of a rank that runs
    bool run = false;           ///< as many as are planned
    index_t of_node = 1;
    index_t threads = 1;  ///< of each

    /// The grid that the options ask for; that of `world` where they leave it open. Throws a usage error if it is too
    /// large.
    PlannedRanks(const mpi::Communicator& world, const TrainConfiguration& configuration, host::Placement placed);
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

    [[nodiscard]] const train::PassChoice& choice() const noexcept { return choice_; }
    [[nodiscard]] train::MemoryPlan plan() { return in_passes()(choice_); }
    [[nodiscard]] train::PassSize pass() {
        return sizes_.most(batches().with(choice_.micro_batch), ranks_.grid.ranks());
    }
    [[nodiscard]] const std::optional<train::TrainingData>& data() const noexcept { return sizes_.data(); }
    [[nodiscard]] std::vector<train::Suggestion> suggestions() { return suggest(in_passes(), options_, bytes_); }

    [[nodiscard]] double bytes() const noexcept { return bytes_; }

    /// Steps of the run and, as they are on a machine of this speed, their time.
    [[nodiscard]] std::string describe_steps(const model::Architecture& architecture,
                                             const std::optional<bench::StepSpeed>& speed) const;
    /// What each choice of train.activations keeps of a token for backward, in all layers.
    [[nodiscard]] std::string describe_activations();
    /// What fits on other ranks and in other formats.
    [[nodiscard]] std::string describe_what_fits();

private:
    [[nodiscard]] const train::BatchSettings& batches() const noexcept { return configuration_.train.batches; }
    [[nodiscard]] train::PlanOfPasses in_passes() {
        return [this](const train::PassChoice& choice) {
            return planner_.plan(choice, sizes_.most(batches().with(choice.micro_batch), choice.grid.ranks()));
        };
    }

    const TrainConfiguration& configuration_;
    const PlannedRanks& ranks_;
    double bytes_;  ///< that a rank may use
    PassSizes sizes_;
    train::PassPlanner planner_;
    train::PassOptions options_;
    train::PassChoice choice_;
};

}  // namespace moesaic::app
