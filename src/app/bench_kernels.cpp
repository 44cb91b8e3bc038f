// moesaic bench machine, moesaic bench kernels
#include "app/benchmarks.hpp"
#include "bench/kernel_benchmark.hpp"
#include "bench/machine_benchmark.hpp"
#include "bench/shapes.hpp"
#include "host/caches.hpp"
#include "model/weights/synthetic.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace moesaic::app {
namespace {

using core::at_least;

class MachineOptions final : public BenchmarkOptions {
public:
    [[nodiscard]] std::unique_ptr<bench::Benchmark> prepare(const Runtime& runtime,
                                                            bench::Console& console) const override {
        return std::make_unique<bench::MachineBenchmark>(console, runtime.kernels, runtime.placement,
                                                         bytes_beyond_caches(runtime.world, runtime.placement));
    }
};

class KernelOptions final : public BenchmarkOptions {
public:
    void declare(core::OptionSet& set) override {
        set.add("m", rows_, "rows M of the activations, separated by commas");
        set.add(
            "shape", shape_,
            fmt::format("weights of the gate projection of a model: {}", fmt::join(model::synthetic_names(), ", ")));
        set.add("n", n_, "rows N of the weights; 0: of the shape, or 2048", at_least(0));
        set.add("k", k_, "columns K of the weights; 0: of the shape, or 2048", at_least(0));
        set.add("cold", cold_, "take copies of the weights in turn, so that they come from memory and not from caches");
    }
    void check(index_t) const override { static_cast<void>(settings()); }
    [[nodiscard]] std::unique_ptr<bench::Benchmark> prepare(const Runtime& runtime,
                                                            bench::Console& console) const override {
        bench::KernelSettings wanted = settings();
        wanted.memory_bytes = static_cast<index_t>(memory_of_rank(runtime.placement, runtime.placement.node_ranks));
        wanted.cache_bytes = host::last_level_cache_bytes(runtime.placement.processing_units);
        return std::make_unique<bench::KernelBenchmark>(console, runtime.kernels, wanted);
    }

private:
    [[nodiscard]] bench::KernelSettings settings() const {
        const bench::LayerShape named =
            shape_.empty() ? bench::LayerShape{"", 2048, 2048, 1, 1} : bench::layer_shape(shape_);
        return {.rows = bench::parse_sizes("m", rows_),
                .n = n_ > 0 ? n_ : named.intermediate,
                .k = k_ > 0 ? k_ : named.hidden,
                .cold = cold_};
    }

    std::string rows_ = "1,4,16,64,128,256,1024";
    std::string shape_;
    std::int64_t n_ = 0;
    std::int64_t k_ = 0;
    bool cold_ = false;
};

}  // namespace

std::unique_ptr<BenchmarkOptions> make_machine_options() {
    return std::make_unique<MachineOptions>();
}

std::unique_ptr<BenchmarkOptions> make_kernel_options() {
    return std::make_unique<KernelOptions>();
}

}  // namespace moesaic::app
