#include "train/run_state.hpp"

#include "core/enumeration.hpp"
#include "core/error.hpp"
#include "core/text.hpp"
#include "core/trace.hpp"
#include "io/checkpoint.hpp"
#include "io/files.hpp"
#include "io/json.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>
#include <map>
#include <memory>
#include <string>
#include <string_view>

namespace moesaic::train {
namespace {

using core::ExitCode;
using core::Matrix;
using core::MatrixView;
using model::LoraTensor;

constexpr std::string_view values_name = "values";
constexpr std::string_view fingerprint = " fingerprint";  // end of the keys of values that people can't compare
constexpr std::array moments = {OwnedData::first_moment, OwnedData::second_moment};

std::string dataset_name(std::string_view tensor, std::string_view content) {
    return fmt::format("lora/{}/{}", tensor, content);
}

/// What version 1 of the schema called the tensor of a bucket.
std::string older_name(const model::ParameterBucket<float>& bucket, const LoraTensor& tensor) {
    if (!bucket.experts_of_layer) {
        return tensor.name;
    }
    const std::size_t factor = tensor.name.rfind('.');
    const std::size_t projection = tensor.name.rfind('.', factor - 1);
    return fmt::format("layers.{}.experts{}", *bucket.experts_of_layer, tensor.name.substr(projection));
}

/// How many modules of each name are adapted, with which LoRA rank and scale.
nlohmann::json adapters(const model::LoraParameters<float>& parameters) {
    std::map<std::string, index_t> counts;
    for (const auto& bucket : parameters.buckets) {
        for (const LoraTensor& tensor : bucket->tensors) {
            for (std::size_t m = 0; tensor.factor == ops::LoraFactor::a && m < tensor.modules.size(); ++m) {
                const std::string& module = tensor.modules[m];
                ++counts[fmt::format("{} of rank {}, scale {}", module.substr(module.rfind('.') + 1),
                                     tensor.specs[m].lora_rank, tensor.specs[m].scale)];
            }
        }
    }
    return counts;
}

/// What must be equal for a checkpoint to continue a run. Values are compared as JSON.
nlohmann::json identity(const RunState& state, const model::Architecture& architecture,
                        const model::LoraParameters<float>& parameters) {
    return {{"model.family", architecture.family},
            {"model.hidden_size", architecture.hidden},
            {"model.layers", architecture.layers},
            {"model.experts", architecture.experts},
            {"model.expert_intermediate_size", architecture.expert_intermediate},
            {"lora adapters", adapters(parameters)},
            {"train.batch_size", state.batch_size},
            {"train.seed", state.seed},
            {"data.shuffle", state.shuffle},
            {fmt::format("data.train{}", fingerprint), state.data_fingerprint},
            {fmt::format("model.weights{}", fingerprint), state.model_fingerprint},
            {"model.tied_head", architecture.tied_head}};
}

void check_identity(const nlohmann::json& header, const nlohmann::json& expected, const std::string& source) {
    const auto found = io::get<nlohmann::json>(header, "identity", source);
    core::require(found.is_object(), ExitCode::corrupt_input, "{}: identity is no object; use another checkpoint",
                  source);
    std::vector<std::string> differences;
    for (const auto& [key, value] : expected.items()) {
        const auto stored = found.find(key);
        if (stored != found.end() && *stored != value) {  // older versions did not know all keys
            differences.push_back(key.ends_with(fingerprint)
                                      ? key.substr(0, key.size() - fingerprint.size()) + " has other content"
                                      : fmt::format("{} was {} and is {}", key, core::printable(stored->dump()),
                                                    core::printable(value.dump())));
        }
    }
    core::require(differences.empty(), ExitCode::usage,
                  "can't resume from {} ({}); restore {}, or begin a new run in another output.dir: lora.init = "
                  "FOLDER/adapter takes along what was learned",
                  source, fmt::join(differences, "; "), differences.size() == 1 ? "that" : "those");
}

/// Reads one content of all tensors of a bucket into a buffer laid out as the bucket on this rank.
void read_bucket(const io::CheckpointReader& reader, const model::ParameterBucket<float>& bucket,
                 std::string_view content, Matrix<float>& whole, const std::string& source) {
    Matrix<float> full;
    for (const LoraTensor& tensor : bucket.tensors) {
        std::string name = dataset_name(tensor.name, content);
        if (!reader.contains(name)) {
            name = dataset_name(older_name(bucket, tensor), content);
        }
        const std::vector<index_t> shape = {tensor.count(), tensor.rows, tensor.cols};
        core::require(reader.shape(name) == shape, ExitCode::corrupt_input,
                      "{}: dataset {} has another shape than the model needs; use another checkpoint", source, name);
        full.resize(tensor.count() * tensor.rows, tensor.cols);
        reader.read(name, full.flat());
        take_piece(tensor, full, bucket.view(tensor, whole));
    }
}

}  // namespace

void save_checkpoint(const std::filesystem::path& folder, int keep, const RunState& state,
                     const std::vector<core::OptionSet::Setting>& settings, const model::Architecture& architecture,
                     const AdapterStore& store, const ShardedAdamW& optimizer) {
    const core::trace::Scope scope(core::scopes::checkpoint_save);
    const mpi::Communicator& world = store.world();
    const io::CheckpointFolder checkpoints(folder);
    std::unique_ptr<io::CheckpointWriter> writer;
    world.agree([&] {
        if (world.is_root()) {
            nlohmann::json configuration = nlohmann::json::object();
            for (const core::OptionSet::Setting& setting : settings) {
                configuration[setting.key] = setting.value;
            }
            const nlohmann::json header = {{"step", state.step},
                                           {"updates", optimizer.updates()},
                                           {"identity", identity(state, architecture, store.parameters())},
                                           {"configuration", configuration}};
            writer = std::make_unique<io::CheckpointWriter>(checkpoints.file_for_step(state.step), header);
        }
    });
    const auto write_as = [&](std::string_view content) {
        return [&writer, content](const FullTensor& full) {
            const LoraTensor& tensor = *full.tensor;
            const std::array<index_t, 3> shape = {tensor.count(), tensor.rows, tensor.cols};
            writer->write(dataset_name(tensor.name, content), shape, full.values.flat());
        };
    };
    store.for_each_tensor(write_as(values_name));
    for (const OwnedData moment : moments) {
        store.for_each_tensor([&](std::size_t bucket) { return optimizer.gather(bucket, moment); },
                              write_as(core::name_of(moment)));
    }
    world.agree([&] {
        if (world.is_root()) {
            writer->commit();
            checkpoints.publish(state.step, keep);
        }
    });
}

RunState load_checkpoint(const std::filesystem::path& file, const RunState& expected,
                         const model::Architecture& architecture, const AdapterStore& store, ShardedAdamW& optimizer) {
    const core::trace::Scope scope(core::scopes::checkpoint_load);
    const std::string source = file.string();
    const io::CheckpointReader reader(file);
    model::LoraParameters<float>& parameters = store.parameters();
    check_identity(reader.header(), identity(expected, architecture, parameters), source);
    for (std::size_t b = 0; b < parameters.buckets.size(); ++b) {
        model::ParameterBucket<float>& bucket = *parameters.buckets[b];
        read_bucket(reader, bucket, values_name, bucket.values, source);
        std::array<Matrix<float>, moments.size()> whole;
        for (std::size_t m = 0; m < moments.size(); ++m) {
            whole[m].resize(1, bucket.size());
            read_bucket(reader, bucket, core::name_of(moments[m]), whole[m], source);
        }
        optimizer.set_moments(b, whole[0], whole[1]);
    }
    RunState state = expected;
    state.step = io::get_size(reader.header(), "step", source, 0, index_t{1} << 53);
    optimizer.set_updates(io::get_size(reader.header(), "updates", source, 0, state.step));
    return state;
}

}  // namespace moesaic::train
