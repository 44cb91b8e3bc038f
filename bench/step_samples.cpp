#include "bench/step_samples.hpp"

#include <fmt/format.h>

#include <array>
#include <string>

namespace moesaic::bench {

std::vector<double> StepSamples::of_each(const std::function<double(std::size_t)>& value) const {
    std::vector<double> values;
    for (std::size_t i = 0; i < seconds.slowest.size(); ++i) {
        values.push_back(value(i));
    }
    return values;
}

void StepSamples::report_ranks(Console& console) const {
    if (!console.world().is_root()) {
        return;
    }
    struct Column {
        const char* label;
        const char* figure;  ///< or null
        double (*percent)(const measure::RankSteps&);
    };
    const std::array columns = {
        Column{"computing", nullptr, [](const measure::RankSteps& s) { return 100 * s.computing() / s.total; }},
        Column{"transfer", "step_transfer", [](const measure::RankSteps& s) { return 100 * s.transfer / s.total; }},
        Column{"waiting", "step_waiting", [](const measure::RankSteps& s) { return 100 * s.waiting / s.total; }},
        Column{"exchange", "step_exchange", [](const measure::RankSteps& s) { return 100 * s.exchange / s.total; }},
        Column{"of it hidden", "exchange_hidden",
               [](const measure::RankSteps& s) { return s.exchange > 0 ? 100 * s.hidden / s.exchange : 0; }}};
    std::string table = fmt::format("\n{:<10}", "rank");
    for (const Column& column : columns) {
        table += fmt::format(" {:>13}", column.label);
    }
    const auto ranks = shares.front().size();
    for (std::size_t rank = 0; rank < ranks; ++rank) {
        table += fmt::format("\n  {:<8}", rank);
        for (const Column& column : columns) {
            const auto percent = [&](std::size_t i) { return column.percent(shares[i][rank]); };
            table += fmt::format(" {:>12.1f}%", measure::summarize(of_each(percent)).median);
        }
    }
    console.say(table + "\n");
    for (const Column& column : columns) {
        const auto average = [&](std::size_t i) {
            double sum = 0;
            for (const measure::RankSteps& of_rank : shares[i]) {
                sum += column.percent(of_rank);
            }
            return sum / static_cast<double>(ranks);
        };
        if (column.figure != nullptr) {
            console.add(column.figure, "percent", measure::Better::neither, of_each(average));
        }
    }
    console.add("step_imbalance", "percent", measure::Better::neither,
                of_each([&](std::size_t i) { return measure::imbalance_percent(shares[i]); }));
}

}  // namespace moesaic::bench
