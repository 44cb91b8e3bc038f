#include "train/pass_size.hpp"

#include "core/counted.hpp"
#include "core/enumeration.hpp"
#include "core/units.hpp"
#include "train/batches.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <optional>
#include <type_traits>
#include <utility>

namespace moesaic::train {
namespace {

/// Formats that weights are rounded to where they are too many, the closest first.
constexpr std::array rounded_formats = {ops::WeightChoice::int8, ops::WeightChoice::int4};

/// Looks for choices that need no more than some bytes.
class Search {
public:
    Search(const PlanOfPasses& plan, const PassOptions& options, double bytes)
        : plan_(plan), options_(options), bytes_(bytes) {}

    [[nodiscard]] bool fits(const PassChoice& choice) const { return plan_(choice).total() <= bytes_; }

    /// `choice` with the largest part of a rank's sequences, by halves, that fits; nothing if one is too much.
    [[nodiscard]] std::optional<PassChoice> with_fewer_sequences(PassChoice choice) const {
        index_t& sequences = choice.micro_batch;
        const index_t all = sequences > 0 ? sequences : options_.most_of_rank(choice.grid.ranks());
        for (sequences = all; sequences > 1;) {
            sequences = (sequences + 1) / 2;
            if (fits(choice)) {
                return choice;
            }
        }
        return std::nullopt;
    }

    /// `choice`, or the same in other passes; nothing if none of them fits.
    [[nodiscard]] std::optional<PassChoice> in_passes_that_fit(PassChoice choice) const {
        const ops::Activations asked = choice.activations;
        for (const ops::Activations activations : core::values_of<ops::Activations>()) {
            if (activations < asked) {
                continue;  // needs more
            }
            choice.activations = activations;
            if (fits(choice)) {
                return choice;
            }
            if (const auto smaller = with_fewer_sequences(choice)) {
                return smaller;
            }
        }
        return std::nullopt;
    }

    /// Replicated weights held once by the ranks of a host, if there are several.
    [[nodiscard]] std::optional<PassChoice> once_per_host() const {
        PassChoice choice = options_.wanted;
        choice.share = model::WeightSharing::host;
        return plan_(choice).total() < plan_(options_.wanted).total() ? in_passes_that_fit(choice) : std::nullopt;
    }

    /// Experts shared by more groups of as many ranks, which the replicas make that are there.
    [[nodiscard]] std::optional<PassChoice> on_the_same_ranks() const {
        PassChoice choice = options_.wanted;
        const index_t groups = choice.grid.data * choice.grid.expert;
        for (index_t expert = choice.grid.expert + 1; expert <= std::min(groups, options_.experts); ++expert) {
            if (groups % expert == 0) {
                choice.grid.expert = expert;
                choice.grid.data = groups / expert;
                if (const auto found = in_passes_that_fit(choice)) {
                    return found;
                }
            }
        }
        return std::nullopt;
    }

    [[nodiscard]] std::optional<PassChoice> in_fewer_bits() const {
        PassChoice choice = options_.wanted;
        for (const ops::WeightChoice weights : rounded_formats) {
            if (options_.integers && weights == ops::WeightChoice::int8) {
                continue;  // they are in INT8
            }
            choice.weights = weights;
            if (const auto found = in_passes_that_fit(choice)) {
                return found;
            }
        }
        return std::nullopt;
    }

    /// A single replica on the fewest ranks, more than there are.
    [[nodiscard]] std::optional<PassChoice> on_more_ranks(ops::WeightChoice weights) const {
        PassChoice choice = options_.wanted;
        choice.weights = weights;
        choice.grid.data = 1;
        for (index_t expert = 2; expert <= options_.experts; expert *= 2) {
            choice.grid.expert = expert;
            if (choice.grid.ranks() <= options_.wanted.grid.ranks() || choice.grid.ranks() > mpi::most_ranks) {
                continue;
            }
            if (const auto found = in_passes_that_fit(choice)) {
                return found;
            }
        }
        return std::nullopt;
    }

