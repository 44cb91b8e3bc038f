#include "kernels/kernel_set.hpp"

#include <algorithm>
#include <iterator>

#include <fmt/ranges.h>

#include "core/error.hpp"

namespace moesaic::kernels {
namespace {

/// What this level and those before it need of a CPU.
Features features_up_to(Isa isa) {
    Features features = feature::none;
    for (const Level& level : levels()) {
        features |= level.isa <= isa ? level.needs : feature::none;
    }
    return features;
}

/// The features that a choice admits. Throws if the machine runs none of its levels.
Features features_of(std::string_view choice) {
    if (choice == "auto") {
        return ~feature::none;
    }
    Features features = feature::none;
    bool is_usable = false;
    std::string_view why = "no such level";
    std::vector<std::string_view> usable;
    const auto statuses = self_test();
    for (const IsaStatus& status : statuses) {
        const Level& level = kernels::level(status.isa);
        if (level.choice == choice) {
            why = features == feature::none ? status.explanation : why;
            features = features_up_to(level.isa);
            is_usable = is_usable || status.usable;
        }
        if (status.usable && std::find(usable.begin(), usable.end(), level.choice) == usable.end()) {
            usable.push_back(level.choice);
        }
    }
    core::require(is_usable, core::ExitCode::usage, "compute.isa = {} can't be used ({}); use auto, or one of: {}",
                  choice, why, fmt::join(usable, ", "));
    return features;
}

template <class Scalar>
Features wants_of(const GemmKernel<Scalar>& kernel) {
    return level(kernel.isa).wants;
}
template <class Scalar>
Features wants_of(const ElementwiseImplementation<Scalar>&) {
    return feature::none;
}

/// The most preferred of a list that needs no other features and that the machine runs well.
template <class Entry>
const Entry& best_of(std::span<const Entry> list, Features features) {
    const Features cpu = cpu_features();
    const auto is_admitted = [=](const Entry& entry) {
        return (level(entry.isa).needs & ~features) == 0 && (wants_of(entry) & ~cpu) == 0 && runs(entry.isa);
    };
    return *std::find_if(list.rbegin(), list.rend(), is_admitted);  // the portable one always is
}

template <class Scalar>
ChosenKernels<Scalar> choose(Features features) {
    const GemmKernel<Scalar>& gemm = best_of(gemm_kernels<Scalar>(), features);
    if constexpr (std::is_same_v<Scalar, int8>) {
        return {gemm};
    } else {
        return {gemm, best_of(elementwise_kernels<Scalar>(), features).kernels};
    }
}

}  // namespace

KernelSet::KernelSet(Features features)
    : chosen_(choose<core::bf16>(features), choose<float>(features), choose<double>(features), choose<int8>(features)) {
}

KernelSet::KernelSet(std::string_view choice, int parts) : KernelSet(features_of(choice)) {
    parts_ = parts;
}

KernelSet::KernelSet(const GemmKernel<core::bf16>& kernel, int parts) : KernelSet(features_up_to(kernel.isa)) {
    parts_ = parts;
    std::get<ChosenKernels<core::bf16>>(chosen_).gemm = kernel;
}

}  // namespace moesaic::kernels
