// What a training run measured, from its metrics.jsonl.
#pragma once

#include "report/chart.hpp"

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace moesaic::report {

/// An optimizer step. NaN: what was not finite.
struct Step {
    double step = 0;
    double loss = 0;  ///< nats per target token, before the update
    double gradient_norm = 0;
    double learning_rate = 0;
    double tokens_per_second = 0;
    double expert_load_ratio = 0;
    double unused_experts = 0;
    bool skipped = false;
    std::optional<double> auxiliary_loss = {};
    std::optional<double> slowest_rank = {};  ///< with several ranks
    double slowness = 0;                      ///< of that rank
};

struct Evaluation {
    double step = 0;
    double loss = 0;    ///< nats per target token
    double exact = 0;   ///< percent of answers
    double tokens = 0;  ///< target tokens
};

struct Metrics {
    std::vector<Step> steps;
    std::vector<Evaluation> evaluations;
    std::vector<std::string> damage;  ///< lines that could not be read and are left out, as errors that name them
};

/// Nothing where there is no file. A last line that its writer did not finish is left out in silence.
[[nodiscard]] Metrics read_metrics(const std::filesystem::path& file);

/// The axis of numbers of steps.
[[nodiscard]] Axis step_axis();
/// A quantity of the steps.
[[nodiscard]] Series series_of(const std::string& name, const std::vector<Step>& steps, double Step::*value);
/// Training loss: of every batch, and of enough steps also the mean of the last ones, which shows where it goes. `name`
/// begins the names of the series.
[[nodiscard]] std::vector<Series> training_loss_of(const Metrics& metrics, const std::string& name);
/// The same as the clearer of both alone.
[[nodiscard]] Series smooth_training_loss_of(const Metrics& metrics, const std::string& name);
[[nodiscard]] Series evaluation_loss_of(const Metrics& metrics, const std::string& name);

}  // namespace moesaic::report
