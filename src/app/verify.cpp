// moesaic verify: runs reference cases, which were computed with PyTorch, and compares every quantity.
#include "app/command.hpp"
#include "app/reference_case.hpp"
#include "core/counted.hpp"
#include "core/enumeration.hpp"
#include "core/error.hpp"
#include "train/adapter_store.hpp"
#include "train/evaluation.hpp"
#include "train/grid_choice.hpp"
#include "train/session.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <limits>

namespace moesaic::app {
namespace {

using core::ExitCode;

/// FP32 must agree to this.
constexpr double fp32_bound = 1e-4;

/// BF16 may be 1.5 times as far from FP32 as PyTorch's own is, or 1 %.
double bf16_bound(std::optional<double> error_of_pytorch) {
    return std::max(1.5 * error_of_pytorch.value_or(0), 0.01);
}

enum class VerifiedPrecision : std::uint8_t { fp32, bf16, bf16x2, both, all };
constexpr auto names_of(VerifiedPrecision) {
    return std::to_array<std::string_view>({"fp32", "bf16", "bf16x2", "both", "all"});
}

std::vector<kernels::Precision> precisions_of(VerifiedPrecision verified) {
    switch (verified) {
        case VerifiedPrecision::fp32:
            return {kernels::Precision::fp32};
        case VerifiedPrecision::bf16:
            return {kernels::Precision::bf16};
        case VerifiedPrecision::bf16x2:
            return {kernels::Precision::bf16x2};
        case VerifiedPrecision::all:
            return {kernels::Precision::fp32, kernels::Precision::bf16, kernels::Precision::bf16x2};
        case VerifiedPrecision::both:
            break;
    }
    return {kernels::Precision::fp32, kernels::ComputeSettings().precision};
}

class Table {
public:
    Table(const mpi::Communicator& world, const std::string& title) : world_(world) {
        print(world_, fmt::format("{}\n  {:<36} {:>10} {:>10}\n", title, "quantity", "error", "bound"));
    }
    void add(const std::string& quantity, double error, double bound) {
        const bool pass = error <= bound;  // false for NaN
        failed_ = failed_ || !pass;
        print(world_,
              fmt::format("  {:<36} {:>10.3e} {:>10.3e}  {}\n", quantity, error, bound, pass ? "PASS" : "FAIL"));
    }
    /// A figure without a verdict: the reference says nothing that could bound it.
    void note(const std::string& quantity, double error) {
        print(world_, fmt::format("  {:<36} {:>10.3e} {:>10}  for information\n", quantity, error, "-"));
    }
    [[nodiscard]] bool failed() const { return failed_; }

private:
    const mpi::Communicator& world_;
    bool failed_ = false;
};

/// Errors of all gradients, relative to the norm of the reference.
struct GradientErrors {
    double all = 0;
    /// Of the worst tensor of each kind, relative to its own norm; negative for kinds that are not adapted.
    std::array<double, core::values_of<model::LoraTarget>().size()> worst_of_target{};
};

/// Squared norms of the error of one tensor and of the reference.
struct TensorError {
    model::LoraTarget target;
    double error = 0;
    double reference = 0;
};

TensorError compare(const train::FullTensor& full, index_t matrix, const io::TensorSource& reference) {
    const model::LoraTensor& tensor = *full.tensor;
    core::Matrix<float> expected(tensor.unpadded_rows(matrix), tensor.unpadded_cols(matrix));
    reference.read<float>(tensor.adapter_name(matrix), expected);
    TensorError result{tensor.target};
    for (index_t row = 0; row < expected.rows(); ++row) {
        for (index_t col = 0; col < expected.cols(); ++col) {
            const double e = expected.view()(row, col);
            const double difference = static_cast<double>(full.matrix(matrix)(row, col)) - e;
            result.error += difference * difference;
            result.reference += e * e;
        }
    }
    return result;
}

/// Collective; the result is the same on all ranks.
template <class Scalar>
GradientErrors compare_gradients(const mpi::Communicator& world, const train::TrainSession<Scalar>& session,
                                 const std::filesystem::path& file) {
    std::unique_ptr<io::TensorSource> reference;
    world.agree([&] { reference = std::make_unique<io::TensorSource>(io::TensorSource::open_file(file)); });
    std::vector<TensorError> tensors;
    session.for_each_gradient([&](const train::FullTensor& full) {
        for (index_t m = 0; m < full.tensor->count(); ++m) {
            if (full.tensor->lora_rank_of(m) > 0) {
                tensors.push_back(compare(full, m, *reference));
            }
        }
    });
    double error = 0;
    double norm = 0;
    for (const TensorError& tensor : tensors) {
        error += tensor.error;
        norm += tensor.reference;
    }
    GradientErrors errors;
    errors.all = std::sqrt(error / norm);
    errors.worst_of_target.fill(-1);
    for (const TensorError& tensor : tensors) {
        // A tensor that is a millionth of the whole, or zero, is compared with that millionth.
        double& worst = errors.worst_of_target[static_cast<std::size_t>(tensor.target)];
        const double own = std::sqrt(tensor.error / std::max(tensor.reference, 1e-12 * norm));
        worst = std::isnan(own) ? std::numeric_limits<double>::infinity() : std::max(worst, own);
    }
    world.broadcast(std::span<double>(&errors.all, 1));
    world.broadcast(std::span<double>(errors.worst_of_target));
    return errors;
}

train::ModelSettings model_of(const ReferenceCase& reference) {
    return {.path = reference.folder.string(), .synthetic = {}};
}

/// Collective.
model::Architecture read_architecture(const mpi::Communicator& world, const ReferenceCase& reference,
                                      const mpi::GridSettings& grid) {
    model::Architecture architecture;
    world.agree([&] {
        architecture = train::read_architecture(model_of(reference), grid, kernels::Precision::bf16);
        train::fit_to_checkpoint(model_of(reference), architecture);
    });
    return architecture;
}

/// What the user may choose for a case.
struct VerifySettings {
    mpi::GridSettings grid;
    model::DecoderSettings decoder;  ///< of it the chunks
};

/// One case in one precision: the program's parts, and the table of what they compute.
template <class Scalar>
class Verification {
public:
    Verification(const train::Ranks& ranks, const ReferenceCase& reference, const VerifySettings& settings);
    /// Collective. Returns whether all quantities are within their bounds.
    bool run();

private:
    static constexpr bool is_fp32 = std::is_same_v<Scalar, float>;

