// Instruction set levels that kernels are written for, and which of them this machine really runs.
#pragma once

#include "kernels/features.hpp"

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace moesaic::kernels {

/// The levels of kernels/table.inc.
enum class Isa {
#define MOESAIC_LEVEL(name, choice, needs, wants) name,
#include "kernels/table.inc"
};

struct Level {
    Isa isa;
    std::string_view name;
    std::string_view choice;  ///< the value of compute.isa that admits it
    Features needs;           ///< of the CPU, to run its kernels
    Features wants;           ///< of the CPU, to choose its matrix products
};

/// All levels, whether or not they are built in.
[[nodiscard]] std::span<const Level> levels() noexcept;
[[nodiscard]] const Level& level(Isa isa) noexcept;
[[nodiscard]] std::string_view name(Isa isa) noexcept;
/// What compute.isa may be: "auto", then the choices of the levels, those with the most features first.
[[nodiscard]] std::vector<std::string> choices();

/// True if the program has kernels of the level.
[[nodiscard]] bool is_built_in(Isa isa);

/// True if the CPU and the operating system offer the level AND small computations with its kernels gave the right
/// results: some hosts advertise AMX and fault. Each level is tested once, on first use.
[[nodiscard]] bool runs(Isa isa);

/// The outcome of the self-test of one level, for people: "ok", "not offered by the CPU", "faulted in the self-test".
struct IsaStatus {
    Isa isa;
    bool usable;
    std::string explanation;
};
[[nodiscard]] std::vector<IsaStatus> self_test();

/// Compiler options of the files for later CPUs, beside those of the whole program; empty if none are built in.
[[nodiscard]] std::string_view compile_options() noexcept;

}  // namespace moesaic::kernels
