#include "bench/benchmarks.hpp"

#include <algorithm>

namespace moesaic::bench {

// Each is beside its benchmark.
std::unique_ptr<BenchmarkSettings> make_machine_settings();
std::unique_ptr<BenchmarkSettings> make_kernels_settings();
std::unique_ptr<BenchmarkSettings> make_attention_settings();
std::unique_ptr<BenchmarkSettings> make_layer_settings();
std::unique_ptr<BenchmarkSettings> make_step_settings();
std::unique_ptr<BenchmarkSettings> make_reference_settings();
std::unique_ptr<BenchmarkSettings> make_collectives_settings();

const std::vector<BenchmarkKind>& benchmark_kinds() {
    static const std::vector<BenchmarkKind> all = {
        {"machine", "measure what the machine can do at best", "auto", true, true, false, 1, make_machine_settings},
        {"kernels", "measure matrix products, with oneDNN beside them", "1", true, true, false, 1,
         make_kernels_settings},
        {"attention", "measure causal attention of long sequences, forward and backward", "auto", true, true, false, 1,
         make_attention_settings},
        {"layer", "measure one expert layer, forward and backward", "auto", true, true, false, 1, make_layer_settings},
        {"step", "measure whole training steps on random tokens", "auto", true, false, true, 1, make_step_settings},
        {"reference", "measure the steps that moesaic_tokens_per_second stands for", "auto", true, false, false, 1,
         make_reference_settings},
        {"collectives", "measure the exchange between ranks", "1", false, false, false, 2, make_collectives_settings},
    };
    return all;
}

const BenchmarkKind* find_benchmark(std::string_view name) {
    const auto& all = benchmark_kinds();
    const auto found =
        std::find_if(all.begin(), all.end(), [&](const BenchmarkKind& kind) { return kind.name == name; });
    return found == all.end() ? nullptr : &*found;
}

}  // namespace moesaic::bench
