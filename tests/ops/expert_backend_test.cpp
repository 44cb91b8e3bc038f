// The expert backend alone: arithmetic, gradients, rules of use.
#include "core/error.hpp"
#include "core/trace.hpp"
#include "ops/expert_stack.hpp"
#include "ops/grouped_experts.hpp"
#include "support/random_model.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <string>

namespace moesaic::ops {
namespace {

using test::central_difference;
using test::random_matrix;

constexpr index_t max_cache_depth = 2;

ExpertConfig small_config() {
    ExpertConfig config;
    config.layer = 3;
    config.experts = 4;
    config.experts_per_token = 2;
    config.hidden = 5;
    config.intermediate = 3;
    config.max_tokens = 7;
    config.lora_rank = 2;
    config.lora_alpha = 3;
    return config;
}

/// A backend with random weights and factors, and inputs for it.
template <class Scalar>
struct Bench {
    using Sum = accumulator_t<Scalar>;

    explicit Bench(const ExpertConfig& c = small_config())
        : config(c),
          kernels("portable"),
          workspace(std::make_shared<ExpertWorkspace<Scalar>>()),
          backend(std::make_unique<GroupedExperts<Scalar>>(config, workspace, kernels), max_cache_depth) {
        const index_t e = config.experts;
        const index_t r = config.lora_rank;
        for (const Projection p : projections) {
            const auto i = static_cast<std::size_t>(p);
            const bool down = p == Projection::down;
            const index_t in = down ? config.intermediate : config.hidden;
            const index_t out = down ? config.hidden : config.intermediate;
            weights[i] = random_matrix<Scalar>(e * out, in, 20 + i, 0.5);
            a[i] = random_matrix<Sum>(e * r, in, 30 + i, 0.5);
            b[i] = random_matrix<Sum>(e * out, r, 40 + i, 0.5);
            grad_a[i].resize(e * r, in);
            grad_b[i].resize(e * out, r);
            factors[p] = {a[i], b[i]};
            gradients[p] = {grad_a[i], grad_b[i]};
        }
        hidden = random_matrix<Scalar>(6, config.hidden, 1);
        routing = random_matrix<Sum>(6, config.experts_per_token, 2);
        ids.resize(6, config.experts_per_token);
        for (index_t t = 0; t < 6; ++t) {
            ids.view()(t, 0) = static_cast<std::int32_t>(t % 3);  // expert 3 is chosen only by even tokens
            ids.view()(t, 1) = static_cast<std::int32_t>(t % 2 == 0 ? 3 : (t + 1) % 3);
        }
        clear_gradients();
    }
    void clear_gradients() {
        for (std::size_t i = 0; i < projections.size(); ++i) {
            grad_a[i].fill(Sum(0));
            grad_b[i].fill(Sum(0));
        }
    }
    [[nodiscard]] ExpertWeightSource source() {
        return [this](index_t expert, Projection p, PackedMatrix out) {
            out.assign_rows<Scalar>(0,
                                    weights[static_cast<std::size_t>(p)].view().rows(expert * out.rows(), out.rows()));
        };
    }
    void make_ready() {
        backend.experts().load_weights(source());
        if (!config.skip_lora) {
            backend.experts().init_lora(factors, gradients);
        }
    }
    MatrixView<const Sum> forward(bool save) {
        return backend.forward(hidden, ids, routing, save, {dropout, 5, 2, tokens});
    }

