#include "kernels/compute_settings.hpp"

#include "core/options.hpp"
#include "kernels/isa.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <string>
#include <vector>

namespace moesaic::kernels {

void ComputeSettings::declare(core::OptionSet& set) {
    set.add_enum("compute.precision", precision,
                 "type to compute with: bf16x2, BF16 with twice the digits where routers depend on them; bf16, faster, "
                 "with more tokens that go to other experts than in FP32; or fp32 for reference runs")
        .known_as({"bf16", "fp16", "dtype", "torch_dtype", "mixed_precision"});
    declare_isa(set);
}

void ComputeSettings::declare_isa(core::OptionSet& set) {
    const std::vector<std::string> all = choices();
    set.add("compute.isa", isa,
            fmt::format("instruction set of the kernels: {} or {}", fmt::join(all.begin(), all.end() - 1, ", "),
                        all.back()),
            core::one_of(all));
}

KernelSet ComputeSettings::kernels() const {
    return KernelSet(precision == Precision::fp32 && isa == "auto" ? "portable" : isa,
                     precision == Precision::bf16x2 ? 2 : 1);
}

}  // namespace moesaic::kernels
