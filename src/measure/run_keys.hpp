// Keys of run.json and of the lines of metrics.jsonl, for those who write and those who read them (docs/files.md).
#pragma once

namespace moesaic::measure::run_keys {

// The program and its start and end.
inline constexpr const char* started = "started";
inline constexpr const char* finished = "finished";
inline constexpr const char* version = "version";
inline constexpr const char* git_revision = "git_revision";
inline constexpr const char* compiler = "compiler";
inline constexpr const char* mpi = "mpi";
inline constexpr const char* transport = "transport";
inline constexpr const char* kernels = "kernels";
inline constexpr const char* grid = "grid";
inline constexpr const char* configuration = "configuration";
inline constexpr const char* trace = "trace";

// The sessions of a run: it may be stopped and resumed. Each has `started`, `finished`, `tokens` and `seconds`, too.
inline constexpr const char* sessions = "sessions";
inline constexpr const char* end = "end";
inline constexpr const char* end_complete = "complete";  ///< a value of `end`: nothing is left to do
inline constexpr const char* end_stopped = "stopped";    ///< on request, at a checkpoint
inline constexpr const char* command_line = "command_line";
inline constexpr const char* working_directory = "working_directory";
inline constexpr const char* first_step = "first_step";  ///< that the session began after
inline constexpr const char* last_step = "last_step";
inline constexpr const char* changed = "changed";  ///< options: [before, now]

// What is trained, and on what.
inline constexpr const char* model = "model";
inline constexpr const char* lora = "lora";
inline constexpr const char* data = "data";

// Memory that was planned: a list of purpose and bytes.
inline constexpr const char* memory_plan = "memory_plan";
inline constexpr const char* purpose = "purpose";
inline constexpr const char* bytes = "bytes";

// The list of ranks.
inline constexpr const char* ranks = "ranks";
inline constexpr const char* rank = "rank";
inline constexpr const char* host = "host";
inline constexpr const char* numa_nodes = "numa_nodes";
inline constexpr const char* cores = "cores";
inline constexpr const char* threads = "threads";
inline constexpr const char* threads_bound = "threads_bound";
inline constexpr const char* memory_bytes = "memory_bytes";
inline constexpr const char* peak_memory_bytes = "peak_memory_bytes";
inline constexpr const char* memory_before_bytes = "memory_before_bytes";  ///< before the model was loaded

// The whole run, with some of the keys below.
inline constexpr const char* totals = "totals";
inline constexpr const char* steps = "steps";
inline constexpr const char* adapter_step = "adapter_step";  ///< that adapter/ holds
inline constexpr const char* best_step = "best_step";
inline constexpr const char* best_eval_loss = "best_eval_loss";

// The clock of a rank, in `trace` and in trace.json.
inline constexpr const char* clock = "clock";
inline constexpr const char* ticks_per_second = "ticks_per_second";
inline constexpr const char* offset_us = "offset_us";
inline constexpr const char* offset_at_end_us = "offset_at_end_us";
inline constexpr const char* drift_ppm = "drift_ppm";
inline constexpr const char* error_us = "error_us";
inline constexpr const char* dropped_events = "dropped_events";
inline constexpr const char* begin_us = "begin_us";  ///< of a session in trace.json

// A step, in metrics.jsonl.
inline constexpr const char* step = "step";
inline constexpr const char* loss = "loss";
inline constexpr const char* grad_norm = "grad_norm";
inline constexpr const char* lr = "lr";
inline constexpr const char* tokens = "tokens";
inline constexpr const char* target_tokens = "target_tokens";
inline constexpr const char* seconds = "seconds";
inline constexpr const char* tokens_per_second = "tokens_per_second";
inline constexpr const char* skipped = "skipped";
inline constexpr const char* expert_load_ratio = "expert_load_ratio";
inline constexpr const char* unused_experts = "unused_experts";
inline constexpr const char* slowest_rank = "slowest_rank";
inline constexpr const char* slowness = "slowness";
inline constexpr const char* aux_loss = "aux_loss";

// An evaluation, in metrics.jsonl.
inline constexpr const char* eval_loss = "eval_loss";
inline constexpr const char* eval_exact = "eval_exact";
inline constexpr const char* eval_tokens = "eval_tokens";

}  // namespace moesaic::measure::run_keys
