// The order in which a piece of work reads weights, and how far they have been asked for.
#pragma once

#include "ops/weights/packed_weights.hpp"

#include <algorithm>
#include <cstddef>
#include <vector>

namespace moesaic::ops {

/// Blocks of a panel when `blocks` are cut into as few equal panels of at most `largest` blocks as possible.
[[nodiscard]] constexpr index_t blocks_of_panel(index_t blocks, index_t largest) {
    const index_t panels = std::max<index_t>(1, (blocks + largest - 1) / largest);
    return std::max<index_t>(1, (blocks + panels - 1) / panels);
}

/// Longest panels, in blocks: of formats that kernels read in place, and of those that are unpacked or packed; and what
/// all but the last of a run are a multiple of.
struct PanelBlocks {
    index_t in_place;
    index_t unpacked;
    index_t multiple = 1;
};

/// Runs of equal length, each read panel by panel by kernels for activations of type Scalar. Belongs to one thread.
template <class Scalar>
class WeightStream {
public:
    /// Begins with the runs run_at(0), ... run_at(count - 1), in panels of at most `largest` blocks. Later runs
    /// may be shorter than the first by one block. Weights are asked for `panels_ahead` panels before they are
    /// multiplied: one, or two where they are packed one panel ahead; short panels earlier.
    template <class RunAt>
    void start(index_t count, PanelBlocks largest, index_t panels_ahead, const RunAt& run_at) {
        runs_.clear();
        for (index_t i = 0; i < count; ++i) {
            runs_.push_back(run_at(i));
        }
        const index_t blocks = runs_.front().blocks;
        panel_blocks_ = blocks_of_panel(blocks, are_in_place() ? largest.in_place : largest.unpacked);
        panel_blocks_ = (panel_blocks_ + largest.multiple - 1) / largest.multiple * largest.multiple;
        constexpr index_t blocks_ahead = 24;  // of 1 KiB or less; they take a microsecond to unpack
        panels_ahead_ = std::max(panels_ahead, are_in_place() ? 0 : blocks_ahead / panel_blocks_);
        panels_ = (blocks + panel_blocks_ - 1) / panel_blocks_;
        total_ = count * panels_;
        at_ = 0;
        asked_ = 0;
    }

    [[nodiscard]] index_t panels_per_run() const { return panels_; }
    [[nodiscard]] index_t panel_blocks() const { return panel_blocks_; }
    /// Blocks of the panel that is to be read now; `finish` goes on to the next.
    [[nodiscard]] index_t blocks() const { return stored(at_).blocks; }
    void finish() {
        ++at_;
        asked_ = std::max(asked_, at_);
    }
    /// False if panels have to be unpacked or packed. That takes so long that later ones are asked for meanwhile.
    [[nodiscard]] bool are_in_place() const { return access_to<Scalar>(runs_.front().format) == Access::in_place; }
    /// That panel as it is stored.
    [[nodiscard]] StoredRun stored() const { return stored(at_); }
    /// That panel for kernels, until the next call.
    [[nodiscard]] BlockRun<Scalar> read(const kernels::KernelSet& kernels) {
        return panel_of<Scalar>(kernels, stored(at_), unpacked_,
                                are_in_place() ? StoredRun() : take_panel_to_ask_for());
    }
    /// The same, unpacked to `panel` in an order of the kernels' own.
    void read(const kernels::KernelSet& kernels, kernels::WeightOrder order, Scalar* panel) {
        unpack<Scalar>(kernels, stored(at_), order, take_panel_to_ask_for(), panel);
    }
    /// The panel after it, for kernels that pack it on the side: empty if there is none, or none in this format before
    /// its turn comes.
    [[nodiscard]] BlockRun<Scalar> next_in_place(const kernels::KernelSet& kernels) {
        const StoredRun next = stored(at_ + 1);
        return access_to<Scalar>(next.format) == Access::in_place ? panel_of<Scalar>(kernels, next, unpacked_)
                                                                  : BlockRun<Scalar>();
    }

    /// The next panel that nobody has asked for, for products to ask for line by line on the side.
    [[nodiscard]] StoredRun take_panel_to_ask_for() {
        return asked_ <= at_ + panels_ahead_ ? stored(asked_++) : StoredRun();
    }
    /// Asks for the first panels at once, for callers that do something else before they read them.
    void ask_for_first_panels() {
        while (asked_ < panels_ahead_) {
            const StoredRun next = stored(asked_++);
            for (index_t b = 0; b < next.blocks; ++b) {
                ask_for_block(next, b);
            }
        }
    }

private:
    /// Panel `index`, empty beyond the last.
    [[nodiscard]] StoredRun stored(index_t index) const {
        if (index >= total_) {
            return {};
        }
        const StoredRun& run = runs_[static_cast<std::size_t>(index / panels_)];
        const index_t first = index % panels_ * panel_blocks_;
        return run.part(first, std::min(panel_blocks_, run.blocks - first));
    }

    std::vector<StoredRun> runs_;
    core::Buffer<Scalar> unpacked_;  ///< a panel of a format that kernels don't read in place
    index_t panels_ = 1;             ///< of a run
    index_t panel_blocks_ = 1;
    index_t total_ = 0;
    index_t at_ = 0;
    index_t asked_ = 0;  ///< panels that have been asked for
    index_t panels_ahead_ = 1;
};

}  // namespace moesaic::ops
