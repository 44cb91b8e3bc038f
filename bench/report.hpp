// What a benchmark found: figures of merit as lines for people and scripts, and as a JSON file.
#pragma once

#include "bench/statistics.hpp"
#include "mpi/communicator.hpp"

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace moesaic::bench {

/// One figure of merit. Figures that are not measured repeatedly have n = 0 in `samples`.
struct Figure {
    std::string name;
    std::string unit;
    double value = 0;
    Summary samples;
};

/// Where and with what the figures were measured.
struct Environment {
    std::string cpu;
    std::string host;
    std::string isa;  ///< name of the BF16 kernel
    int threads = 1;  ///< per rank
    int ranks = 1;
};

/// Collects the figures of one run; speaks on rank 0 only.
class Report {
public:
    explicit Report(const mpi::Communicator& world) : world_(world) {}

    [[nodiscard]] const mpi::Communicator& world() const noexcept { return world_; }
    [[nodiscard]] const std::vector<Figure>& figures() const noexcept { return figures_; }

    /// Prints at once.
    void say(std::string_view text) const;
    /// A figure whose value is the median of its samples.
    void add(const std::string& name, const std::string& unit, const Summary& samples);
    /// A limit of the machine, whose value is the best sample: what disturbs a measurement only lowers it.
    void add_limit(const std::string& name, const std::string& unit, const Summary& samples);
    void add(const std::string& name, const std::string& unit, double value);

    /// Prints one line "FOM name = value unit" per figure.
    void print_figures() const;
    /// The whole result as docs/benchmarking.md describes it.
    [[nodiscard]] nlohmann::ordered_json to_json(std::string_view benchmark, const Environment& environment) const;

private:
    mpi::Communicator world_;
    std::vector<Figure> figures_;
};

}  // namespace moesaic::bench
