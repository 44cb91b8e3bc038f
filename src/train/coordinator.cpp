#include "train/coordinator.hpp"

#include "core/trace.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

namespace moesaic::train {
namespace {

using Packed = std::array<double, 7>;  // counts stay exact below 2^53

Packed pack(const StepSummary& summary) {
    return {summary.loss_sum,
            summary.squared_norm,
            static_cast<double>(summary.tokens),
            static_cast<double>(summary.target_tokens),
            summary.finite ? 1.0 : 0.0,
            summary.stop_requested ? 1.0 : 0.0,
            summary.busy_seconds};
}

/// Finds the rank that the others wait for most. busy[r]: seconds of rank r.
void find_slowest(std::vector<double> busy, Decision& decision) {
    const auto slowest = std::max_element(busy.begin(), busy.end());
    decision.slowest_rank = static_cast<std::int32_t>(slowest - busy.begin());
    const double longest = *slowest;
    busy.erase(slowest);
    if (!busy.empty()) {
        const auto middle = busy.begin() + static_cast<std::ptrdiff_t>(busy.size() / 2);
        std::nth_element(busy.begin(), middle, busy.end());
        decision.slowness = *middle > 0 ? longest / *middle : 1;
    }
}

}  // namespace

void CoordinatorSettings::declare_clipping(core::OptionSet& set) {
    set.add("train.max_grad_norm", max_gradient_norm, "clip the gradients' global norm to this; 0: no clipping",
            core::within(0, 1e30))
        .known_as({"gradient_clipping", "grad_clip", "clip_grad", "max_gradient_norm"});
}

void CoordinatorSettings::declare_checkpoints(core::OptionSet& set) {
    set.add("train.save_every", checkpoint_every,
            "steps between checkpoints, besides output.save_minutes and the end; 0: only those", core::at_least(0))
        .known_as({"save_steps", "save_strategy", "save_interval", "checkpointing_steps"},
                  "output.save_minutes has one at times");
}

void CoordinatorSettings::declare_times(core::OptionSet& set) {
    set.add("output.save_minutes", checkpoint_minutes, "minutes between checkpoints; 0: none by time",
            core::within(0, 1e6));
    set.add("output.walltime", wall_time,
            "stop at a checkpoint before this time is over (seconds, MM:SS, HH:MM:SS or D-HH:MM:SS)");
}

GradientCoordinator::GradientCoordinator(const mpi::Communicator& world, const CoordinatorSettings& settings)
    : world_(world),
      settings_(settings),
      start_ns_(core::trace::now_ns()),
      previous_ns_(start_ns_),
      checkpoint_ns_(start_ns_) {}

bool GradientCoordinator::out_of_time() {
    const std::int64_t now = core::trace::now_ns();
    longest_step_ns_ = std::max(longest_step_ns_, now - previous_ns_);
    previous_ns_ = now;
    // Room for one more step and for writing the checkpoint.
    const double needed = static_cast<double>(now - start_ns_ + 2 * longest_step_ns_) * 1e-9;
    return settings_.wall_time.seconds > 0 && needed >= settings_.wall_time.seconds;
}

bool GradientCoordinator::is_checkpoint_due(std::int64_t step) {
    const std::int64_t now = core::trace::now_ns();
    const double minutes = static_cast<double>(now - checkpoint_ns_) / 60e9;
    const bool due = (settings_.checkpoint_every > 0 && step % settings_.checkpoint_every == 0) ||
                     (settings_.checkpoint_minutes > 0 && minutes >= settings_.checkpoint_minutes);
    checkpoint_ns_ = due ? now : checkpoint_ns_;
    return due;
}

Decision GradientCoordinator::decide(const StepSummary& summary, std::int64_t step) {
    const core::trace::Scope scope(core::scopes::coordinator_decide);
    const Packed mine = pack(summary);
    const auto ranks = static_cast<std::size_t>(world_.size());
    std::vector<double> summaries(world_.is_root() ? ranks * mine.size() : 0);
    const std::vector<std::int64_t> counts(ranks, static_cast<std::int64_t>(mine.size()));
    world_.gather_blocks<double>(mine, summaries, counts);

    Decision decision;
    if (world_.is_root()) {
        double loss_sum = 0;
        double squared_norm = 0;
        bool finite = true;
        std::vector<double> busy;
        for (std::size_t r = 0; r < ranks; ++r) {  // in rank order, so that sums repeat
            const double* of_rank = summaries.data() + r * mine.size();
            loss_sum += of_rank[0];
            squared_norm += of_rank[1];
            decision.tokens += static_cast<std::int64_t>(of_rank[2]);
            decision.target_tokens += static_cast<std::int64_t>(of_rank[3]);
            finite = finite && of_rank[4] != 0.0;
            decision.stop = decision.stop || of_rank[5] != 0.0;
            busy.push_back(of_rank[6]);
        }
        find_slowest(std::move(busy), decision);
        decision.stop = decision.stop || out_of_time();
        decision.loss = decision.target_tokens > 0 ? loss_sum / static_cast<double>(decision.target_tokens)
                                                   : std::numeric_limits<double>::quiet_NaN();
        decision.gradient_norm = std::sqrt(squared_norm);
        // Without a target token there is no loss, and an update would only repeat the moments.
        decision.apply = finite && std::isfinite(decision.gradient_norm) && decision.target_tokens > 0;
        if (settings_.max_gradient_norm > 0) {
            // The small term is that of torch.nn.utils.clip_grad_norm_.
            decision.clip_scale = std::min(1.0, settings_.max_gradient_norm / (decision.gradient_norm + 1e-6));
        }
        decision.checkpoint = is_checkpoint_due(step) || decision.stop;
    }
    world_.broadcast(std::span<Decision>(&decision, 1));
    return decision;
}

}  // namespace moesaic::train