    /// What the definition says, one token and expert at a time.
    [[nodiscard]] double expected(index_t token, index_t h) const {
        double sum = 0;
        for (index_t k = 0; k < config.experts_per_token; ++k) {
            const index_t e = ids.view()(token, k);
            std::vector<double> inner(static_cast<std::size_t>(config.intermediate));
            std::vector<double> x(static_cast<std::size_t>(config.hidden));
            for (index_t i = 0; i < config.hidden; ++i) {
                x[static_cast<std::size_t>(i)] = static_cast<double>(core::widen(hidden.view()(token, i)));
            }
            const auto gate = apply(Projection::gate, token, e, x);
            const auto up = apply(Projection::up, token, e, x);
            for (std::size_t i = 0; i < inner.size(); ++i) {
                inner[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
            }
            sum += static_cast<double>(routing.view()(token, k)) *
                   apply(Projection::down, token, e, inner)[static_cast<std::size_t>(h)];
        }
        return sum;
    }
    [[nodiscard]] std::vector<double> apply(Projection p, index_t token, index_t e,
                                            const std::vector<double>& x) const {
        const auto i = static_cast<std::size_t>(p);
        std::vector<double> dropped = x;
        if (dropout > 0) {
            const index_t module = (config.layer * config.experts + e) * 3 + static_cast<index_t>(p);
            const DropoutMask mask({dropout, 5, 2, {}}, static_cast<std::uint64_t>(module));
            mask.apply(tokens[static_cast<std::size_t>(token)], p == Projection::down ? config.intermediate_begin : 0,
                       std::ssize(x), dropped.data());
        }
        const index_t out = weights[i].rows() / config.experts;
        std::vector<double> y(static_cast<std::size_t>(out));
        for (index_t n = 0; n < out; ++n) {
            double value = 0;
            for (std::size_t k = 0; k < x.size(); ++k) {
                value +=
                    static_cast<double>(core::widen(weights[i].view()(e * out + n, static_cast<index_t>(k)))) * x[k];
                for (index_t r = 0; r < config.lora_rank; ++r) {
                    value += config.lora_scale(p, e) * static_cast<double>(b[i].view()(e * out + n, r)) *
                             static_cast<double>(a[i].view()(e * config.lora_rank + r, static_cast<index_t>(k))) *
                             dropped[k];
                }
            }
            y[static_cast<std::size_t>(n)] = value;
        }
        return y;
    }

    ExpertConfig config;
    kernels::KernelSet kernels;
    std::shared_ptr<ExpertWorkspace<Scalar>> workspace;
    ExpertStack<Scalar> backend;
    std::array<Matrix<Scalar>, 3> weights;
    std::array<Matrix<Sum>, 3> a, b, grad_a, grad_b;
    ExpertFactors<const Sum> factors;
    ExpertFactors<Sum> gradients;
    Matrix<Scalar> hidden;
    Matrix<Sum> routing;
    Matrix<std::int32_t> ids;
    double dropout = 0;
    std::vector<std::uint64_t> tokens = {7, 1, 0, 3, 9, 4};
};

template <class Call>
std::string error_of(Call&& call) {
    try {
        call();
    } catch (const core::Error& error) {
        return error.what();
    }
    return "no error";
}

TEST(ExpertBackend, FollowsTheDefinition) {
    Bench<double> bench;
    bench.make_ready();
    const auto y = bench.forward(false);
    ASSERT_EQ(y.rows(), 6);
    for (index_t t = 0; t < 6; ++t) {
        for (index_t h = 0; h < 5; ++h) {
            EXPECT_NEAR(y(t, h), bench.expected(t, h), 1e-13);
        }
    }
}

/// Masks differ between experts, projections and tokens; a rank with a later slice continues the features.
TEST(ExpertBackend, FollowsTheDefinitionWithDropoutAndScalesOfSingleAdapters) {
    ExpertConfig config = small_config();
    config.hidden = 45;
    config.intermediate = 39;
    config.intermediate_begin = 13;
    for (std::size_t p = 0; p < 3; ++p) {
        config.lora_scales[p] = {0.5, 2, 1.0 + static_cast<double>(p), 0};
    }
    Bench<double> bench(config);
    bench.dropout = 0.3;
    bench.make_ready();
    const auto y = bench.forward(false);
    for (index_t t = 0; t < 6; ++t) {
        for (index_t h = 0; h < config.hidden; ++h) {
            EXPECT_NEAR(y(t, h), bench.expected(t, h), 1e-10 * (1 + std::abs(y(t, h))));
        }
    }
}

TEST(ExpertBackend, GradientsMatchDifferences) {
    Bench<double> bench;
    bench.make_ready();
    const Matrix<double> grad_output = random_matrix<double>(6, 5, 9);
    const auto objective = [&] {
        bench.backend.experts().update_lora();
        const auto y = bench.forward(false);
        double sum = 0;
        for (index_t t = 0; t < 6; ++t) {
            for (index_t h = 0; h < 5; ++h) {
                sum += y(t, h) * grad_output.view()(t, h);
            }
        }
        return sum;
    };
    bench.forward(true);
    const auto gradients = bench.backend.backward(grad_output);
    Matrix<double> input(6, 5);
    Matrix<double> weights(6, 2);
    std::copy_n(gradients.input.data(), input.size(), input.data());
    std::copy_n(gradients.weights.data(), weights.size(), weights.data());
    const auto check = [&](Matrix<double>& x, const Matrix<double>& gradient, const std::string& what) {
        for (std::size_t i = 0; i < x.size(); ++i) {
            EXPECT_NEAR(gradient.data()[i], central_difference(objective, x.data()[i]), 1e-7) << what << " " << i;
        }
    };
    check(bench.hidden, input, "hidden");
    check(bench.routing, weights, "routing weight");
    for (std::size_t p = 0; p < 3; ++p) {
        check(bench.a[p], bench.grad_a[p], "A of projection " + std::to_string(p));
        check(bench.b[p], bench.grad_b[p], "B of projection " + std::to_string(p));
    }
}

/// Experts 0 and 1 to 3 of a layer in two backends: their results add up to those of one with all four.
TEST(ExpertBackend, PartsOfTheExpertsAddUp) {
    Bench<double> whole;
    whole.make_ready();
    const Matrix<double> grad = random_matrix<double>(6, 5, 9);
    std::array<Matrix<double>, 3> sums = {Matrix<double>(6, 5), Matrix<double>(6, 5), Matrix<double>(6, 2)};
    for (Matrix<double>& sum : sums) {
        sum.fill(0);
    }
    const auto add = [](MatrixView<const double> from, Matrix<double>& to) {
        for (index_t i = 0; i < from.rows() * from.cols(); ++i) {
            to.data()[i] += from.data()[i];
        }
    };
    const auto rows_of_part = [](auto view, index_t begin, index_t count) {
        const index_t of_expert = view.rows() / 4;
        return view.rows(begin * of_expert, count * of_expert);
    };
    for (const auto& [begin, count] : {std::pair<index_t, index_t>{0, 1}, {1, 3}}) {
        ExpertConfig config = small_config();
        config.experts = count;
        config.experts_begin = begin;
        config.experts_of_layer = 4;
        GroupedExperts<double> part(config, std::make_shared<ExpertWorkspace<double>>(), whole.kernels);
        part.load_weights([&, first = begin](index_t expert, Projection p, PackedMatrix out) {
            whole.source()(first + expert, p, out);
        });
        ExpertFactors<const double> factors;
        ExpertFactors<double> gradients;
        for (const Projection p : projections) {
            factors[p] = {rows_of_part(whole.factors[p].a, begin, count),
                          rows_of_part(whole.factors[p].b, begin, count)};
            gradients[p] = {rows_of_part(whole.gradients[p].a, begin, count),
                            rows_of_part(whole.gradients[p].b, begin, count)};
        }
        part.init_lora(factors, gradients);
        SavedExperts<double> saved;
        add(part.forward({whole.hidden, whole.ids, whole.routing, {}}, saved, true), sums[0]);
        const auto result = part.backward(saved, grad);
        add(result.input, sums[1]);
        add(result.weights, sums[2]);
    }
    const auto expect_equal = [](MatrixView<const double> found, MatrixView<const double> expected) {
        for (index_t i = 0; i < expected.rows() * expected.cols(); ++i) {
            EXPECT_NEAR(found.data()[i], expected.data()[i], 1e-12);
        }
    };
    std::vector<Matrix<double>> of_parts;  // gradients of LoRA
    for (std::size_t i = 0; i < projections.size(); ++i) {
        for (const Matrix<double>* gradient : {&whole.grad_a[i], &whole.grad_b[i]}) {
            of_parts.emplace_back(gradient->rows(), gradient->cols());
            std::copy_n(gradient->data(), gradient->size(), of_parts.back().data());
        }
    }
    whole.clear_gradients();
    expect_equal(sums[0], whole.forward(true));
    const auto expected = whole.backend.backward(grad);
    expect_equal(sums[1], expected.input);
    expect_equal(sums[2], expected.weights);
    for (std::size_t i = 0; i < projections.size(); ++i) {
        expect_equal(of_parts[2 * i], whole.grad_a[i]);
        expect_equal(of_parts[2 * i + 1], whole.grad_b[i]);
    }
}

TEST(ExpertBackend, GradientsAccumulate) {
    Bench<double> bench;
    bench.make_ready();
    const Matrix<double> grad_output = random_matrix<double>(6, 5, 9);
    bench.forward(true);
    bench.backend.backward(grad_output);
    const double once = bench.grad_b[0].data()[1];
    bench.forward(true);
    bench.backend.backward(grad_output);
    EXPECT_NE(once, 0.0);
    EXPECT_NEAR(bench.grad_b[0].data()[1], 2 * once, 1e-12);
}

TEST(ExpertBackend, SkippingLoraGivesFrozenExperts) {
    ExpertConfig config = small_config();
    config.skip_lora = true;
    config.lora_rank = 0;
    config.lora_alpha = 0;
    Bench<double> bench(config);
    bench.make_ready();
    const auto y = bench.forward(true);
    EXPECT_NEAR(y(2, 1), bench.expected(2, 1), 1e-13);
    EXPECT_EQ(bench.backend.backward(random_matrix<double>(6, 5, 9)).input.rows(), 6);
    EXPECT_NE(error_of([&] { bench.backend.experts().init_lora(bench.factors, bench.gradients); }).find("skip_lora"),
              std::string::npos);
}

TEST(ExpertBackend, SavedForwardsAreAStack) {
    Bench<double> bench;
    bench.make_ready();
    const Matrix<double> grad = random_matrix<double>(6, 5, 9);
    bench.forward(true);
    const Matrix<double> first = [&] {
        Matrix<double> copy(6, 5);
        const auto input = bench.backend.backward(grad).input;
        std::copy_n(input.data(), copy.size(), copy.data());
        return copy;
    }();
    bench.forward(true);  // will be at the bottom
    for (double& x : bench.hidden.flat()) {
        x += 1;
    }
    bench.forward(true);
    EXPECT_NE(bench.backend.backward(grad).input(0, 0), first.view()(0, 0));
    const auto bottom = bench.backend.backward(grad).input;
    for (std::size_t i = 0; i < first.size(); ++i) {
        EXPECT_DOUBLE_EQ(bottom.data()[i], first.data()[i]);
    }
    EXPECT_NE(error_of([&] { bench.backend.backward(grad); }).find("0 saved forwards"), std::string::npos);
}

/// What forwards saved belongs to the caller, who may keep any number and go back in any order, more than once.
TEST(ExpertBackend, SavedForwardsAreIndependentOfEachOther) {
    Bench<double> bench;
    bench.dropout = 0.3;
    bench.make_ready();
    ExpertBackend<double>& experts = bench.backend.experts();
    const Matrix<double> other_hidden = random_matrix<double>(6, 5, 77);
    const Matrix<double> grad = random_matrix<double>(6, 5, 9);
    const auto rows_of = [&](const Matrix<double>& hidden, index_t step) {
        return ExpertRows<double>{hidden, bench.ids, bench.routing, {bench.dropout, 5, step, bench.tokens}};
    };
    const auto input_gradient = [&](const SavedExperts<double>& saved) {
        const auto input = experts.backward(saved, grad).input;
        return std::vector<double>(input.data(), input.data() + 30);
    };
    SavedExperts<double> first;
    experts.forward(rows_of(bench.hidden, 2), first, true);
    const std::vector<double> expected = input_gradient(first);
    SavedExperts<double> second;
    experts.forward(rows_of(other_hidden, 3), second, true);
    SavedExperts<double> unsaved;
    experts.forward(rows_of(other_hidden, 4), unsaved, false);
    EXPECT_EQ(input_gradient(first), expected);
    EXPECT_NE(input_gradient(second), expected);
    EXPECT_EQ(input_gradient(first), expected);
}

TEST(ExpertBackend, RowsAloneAreEnoughForABackwardThatRecomputes) {
    const auto gradients = [](bool forward) {
        Bench<double> bench([] {
            ExpertConfig config = small_config();
            config.activations = Activations::layer;
            return config;
        }());
        bench.dropout = 0.3;
        bench.make_ready();
        ExpertBackend<double>& experts = bench.backend.experts();
        const ExpertRows<double> rows = {bench.hidden, bench.ids, bench.routing, {bench.dropout, 5, 2, bench.tokens}};
        SavedExperts<double> saved;
        if (forward) {
            experts.forward(rows, saved, true);
        } else {
            experts.save(rows, saved);
        }
        const auto input = experts.backward(saved, random_matrix<double>(6, 5, 9)).input;
        std::vector<double> all(input.data(), input.data() + 30);
        for (const Matrix<double>& grad_b : bench.grad_b) {
            all.insert(all.end(), grad_b.flat().begin(), grad_b.flat().end());
        }
        return all;
    };
    EXPECT_EQ(gradients(false), gradients(true));
}

TEST(ExpertBackend, AsynchronousCallsGiveTheSame) {
    Bench<float> bench;
    bench.make_ready();
    const auto direct = bench.forward(true);
    const std::vector<float> expected(direct.data(), direct.data() + 30);
    const Matrix<float> grad = random_matrix<float>(6, 5, 9);
    const auto direct_grad = bench.backend.backward(grad).input;
    const std::vector<float> expected_grad(direct_grad.data(), direct_grad.data() + 30);
    bench.backend.submit_forward(bench.hidden, bench.ids, bench.routing, true);
    const auto y = bench.backend.sync_forward();
    EXPECT_EQ(std::vector<float>(y.data(), y.data() + 30), expected);
    bench.backend.submit_backward(grad);
    const auto dx = bench.backend.sync_backward().input;
    EXPECT_EQ(std::vector<float>(dx.data(), dx.data() + 30), expected_grad);
}

/// The worker writes to what the stack owns.
TEST(ExpertBackend, DestructionWaitsForASubmission) {
    Bench<float> outer;
    outer.make_ready();
    for (int i = 0; i < 20; ++i) {
        ExpertStack<float> stack(
            std::make_unique<GroupedExperts<float>>(small_config(), outer.workspace, outer.kernels), 1);
        stack.experts().load_weights(outer.source());
        stack.experts().init_lora(outer.factors, outer.gradients);
        stack.submit_forward(outer.hidden, outer.ids, outer.routing, true);
    }
    EXPECT_EQ(outer.forward(false).rows(), 6) << "nothing is in flight any more";
}

/// Waiting belongs to the phase of the experts, whose worker computes meanwhile.
TEST(ExpertBackend, WaitingForTheWorkerIsInTheTrace) {
    Bench<float> bench;
    bench.make_ready();
    core::trace::enable(true);
    bench.backend.submit_forward(bench.hidden, bench.ids, bench.routing, false);
    bench.backend.sync_forward();
    core::trace::enable(false);
    std::map<std::string, int> threads;
    for (const core::trace::Event& event : core::trace::take()) {
        threads[event.name] = event.thread;
    }
    ASSERT_TRUE(threads.contains(core::scopes::experts_wait.name));
    ASSERT_TRUE(threads.contains(core::scopes::experts_forward.name));
    EXPECT_NE(threads.at(core::scopes::experts_wait.name), threads.at(core::scopes::experts_forward.name));
}

TEST(ExpertBackend, OneSubmissionAtATime) {
    Bench<float> bench;
    bench.make_ready();
    GroupedExperts<float> other(small_config(), bench.workspace, bench.kernels);
    other.load_weights(bench.source());
    other.init_lora(bench.factors, bench.gradients);
    SavedExperts<float> saved;
    bench.backend.submit_forward(bench.hidden, bench.ids, bench.routing, false);
    EXPECT_NE(error_of([&] { bench.forward(false); }).find("in flight"), std::string::npos);
    EXPECT_NE(error_of([&] {
                  other.forward({bench.hidden, bench.ids, bench.routing, {}}, saved, false);
              }).find("in flight"),
              std::string::npos);
    EXPECT_NE(error_of([&] { bench.backend.clear_cache(); }).find("in flight"), std::string::npos);
    EXPECT_NE(error_of([&] { bench.backend.sync_backward(); }).find("without a submission"), std::string::npos);
    bench.backend.sync_forward();
    EXPECT_NE(error_of([&] { bench.backend.sync_forward(); }).find("without a submission"), std::string::npos);
    EXPECT_EQ(bench.forward(false).rows(), 6);
}

TEST(ExpertBackend, RefusesWrongConfigurations) {
    const auto message = [](const std::function<void(ExpertConfig&)>& change) {
        ExpertConfig config = small_config();
        change(config);
        const kernels::KernelSet kernels("portable");
        return error_of([&] { GroupedExperts<float>(config, std::make_shared<ExpertWorkspace<float>>(), kernels); });
    };
    EXPECT_NE(message([](auto& c) { c.lora_rank = 0; }).find("LoRA rank = 0"), std::string::npos);
    EXPECT_NE(message([](auto& c) { c.lora_alpha = -1; }).find("LoRA alpha = -1"), std::string::npos);
    EXPECT_NE(message([](auto& c) { c.lora_scales[1] = {1, 2}; }).find("2 LoRA scales (expected 4"), std::string::npos);
    EXPECT_NE(message([](auto& c) { c.experts_per_token = 5; }).find("5 experts per token (the layer has 4)"),
              std::string::npos);
    EXPECT_NE(message([](auto& c) { c.experts_begin = 3; }).find("experts 3 to 6 (the layer has 4)"),
              std::string::npos);
    EXPECT_NE(message([](auto& c) { c.hidden = 0; }).find("hidden size = 0"), std::string::npos);
    EXPECT_NE(message([](auto& c) { c.max_tokens = 0; }).find("largest token count = 0"), std::string::npos);
    EXPECT_EQ(message([](auto& c) { c.lora_rank = 1; }), "no error");
    const kernels::KernelSet kernels("portable");
    auto experts =
        std::make_unique<GroupedExperts<float>>(small_config(), std::make_shared<ExpertWorkspace<float>>(), kernels);
    EXPECT_NE(error_of([&] { ExpertStack<float>(std::move(experts), 0); }).find("max_cache_depth = 0"),
              std::string::npos);
}

TEST(ExpertBackend, RefusesWrongUseAndStatesBothNumbers) {
    Bench<float> bench;
    EXPECT_NE(error_of([&] { bench.forward(false); }).find("without weights"), std::string::npos);
    bench.backend.experts().load_weights(bench.source());
    EXPECT_NE(error_of([&] { bench.forward(false); }).find("without LoRA"), std::string::npos);
    EXPECT_NE(error_of([&] { bench.backend.experts().update_lora(); }).find("init_lora"), std::string::npos);
    bench.backend.experts().init_lora(bench.factors, bench.gradients);
    const Matrix<float> grad = random_matrix<float>(6, 5, 9);
    EXPECT_NE(error_of([&] { bench.backend.backward(grad); }).find("0 saved forwards"), std::string::npos);

    const Matrix<float> too_many = random_matrix<float>(8, 5, 1);
    Matrix<std::int32_t> many_ids(8, 2);
    many_ids.fill(0);
    const Matrix<float> many_weights(8, 2);
    const std::string size_error = error_of([&] { bench.backend.forward(too_many, many_ids, many_weights, false); });
    EXPECT_NE(size_error.find("8 tokens"), std::string::npos) << size_error;
    EXPECT_NE(size_error.find("maximum is 7"), std::string::npos) << size_error;

    bench.ids.view()(4, 1) = 4;
    EXPECT_NE(error_of([&] { bench.forward(false); }).find("expert 4 (experts are 0 to 3)"), std::string::npos);
    bench.ids.view()(4, 1) = -1;
    EXPECT_NE(error_of([&] { bench.forward(false); }).find("expert -1"), std::string::npos);
    bench.ids.view()(4, 1) = 0;

    SavedExperts<float> saved;
    EXPECT_NE(error_of([&] { bench.backend.experts().save({}, saved); }).find("gate and up are retained"),
              std::string::npos);
    bench.forward(true);
    const Matrix<float> other_grad = random_matrix<float>(5, 5, 9);
    const std::string token_error = error_of([&] { bench.backend.backward(other_grad); });
    EXPECT_NE(token_error.find("backward of 5 tokens"), std::string::npos) << token_error;
    EXPECT_NE(token_error.find("had 6"), std::string::npos) << token_error;
    bench.forward(true);
    const std::string depth_error = error_of([&] { bench.forward(true); });
    EXPECT_NE(depth_error.find("2 saved already (max_cache_depth is 2)"), std::string::npos) << depth_error;
    bench.backend.backward(grad);
    EXPECT_EQ(bench.forward(true).rows(), 6) << "there is room for one more again";
}

TEST(ExpertBackend, BuffersGrowAndCallersSeeOnlyTheirRows) {
    Bench<float> bench;
    bench.make_ready();
    bench.forward(true);
    const float* large = bench.workspace->results.data();
    const auto small = bench.backend.forward(bench.hidden.view().rows(0, 2), bench.ids.view().rows(0, 2),
                                             bench.routing.view().rows(0, 2), false);
    EXPECT_EQ(small.rows(), 2);
    EXPECT_EQ(small.data(), large);  // the buffer was kept
    bench.backend.clear_cache();
    EXPECT_NE(error_of([&] { bench.backend.backward(random_matrix<float>(6, 5, 9)); }).find("0 saved forwards"),
              std::string::npos);
    EXPECT_EQ(bench.workspace->results.data(), nullptr);
    EXPECT_NEAR(bench.forward(false)(1, 1), bench.expected(1, 1), 1e-5);
}

TEST(ExpertBackend, NoTokensAreFine) {
    Bench<float> bench;
    bench.make_ready();
    const auto none = bench.backend.forward(bench.hidden.view().rows(0, 0), bench.ids.view().rows(0, 0),
                                            bench.routing.view().rows(0, 0), true);
    EXPECT_EQ(none.rows(), 0);
    EXPECT_EQ(bench.backend.backward(bench.hidden.view().rows(0, 0)).input.rows(), 0);
}

TEST(ExpertBackend, Bf16IsNearTheDefinition) {
    Bench<core::bf16> bench;
    bench.make_ready();
    const auto y = bench.forward(false);
    double error = 0;
    double norm = 0;
    for (index_t t = 0; t < 6; ++t) {
        for (index_t h = 0; h < 5; ++h) {
            const double expected = bench.expected(t, h);
            error += std::pow(static_cast<double>(y(t, h)) - expected, 2);
            norm += expected * expected;
        }
    }
    EXPECT_LT(std::sqrt(error / norm), 8e-3);  // two roundings of BF16 (2^-9 each) and one of the LoRA intermediate
    EXPECT_GT(error, 0.0);
}

}  // namespace
}  // namespace moesaic::ops
