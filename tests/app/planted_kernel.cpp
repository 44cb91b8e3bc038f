// Plants a fault into the products of KernelSet::run: the test executable moesaic_planted is the program linked with it
// (--wrap). MOESAIC_TEST_PLANT says which: "wrong" adds one to an element of each result, "slow" takes 10 % longer.
#include "kernels/kernel_set.hpp"

#include <chrono>
#include <cstdlib>
#include <string_view>

namespace {

using moesaic::core::bf16;
using moesaic::kernels::Gemm;
using moesaic::kernels::KernelSet;
using Batch = std::span<const Gemm<bf16>>;

std::string_view plant() {
    static const char* const value = std::getenv("MOESAIC_TEST_PLANT");
    return value == nullptr ? "" : value;
}

}  // namespace

// void KernelSet::run<bf16>(std::span<const Gemm<bf16>>) const, as compilers name it.
extern "C" void
__real__ZNK7moesaic7kernels9KernelSet3runINS_4core4bf16EEEvSt4spanIKNS0_4GemmIT_EELm18446744073709551615EE(
    const KernelSet* set, Batch batch);

extern "C" void
__wrap__ZNK7moesaic7kernels9KernelSet3runINS_4core4bf16EEEvSt4spanIKNS0_4GemmIT_EELm18446744073709551615EE(
    const KernelSet* set, Batch batch) {
    using clock = std::chrono::steady_clock;
    const auto begin = clock::now();
    __real__ZNK7moesaic7kernels9KernelSet3runINS_4core4bf16EEEvSt4spanIKNS0_4GemmIT_EELm18446744073709551615EE(set,
                                                                                                               batch);
    const auto duration = clock::now() - begin;
    while (plant() == "slow" && clock::now() - begin < duration + duration / 10) {
    }
    if (plant() == "wrong" && !batch.empty()) {
        batch.front().c[0] += 1;
    }
}
