// moesaic verify: runs reference cases, which were computed with PyTorch in FP32, and compares every quantity.
#include "app/command.hpp"
#include "app/runtime.hpp"
#include "core/error.hpp"
#include "io/json.hpp"
#include "train/adapter.hpp"
#include "train/lora_state.hpp"
#include "train/options.hpp"
#include "train/trainer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <limits>

namespace moesaic::app {
namespace {

using core::ExitCode;

/// The contents of a case's expected.json, and where its other files are.
struct ReferenceCase {
    std::filesystem::path folder;
    index_t batch_size = 0;
    train::AdamWSettings adamw;
    train::Schedule schedule;
    double max_gradient_norm = 0;
    std::vector<double> eval_losses;        ///< per batch, before training
    std::vector<double> log_probabilities;  ///< of the first sequence's labels
    std::vector<double> train_losses;       ///< per step, before its update
    std::vector<double> gradient_norms;
    std::vector<double> final_eval_losses;
    double bf16_loss_error = 0;  ///< of PyTorch's own bf16, relative to its FP32
    double bf16_gradient_error = 0;
    double bf16_norm_error = 0;
};

double largest_relative_error(const std::vector<double>& found, const std::vector<double>& expected) {
    double largest = found.size() == expected.size() ? 0 : std::numeric_limits<double>::infinity();
    for (std::size_t i = 0; i < std::min(found.size(), expected.size()); ++i) {
        const double error = std::abs(found[i] - expected[i]) / std::abs(expected[i]);
        largest = std::isfinite(error) ? std::max(largest, error) : std::numeric_limits<double>::infinity();
    }
    return largest;
}

/// Norm of the difference relative to the norm of `expected`: one number for a quantity that is noisy step by step.
double relative_norm_of_error(const std::vector<double>& found, const std::vector<double>& expected) {
    double error = found.size() == expected.size() ? 0 : std::numeric_limits<double>::infinity();
    double norm = 0;
    for (std::size_t i = 0; i < std::min(found.size(), expected.size()); ++i) {
        error += (found[i] - expected[i]) * (found[i] - expected[i]);
        norm += expected[i] * expected[i];
    }
    return std::sqrt(error / norm);
}

ReferenceCase read_case(const std::filesystem::path& folder) {
    const std::string source = (folder / "expected.json").string();
    const nlohmann::json expected = io::read_json(source);
    ReferenceCase reference;
    reference.folder = folder;
    reference.batch_size = io::get_size(expected, "batch_size", source);
    reference.eval_losses = io::get<std::vector<double>>(expected, "eval_loss_per_batch", source);
    reference.log_probabilities = io::get<std::vector<double>>(expected, "first_sequence_label_logprobs", source);
    reference.train_losses = io::get<std::vector<double>>(expected, "train_loss", source);
    reference.gradient_norms = io::get<std::vector<double>>(expected, "grad_norm", source);
    reference.final_eval_losses = io::get<std::vector<double>>(expected, "final_eval_loss_per_batch", source);
    const auto optimizer = io::get<nlohmann::json>(expected, "optimizer", source);
    reference.adamw = {io::get<double>(optimizer, "beta1", source), io::get<double>(optimizer, "beta2", source),
                       io::get<double>(optimizer, "eps", source), io::get<double>(optimizer, "weight_decay", source)};
    reference.max_gradient_norm = io::get<double>(optimizer, "max_grad_norm", source);
    reference.schedule = {io::get<std::string>(optimizer, "schedule", source), io::get<double>(optimizer, "lr", source),
                          0, static_cast<index_t>(reference.train_losses.size())};
    const auto bf16 = io::get_or<nlohmann::json>(expected, "pytorch_bf16_autocast", nlohmann::json::object(), source);
    reference.bf16_loss_error = io::get_or<double>(bf16, "max_relative_loss_error", 0, source);
    reference.bf16_gradient_error = io::get_or<double>(bf16, "grads_step0_relative_error", 0, source);
    const auto norms = io::get_or<std::vector<double>>(bf16, "grad_norm", reference.gradient_norms, source);
    reference.bf16_norm_error = relative_norm_of_error(norms, reference.gradient_norms);
    return reference;
}

/// What is allowed: FP32 must agree to 1e-4; BF16 may be 1.5 times as far away as PyTorch's, or 1 %.
double bound(bool fp32, double pytorch_bf16_error) {
    return fp32 ? 1e-4 : std::max(1.5 * pytorch_bf16_error, 0.01);
}

class Table {
public:
    Table(const mpi::Communicator& world, const std::string& title) : world_(world) {
        print(world_, fmt::format("{}\n  {:<28} {:>12} {:>12}\n", title, "quantity", "error", "bound"));
    }
    void add(const std::string& quantity, double error, double limit) {
        const bool pass = error <= limit;  // false for NaN
        failed_ = failed_ || !pass;
        print(world_,
              fmt::format("  {:<28} {:>12.3e} {:>12.3e}  {}\n", quantity, error, limit, pass ? "PASS" : "FAIL"));
    }
    /// A figure without a verdict: the reference says nothing that could bound it.
    void note(const std::string& quantity, double error) {
        print(world_, fmt::format("  {:<28} {:>12.3e} {:>12}\n", quantity, error, "no bound"));
    }
    [[nodiscard]] bool failed() const { return failed_; }

private:
    const mpi::Communicator& world_;
    bool failed_ = false;
};

struct GradientErrors {
    double all = 0;           ///< norm of the error of all gradients, relative to the norm of the reference
    double worst_tensor = 0;  ///< the same for the worst tensor alone
};

/// Collective; the result is the same on all ranks.
GradientErrors compare_gradients(const Runtime& runtime, const model::LoraParameters<float>& parameters,
                                 const train::ShardedAdamW& optimizer, const std::filesystem::path& file) {
    std::unique_ptr<io::TensorSource> reference;
    runtime.world.agree([&] { reference = std::make_unique<io::TensorSource>(io::TensorSource::open_file(file)); });
    std::vector<std::pair<double, double>> squares;  // error and reference of every tensor
    train::for_each_full_tensor(parameters, optimizer, runtime.grid, {train::LoraContent::gradients},
                                [&](const train::FullTensor& full, train::LoraContent) {
                                    const model::LoraTensor& tensor = *full.tensor;
                                    for (index_t m = 0; m < tensor.count(); ++m) {
                                        if (tensor.rank_of(m) == 0) continue;
                                        core::Matrix<float> expected(tensor.peft_rows(m), tensor.peft_cols(m));
                                        reference->read<float>(tensor.peft_name(m), expected);
                                        double error = 0;
                                        double norm = 0;
                                        for (std::size_t i = 0; i < expected.size(); ++i) {
                                            const double e = expected.data()[i];
                                            const double difference = static_cast<double>(full.matrix(m).data()[i]) - e;
                                            error += difference * difference;
                                            norm += e * e;
                                        }
                                        squares.emplace_back(error, norm);
                                    }
                                });
    double error = 0;
    double norm = 0;
    for (const auto& [e, n] : squares) {
        error += e;
        norm += n;
    }
    std::array<double, 2> errors = {std::sqrt(error / norm), 0};
    for (const auto& [e, n] : squares) {
        // A tensor that is a millionth of the whole, or zero, is compared with that millionth.
        errors[1] = std::max(errors[1], std::sqrt(e / std::max(n, 1e-12 * norm)));
    }
    runtime.world.broadcast(std::span<double>(errors));
    return {errors[0], errors[1]};
}

/// Collective. Returns whether all quantities are within their bounds.
template <class T>
bool verify(const Runtime& runtime, const ReferenceCase& reference) {
    constexpr bool fp32 = std::is_same_v<T, float>;
    const std::string path = reference.folder.string();
    train::ModelOptions model;
    model.path = path;
    const model::Architecture architecture = read_architecture(runtime, model);
    const train::Dataset data = train::load_dataset(runtime.world, reference.folder / "train.jsonl",
                                                    architecture.vocabulary, std::numeric_limits<index_t>::max());
    model::LoraSettings lora;
    runtime.world.agree([&] { lora = train::read_adapter_settings(reference.folder / "adapter_init", architecture); });
    const auto decoder =
        load_model<T>(runtime, architecture, model,
                      {.lora = lora, .max_tokens = data.largest_sum(reference.batch_size)}, Purpose::training);
    runtime.world.agree([&] {
        train::load_adapter(reference.folder / "adapter_init", architecture, decoder->lora());
        decoder->update_lora();
    });
    train::ShardedAdamW optimizer(decoder->lora(), runtime.kernels, runtime.grid, reference.adamw);
    mpi::GradientCoordinator coordinator(runtime.world, {reference.max_gradient_norm, 0, 0});
    train::Batches batches(data, {reference.batch_size, 0, false, 0}, runtime.world.rank(), runtime.world.size());
    train::Trainer<T> trainer({*decoder, runtime.kernels, runtime.grid, optimizer, coordinator, batches,
                               reference.schedule, [] { return false; }});
    const double loss_bound = bound(fp32, reference.bf16_loss_error);

    Table table(runtime.world, fmt::format("{} {} on {} ranks, {}", path, fp32 ? "fp32" : "bf16", runtime.world.size(),
                                           runtime.kernels.gemm_name<T>()));
    const auto losses = [&] {
        return train::evaluate<T>(*decoder, runtime.kernels, runtime.grid, data, reference.batch_size).batch_losses;
    };
    table.add("eval_loss", largest_relative_error(losses(), reference.eval_losses), loss_bound);
    const double label_error =
        largest_relative_error(train::target_log_probabilities<T>(*decoder, runtime.kernels, runtime.grid, data, 0),
                               reference.log_probabilities);
    if (fp32) {
        table.add("label_log_probabilities", label_error, bound(fp32, 0));
    } else {  // single tokens depend on which experts a rounding error chooses, and the case has no BF16 figure
        table.note("label_log_probabilities", label_error);
    }

    std::vector<double> train_losses;
    std::vector<double> gradient_norms;
    for (std::size_t step = 0; step < reference.train_losses.size(); ++step) {
        const mpi::StepReport report = trainer.compute_gradients();
        if (step == 0) {
            const GradientErrors errors =
                compare_gradients(runtime, decoder->lora(), optimizer, reference.folder / "grads_step0.safetensors");
            table.add("gradients_step0", errors.all, bound(fp32, reference.bf16_gradient_error));
            if (fp32) {
                table.add("gradients_step0_worst_tensor", errors.worst_tensor, bound(fp32, 0));
            }
        }
        const train::StepResult result = trainer.update(report);
        train_losses.push_back(result.decision.loss);
        gradient_norms.push_back(result.decision.gradient_norm);
    }
    table.add("train_loss", largest_relative_error(train_losses, reference.train_losses), loss_bound);
    const double worst_norm_error = largest_relative_error(gradient_norms, reference.gradient_norms);
    if (fp32) {
        table.add("grad_norm", worst_norm_error, bound(fp32, 0));
    } else {
        // Single steps jump when a rounding error sends a token to another expert, in PyTorch too: the norms of all
        // steps are compared as one vector, and the worst step is shown beside it.
        table.add("grad_norm", relative_norm_of_error(gradient_norms, reference.gradient_norms),
                  bound(fp32, reference.bf16_norm_error));
        table.note("grad_norm_worst_step", worst_norm_error);
    }
    table.add("final_eval_loss", largest_relative_error(losses(), reference.final_eval_losses), loss_bound);
    return !table.failed();
}

}  // namespace

ExitCode run_verify(const mpi::Communicator& world, Arguments arguments) {
    train::ParallelOptions parallel;
    train::ComputeOptions compute;
    compute.precision = "both";
    core::OptionSet options;
    parallel.declare(options);
    options.add("compute.precision", compute.precision, "fp32, bf16 or both", core::one_of({"fp32", "bf16", "both"}));
    compute.declare_isa(options);
    if (asks_for_help(arguments)) {
        print_help(world, "verify", options.help());
        return ExitCode::success;
    }
    const std::vector<std::string> folders = parse(world, options, arguments, false);
    world.agree([&] {
        core::require(!folders.empty(), ExitCode::usage,
                      "no case given (a case is a folder with expected.json); write "
                      "moesaic verify FOLDER...");
    });
    bool passed = true;
    for (const std::string& precision : {std::string("fp32"), std::string("bf16")}) {
        if (compute.precision != "both" && compute.precision != precision) {
            continue;
        }
        train::ComputeOptions one = compute;
        one.precision = precision;
        const Runtime runtime(world, parallel, one);
        for (const std::string& folder : folders) {
            ReferenceCase reference;
            world.agree([&] { reference = read_case(folder); });
            passed &=
                with_precision(precision, [&](auto scalar) { return verify<decltype(scalar)>(runtime, reference); });
        }
    }
    print(world, passed ? "all quantities PASS\n" : "some quantities FAIL\n");
    return passed ? ExitCode::success : ExitCode::verification_failed;
}

}  // namespace moesaic::app
