#include "kernels/compute_settings.hpp"

#include "core/options.hpp"

namespace moesaic::kernels {

void ComputeSettings::declare(core::OptionSet& set) {
    set.add_enum("compute.precision", precision, "bf16, or fp32 for reference runs");
    declare_isa(set);
}

void ComputeSettings::declare_isa(core::OptionSet& set) {
    set.add("compute.isa", isa, "auto, amx, avx512, avx2 or portable",
            core::one_of({"auto", "amx", "avx512", "avx2", "portable"}));
}

std::string ComputeSettings::isa_level() const {
    return precision == Precision::fp32 && isa == "auto" ? "portable" : isa;
}

}  // namespace moesaic::kernels
