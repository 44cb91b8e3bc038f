// The lists of buffers of expert layers: a forward's saved state, and work space (expert_workspace.hpp).
#include "ops/expert_backend.hpp"
#include "ops/row_chunks.hpp"

#include <algorithm>
#include <cmath>

namespace moesaic::ops {

std::vector<BufferPlan> plan_saved_experts(const ExpertConfig& config) {
    const index_t choices = config.experts_per_token;
    std::vector<BufferPlan> buffers = {{"routed.first", Rows::once, Element::index, config.experts + 1},
                                       {"routed.row", Rows::arrived, Element::index, choices},
                                       {"routed.token and choice", Rows::routed, Element::int32, 2}};
    if (config.activations == Activations::retain) {
        const index_t columns = 2 * (config.intermediate + config.lora_rank);
        buffers.push_back({"pre_activations", Rows::routed, Element::scalar, columns, true});
    }
    return buffers;
}

namespace {

/// IntegerScratch, and what else weights that are multiplied as integers want.
std::vector<BufferPlan> plan_integers(index_t hidden, index_t intermediate) {
    constexpr index_t longest_panel = 1024;
    const index_t widest = std::max(hidden, intermediate);
    // Codes in words of 4, of rows that are padded by up to 32.
    const auto words = [](index_t elements) { return (elements + kernel_block) / 4; };
    return {
        {"experts.activation and gradients", Rows::strips, Element::scalar, intermediate},
        {"experts.thread.rows", Rows::thread_strips, Element::scalar, hidden},
        {"experts.thread.integers", Rows::thread_strips, Element::int32, words(widest)},
        {"experts.thread.integers of up", Rows::thread_strips, Element::int32, words(intermediate), true},
        {"experts.thread.integers.scales", Rows::thread_strips, Element::sum, 2},
        {"experts.thread.integers.sums", Rows::thread_strips, Element::int32, kernel_block},
        {"experts.thread.integers.activation", Rows::thread_strips, Element::sum, kernel_block},
        {"experts.thread.integers.codes", Rows::threads, Element::int32, kernel_block * words(widest + line_bytes)},
        {"experts.thread.integers.row_scales", Rows::threads, Element::sum, widest, true},
        {"experts.thread.integers.panel", Rows::threads, Element::int32,
         kernel_block * words(std::min(widest, longest_panel))},
    };
}

}  // namespace

std::vector<BufferPlan> plan_expert_workspace(const ExpertConfig& config, bool has_dropout, bool results_are_given) {
    const index_t hidden = padded(config.hidden);
    const index_t intermediate = padded(config.intermediate);
    const index_t widest = std::max(hidden, intermediate);
    const index_t lora_rank = padded(config.lora_rank);
    const index_t choices = config.experts_per_token;
    const bool recompute = config.activations != Activations::retain;
    const index_t operand_of_lora = has_dropout ? hidden : 0;
    constexpr index_t panels = 3;            // of weights: as they come, and two packed
    constexpr index_t longest_panel = 2048;  // of AMX; other kernels have shorter ones
    std::vector<BufferPlan> buffers = {
        {"experts.results", Rows::arrived, Element::sum, results_are_given ? 0 : config.hidden},
        {"experts.grad_weights", Rows::arrived, Element::sum, choices, true},
        {"experts.row_weights", Rows::routed, Element::sum, 1},
        {"experts.row_tokens", Rows::routed, Element::index, has_dropout ? 1 : 0},
        {"experts.rows_out", Rows::routed, Element::scalar, config.hidden},
        {"experts.rows_of_token", Rows::arrived, Element::index, choices},
        {"experts.recomputed", Rows::routed, Element::scalar,
         recompute ? 2 * (config.intermediate + config.lora_rank) : 0, true},
        {"experts.activated", Rows::strips, Element::packed, intermediate},
        {"experts.dropped", Rows::strips, Element::packed, has_dropout ? intermediate : 0},
        {"experts.activation and gradients", Rows::strips, Element::scalar, 3 * intermediate, true},
        {"experts.low_rank", Rows::strips, Element::scalar, 4 * lora_rank, true},
        {"experts.weight_gradient_sums", Rows::routed, Element::sum, blocks_of(config.intermediate), true},
        {"experts.thread.rows", Rows::threads, Element::scalar, kernel_block * (hidden + kernel_block)},
        {"experts.thread.rows", Rows::thread_strips, Element::scalar, hidden, true},
        {"experts.thread.tokens", Rows::thread_strips, Element::packed, hidden},
        {"experts.thread.tokens", Rows::thread_strips, Element::packed, widest, true},
        {"experts.thread.more_tokens", Rows::thread_strips, Element::packed, operand_of_lora},
        {"experts.thread.more_tokens", Rows::thread_strips, Element::packed, std::max(operand_of_lora, intermediate),
         true},
        {"experts.thread.panels", Rows::threads, Element::packed,
         panels * kernel_block * std::min(widest, longest_panel)},
        {"experts.thread.lora_matrix", Rows::threads, Element::packed, kernel_block * widest},
        {"experts.thread.low_rank", Rows::thread_strips, Element::packed, 2 * lora_rank},
        {"experts.thread.low_rank_rows", Rows::thread_strips, Element::scalar, 2 * lora_rank},
        {"experts.thread.sums", Rows::thread_strips, Element::sum, (has_dropout ? 4 : 3) * kernel_block},
        {"experts.thread.lora_gradients", Rows::threads, Element::sum, 2 * lora_rank * hidden, true},
    };
    if (config.weight_format && access_to<core::bf16>(*config.weight_format) == Access::integers) {
        append(plan_integers(hidden, intermediate), buffers);
    }
    return buffers;
}

void count_routed(const ExpertConfig& config, double arrived, double routed, RowCounts& rows) {
    const double of_expert = std::ceil(routed / static_cast<double>(std::max(config.experts, index_t{1})));
    const double strips = std::ceil(of_expert / kernel_block);
    rows[Rows::arrived] = arrived;
    rows[Rows::routed] = routed;
    rows[Rows::strips] = static_cast<double>(config.experts) * strips * kernel_block;
    rows[Rows::thread_strips] =
        rows[Rows::threads] * std::min(strips, static_cast<double>(most_strips_of_chunk)) * kernel_block;
}

}  // namespace moesaic::ops
