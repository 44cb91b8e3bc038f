// moesaic bench collectives
#include "app/benchmarks.hpp"
#include "bench/collectives.hpp"
#include "bench/shapes.hpp"
#include "core/error.hpp"

#include <algorithm>

namespace moesaic::app {
namespace {

using core::ExitCode;

class CollectiveOptions final : public BenchmarkOptions {
public:
    void declare(core::OptionSet& set) override { set.add("bytes", bytes_, "message sizes, separated by commas"); }
    void check(index_t ranks) const override {
        const std::vector<index_t> sizes = bench::parse_sizes("bytes", bytes_);
        const bool whole_floats = std::all_of(
            sizes.begin(), sizes.end(), [](index_t size) { return size % static_cast<index_t>(sizeof(float)) == 0; });
        core::require(whole_floats, ExitCode::usage,
                      "bytes = {} has a size that is no multiple of 4 (what is sent is FP32); choose others", bytes_);
        core::require(ranks > 1, ExitCode::usage,
                      "one rank has nobody to exchange with (the job has a single rank); start several with mpirun or "
                      "srun");
    }
    [[nodiscard]] std::unique_ptr<bench::Benchmark> prepare(const Runtime&, bench::Console& console) const override {
        return std::make_unique<bench::CollectiveBenchmark>(
            console, bench::CollectiveSettings{.bytes = bench::parse_sizes("bytes", bytes_)});
    }

private:
    std::string bytes_ = "8,1024,65536,1048576,8388608";
};

}  // namespace

std::unique_ptr<BenchmarkOptions> make_collective_options() {
    return std::make_unique<CollectiveOptions>();
}

}  // namespace moesaic::app