    [[nodiscard]] Suggestion describe(const PassChoice& choice) const {
        const PassChoice& now = options_.wanted;
        std::vector<std::string> changes;
        const auto add = [&](std::string_view key, const auto& value, const auto& before) {
            if (value != before) {
                if constexpr (std::is_enum_v<std::decay_t<decltype(value)>>) {
                    changes.push_back(fmt::format("--{} {}", key, core::name_of(value)));
                } else {
                    changes.push_back(fmt::format("--{} {}", key, value));
                }
            }
        };
        add("model.share", choice.share, now.share);
        add("model.weights", choice.weights, now.weights);
        if (options_.integers && choice.weights != now.weights) {
            changes.emplace_back("--compute.experts auto");
        }
        add("parallel.expert", choice.grid.expert, now.grid.expert);
        add("parallel.data", choice.grid.data, now.grid.data);
        add(options_.activations_key, choice.activations, now.activations);
        if (now.micro_batch > 0) {  // otherwise it is found anyway
            add(options_.micro_batch_key, choice.micro_batch, now.micro_batch);
        }
        const index_t ranks = choice.grid.ranks();
        return {fmt::format("{}", fmt::join(changes, " ")), plan_(choice).total(),
                ranks > now.grid.ranks() ? ranks : 0};
    }

private:
    const PlanOfPasses& plan_;
    const PassOptions& options_;
    double bytes_;
};

}  // namespace

PassPlanner::PassPlanner(model::Architecture as_stored, model::DecoderSettings settings, const MemoryRequest& request)
    : as_stored_(std::move(as_stored)), settings_(std::move(settings)), request_(request) {}

MemoryPlan PassPlanner::plan(const PassChoice& choice, const PassSize& pass) {
    const mpi::GridShape& grid = choice.grid;
    const std::tuple key(choice.activations, choice.share, grid.data, grid.expert, grid.tensor);
    auto found = planners_.find(key);
    if (found == planners_.end()) {
        settings_.activations = choice.activations;
        request_.set_grid(grid);
        request_.share = choice.share;
        found = planners_.emplace(key, MemoryPlanner(as_stored_, settings_, request_)).first;
    }
    return found->second.plan(pass, ops::chosen_format(choice.weights));
}

index_t PassOptions::most_of_rank(index_t ranks) const {
    return BatchSettings{.batch_size = batch_size}.most_of_rank(ranks);
}

index_t choose_micro_batch(const PlanOfPasses& plan, const PassOptions& options, double bytes) {
    const Search search(plan, options, bytes);
    const PassChoice& wanted = options.wanted;
    if (wanted.micro_batch > 0 || options.most_of_rank(wanted.grid.ranks()) == 1 || search.fits(wanted)) {
        return wanted.micro_batch;
    }
    const auto smaller = search.with_fewer_sequences(wanted);
    return smaller ? smaller->micro_batch : 1;
}

std::string Suggestion::describe(index_t node_ranks) const {
    return fmt::format("{} ({:.1f} GiB per rank{})", options, bytes / core::gibibyte,
                       ranks == 0 ? ""
                                  : fmt::format(", {} on {}", core::counted(ranks, "rank"),
                                                core::counted((ranks + node_ranks - 1) / node_ranks, "host")));
}

std::vector<Suggestion> suggest(const PlanOfPasses& plan, const PassOptions& options, double bytes) {
    const Search search(plan, options, bytes);
    std::vector<Suggestion> suggestions;
    const auto add = [&](const std::optional<PassChoice>& found) {
        if (found) {
            suggestions.push_back(search.describe(*found));
        }
    };
    add(search.in_passes_that_fit(options.wanted));
    add(search.once_per_host());
    add(search.on_the_same_ranks());
    const auto rounded = search.in_fewer_bits();
    add(rounded);
    const auto more = search.on_more_ranks(options.wanted.weights);
    if (!rounded) {
        const auto both = search.on_more_ranks(rounded_formats.back());
        add(both && (!more || both->grid.ranks() < more->grid.ranks()) ? both : std::nullopt);
    }
    add(more);
    return suggestions;
}

std::string advice(const std::vector<Suggestion>& suggestions, index_t node_ranks) {
    std::vector<std::string> texts;
    for (const Suggestion& suggestion : suggestions) {
        texts.push_back(suggestion.describe(node_ranks));
    }
    return texts.empty() ? std::string() : fmt::format("try {}", fmt::join(texts, ", or "));
}

PassChoice fit_passes(const Ranks& ranks, const std::string& model, const PlanOfPasses& plan,
                      const PassOptions& options) {
    const auto bytes = static_cast<double>(ranks.world.min(ranks.memory_bytes()));
    PassChoice choice = options.wanted;
    choice.micro_batch = choose_micro_batch(plan, options, bytes);
    const double needed = plan(choice).total();
    if (needed > bytes) {
        const index_t node_ranks = ranks.placement.node_ranks;
        const std::string help = advice(suggest(plan, options, bytes), node_ranks);
        ranks.world.agree([&] { require_memory(ranks.placement, node_ranks, model, needed, help); });
    }
    return choice;
}

}  // namespace moesaic::train
