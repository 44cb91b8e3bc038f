// The choice of kernels by level, and batches of products on several threads.
#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>

#include "core/error.hpp"
#include "gemm_problem.hpp"

namespace moesaic::kernels::test {
namespace {

using core::bf16;

bool usable(std::string_view choice) {
    return choice == "auto" ||
           std::ranges::any_of(levels(), [=](const Level& level) { return level.choice == choice && runs(level.isa); });
}

/// The CPU runs the kernel, and runs it well.
template <class Scalar>
bool suits(const GemmKernel<Scalar>& kernel) {
    return runs(kernel.isa) && (level(kernel.isa).wants & ~cpu_features()) == 0;
}

class Choices : public testing::TestWithParam<std::string> {
protected:
    void SetUp() override {
        if (!usable(GetParam())) {
            GTEST_SKIP() << "this machine does not run " << GetParam();
        }
    }
    void TearDown() override { omp_set_num_threads(threads_before_); }

private:
    int threads_before_ = omp_get_max_threads();
};

/// One hot product, several of expert size with odd shapes, and some that are empty in one way or another.
std::vector<Shape> mixed_shapes() {
    std::vector<Shape> shapes = {
        {.m = 500, .n = 420, .k = 300, .transpose_a = false, .transpose_b = true},
        {.m = 0, .n = 50, .k = 20, .transpose_a = false, .transpose_b = false},
        {.m = 20, .n = 31, .k = 0, .transpose_a = true, .transpose_b = false, .padding = 2},
        {.m = 20, .n = 0, .k = 5, .transpose_a = true, .transpose_b = true},
    };
    for (index_t i = 0; i < 12; ++i) {
        shapes.push_back({.m = 1 + 9 * i,
                          .n = 300 - 17 * i,
                          .k = 520 + i,
                          .transpose_a = i % 3 == 0,
                          .transpose_b = i % 2 == 0,
                          .padding = i % 4,
                          .alpha = i % 5 == 0 ? 0.5 : 1.0,
                          .accumulate = i % 2 == 1});
    }
    return shapes;
}

template <class Scalar>
const GemmKernel<Scalar>& kernel_named(std::string_view wanted) {
    for (const GemmKernel<Scalar>& kernel : gemm_kernels<Scalar>()) {
        if (kernel.name == wanted) {
            return kernel;
        }
    }
    throw std::runtime_error("no such kernel");
}

template <class Scalar>
void expect_same_results_for_all_thread_counts(const KernelSet& kernels) {
    std::vector<std::unique_ptr<Problem<Scalar>>> problems;
    std::vector<Gemm<Scalar>> batch;
    std::vector<std::vector<accumulator_t<Scalar>>> unsplit;
    for (const Shape& shape : mixed_shapes()) {
        problems.push_back(std::make_unique<Problem<Scalar>>(shape, static_cast<std::uint32_t>(problems.size())));
        batch.push_back(problems.back()->product());
        kernel_named<Scalar>(kernels.gemm_name<Scalar>()).run(batch.back());
        problems.back()->expect_correct();
        unsplit.push_back(problems.back()->result());
    }
    for (const int threads : {1, 2, 3, 16}) {
        SCOPED_TRACE(testing::Message() << threads << " threads");
        for (const auto& problem : problems) {
            problem->reset();
        }
        omp_set_num_threads(threads);
        kernels.run(std::span<const Gemm<Scalar>>(batch));
        for (std::size_t i = 0; i < problems.size(); ++i) {
            const auto result = problems[i]->result();
            ASSERT_TRUE(result.empty() ||
                        std::memcmp(result.data(), unsplit[i].data(), result.size() * sizeof(result[0])) == 0)
                << "product " << i;
        }
    }
}

TEST_P(Choices, BatchesDoNotDependOnThreads) {
    const KernelSet kernels(GetParam());
    expect_same_results_for_all_thread_counts<bf16>(kernels);
    expect_same_results_for_all_thread_counts<float>(kernels);
    expect_same_results_for_all_thread_counts<double>(kernels);
}

TEST_P(Choices, FallBackToLowerLevels) {
    const KernelSet kernels(GetParam());
    const std::string& choice = GetParam();
    EXPECT_EQ(kernels.gemm_name<double>(), "portable");
    if (choice == "portable" || choice == "avx2") {
        EXPECT_EQ(kernels.gemm_name<float>(), choice);
        EXPECT_EQ(kernels.gemm_name<bf16>(), choice);
    } else if (choice == "avx512") {
        EXPECT_EQ(kernels.gemm_name<float>(), choice);
        EXPECT_EQ(kernels.gemm_name<bf16>(), suits(kernel_named<bf16>("avx512_bf16")) ? "avx512_bf16" : "avx512");
    } else if (choice == "amx") {
        EXPECT_EQ(kernels.gemm_name<float>(), "avx512");
        EXPECT_EQ(kernels.gemm_name<bf16>(), "amx");
    }
}

INSTANTIATE_TEST_SUITE_P(All, Choices, testing::ValuesIn(choices()), [](const auto& choice) { return choice.param; });

TEST(KernelSet, AutoTakesTheBestThatRuns) {
    const KernelSet kernels;
    std::string_view best;
    for (const auto& kernel : gemm_kernels<bf16>()) {
        if (suits(kernel)) {
            best = kernel.name;
        }
    }
    EXPECT_EQ(kernels.gemm_name<bf16>(), best);
}

TEST(KernelSet, EmptyBatch) {
    KernelSet().run(std::span<const Gemm<float>>());
}

std::string usage_error(std::string_view level) {
    try {
        const KernelSet kernels(level);
    } catch (const core::Error& error) {
        EXPECT_EQ(error.code(), core::ExitCode::usage);
        return error.what();
    }
    return "";
}

TEST(KernelSet, UnknownLevelIsAUsageError) {
    const std::string message = usage_error("neon");
    EXPECT_EQ(message.find("compute.isa = neon can't be used (no such level); use auto, or one of: portable"), 0U)
        << message;
}

TEST(KernelSet, LevelThatDoesNotRunIsAUsageError) {
    for (const std::string& choice : choices()) {
        if (!usable(choice)) {
            const std::string message = usage_error(choice);
            EXPECT_NE(message.find("compute.isa = " + choice + " can't be used ("), std::string::npos) << message;
            EXPECT_EQ(message.find("no such level"), std::string::npos) << message;
            return;
        }
    }
    GTEST_SKIP() << "this machine runs every choice";
}

}  // namespace
}  // namespace moesaic::kernels::test
