#include "kernels/features.hpp"

#if defined(MOESAIC_X86_KERNELS)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace moesaic::kernels {

#if defined(MOESAIC_X86_KERNELS)

namespace {

/// Registers that the operating system saves, as bits of XCR0.
constexpr std::uint64_t vectors = 0x6;
constexpr std::uint64_t wide_vectors = vectors | 0xe0;
constexpr std::uint64_t tile_data = std::uint64_t{1} << 18U;
constexpr std::uint64_t tiles = wide_vectors | (std::uint64_t{1} << 17U) | tile_data;

/// Result of CPUID.
struct Words {
    unsigned eax = 0;
    unsigned ebx = 0;
    unsigned ecx = 0;
    unsigned edx = 0;
};

Words cpuid(unsigned leaf, unsigned subleaf) {
    Words words;
    // Leaf 7 has the number of its last subleaf in the first.
    if (__get_cpuid_count(leaf, 0, &words.eax, &words.ebx, &words.ecx, &words.edx) == 0 || subleaf > words.eax) {
        return {};
    }
    if (subleaf > 0) {
        __get_cpuid_count(leaf, subleaf, &words.eax, &words.ebx, &words.ecx, &words.edx);
    }
    return words;
}

struct FeatureBit {
    Features feature;
    unsigned leaf;
    unsigned subleaf;
    unsigned Words::*word;
    unsigned bit;
    std::uint64_t state;
};
constexpr FeatureBit feature_bits[] = {
#define MOESAIC_FEATURE(name, leaf, subleaf, word, bit, state) {feature::name, leaf, subleaf, &Words::word, bit, state},
#include "kernels/table.inc"
};

std::uint64_t saved_state() {
    constexpr unsigned xgetbv_exists = 1U << 27U;
    if ((cpuid(1, 0).ecx & xgetbv_exists) == 0) {
        return 0;
    }
    unsigned low = 0;
    unsigned high = 0;
    asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (std::uint64_t{high} << 32U) | low;
}

bool grants_tiles() {
    constexpr long request_permission = 0x1023;  // ARCH_REQ_XCOMP_PERM of <asm/prctl.h>, since Linux 5.16
    constexpr long tile_data_number = 18;
    return syscall(SYS_arch_prctl, request_permission, tile_data_number) == 0;
}

}  // namespace

Features cpu_features() {
    Features features = __builtin_cpu_is("intel") == 0 ? feature::fast_bf16_pairs : feature::none;
    for (const FeatureBit& entry : feature_bits) {
        if (((cpuid(entry.leaf, entry.subleaf).*entry.word >> entry.bit) & 1U) != 0) {
            features |= entry.feature;
        }
    }
    return features;
}

bool system_enables(Features features) {
    std::uint64_t state = 0;
    for (const FeatureBit& entry : feature_bits) {
        state |= (features & entry.feature) != 0 ? entry.state : 0;
    }
    return (state & ~saved_state()) == 0 && ((state & tile_data) == 0 || grants_tiles());
}

#else

Features cpu_features() {
    return feature::none;
}
bool system_enables(Features) {
    return true;
}

#endif

}  // namespace moesaic::kernels
