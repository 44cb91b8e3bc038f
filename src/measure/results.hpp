// The result of a benchmark run as data, and its JSON document (docs/results.md).
#pragma once

#include "core/work.hpp"
#include "measure/figures.hpp"
#include "measure/statistics.hpp"

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace moesaic::measure {

using core::MachineLimits;
using core::Work;

/// Which way a figure is good.
enum class Better : std::uint8_t { neither, lower, higher };

/// One figure of merit. What is counted rather than measured has no samples and a summary with n = 0.
struct Figure {
    std::string name;
    std::string unit;
    Better better = Better::neither;
    double value = 0;
    Summary summary = {};
    std::optional<double> floor_percent = {};  ///< of the fastest that the machine's limits allow
    std::vector<double> samples = {};          ///< one per repetition, in order; of the slowest rank
    /// The same of every rank, in rank order; empty where ranks were not measured one by one.
    std::vector<std::vector<double>> rank_samples = {};
    std::optional<Work> work = {};  ///< that a time is of, or a speed in GFLOP/s
    std::string quantity = {};      ///< what it is of, the same for all `parameters`
    Parameters parameters = {};     ///< what else tells it from others of the quantity in its case

    /// Speed of that work; nothing for figures without it.
    [[nodiscard]] std::optional<double> gflops(double value) const;
    /// Null if there is none of this name.
    [[nodiscard]] const std::string* parameter(const std::string& key) const;
};

/// What was verified before anything was measured.
struct Check {
    std::string name;
    double error = 0;
    double bound = 0;
};

/// Limits of the machine, measured beside every repetition of a case.
struct MachineSamples {
    std::string level;              ///< instruction set
    std::vector<double> peak;       ///< GFLOP/s
    std::vector<double> dram_read;  ///< GB/s
};

struct CaseResult {
    std::string name;
    std::string benchmark = {};
    index_t ranks = 1;
    index_t threads = 1;  ///< per rank
    bool alone = false;   ///< each rank does the whole work by itself
    Parameters parameters = {};
    std::vector<Check> checks = {};
    std::vector<index_t> rounds = {};  ///< repetitions in each
    std::optional<MachineSamples> machine = {};
    std::vector<Figure> figures = {};

    /// Null if there is none of this name.
    [[nodiscard]] const Figure* find(const std::string& figure) const;
    /// The same by what it is of.
    [[nodiscard]] const Figure* find(const std::string& quantity, const Parameters& with) const;
};

/// The figure of merit of a whole suite.
struct Headline {
    std::string name;
    std::string unit;
    double value = 0;
    double low = 0;
    double high = 0;
    std::string case_name;
    std::optional<double> floor_percent = {};
};

/// What is not the same on all ranks.
struct Difference {
    struct Holders {
        nlohmann::ordered_json value;
        std::string ranks;  ///< that have it, "0-3,7"
    };
    std::string key;  ///< of the objects of ranks, "cpu.microcode"
    std::vector<Holders> values;
};

struct Results {
    std::string command;
    std::string deck;     ///< empty: none
    std::string started;  ///< UTC
    double seconds = 0;
    bool complete = true;                 ///< false: the run had not come to its end yet
    bool turns = false;                   ///< another run measured in turns with this one
    nlohmann::ordered_json program = {};  ///< object of texts
    nlohmann::ordered_json ranks = {};    ///< array, one object per rank
    std::vector<Difference> differences = {};
    std::vector<std::string> warnings = {};
    std::vector<CaseResult> cases = {};
    std::optional<Headline> headline = {};

    /// Null if there is none of this name.
    [[nodiscard]] const CaseResult* find(const std::string& case_name) const;
};

[[nodiscard]] nlohmann::ordered_json to_json(const Results& results);
/// The document of a file. Throws with ExitCode::corrupt_input, naming file and key, what is none.
[[nodiscard]] Results read_results(const std::filesystem::path& file);

}  // namespace moesaic::measure
