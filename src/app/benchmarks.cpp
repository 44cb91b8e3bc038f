#include "app/benchmarks.hpp"

#include "bench/machine.hpp"
#include "host/caches.hpp"

namespace moesaic::app {

const std::vector<BenchmarkKind>& benchmark_kinds() {
    static const std::vector<BenchmarkKind> all = {
        {"machine", "measure what the machine can do at best", "auto", true, true, 1, make_machine_options},
        {"kernels", "measure matrix products, with oneDNN beside them", "1", true, true, 1, make_kernel_options},
        {"layer", "measure one expert layer, forward and backward", "auto", true, true, 1, make_layer_options},
        {"step", "measure whole training steps on random tokens", "auto", true, false, 1, make_step_options},
        {"reference", "measure the steps that moesaic_tokens_per_second stands for", "auto", true, false, 1,
         make_reference_options},
        {"collectives", "measure the exchange between ranks", "1", false, false, 2, make_collective_options},
    };
    return all;
}

void declare_activations(core::OptionSet& set, ops::Activations& activations) {
    set.add_enum("activations", activations,
                 "retain gate and up between forward and backward, or recompute them from the layer's input");
}

index_t bytes_beyond_caches(const mpi::Communicator& world, const host::Placement& placement) {
    return bench::bytes_beyond_caches(world, host::last_level_cache_bytes(placement.processing_units),
                                      static_cast<index_t>(memory_of_rank(placement, placement.node_ranks)));
}

}  // namespace moesaic::app
