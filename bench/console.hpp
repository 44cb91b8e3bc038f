// What one case found: checks, figures of merit as lines for people and scripts, and what goes into the file.
#pragma once

#include "bench/samples.hpp"
#include "measure/results.hpp"
#include "mpi/communicator.hpp"

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace moesaic::bench {

using core::index_t;

/// Throws with ExitCode::verification_failed unless every error is within its bound; NaN is not.
void require_passed(std::span<const measure::Check> checks, std::string_view case_name);

/// "87.1%", and "104.0%!" for what is better than a limit of the machine allows.
[[nodiscard]] std::string percent_of_limit(double percent);

/// Prints one line "FOM PREFIXname = value unit" per check and figure.
void print_figures(const measure::CaseResult& result, const std::string& prefix);

/// Collects the result of one case; speaks on rank 0 only.
class Console {
public:
    /// `result` has the name of the case and what else is known before it runs.
    Console(const mpi::Communicator& world, measure::CaseResult result) : world_(world), result_(std::move(result)) {}

    [[nodiscard]] const mpi::Communicator& world() const noexcept { return world_; }
    [[nodiscard]] const measure::CaseResult& result() const noexcept { return result_; }
    [[nodiscard]] measure::CaseResult& result() noexcept { return result_; }

    /// Prints at once.
    void say(std::string_view text) const;
    /// Collective. Errors of all ranks count: the worst is kept.
    void add_check(const std::string& name, double error, double bound);
    /// A figure whose value is the median of its samples.
    void add(const measure::FigureKey& key, const std::string& unit, measure::Better better,
             const std::vector<double>& samples, std::optional<double> floor_percent = {},
             std::optional<measure::Work> work = {});
    /// Collective. The same with what each rank measured.
    void add(const measure::FigureKey& key, const std::string& unit, measure::Better better, const Samples& samples,
             std::optional<double> floor_percent = {}, std::optional<measure::Work> work = {});
    /// Collective. A limit of the machine, no merit of the program. Its value is the best of the samples (best_of).
    void add_limit(const measure::FigureKey& key, const std::string& unit, const Samples& samples);
    /// What is counted.
    void add(const measure::FigureKey& key, const std::string& unit, double value);

    /// The machine's limits beside every repetition, of this rank: GFLOP/s and GB/s.
    struct LimitsOfRank {
        std::vector<double> peak;
        std::vector<double> dram_read;
    };
    [[nodiscard]] LimitsOfRank& limits_of_rank() noexcept { return limits_of_rank_; }

private:
    /// Collective. The samples of all ranks on rank 0; nothing elsewhere, and of a single rank.
    [[nodiscard]] std::vector<std::vector<double>> gather(const std::vector<double>& mine) const;

    mpi::Communicator world_;
    measure::CaseResult result_;
    LimitsOfRank limits_of_rank_;
};

}  // namespace moesaic::bench
