// The option for ops::Activations, which training and benchmarks have under keys of their own.
#pragma once

#include "core/options.hpp"
#include "ops/expert_workspace.hpp"

#include <string>

namespace moesaic::ops {

inline void declare_activations(core::OptionSet& set, const std::string& key, Activations& activations) {
    set.add_enum(key, activations,
                 "retain: keep all for backward; recompute: all but gate and up; layer: what enters each layer alone")
        .known_as({"gradient_checkpointing", "activation_checkpointing"}, "layer, or recompute");
}

}  // namespace moesaic::ops
