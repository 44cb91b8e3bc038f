#include "train/what_fits.hpp"

#include "core/enumeration.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace moesaic::train {
namespace {

index_t most_that_fit(const PlanOfPasses& plan, PassChoice choice, double bytes) {
    const auto fits = [&](index_t sequences) {
        choice.micro_batch = sequences;
        return plan(choice).total() <= bytes;
    };
    index_t most = 0;
    index_t too_many = 1;
    while (too_many <= FitTable::most_sequences && fits(too_many)) {
        most = too_many;
        too_many *= 2;
    }
    too_many = std::min(too_many, FitTable::most_sequences + 1);
    while (too_many - most > 1) {
        const index_t middle = most + (too_many - most) / 2;
        (fits(middle) ? most : too_many) = middle;
    }
    return most;
}

std::string cell(index_t sequences) {
    return sequences == 0                          ? "-"
           : sequences == FitTable::most_sequences ? fmt::format("{}+", sequences)
                                                   : fmt::format("{}", sequences);
}

}  // namespace

std::vector<mpi::GridShape> grids_to_compare(const mpi::GridShape& grid, index_t experts) {
    constexpr index_t most_groups = 8;
    std::vector<mpi::GridShape> grids;
    for (index_t groups = 1; groups <= std::min(most_groups, experts); groups *= 2) {
        grids.push_back({.data = 1, .expert = groups, .tensor = grid.tensor});
    }
    return grids;
}

FitTable what_fits(const PlanOfPasses& plan, const std::vector<mpi::GridShape>& grids, double bytes) {
    FitTable table = {.grids = grids, .rows = {}};
    for (const ops::WeightChoice weights : core::values_of<ops::WeightChoice>()) {
        if (!ops::chosen_format(weights)) {
            continue;
        }
        for (const ops::Activations activations : core::values_of<ops::Activations>()) {
            FitTable::Row& row = table.rows.emplace_back(FitTable::Row{weights, activations, {}});
            for (const mpi::GridShape& grid : grids) {
                row.sequences.push_back(most_that_fit(plan, {1, activations, weights, grid}, bytes));
            }
        }
    }
    return table;
}

std::string describe(const FitTable& table) {
    std::string text = fmt::format("  {:<24}", "ranks");
    const auto end_line = [&] { text += '\n'; };
    for (const mpi::GridShape& grid : table.grids) {
        text += fmt::format("{:>8}", grid.ranks());
    }
    end_line();
    text += fmt::format("  {:<24}", "parallel.expert");
    for (const mpi::GridShape& grid : table.grids) {
        text += fmt::format("{:>8}", grid.expert);
    }
    end_line();
    for (const FitTable::Row& row : table.rows) {
        text += fmt::format("  {:<12}{:<12}", core::name_of(row.weights), core::name_of(row.activations));
        for (const index_t sequences : row.sequences) {
            text += fmt::format("{:>8}", cell(sequences));
        }
        end_line();
    }
    return text;
}

}  // namespace moesaic::train
