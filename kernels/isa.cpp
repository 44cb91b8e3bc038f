#include "kernels/isa.hpp"

#include <algorithm>
#include <array>
#include <csetjmp>
#include <csignal>
#include <mutex>

#include "kernels/kernel_set.hpp"

namespace moesaic::kernels {
namespace {

constexpr std::array all_levels = [] {
    using namespace feature;
    return std::array{
#define MOESAIC_LEVEL(name, choice, needs, wants) Level{Isa::name, #name, #choice, needs, wants},
#include "kernels/table.inc"
    };
}();

constexpr std::size_t index_of(Isa isa) {
    return static_cast<std::size_t>(isa);
}

/// Small integers, whose products and sums are exact in every type.
template <class Scalar>
void fill(std::span<Scalar> elements, int seed) {
    for (Scalar& element : elements) {
        element = Scalar(static_cast<accumulator_t<Scalar>>(seed % 13 - 6));
        seed += 5;
    }
}

/// Both as rows of length `depth`.
template <class Scalar>
accumulator_t<Scalar> expected_dot(const Scalar* x, const Scalar* y, index_t depth) {
    accumulator_t<Scalar> sum = 0;
    for (index_t k = 0; k < depth; ++k) {
        sum += core::widen(x[k]) * core::widen(y[k]);
    }
    return sum;
}

constexpr index_t rows = 7;
constexpr index_t cols = 19;
constexpr index_t depth = 70;

/// With few rows and with more, which are packed.
template <class Scalar>
bool computes_correctly(const GemmKernel<Scalar>& kernel) {
    std::array<Scalar, rows * depth> a;
    std::array<Scalar, cols * depth> b;
    std::array<accumulator_t<Scalar>, rows * cols> c;
    fill<Scalar>(a, 1);
    fill<Scalar>(b, 2);
    for (const index_t m : {index_t{2}, rows}) {
        kernel.run({.m = m,
                    .n = cols,
                    .k = depth,
                    .a = a.data(),
                    .lda = depth,
                    .b = b.data(),
                    .ldb = depth,
                    .transpose_b = true,
                    .c = c.data(),
                    .ldc = cols});
        for (index_t i = 0; i < m * cols; ++i) {
            const Scalar* column = b.data() + i % cols * depth;
            if (c[static_cast<std::size_t>(i)] != expected_dot(a.data() + i / cols * depth, column, depth)) {
                return false;
            }
        }
    }
    return true;
}

template <class Scalar>
bool computes_correctly(const ElementwiseImplementation<Scalar>& implementation) {
    std::array<Scalar, depth> x;
    std::array<Scalar, depth> y;
    fill<Scalar>(x, 1);
    fill<Scalar>(y, 2);
    return implementation.kernels->dot(depth, x.data(), y.data()) == expected_dot(x.data(), y.data(), depth);
}

/// True if holds(entry) does for all kernels of a level.
template <class Holds>
bool all_of_level(Isa isa, const Holds& holds) {
    const auto holds_if_of_level = [&](const auto& entry) { return entry.isa != isa || holds(entry); };
    const auto holds_for = [&](const auto&... lists) { return (std::ranges::all_of(lists, holds_if_of_level) && ...); };
    return holds_for(gemm_kernels<core::bf16>(), gemm_kernels<float>(), gemm_kernels<double>(), gemm_kernels<int8>(),
                     elementwise_kernels<core::bf16>(), elementwise_kernels<float>(), elementwise_kernels<double>());
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
std::string_view try_level(const Level& level) {
    if (!is_built_in(level.isa)) {
        return "not built into this program";
    }
    if ((level.needs & ~cpu_features()) != 0) {
        return "not offered by the CPU";
    }
    if (!system_enables(level.needs)) {
        return "not enabled by the operating system";
    }
    sigjmp_buf point;
    const FaultGuard guard(point);
    if (sigsetjmp(point, 1) != 0) {
        return "faulted in the self-test";
    }
    const bool correct = all_of_level(level.isa, [](const auto& entry) { return computes_correctly(entry); });
    return correct ? "ok" : "wrong result in the self-test";
}

/// Tests a level at its first use.
std::string_view outcome(Isa isa) {
    static std::array<std::once_flag, all_levels.size()> tested;
    static std::array<std::string_view, all_levels.size()> outcomes;
    std::call_once(tested[index_of(isa)], [isa] { outcomes[index_of(isa)] = try_level(level(isa)); });
    return outcomes[index_of(isa)];
}

}  // namespace

std::span<const Level> levels() noexcept {
    return all_levels;
}

const Level& level(Isa isa) noexcept {
    return all_levels[index_of(isa)];
}

std::string_view name(Isa isa) noexcept {
    return level(isa).name;
}

std::vector<std::string> choices() {
    std::vector<std::string> all = {"auto"};
    for (auto level = all_levels.rbegin(); level != all_levels.rend(); ++level) {
        if (std::find(all.begin(), all.end(), level->choice) == all.end()) {
            all.emplace_back(level->choice);
        }
    }
    return all;
}

bool is_built_in(Isa isa) {
    return !all_of_level(isa, [](const auto&) { return false; });
}

bool runs(Isa isa) {
    return outcome(isa) == "ok";
}

std::vector<IsaStatus> self_test() {
    std::vector<IsaStatus> statuses;
    statuses.reserve(all_levels.size());
    for (const Level& level : all_levels) {
        statuses.push_back({level.isa, runs(level.isa), std::string(outcome(level.isa))});
    }
    return statuses;
}

std::string_view compile_options() noexcept {
    return MOESAIC_ISA_OPTIONS;
}

}  // namespace moesaic::kernels