    [[nodiscard]] model::DecoderSettings decoder_settings(const mpi::Communicator& world, index_t chunks) const;
    [[nodiscard]] mpi::GridShape choose_grid(const train::Ranks& ranks, const mpi::GridSettings& wanted) const;
    [[nodiscard]] std::unique_ptr<model::Decoder<Scalar>> load_decoder() const;
    [[nodiscard]] std::vector<double> losses();
    void add_or_note(const std::string& quantity, double error, std::optional<double> error_of_pytorch);
    void check_log_probabilities();
    void check_gradients();
    void check_gradient_norms(const std::vector<double>& norms);

    const ReferenceCase& reference_;
    model::Architecture architecture_;
    train::Dataset data_;
    model::DecoderSettings decoder_;
    train::Runtime runtime_;
    train::TrainSession<Scalar> session_;
    Table table_;
};

template <class Scalar>
std::string_view name_of_precision(const kernels::KernelSet& kernels) {
    using kernels::Precision;
    return core::name_of(sizeof(Scalar) == sizeof(float)        ? Precision::fp32
                         : kernels.operand_parts<Scalar>() == 2 ? Precision::bf16x2
                                                                : Precision::bf16);
}

template <class Scalar>
Verification<Scalar>::Verification(const train::Ranks& ranks, const ReferenceCase& reference,
                                   const VerifySettings& settings)
    : reference_(reference),
      architecture_(read_architecture(ranks.world, reference, settings.grid)),
      data_(train::load_dataset(ranks.world, reference.folder / "train.jsonl", architecture_.vocabulary,
                                std::numeric_limits<index_t>::max())),
      decoder_(decoder_settings(ranks.world, settings.decoder.chunks)),
      runtime_(ranks, choose_grid(ranks, settings.grid)),
      session_(load_decoder(), data_, reference.train, runtime_.kernels, runtime_.grid),
      table_(ranks.world,
             fmt::format("{} {} on {}, {}", reference.folder.string(), name_of_precision<Scalar>(ranks.kernels),
                         core::counted(ranks.world.size(), "rank"), ranks.kernels.gemm_name<Scalar>())) {
    session_.start_from(reference.adapter());
}

template <class Scalar>
model::DecoderSettings Verification<Scalar>::decoder_settings(const mpi::Communicator& world, index_t chunks) const {
    model::LoraSettings lora;
    world.agree([&] { lora = train::read_adapter_settings(reference_.adapter(), architecture_); });
    return {.lora = lora, .max_tokens = data_.largest_sum(reference_.train.batches.batch_size), .chunks = chunks};
}

template <class Scalar>
mpi::GridShape Verification<Scalar>::choose_grid(const train::Ranks& ranks, const mpi::GridSettings& wanted) const {
    train::PassPlanner planner(architecture_, decoder_,
                               train::memory_request(ranks, sizeof(Scalar), train::Purpose::training));
    const index_t batch_size = reference_.train.batches.batch_size;
    train::StepsToCome steps = train::steps_of(ranks);
    steps.batch_size = batch_size;
    steps.sequence_length = data_.mean_length();
    steps.chunks = decoder_.chunks;
    const train::PlanOfPasses plan = [&](const train::PassChoice& choice) {
        return planner.plan(choice, {decoder_.max_tokens, batch_size});
    };
    return train::choose_grid(ranks,
                              {.wanted = wanted,
                               .architecture = architecture_,
                               .lora = decoder_.lora,
                               .steps = steps,
                               .plan = plan,
                               .options = {.wanted = {}, .batch_size = batch_size, .experts = architecture_.experts}},
                              is_fp32 ? kernels::Precision::fp32 : kernels::Precision::bf16);
}

template <class Scalar>
std::unique_ptr<model::Decoder<Scalar>> Verification<Scalar>::load_decoder() const {
    return train::load_model<Scalar>(runtime_, architecture_, model_of(reference_), decoder_, train::Purpose::training);
}

template <class Scalar>
std::vector<double> Verification<Scalar>::losses() {
    return session_.evaluate(data_).batch_losses;
}

/// BF16 has a bound only where the case says how far PyTorch's own is.
template <class Scalar>
void Verification<Scalar>::add_or_note(const std::string& quantity, double error,
                                       std::optional<double> error_of_pytorch) {
    if (is_fp32 || error_of_pytorch) {
        table_.add(quantity, error, is_fp32 ? fp32_bound : bf16_bound(error_of_pytorch));
    } else {
        table_.note(quantity, error);
    }
}

template <class Scalar>
void Verification<Scalar>::check_log_probabilities() {
    const std::vector<double> found =
        train::target_log_probabilities<Scalar>(session_.decoder(), runtime_.kernels, runtime_.grid, data_, 0);
    const double worst = largest_relative_error(found, reference_.fp32.log_probabilities);
    if (is_fp32) {
        table_.add("label_log_probabilities", worst, fp32_bound);
        return;
    }
    // Single tokens jump when a rounding error sends them to another expert, in PyTorch too: all of them are compared
    // as one vector, and the worst is shown beside it. The same goes for gradient norms of single steps. How often that
    // happens in one sequence only PyTorch's own figure can tell.
    add_or_note("label_log_probabilities", relative_norm_of_error(found, reference_.fp32.log_probabilities),
                reference_.bf16.log_probabilities);
    table_.note("label_log_probabilities, worst token", worst);
}

template <class Scalar>
void Verification<Scalar>::check_gradients() {
    const GradientErrors errors =
        compare_gradients(runtime_.world, session_, reference_.folder / "grads_step0.safetensors");
    table_.add("gradients_step0", errors.all, is_fp32 ? fp32_bound : bf16_bound(reference_.bf16.gradients));
    for (std::size_t i = 0; i < errors.worst_of_target.size(); ++i) {
        const double error = errors.worst_of_target[i];
        const std::string quantity =
            fmt::format("gradients_step0, worst of {}", core::name_of(static_cast<model::LoraTarget>(i)));
        if (error >= 0) {
            add_or_note(quantity, error, reference_.bf16.worst_tensor);
        }
    }
}

template <class Scalar>
void Verification<Scalar>::check_gradient_norms(const std::vector<double>& norms) {
    const double worst = largest_relative_error(norms, reference_.fp32.gradient_norms);
    if (is_fp32) {
        table_.add("grad_norm", worst, fp32_bound);
    } else {
        table_.add("grad_norm", relative_norm_of_error(norms, reference_.fp32.gradient_norms),
                   bf16_bound(reference_.bf16.gradient_norms));
        table_.note("grad_norm, worst step", worst);
    }
}

template <class Scalar>
bool Verification<Scalar>::run() {
    const double loss_bound = is_fp32 ? fp32_bound : bf16_bound(reference_.bf16.loss);
    table_.add("eval_loss", largest_relative_error(losses(), reference_.fp32.eval_losses), loss_bound);
    check_log_probabilities();
    std::vector<double> train_losses;
    std::vector<double> norms;
    for (std::size_t step = 0; step < reference_.fp32.train_losses.size(); ++step) {
        const train::StepSummary summary = session_.compute_gradients();
        if (step == 0) {
            check_gradients();
        }
        const train::StepResult result = session_.update(summary);
        train_losses.push_back(result.decision.loss);
        norms.push_back(result.decision.gradient_norm);
    }
    table_.add("train_loss", largest_relative_error(train_losses, reference_.fp32.train_losses), loss_bound);
    check_gradient_norms(norms);
    table_.add("final_eval_loss", largest_relative_error(losses(), reference_.fp32.final_eval_losses), loss_bound);
    if (reference_.closest_choice) {  // tells errors from rounding that sent a token elsewhere
        table_.note("difference of the closest scores", *reference_.closest_choice);
    }
    return !table_.failed();
}

}  // namespace

ExitCode run_verify(const mpi::Communicator& world, Arguments arguments) {
    VerifySettings settings;
    mpi::PlaceSettings place;
    VerifiedPrecision verified = VerifiedPrecision::both;
    kernels::ComputeSettings compute;
    core::OptionSet options;
    options.add_enum(
        "compute.precision", verified,
        "precision to verify: fp32, bf16 or bf16x2; both: fp32 and bf16x2, the default of training; all: all three");
    compute.declare_isa(options);
    settings.grid.declare(options);
    place.declare(options);
    settings.decoder.declare_chunks(options);
    if (asks_for_help(arguments)) {
        print_help(world, "verify", options);
        return ExitCode::success;
    }
    const std::vector<std::string> folders = parse(world, options, arguments, false);
    world.agree([&] {
        core::require(!folders.empty(), ExitCode::usage,
                      "no case given (a case is a folder with expected.json); write "
                      "moesaic verify FOLDER...");
    });
    bool passed = true;
    for (const kernels::Precision precision : precisions_of(verified)) {
        compute.precision = precision;
        const bool is_first = precision == precisions_of(verified).front();
        const train::Ranks ranks(world, place, compute, is_first);
        for (const std::string& folder : folders) {
            ReferenceCase reference;
            world.agree([&] { reference = read_case(folder); });
            passed &= kernels::with_precision(precision, [&](auto scalar) {
                return Verification<decltype(scalar)>(ranks, reference, settings).run();
            });
        }
    }
    print(world, passed ? "all quantities PASS\n" : "some quantities FAIL\n");
    return passed ? ExitCode::success : ExitCode::verification_failed;
}

}  // namespace moesaic::app
