#include "bench/step_time.hpp"

#include "bench/machine.hpp"
#include "bench/step_work.hpp"
#include "core/error.hpp"
#include "host/caches.hpp"

#include <algorithm>
#include <string_view>
#include <vector>

namespace moesaic::bench {
namespace {

/// What training steps reach of their floors where no step was measured; docs/benchmarking.md says where it comes from.
double usual_efficiency(std::string_view level) {
    return level == kernels::name(kernels::Isa::amx) ? 0.25 : 0.5;
}

// Products of attention with scores or with their gradients.
constexpr double forward_products = 2;
constexpr double backward_products = 5;

/// Multiplications and additions of such a product on average, of all layers and one sequence. A token sees half of the
/// sequence on average.
double score_operations(const model::Architecture& a, double length) {
    double pairs = 0;  // of a token and one that it sees, twice
    for (const index_t window : a.attention.windows) {
        const double beyond = window == 0 ? 0 : std::max(length - static_cast<double>(window), 0.0);
        pairs += length * length - beyond * beyond;
    }
    return pairs * static_cast<double>(a.attention.heads) *
           static_cast<double>(a.attention.head_size + a.attention.value_size) / 2;
}

}  // namespace

measure::MachineLimits StepSpeed::limits_of(index_t other_threads) const {
    const double share = static_cast<double>(other_threads) / static_cast<double>(threads);
    return {share * limits.peak_flops, share * limits.bytes_per_second};
}

StepSpeed measure_speed(const mpi::Communicator& world, const host::Placement& placement) {
    constexpr int repetitions = 8;
    host::bind_threads(placement);
    const auto memory = static_cast<index_t>(
        std::min(placement.memory_available_bytes / static_cast<std::uint64_t>(placement.node_ranks),
                 placement.process_memory_bytes));
    MachineProbe probe(world, kernels::peak_loop(bf16_level(kernels::KernelSet("auto"))),
                       bytes_beyond_caches(world, host::last_level_cache_bytes(placement.processing_units), memory));
    std::vector<double> gflops;
    std::vector<double> gigabytes_per_second;
    for (int i = 0; i < repetitions; ++i) {
        const MachineProbe::Limits limits = probe.measure();
        gflops.push_back(limits.gflops.slowest);
        gigabytes_per_second.push_back(limits.gigabytes_per_second.slowest);
    }
    return {.limits = {measure::best_of(gflops) * 1e9, measure::best_of(gigabytes_per_second) * 1e9},
            .threads = placement.threads,
            .efficiency = usual_efficiency(kernels::name(probe.level())),
            .source = "measured now"};
}

StepSpeed speed_of(const measure::Results& results, const std::string& file) {
    const measure::CaseResult* best = nullptr;
    const measure::Figure* step = nullptr;
    for (const measure::CaseResult& found : results.cases) {
        const measure::Figure* seconds = found.find("step_seconds");
        const bool has_limits = found.machine && !found.machine->peak.empty() && !found.machine->dram_read.empty();
        if (has_limits && (best == nullptr || (step == nullptr && seconds != nullptr))) {
            best = &found;
            step = seconds != nullptr && seconds->floor_percent.value_or(0) > 0 ? seconds : nullptr;
        }
    }
    core::require(best != nullptr, core::ExitCode::usage,
                  "benchmark = {}: no case has limits of the machine; take a result of moesaic bench machine, suite "
                  "or step",
                  file);
    return {.limits = {measure::best_of(best->machine->peak) * 1e9, measure::best_of(best->machine->dram_read) * 1e9},
            .threads = best->threads,
            .efficiency = step != nullptr ? *step->floor_percent / 100 : usual_efficiency(best->machine->level),
            .source = file + ", " + best->name};
}

double step_seconds(const model::Architecture& architecture, const StepsToCome& steps, const StepSpeed& speed) {
    const measure::MachineLimits limits = speed.limits_of(steps.threads);
    const StepWork work(architecture, steps.grid, steps.tokens_of_pass);
    double seconds = work.floor_seconds(limits);
    const double sequences = steps.tokens_of_pass / steps.sequence_length / static_cast<double>(steps.grid.ranks());
    const double scores = sequences * score_operations(architecture, steps.sequence_length) / limits.peak_flops;
    seconds += (forward_products + backward_products) * scores;
    if (steps.activations != ops::Activations::retain) {
        constexpr double gate_and_up = 2.0 / 3;
        seconds += gate_and_up * work.experts.floor_seconds(limits);
    }
    if (steps.activations == ops::Activations::layer) {
        seconds += work.projections.floor_seconds(limits) + forward_products * scores;
    }
    return static_cast<double>(steps.passes) * seconds / speed.efficiency;
}

}  // namespace moesaic::bench
