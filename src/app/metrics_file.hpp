// metrics.jsonl of a run: a line per step and evaluation.
#pragma once

#include "core/matrix.hpp"
#include "train/evaluation.hpp"

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

namespace moesaic::app {

using core::index_t;

/// Of the steps of all sessions of a run.
struct MetricsSums {
    std::int64_t tokens = 0;
    double seconds = 0;

    [[nodiscard]] double tokens_per_second() const { return seconds > 0 ? static_cast<double>(tokens) / seconds : 0; }
};

class MetricsFile {
public:
    /// Keeps the lines of an older file up to and including `last_step`, because a run that is resumed there computes
    /// the later ones again; of step 0 only for a run that is resumed at all. Damaged lines are dropped and counted.
    MetricsFile(std::filesystem::path file, index_t last_step, bool resumed);

    void write(const nlohmann::ordered_json& line);

    /// What lines say, kept ones and those that were written.
    [[nodiscard]] const MetricsSums& sums() const noexcept { return sums_; }
    [[nodiscard]] const train::EvaluationHistory& evaluations() const noexcept { return evaluations_; }
    [[nodiscard]] index_t damaged_lines() const noexcept { return damaged_lines_; }

private:
    /// Adds what a line says. Returns false, and adds nothing, if it is of a later step; throws if it is damaged.
    bool take(const nlohmann::json& line, index_t last_step);

    struct Close {
        void operator()(std::FILE* stream) const { std::fclose(stream); }
    };

    std::filesystem::path file_;
    std::unique_ptr<std::FILE, Close> stream_;
    MetricsSums sums_;
    train::EvaluationHistory evaluations_;
    index_t damaged_lines_ = 0;
};

}  // namespace moesaic::app
