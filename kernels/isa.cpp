#include "kernels/isa.hpp"

#include <array>
#include <csetjmp>
#include <csignal>
#include <mutex>

#include "core/scalar.hpp"
#include "kernels/micro_kernel.hpp"

#if MOESAIC_HAVE_ISA_KERNELS
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace moesaic::kernels {
namespace {

constexpr std::array all_levels = {Isa::portable, Isa::avx2, Isa::avx512, Isa::avx512_bf16, Isa::amx};

constexpr std::size_t index_of(Isa isa) {
    return static_cast<std::size_t>(isa);
}

#if MOESAIC_HAVE_ISA_KERNELS

/// Feature bits of CPUID and, in `state`, the register state that the operating system saves (XCR0).
struct CpuFeatures {
    unsigned leaf1_ecx = 0;
    unsigned leaf7_ebx = 0;
    unsigned leaf7_edx = 0;
    unsigned leaf7_1_eax = 0;
    std::uint64_t state = 0;
};

constexpr bool has_bits(std::uint64_t value, std::uint64_t bits) {
    return (value & bits) == bits;
}
constexpr std::uint64_t bit(unsigned position) {
    return std::uint64_t{1} << position;
}

CpuFeatures cpu_features() {
    CpuFeatures features;
    unsigned eax = 0;
    unsigned ebx = 0;
    unsigned ecx = 0;
    unsigned edx = 0;
    if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0) {
        features.leaf1_ecx = ecx;
    }
    if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0) {
        features.leaf7_ebx = ebx;
        features.leaf7_edx = edx;
        if (eax >= 1 && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0) {
            features.leaf7_1_eax = eax;
        }
    }
    if (has_bits(features.leaf1_ecx, bit(27))) {  // OSXSAVE: xgetbv exists
        unsigned low = 0;
        unsigned high = 0;
        asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
        features.state = (std::uint64_t{high} << 32U) | low;
    }
    return features;
}

bool offered_by_cpu(Isa isa, const CpuFeatures& cpu) {
    switch (isa) {
        case Isa::portable:
            return true;
        case Isa::avx2:
            return has_bits(cpu.leaf1_ecx, bit(12)) && has_bits(cpu.leaf7_ebx, bit(5));  // FMA, AVX2
        case Isa::avx512:
            return has_bits(cpu.leaf7_ebx, bit(16) | bit(17) | bit(30) | bit(31));  // F, DQ, BW, VL
        case Isa::avx512_bf16:
            return has_bits(cpu.leaf7_1_eax, bit(5));
        case Isa::amx:
            return has_bits(cpu.leaf7_edx, bit(22) | bit(24));  // AMX-BF16, AMX-TILE
    }
    return false;
}

/// True if the operating system keeps the registers of the level; asks it for AMX tiles, which it grants per process.
bool enabled_by_system(Isa isa, const CpuFeatures& cpu) {
    constexpr std::uint64_t vectors = bit(1) | bit(2);
    constexpr std::uint64_t wide_vectors = vectors | bit(5) | bit(6) | bit(7);
    constexpr std::uint64_t tiles = bit(17) | bit(18);
    constexpr long request_permission = 0x1023;  // ARCH_REQ_XCOMP_PERM of <asm/prctl.h>, since Linux 5.16
    constexpr long tile_data = 18;
    switch (isa) {
        case Isa::portable:
            return true;
        case Isa::avx2:
            return has_bits(cpu.state, vectors);
        case Isa::avx512:
        case Isa::avx512_bf16:
            return has_bits(cpu.state, wide_vectors);
        case Isa::amx:
            return has_bits(cpu.state, wide_vectors | tiles) &&
                   syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
    }
    return false;
}

std::uint16_t element(int value, const std::uint16_t*) {
    return core::bf16(static_cast<float>(value)).bits();
}
float element(int value, const float*) {
    return static_cast<float>(value);
}

/// Multiplies small integers, whose sums are exact, and compares.
template <class Element>
bool multiplies_correctly(const MicroKernel<Element, float>& kernel) {
    constexpr int rows = 3;
    constexpr int cols = 19;
    constexpr int depth = 70;
    Element left[rows][depth];
    Element right[cols][depth];
    const auto fill = [](auto& matrix, int seed) {
        for (auto& row : matrix) {
            for (auto& value : row) {
                value = element(seed % 13 - 6, &value);
                seed += 5;
            }
        }
    };
    fill(left, 1);
    fill(right, 2);
    constexpr std::size_t blocks = 3;
    alignas(64) float left_strip[blocks * block_size * block_size];  // the largest packed element is a float
    alignas(64) float right_strip[blocks * block_size * block_size];
    float sums[block_size][block_size];
    kernel.pack_left(left_strip, {left[0], depth, true, rows, depth});
    kernel.pack_right(right_strip, {right[0], depth, true, cols, depth});
    if (kernel.begin != nullptr) {
        kernel.begin();
    }
    kernel.multiply({rows, cols, depth, left_strip, right_strip, sums[0], block_size, false, {}, {}});
    if (kernel.end != nullptr) {
        kernel.end();
    }
    for (int row = 0; row < rows; ++row) {
        for (int col = 0; col < cols; ++col) {
            int expected = 0;
            for (int k = 0; k < depth; ++k) {
                expected += ((1 + 5 * (row * depth + k)) % 13 - 6) * ((2 + 5 * (col * depth + k)) % 13 - 6);
            }
            if (sums[row][col] != static_cast<float>(expected)) {
                return false;
            }
        }
    }
    return true;
}

