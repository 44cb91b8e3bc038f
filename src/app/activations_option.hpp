// What a layer keeps between forward and backward, as an option of benchmarks.
#pragma once

#include "core/options.hpp"
#include "ops/expert_backend.hpp"

#include <string>

namespace moesaic::app {

class ActivationsOption {
public:
    void declare(core::OptionSet& set) {
        set.add("activations", choice_,
                "retain gate and up between forward and backward, or recompute them from the layer's input",
                core::one_of({"retain", "recompute"}));
    }
    [[nodiscard]] ops::Activations value() const {
        return choice_ == "retain" ? ops::Activations::retain : ops::Activations::recompute;
    }

private:
    std::string choice_ = "retain";
};

}  // namespace moesaic::app
