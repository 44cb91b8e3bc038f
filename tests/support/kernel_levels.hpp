// Tests of what is built on BF16 kernels, once per entry of the kernel list.
#pragma once

#include "kernels/kernel_set.hpp"
#include "support/amx_emulator.hpp"

#include <gtest/gtest.h>
#include <omp.h>

#include <optional>
#include <string>

namespace moesaic::test {

/// Skips kernels that the machine does not run, but emulates AMX. Restores the number of threads.
class KernelLevels : public testing::TestWithParam<kernels::GemmKernel<core::bf16>> {
protected:
    void SetUp() override {
        const kernels::Isa isa = GetParam().isa;
        if (isa == kernels::Isa::amx && AmxEmulator::needed()) {
            emulator_.emplace();
            RecordProperty("amx", "emulated");
        } else if (!kernels::runs(isa)) {
            GTEST_SKIP() << "this machine does not run " << kernels::name(isa);
        }
    }
    void TearDown() override { omp_set_num_threads(threads_before_); }

private:
    std::optional<AmxEmulator> emulator_;
    int threads_before_ = omp_get_max_threads();
};

inline std::string kernel_name(const testing::TestParamInfo<kernels::GemmKernel<core::bf16>>& info) {
    return std::string(info.param.name);
}

}  // namespace moesaic::test
