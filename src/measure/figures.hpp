// Names of figures that writers and readers of results share; docs/benchmarking.md says what they mean.
#pragma once

#include "core/matrix.hpp"

#include <string>
#include <utility>
#include <vector>

namespace moesaic::measure {

/// Names and texts, as in a case: {"tokens", "64"}.
using Parameters = std::vector<std::pair<std::string, std::string>>;

/// What a figure is of, as data, and the name of this one in its case.
struct FigureKey {
    /// A quantity that a case has once.
    // NOLINTNEXTLINE(google-explicit-constructor): its name is all that most figures need
    FigureKey(std::string of) : name(of), quantity(std::move(of)) {}
    FigureKey(const char* of) : FigureKey(std::string(of)) {}  // NOLINT(google-explicit-constructor)
    FigureKey(std::string name_in, std::string of, Parameters with)
        : name(std::move(name_in)), quantity(std::move(of)), parameters(std::move(with)) {}

    std::string name;
    std::string quantity;
    Parameters parameters;
};

namespace figures {

// Parameters.
inline constexpr const char* rows = "rows";
inline constexpr const char* tokens = "tokens";
inline constexpr const char* operation = "operation";
inline constexpr const char* bytes = "bytes";

// Limits of the machine.
inline constexpr const char* amx_peak = "amx_peak";
inline constexpr const char* isa_peak = "isa_peak";
inline constexpr const char* dram_read = "dram_read";
inline constexpr const char* l2_read = "l2_read";
inline constexpr const char* l3_read = "l3_read";

// Of an expert layer.
inline constexpr const char* layer_forward = "layer_forward";
inline constexpr const char* layer_backward = "layer_backward";
inline constexpr const char* layer_forward_backward = "layer_forward_backward";

// Of a training step.
inline constexpr const char* step_seconds = "step_seconds";
inline constexpr const char* step_predicted = "step_predicted";
inline constexpr const char* step_tokens_per_second = "step_tokens_per_second";
inline constexpr const char* step_forward = "step_forward";
inline constexpr const char* step_loss = "step_loss";
inline constexpr const char* step_backward = "step_backward";
inline constexpr const char* step_reduce = "step_reduce";
inline constexpr const char* step_optimizer = "step_optimizer";

// Of messages between ranks.
inline constexpr const char* message_time = "message_time";
inline constexpr const char* message_bandwidth = "message_bandwidth";

/// "QUANTITY_M16".
[[nodiscard]] inline FigureKey of_rows(const std::string& quantity, core::index_t m) {
    return {quantity + "_M" + std::to_string(m), quantity, {{rows, std::to_string(m)}}};
}
/// "QUANTITY_T64", or QUANTITY where a case has only one number of tokens.
[[nodiscard]] inline FigureKey of_tokens(const std::string& quantity, core::index_t t, bool several) {
    return {several ? quantity + "_T" + std::to_string(t) : quantity, quantity, {{tokens, std::to_string(t)}}};
}
/// "all_reduce_1024": its time.
[[nodiscard]] inline FigureKey time_of_message(const std::string& of, core::index_t b) {
    return {of + "_" + std::to_string(b), message_time, {{operation, of}, {bytes, std::to_string(b)}}};
}
/// "all_reduce_1024_bandwidth".
[[nodiscard]] inline FigureKey bandwidth_of_message(const std::string& of, core::index_t b) {
    return {
        time_of_message(of, b).name + "_bandwidth", message_bandwidth, {{operation, of}, {bytes, std::to_string(b)}}};
}

}  // namespace figures
}  // namespace moesaic::measure