bool computes_correctly(Isa isa) {
    switch (isa) {
        case Isa::portable:
            return true;
        case Isa::avx2:
            return multiplies_correctly(detail::avx2_float) && multiplies_correctly(detail::avx2_bf16);
        case Isa::avx512:
            return multiplies_correctly(detail::avx512_float) && multiplies_correctly(detail::avx512_bf16_by_widening);
        case Isa::avx512_bf16:
            return multiplies_correctly(detail::avx512_bf16_pairs);
        case Isa::amx:
            return multiplies_correctly(detail::amx_bf16);
    }
    return false;
}

thread_local sigjmp_buf* recovery_point = nullptr;

void recover_from_fault(int signal) {
    if (recovery_point != nullptr) {
        siglongjmp(*recovery_point, 1);
    }
    std::signal(signal, SIG_DFL);  // a fault of another thread: it repeats, and now ends the process as it would have
}

/// Catches the signals of unusable instructions while it lives, then restores the handlers that were there.
class FaultGuard {
public:
    explicit FaultGuard(sigjmp_buf& point) {
        recovery_point = &point;
        struct sigaction action = {};
        action.sa_handler = recover_from_fault;
        sigemptyset(&action.sa_mask);
        for (std::size_t i = 0; i < signals.size(); ++i) {
            sigaction(signals[i], &action, &previous_[i]);
        }
    }
    ~FaultGuard() {
        for (std::size_t i = 0; i < signals.size(); ++i) {
            sigaction(signals[i], &previous_[i], nullptr);
        }
        recovery_point = nullptr;
    }
    FaultGuard(const FaultGuard&) = delete;
    FaultGuard& operator=(const FaultGuard&) = delete;

private:
    static constexpr std::array signals = {SIGILL, SIGSEGV, SIGBUS};
    std::array<struct sigaction, signals.size()> previous_ = {};
};

/// "ok" or why the level can't be used. No child process is forked: Open MPI does not stand that on every network.
std::string_view try_level(Isa isa, bool lower_runs) {
    const CpuFeatures cpu = cpu_features();
    if (!offered_by_cpu(isa, cpu)) {
        return "not offered by the CPU";
    }
    if (!lower_runs) {
        return "a lower level can't be used";
    }
    if (!enabled_by_system(isa, cpu)) {
        return "not enabled by the operating system";
    }
    sigjmp_buf point;
    const FaultGuard guard(point);
    if (sigsetjmp(point, 1) != 0) {
        return "faulted in the self-test";
    }
    return computes_correctly(isa) ? "ok" : "wrong result in the self-test";
}

#else

std::string_view try_level(Isa isa, bool) {
    return isa == Isa::portable ? "ok" : "not built into this program";
}

#endif

/// Tests a level and those that it includes at its first use.
std::string_view outcome(Isa isa) {
    static std::array<std::once_flag, all_levels.size()> tested;
    static std::array<std::string_view, all_levels.size()> outcomes;
    std::call_once(tested[index_of(isa)], [isa] {
        const bool lower_runs = isa == Isa::portable || outcome(all_levels[index_of(isa) - 1]) == "ok";
        outcomes[index_of(isa)] = try_level(isa, lower_runs);
    });
    return outcomes[index_of(isa)];
}

}  // namespace

std::string_view name(Isa isa) noexcept {
    switch (isa) {
        case Isa::portable:
            return "portable";
        case Isa::avx2:
            return "avx2";
        case Isa::avx512:
            return "avx512";
        case Isa::avx512_bf16:
            return "avx512_bf16";
        case Isa::amx:
            return "amx";
    }
    return "unknown";
}

bool runs(Isa isa) {
    return outcome(isa) == "ok";
}

bool bf16_pairs_are_faster() {
#if MOESAIC_HAVE_ISA_KERNELS
    return __builtin_cpu_is("intel") == 0;
#else
    return false;
#endif
}

std::vector<IsaReport> self_test() {
    std::vector<IsaReport> reports;
    reports.reserve(all_levels.size());
    for (const Isa isa : all_levels) {
        reports.push_back({isa, runs(isa), std::string(outcome(isa))});
    }
    return reports;
}

std::string_view compile_options() noexcept {
    return MOESAIC_ISA_OPTIONS;
}

}  // namespace moesaic::kernels
