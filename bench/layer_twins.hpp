// Expert layers that take turns, and the same without LoRA beside them.
#pragma once

#include "bench/benchmark.hpp"
#include "bench/expert_layer.hpp"

#include <deque>

namespace moesaic::bench {

/// Layers with LoRA and their frozen twins; frozen layers alone if the LoRA rank is 0.
class LayerTwins {
public:
    using Layers = std::deque<ExpertLayer<core::bf16>>;  // layers keep their address

    /// Collective. `count` layers; 0: enough that weights come from memory. Adds the errors of the first one, against
    /// FP32, to the checks of the case. Throws with ExitCode::out_of_resources what does not fit. `runtime` must
    /// outlive the object.
    LayerTwins(const train::Runtime& runtime, Console& console, const LayerSettings& settings, index_t count);

    [[nodiscard]] const LayerSettings& settings() const noexcept { return settings_; }
    [[nodiscard]] index_t count() const noexcept { return count_; }
    [[nodiscard]] Layers& layers() noexcept { return layers_; }
    [[nodiscard]] bool has_twins() const noexcept { return settings_.lora_rank > 0; }
    [[nodiscard]] Layers& frozen() noexcept { return frozen_; }

private:
    [[nodiscard]] index_t memory(const kernels::KernelSet& kernels) const;
    [[nodiscard]] index_t all_weight_bytes() const {
        return static_cast<index_t>(static_cast<double>(count_) * weight_bytes(settings_.shape, settings_.weights));
    }
    void choose_count(const kernels::KernelSet& kernels, index_t memory_bytes, index_t cache_bytes);
    void plan(const train::Runtime& runtime, const Console& console, index_t wanted_count);
    void build(const train::Runtime& runtime);
    void verify(Console& console);

    LayerSettings settings_;
    index_t count_ = 0;
    Layers layers_;
    Layers frozen_;
};

}  // namespace moesaic::bench
