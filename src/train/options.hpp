// The configuration of a run: every key with its default, its check and its help text.
#pragma once

#include "core/options.hpp"
#include "model/adapters/lora_parameters.hpp"
#include "mpi/process_grid.hpp"
#include "ops/expert_workspace.hpp"
#include "train/adamw.hpp"
#include "train/adapter.hpp"
#include "train/batches.hpp"
#include "train/schedule.hpp"

#include <cstdint>
#include <string>

namespace moesaic::train {

struct ModelOptions {
    std::string path;
    std::string synthetic;
    std::int64_t layers = 0;
    void declare(core::OptionSet& set);
    /// What messages and adapters call the model.
    [[nodiscard]] const std::string& name() const { return synthetic.empty() ? path : synthetic; }
};

struct LoraOptions {
    std::int64_t rank = 8;
    double alpha = 16;
    std::string targets = "experts";
    bool rslora = false;
    double dropout = 0;
    std::string rank_pattern;
    std::string alpha_pattern;
    std::string init;
    void declare(core::OptionSet& set);
    /// The settings, those of the adapter in `init` if that is set, which must not contradict other options.
    [[nodiscard]] model::LoraSettings settings(const model::Architecture& architecture) const;
};

struct DataOptions {
    std::string train;
    std::string eval;
    std::int64_t max_length = 2048;
    bool shuffle = true;
    void declare_train(core::OptionSet& set);
    void declare_eval(core::OptionSet& set);
};

struct TrainOptions {
    std::int64_t epochs = 1;
    std::int64_t steps = 0;
    std::int64_t batch_size = 8;
    std::int64_t micro_batch = 0;
    double learning_rate = 1e-4;
    std::string schedule = "linear";
    std::int64_t warmup_steps = 0;
    double weight_decay = 0;
    double beta1 = 0.9;
    double beta2 = 0.999;
    double epsilon = 1e-8;
    double max_gradient_norm = 1;
    std::int64_t seed = 0;
    std::int64_t eval_every = 0;
    std::int64_t save_every = 0;
    std::string activations = "retain";
    double router_aux_coefficient = 0;
    void declare(core::OptionSet& set);
    void declare_batch_size(core::OptionSet& set);
    [[nodiscard]] ops::Activations activations_of_layers() const {
        return activations == "retain" ? ops::Activations::retain : ops::Activations::recompute;
    }
    [[nodiscard]] BatchSettings batches(bool shuffle) const {
        return {batch_size, micro_batch, shuffle, static_cast<std::uint64_t>(seed)};
    }
    [[nodiscard]] AdamWSettings adamw() const { return {beta1, beta2, epsilon, weight_decay}; }
};

/// Bounds of options, far above what any machine has: products of them stay in range.
inline constexpr std::int64_t most_ranks = 1 << 20;
inline constexpr std::int64_t most_threads = 1 << 12;

struct ParallelOptions {
    std::string tensor = "auto";
    std::int64_t expert = 1;
    std::string data = "auto";
    std::string chunks = "auto";
    std::string threads = "auto";
    std::string topology = {};
    void declare(core::OptionSet& set);
    void declare_topology(core::OptionSet& set);
    void declare_grid(core::OptionSet& set);
    void declare_chunks(core::OptionSet& set);
    [[nodiscard]] mpi::GridShape grid() const {
        return {.data = core::parse_auto(data), .expert = expert, .tensor = core::parse_auto(tensor)};
    }
};

struct ComputeOptions {
    std::string precision = "bf16";
    std::string isa = "auto";
    void declare(core::OptionSet& set);
    void declare_isa(core::OptionSet& set);
    /// The level to choose kernels by: FP32 runs are the reference and use the portable kernels unless told otherwise.
    [[nodiscard]] std::string isa_level() const { return precision == "fp32" && isa == "auto" ? "portable" : isa; }
};

struct OutputOptions {
    std::string directory;
    bool trace = true;
    std::int64_t checkpoint_keep = 2;
    std::string resume = "auto";
    std::string wall_time;
    double watchdog = 600;
    std::string adapter_layout = "per-expert";
    void declare(core::OptionSet& set);
    void declare_watchdog(core::OptionSet& set);
    [[nodiscard]] AdapterLayout layout_of_adapter() const {
        return adapter_layout == "fused" ? AdapterLayout::fused : AdapterLayout::per_expert;
    }
    /// `wall_time` in seconds; 0 without limit.
    [[nodiscard]] double wall_time_seconds() const;
};

}  // namespace moesaic::train
