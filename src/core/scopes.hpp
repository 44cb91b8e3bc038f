// The names of all trace scopes and counters: those who record and those who read a trace share them.
#pragma once

#include <string_view>

namespace moesaic::core::trace {

/// What an event is about.
namespace category {
inline constexpr const char* compute = "compute";
inline constexpr const char* thread = "thread";  ///< a thread's share of the scope that it works for
inline constexpr const char* mpi = "mpi";
inline constexpr const char* io = "io";
inline constexpr const char* step = "step";
}  // namespace category

/// Name and category of a scope; both live as long as the process. No name: no scope.
struct ScopeName {
    constexpr ScopeName() = default;
    explicit constexpr ScopeName(const char* name_in, const char* category_in) : name(name_in), category(category_in) {}

    const char* name = nullptr;
    const char* category = nullptr;
};

/// The phase of a scope, by which times are summed up: its name before the first dot.
[[nodiscard]] constexpr std::string_view phase_of(std::string_view scope) {
    return scope.substr(0, scope.find('.'));
}

}  // namespace moesaic::core::trace

namespace moesaic::core::scopes {

using trace::ScopeName;
namespace category = trace::category;

// Training: a step, its parts, and what happens between steps.
inline constexpr ScopeName step{"step", category::step};
inline constexpr ScopeName decoder_forward{"decoder.forward", category::step};
inline constexpr ScopeName decoder_backward{"decoder.backward", category::step};
inline constexpr ScopeName gradients_reduce{"gradients.reduce", category::step};
inline constexpr ScopeName coordinator_decide{"coordinator.decide", category::mpi};
inline constexpr ScopeName optimizer_step{"optimizer.step", category::step};
inline constexpr ScopeName evaluate{"evaluate", category::step};
/// Of a layer in backward: whatever it consists of counts as this.
inline constexpr ScopeName recompute{"recompute", category::step};

// Inside of the decoder.
inline constexpr ScopeName attention_forward{"attention.forward", category::compute};
inline constexpr ScopeName attention_backward{"attention.backward", category::compute};
inline constexpr ScopeName router_forward{"router.forward", category::compute};
inline constexpr ScopeName router_backward{"router.backward", category::compute};
inline constexpr ScopeName exchange_dispatch{"exchange.dispatch", category::compute};
inline constexpr ScopeName exchange_dispatch_gradient{"exchange.dispatch_gradient", category::compute};
inline constexpr ScopeName exchange_combine{"exchange.combine", category::compute};
inline constexpr ScopeName exchange_combine_weights{"exchange.combine_weights", category::compute};
inline constexpr ScopeName loss{"loss", category::compute};

// Experts: the passes, what they consist of, and the main thread that waits for a pass of the worker.
inline constexpr ScopeName experts_forward{"experts.forward", category::compute};
inline constexpr ScopeName experts_backward{"experts.backward", category::compute};
inline constexpr ScopeName experts_gate_up{"experts.gate_up", category::compute};
inline constexpr ScopeName experts_down{"experts.down", category::compute};
inline constexpr ScopeName experts_combine{"experts.combine", category::compute};
inline constexpr ScopeName experts_backward_down{"experts.backward_down", category::compute};
inline constexpr ScopeName experts_backward_gate_up{"experts.backward_gate_up", category::compute};
inline constexpr ScopeName experts_lora_gradients{"experts.lora_gradients", category::compute};
inline constexpr ScopeName experts_wait{"experts.wait", category::compute};

// Files.
inline constexpr ScopeName load{"load", category::io};
inline constexpr ScopeName load_dataset{"load dataset", category::io};
inline constexpr ScopeName adapter_load{"adapter.load", category::io};
inline constexpr ScopeName adapter_save{"adapter.save", category::io};
inline constexpr ScopeName lora_collect{"lora.collect", category::io};
inline constexpr ScopeName checkpoint_load{"checkpoint.load", category::io};
inline constexpr ScopeName checkpoint_save{"checkpoint.save", category::io};

// Calls of MPI.
inline constexpr ScopeName mpi_agree{"mpi.agree", category::mpi};
inline constexpr ScopeName mpi_split{"mpi.split", category::mpi};
inline constexpr ScopeName mpi_split_by_node{"mpi.split_by_node", category::mpi};
inline constexpr ScopeName mpi_share_memory{"mpi.share_memory", category::mpi};
inline constexpr ScopeName mpi_barrier{"mpi.barrier", category::mpi};
inline constexpr ScopeName mpi_sleeping_barrier{"mpi.sleeping_barrier", category::mpi};
inline constexpr ScopeName mpi_sum{"mpi.sum", category::mpi};
inline constexpr ScopeName mpi_max{"mpi.max", category::mpi};
inline constexpr ScopeName mpi_min{"mpi.min", category::mpi};
inline constexpr ScopeName mpi_broadcast{"mpi.broadcast", category::mpi};
inline constexpr ScopeName mpi_send{"mpi.send", category::mpi};
inline constexpr ScopeName mpi_receive{"mpi.receive", category::mpi};
inline constexpr ScopeName mpi_gather{"mpi.gather", category::mpi};
inline constexpr ScopeName mpi_gather_blocks{"mpi.gather_blocks", category::mpi};
inline constexpr ScopeName mpi_all_gather{"mpi.all_gather", category::mpi};
inline constexpr ScopeName mpi_all_gather_rows{"mpi.all_gather_rows", category::mpi};
inline constexpr ScopeName mpi_reduce_scatter_rows{"mpi.reduce_scatter_rows", category::mpi};
inline constexpr ScopeName mpi_all_to_all_rows{"mpi.all_to_all_rows", category::mpi};

}  // namespace moesaic::core::scopes

/// Counters of a trace.
namespace moesaic::core::counters {

inline constexpr const char* resident_memory = "resident memory";
inline constexpr const char* mpi_bandwidth = "MPI bandwidth";
inline constexpr const char* tokens_per_expert = "tokens per expert, ";  ///< before "layer L"

}  // namespace moesaic::core::counters
