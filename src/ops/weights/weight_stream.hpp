// The order in which a piece of work reads weights, and how far they have been asked for.
#pragma once

#include "ops/blocks.hpp"

#include <algorithm>
#include <cstddef>
#include <vector>

namespace moesaic::ops {

/// Blocks along k of one strip of weights, or of anything else in blocks.
template <class T>
struct BlockRun {
    const T* first = nullptr;
    index_t step = 0;  ///< elements from one block to the next
    index_t blocks = 0;

    [[nodiscard]] const T* block(index_t b) const { return first + b * step; }
};

/// Blocks of a panel when `blocks` are cut into as few equal panels of at most `largest` blocks as possible.
[[nodiscard]] constexpr index_t blocks_of_panel(index_t blocks, index_t largest) {
    const index_t panels = std::max<index_t>(1, (blocks + largest - 1) / largest);
    return std::max<index_t>(1, (blocks + panels - 1) / panels);
}

/// Runs of equal length, each read panel by panel. Belongs to one thread.
template <class T>
class WeightStream {
public:
    static constexpr index_t line_bytes = 64;
    static constexpr index_t block_lines = block_elements * static_cast<index_t>(sizeof(T)) / line_bytes;

    /// Begins with the runs run_at(0), ... run_at(count - 1), in panels of at most `largest_panel` blocks. Later runs
    /// may be shorter than the first by one block. Weights are asked for `panels_ahead` panels before they are
    /// multiplied: one, or two where they are packed one panel ahead.
    template <class RunAt>
    void start(index_t count, index_t largest_panel, index_t panels_ahead, const RunAt& run_at) {
        panels_ahead_ = panels_ahead;
        runs_.clear();
        for (index_t i = 0; i < count; ++i) {
            runs_.push_back(run_at(i));
        }
        const index_t blocks = runs_.front().blocks;
        panel_blocks_ = blocks_of_panel(blocks, largest_panel);
        panels_ = (blocks + panel_blocks_ - 1) / panel_blocks_;
        total_ = count * panels_;
        at_ = 0;
        asked_ = 0;
    }

    [[nodiscard]] index_t panels_per_run() const { return panels_; }
    [[nodiscard]] index_t panel_blocks() const { return panel_blocks_; }
    /// Number of the panel that is to be read now; `finish` goes on to the next.
    [[nodiscard]] index_t now() const { return at_; }
    void finish() {
        ++at_;
        asked_ = std::max(asked_, at_);
    }
    /// Panel `index`, empty beyond the last.
    [[nodiscard]] BlockRun<T> panel(index_t index) const {
        if (index >= total_) {
            return {};
        }
        const BlockRun<T>& run = runs_[static_cast<std::size_t>(index / panels_)];
        const index_t first = index % panels_ * panel_blocks_;
        return {run.block(first), run.step, std::min(panel_blocks_, run.blocks - first)};
    }

    /// The next panel that nobody has asked for, for products to ask for line by line on the side.
    [[nodiscard]] BlockRun<T> take_panel_to_ask_for() {
        return asked_ <= at_ + panels_ahead_ ? panel(asked_++) : BlockRun<T>();
    }
    /// Asks for the first panels at once, for callers that do something else before they read them.
    void ask_for_first_panels() {
        while (asked_ < panels_ahead_) {
            const BlockRun<T> next = panel(asked_++);
            for (index_t b = 0; b < next.blocks; ++b) {
                const auto* block = reinterpret_cast<const char*>(next.block(b));
                for (index_t line = 0; line < block_lines; ++line) {
                    __builtin_prefetch(block + line * line_bytes, 0, 2);
                }
            }
        }
    }

private:
    std::vector<BlockRun<T>> runs_;
    index_t panels_ = 1;  ///< of a run
    index_t panel_blocks_ = 1;
    index_t total_ = 0;
    index_t at_ = 0;
    index_t asked_ = 0;  ///< panels that have been asked for
    index_t panels_ahead_ = 1;
};

}  // namespace moesaic::ops
