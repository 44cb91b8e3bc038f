#include "app/reference_case.hpp"

#include "core/enumeration.hpp"
#include "io/json.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace moesaic::app {
namespace {

using nlohmann::json;

constexpr double infinity = std::numeric_limits<double>::infinity();

std::optional<double> find_number(const json& object, const std::string& key, const std::string& source) {
    return object.contains(key) ? std::optional(io::get<double>(object, key, source)) : std::nullopt;
}

std::optional<double> find_error(const json& object, const std::string& key, const std::vector<double>& expected,
                                 const std::string& source) {
    return object.contains(key)
               ? std::optional(relative_norm_of_error(io::get<std::vector<double>>(object, key, source), expected))
               : std::nullopt;
}

}  // namespace

double largest_relative_error(const std::vector<double>& found, const std::vector<double>& expected) {
    double largest = found.size() == expected.size() ? 0 : infinity;
    for (std::size_t i = 0; i < std::min(found.size(), expected.size()); ++i) {
        const double error = std::abs(found[i] - expected[i]) / std::abs(expected[i]);
        largest = std::isfinite(error) ? std::max(largest, error) : infinity;
    }
    return largest;
}

double relative_norm_of_error(const std::vector<double>& found, const std::vector<double>& expected) {
    double error = found.size() == expected.size() ? 0 : infinity;
    double norm = 0;
    for (std::size_t i = 0; i < std::min(found.size(), expected.size()); ++i) {
        error += (found[i] - expected[i]) * (found[i] - expected[i]);
        norm += expected[i] * expected[i];
    }
    return std::sqrt(error / norm);
}

ReferenceCase read_case(const std::filesystem::path& folder) {
    const std::string source = (folder / "expected.json").string();
    const json expected = io::read_json(source);
    const auto list = [&](const char* key) { return io::get<std::vector<double>>(expected, key, source); };
    ReferenceCase reference;
    reference.folder = folder;
    reference.fp32 = {list("eval_loss_per_batch"), list("first_sequence_label_logprobs"), list("train_loss"),
                      list("grad_norm"), list("final_eval_loss_per_batch")};
    const auto optimizer = io::get<json>(expected, "optimizer", source);
    const auto setting = [&](const char* key) { return io::get<double>(optimizer, key, source); };
    train::TrainSettings& train = reference.train;
    train.steps = static_cast<index_t>(reference.fp32.train_losses.size());
    train.batches = {.batch_size = io::get_size(expected, "batch_size", source), .shuffle = false};
    train.schedule.shape =
        core::parse_name<train::ScheduleShape>(io::get<std::string>(optimizer, "schedule", source), "schedule", source);
    train.schedule.learning_rate = setting("lr");
    train.adamw = {setting("beta1"), setting("beta2"), setting("eps"), setting("weight_decay")};
    train.coordinator.max_gradient_norm = setting("max_grad_norm");
    const auto bf16 = io::get_or<json>(expected, "pytorch_bf16_autocast", json::object(), source);
    reference.bf16 = {
        find_number(bf16, "max_relative_loss_error", source),
        find_error(bf16, "first_sequence_label_logprobs", reference.fp32.log_probabilities, source),
        find_number(bf16, "grads_step0_relative_error", source),
        find_number(bf16, "grads_step0_worst_tensor_error", source),
        find_error(bf16, "grad_norm", reference.fp32.gradient_norms, source),
    };
    reference.closest_choice = find_number(expected, "closest_choice", source);
    return reference;
}

}  // namespace moesaic::app
