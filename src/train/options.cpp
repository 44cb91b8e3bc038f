#include "train/options.hpp"

#include "core/error.hpp"
#include "kernels/isa.hpp"
#include "model/weights/synthetic.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <sstream>
#include <vector>

namespace moesaic::train {
namespace {

using core::at_least;
using core::auto_or_within;
using core::integer_within;
using core::one_of;
using core::positive;
using core::within;

/// Seconds of "SS", "MM:SS", "HH:MM:SS" or "D-HH:MM:SS" (the notation of Slurm's --time with seconds); -1 if it is
/// none.
double parse_duration(const std::string& text) {
    std::string clock = text;
    double days = 0;
    const auto read = [](const std::string& digits, double& value) {
        const char* end = digits.data() + digits.size();
        const auto [stop, error] = std::from_chars(digits.data(), end, value);
        return error == std::errc() && stop == end && value >= 0;
    };
    if (const auto dash = text.find('-'); dash != std::string::npos) {
        if (!read(text.substr(0, dash), days)) {
            return -1;
        }
        clock = text.substr(dash + 1);
    }
    double seconds = 0;
    int fields = 0;
    std::istringstream stream(clock);
    for (std::string field; std::getline(stream, field, ':'); ++fields) {
        double value = 0;
        if (!read(field, value)) {
            return -1;
        }
        seconds = seconds * 60 + value;
    }
    return fields >= 1 && fields <= 3 ? seconds + days * 86400 : -1;
}

/// The targets in a list with commas; empty if one of them is none.
std::set<model::LoraTarget> parse_targets(const std::string& text) {
    std::set<model::LoraTarget> targets;
    std::istringstream names(text);
    for (std::string name; std::getline(names, name, ',');) {
        const auto* const found = std::find(model::lora_target_names.begin(), model::lora_target_names.end(), name);
        if (found == model::lora_target_names.end()) {
            return {};
        }
        targets.insert(static_cast<model::LoraTarget>(found - model::lora_target_names.begin()));
    }
    return targets;
}

}  // namespace

void ModelOptions::declare(core::OptionSet& set) {
    set.add("model.path", path, "folder of a Hugging Face checkpoint: config.json and *.safetensors");
    set.add(
        "model.synthetic", synthetic,
        fmt::format("instead of a path: random weights in the sizes of {}", fmt::join(model::synthetic_names(), ", ")));
    set.add("model.layers", layers, "use the first layers only, for benchmarks; 0: all", at_least(0));
}

void LoraOptions::declare(core::OptionSet& set) {
    set.add("lora.rank", rank, "rank of the adapters", at_least(1));
    set.add("lora.alpha", alpha, "adapters are scaled by alpha / rank", positive());
    set.add<std::string>("lora.targets", targets, "what is adapted: a list of experts, attention, shared, dense",
                         [](const std::string& text) {
                             return parse_targets(text).empty()
                                        ? std::string("must be a list of experts, attention, shared, dense")
                                        : std::string();
                         });
    set.add("lora.rslora", rslora, "scale by alpha / sqrt(rank) instead");
    set.add("lora.dropout", dropout, "probability with which elements of the adapters' inputs are zeroed in training",
            within(0, 0.99));
    set.add("lora.rank_pattern", rank_pattern,
            "other ranks for some modules, as PEFT's rank_pattern: PATTERN=RANK,... where a pattern is a regular "
            "expression for the last parts of names");
    set.add("lora.alpha_pattern", alpha_pattern, "the same for alpha");
    set.add("lora.init", init, "folder of a PEFT adapter to start from; it decides what is adapted and how");
}

model::LoraSettings LoraOptions::settings(const model::Architecture& architecture) const {
    model::LoraSettings settings;
    if (init.empty()) {
        settings.rank = rank;
        settings.alpha = alpha;
        settings.rank_stabilised = rslora;
        settings.targets = parse_targets(targets);
        settings.rank_pattern = model::ModulePatterns::parse("lora.rank_pattern", rank_pattern);
        settings.alpha_pattern = model::ModulePatterns::parse("lora.alpha_pattern", alpha_pattern);
    } else {
        const LoraOptions defaults;
        settings = read_adapter_settings(init, architecture);
        const auto check = [&](const char* key, bool agrees) {
            core::require(agrees, core::ExitCode::usage,
                          "{} contradicts the adapter {} (which decides what is adapted and how); remove it, or "
                          "lora.init",
                          key, init);
        };
        check("lora.rank", rank == defaults.rank || rank == settings.rank);
        check("lora.alpha", alpha == defaults.alpha || alpha == settings.alpha);
        check("lora.rslora", !rslora || settings.rank_stabilised);
        check("lora.targets", targets == defaults.targets);
        check("lora.rank_pattern", rank_pattern.empty());
        check("lora.alpha_pattern", alpha_pattern.empty());
    }
    settings.dropout = dropout;
    return settings;
}

void DataOptions::declare_train(core::OptionSet& set) {
    set.add("data.train", train, "JSON lines with input_ids and labels to train on");
    set.add("data.shuffle", shuffle, "a new order every epoch; otherwise file order, wrapping around at the end");
}

void DataOptions::declare_eval(core::OptionSet& set) {
    set.add("data.eval", eval, "JSON lines with input_ids and labels to evaluate on");
    set.add("data.max_length", max_length, "longer sequences are cut to this many tokens", at_least(2));
}

void TrainOptions::declare(core::OptionSet& set) {
    set.add("train.epochs", epochs, "passes over the data, unless train.steps is set", at_least(1));
    set.add("train.steps", steps, "optimizer steps; 0: as many as train.epochs needs", at_least(0));
    declare_batch_size(set);
    set.add("train.micro_batch", micro_batch, "sequences per rank and pass; 0: all of a step at once", at_least(0));
    set.add("train.lr", learning_rate, "learning rate of AdamW", within(0, 1e3));
    set.add("train.schedule", schedule, "constant, linear or cosine", one_of({"constant", "linear", "cosine"}));
    set.add("train.warmup_steps", warmup_steps, "steps in which the learning rate rises from 0", at_least(0));
    set.add("train.weight_decay", weight_decay, "decoupled weight decay", within(0, 1e3));
    set.add("train.beta1", beta1, "decay of the first moment", within(0, 0.999999999));
    set.add("train.beta2", beta2, "decay of the second moment", within(0, 0.999999999));
    set.add("train.eps", epsilon, "added to the root of the second moment", positive());
    set.add("train.max_grad_norm", max_gradient_norm, "clip the gradients' global norm to this; 0: no clipping",
            within(0, 1e30));
    set.add("train.seed", seed, "of initial LoRA factors and data order", at_least(0));
    set.add("train.eval_every", eval_every, "evaluate every so many steps besides start and end; 0: never",
            at_least(0));
    set.add("train.save_every", save_every, "checkpoint every so many steps besides the end; 0: never", at_least(0));
    set.add("train.router_aux_coef", router_aux_coefficient,
            "factor on the routers' auxiliary loss, which is added to the loss; 0: without it", within(0, 1e3));
    set.add("train.activations", activations,
            "retain: keep gate and up of each layer for backward; recompute: less memory, more work",
            one_of({"retain", "recompute"}));
}

void TrainOptions::declare_batch_size(core::OptionSet& set) {
    set.add("train.batch_size", batch_size, "sequences per optimizer step, all ranks together", at_least(1));
}

void ParallelOptions::declare(core::OptionSet& set) {
    declare_grid(set);
    set.add("parallel.threads", threads, "threads per rank; auto: one per physical core of the rank",
            auto_or_within(1, most_threads));
}

void ParallelOptions::declare_topology(core::OptionSet& set) {
    set.add("topology", topology,
            "plan for another host: a file of lstopo (.xml), or hwloc's synthetic form such as \"numa:2 core:8 pu:2\"");
}

void ParallelOptions::declare_grid(core::OptionSet& set) {
    set.add("parallel.tensor", tensor, "ranks that share each expert's intermediate dimension; auto: ranks per node",
            auto_or_within(1, most_ranks));
    set.add("parallel.expert", expert, "groups of such ranks that hold different experts",
            integer_within(1, most_ranks));
    set.add("parallel.data", data, "replicas of all experts; auto: all remaining ranks", auto_or_within(1, most_ranks));
}

void ParallelOptions::declare_chunks(core::OptionSet& set) {
    set.add(
        "parallel.chunks", chunks,
        "parts in which rows travel to experts, which compute one while others travel; auto: up to 4 between hosts, "
        "1 within a host",
        auto_or_within(1, 64));
}

void ComputeOptions::declare(core::OptionSet& set) {
    set.add("compute.precision", precision, "bf16, or fp32 for reference runs", one_of({"bf16", "fp32"}));
    declare_isa(set);
}

void ComputeOptions::declare_isa(core::OptionSet& set) {
    const std::vector<std::string> choices = kernels::choices();
    set.add("compute.isa", isa,
            fmt::format("{} or {}", fmt::join(choices.begin(), choices.end() - 1, ", "), choices.back()),
            one_of(choices));
}

void OutputOptions::declare(core::OptionSet& set) {
    set.add("output.dir", directory, "folder for metrics, checkpoints, adapter, trace and report");
    set.add("output.trace", trace, "record and write trace.json");
    set.add("output.adapter_layout", adapter_layout,
            "per-expert: a pair of factors for each expert's projection; fused: as PEFT adapts fused experts",
            one_of({"per-expert", "fused"}));
    set.add("output.checkpoint_keep", checkpoint_keep, "newest checkpoints to keep", at_least(1));
    set.add("output.resume", resume, "auto: from the latest checkpoint in output.dir; never; or a checkpoint file");
    declare_watchdog(set);
    set.add<std::string>("output.walltime", wall_time,
                         "stop at a checkpoint before this time is over (seconds, MM:SS, HH:MM:SS or D-HH:MM:SS)",
                         [](const std::string& text) {
                             return text.empty() || parse_duration(text) > 0 ? std::string()
                                                                             : std::string("is no duration");
                         });
}

void OutputOptions::declare_watchdog(core::OptionSet& set) {
    set.add("output.watchdog", watchdog, "seconds that a rank may wait for others before the job ends; 0: for ever",
            within(0, 1e9));
}

double OutputOptions::wall_time_seconds() const {
    return wall_time.empty() ? 0 : parse_duration(wall_time);
}

}  // namespace moesaic::train
