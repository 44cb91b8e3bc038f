#include "train/adapter.hpp"

#include "core/error.hpp"
#include "core/options.hpp"
#include "core/trace.hpp"
#include "io/files.hpp"
#include "io/json.hpp"
#include "io/safetensors.hpp"
#include "train/lora_state.hpp"

#include <algorithm>
#include <exception>
#include <set>

namespace moesaic::train {
namespace {

using core::ExitCode;
using core::MatrixView;
using model::LoraTensor;
using model::Sharding;

constexpr const char* config_name = "adapter_config.json";
constexpr const char* weights_name = "adapter_model.safetensors";

/// Refuses an option of PEFT unless it has its neutral value.
void refuse(const nlohmann::json& config, const std::string& key, const nlohmann::json& neutral,
            const std::string& source) {
    const auto found = config.find(key);
    const bool empty =
        found == config.end() || found->is_null() || *found == neutral || (found->is_structured() && found->empty());
    core::require(empty, ExitCode::usage, "{}: {} = {} is not supported (only {} is); use an adapter without it",
                  source, key, empty ? "" : found->dump().substr(0, 80), neutral.dump());
}

void check_tensor(const io::TensorSource& file, const LoraTensor& tensor, const std::string& name,
                  const std::string& source) {
    const io::TensorInfo& info = file.info(name);
    const index_t rank = tensor.factor == model::LoraFactor::a ? tensor.rows : tensor.cols;
    const index_t found = tensor.factor == model::LoraFactor::a ? info.rows() : info.cols();
    core::require(found == rank, ExitCode::usage,
                  "{}: tensor {} has rank {} (lora.rank = {}); set lora.rank = {}, or use an adapter of the configured "
                  "rank",
                  source, name, found, rank, found);
    core::require(info.rows() == tensor.rows && info.cols() == tensor.cols, ExitCode::usage,
                  "{}: tensor {} is [{}, {}] (the model needs [{}, {}]); use an adapter that was made for this model",
                  source, name, info.rows(), info.cols(), tensor.rows, tensor.cols);
}

/// Which names of modules the adapter targets, as PEFT matches them: last parts of module names.
std::set<std::string> target_modules(const model::LoraParameters<float>& parameters) {
    std::set<std::string> targets;
    for (const auto& bucket : parameters.buckets) {
        for (const LoraTensor& tensor : bucket->tensors) {
            const std::string& module = tensor.modules.front();
            targets.insert(module.substr(module.rfind('.') + 1));
        }
    }
    return targets;
}

nlohmann::json adapter_config(const std::string& base_model, const model::LoraParameters<float>& parameters) {
    const double alpha = parameters.settings.alpha;
    nlohmann::json config = {{"peft_type", "LORA"},
                             {"task_type", "CAUSAL_LM"},
                             {"base_model_name_or_path", base_model},
                             {"r", parameters.settings.rank},
                             {"lora_alpha", alpha},
                             {"lora_dropout", 0.0},
                             {"use_rslora", parameters.settings.rank_stabilised},
                             {"bias", "none"},
                             {"target_modules", target_modules(parameters)},
                             {"inference_mode", true},
                             {"use_dora", false},
                             {"fan_in_fan_out", false},
                             {"init_lora_weights", true},
                             {"modules_to_save", nullptr}};
    if (alpha == static_cast<double>(static_cast<std::int64_t>(alpha))) {
        config["lora_alpha"] = static_cast<std::int64_t>(alpha);  // as PEFT writes it
    }
    return config;
}

}  // namespace

model::LoraSettings read_adapter_settings(const std::filesystem::path& folder) {
    const std::filesystem::path file = folder / config_name;
    const std::string source = file.string();
    const nlohmann::json config = io::read_json(file);
    const auto type = io::get<std::string>(config, "peft_type", source);
    core::require(type == "LORA", ExitCode::usage,
                  "{}: peft_type = \"{}\" is not supported (only \"LORA\" is); use a "
                  "LoRA adapter",
                  source, type);
    refuse(config, "use_dora", false, source);
    refuse(config, "fan_in_fan_out", false, source);
    refuse(config, "lora_bias", false, source);
    refuse(config, "bias", "none", source);
    refuse(config, "modules_to_save", nullptr, source);
    refuse(config, "rank_pattern", nlohmann::json::object(), source);
    refuse(config, "alpha_pattern", nlohmann::json::object(), source);
    refuse(config, "target_parameters", nullptr, source);
    refuse(config, "layers_to_transform", nullptr, source);
    model::LoraSettings settings;
    settings.rank = io::get_size(config, "r", source);
    settings.alpha = io::get<double>(config, "lora_alpha", source);
    settings.rank_stabilised = io::get_or<bool>(config, "use_rslora", false, source);
    core::require(settings.alpha > 0, ExitCode::corrupt_input, "{}: lora_alpha = {} must be positive; correct the file",
                  source, settings.alpha);
    return settings;
}

void load_adapter(const std::filesystem::path& folder, model::LoraParameters<float>& parameters) {
    const core::trace::Scope scope("adapter.load", "io");
    const std::string config_file = (folder / config_name).string();
    const model::LoraSettings settings = read_adapter_settings(folder);
    core::require(
        settings.rank == parameters.settings.rank, ExitCode::usage,
        "{}: the adapter has r = {} (lora.rank = {}); set lora.rank = {}, or use an adapter of the configured "
        "rank",
        config_file, settings.rank, parameters.settings.rank, settings.rank);
    core::require(
        settings.alpha == parameters.settings.alpha && settings.rank_stabilised == parameters.settings.rank_stabilised,
        ExitCode::usage,
        "{}: the adapter has lora_alpha = {}, use_rslora = {} (lora.alpha = {}, lora.rslora = {}); set the "
        "adapter's values",
        config_file, settings.alpha, settings.rank_stabilised, parameters.settings.alpha,
        parameters.settings.rank_stabilised);
    const std::string source = (folder / weights_name).string();
    const auto file = io::TensorSource::open_file(source);
    std::set<std::string> unused;
    for (const std::string& name : file.names()) {
        unused.insert(name);
    }
    for (const auto& bucket : parameters.buckets) {
        for (const LoraTensor& tensor : bucket->tensors) {
            const MatrixView<float> all = bucket->view(tensor, bucket->values);
            for (index_t m = 0; m < tensor.count(); ++m) {
                const std::string name = tensor.peft_name(m);
                check_tensor(file, tensor, name, source);
                unused.erase(name);
                file.read<float>(name, all.rows(m * tensor.local_rows, tensor.local_rows),
                                 tensor.sharding == Sharding::rows ? tensor.sharded_begin : 0,
                                 tensor.sharding == Sharding::columns ? tensor.sharded_begin : 0);
            }
        }
    }
    core::require(unused.empty(), ExitCode::usage,
                  "{}: {} tensors do not belong to the configured LoRA targets (the first is {}); use an adapter that "
                  "adapts only experts",
                  source, unused.size(), unused.empty() ? "" : *unused.begin());
}

void save_adapter(const std::filesystem::path& folder, const std::string& base_model,
                  const model::Architecture& architecture, const model::LoraParameters<float>& parameters,
                  const ShardedAdamW& optimizer, const mpi::ProcessGrid& grid) {
    const core::trace::Scope scope("adapter.save", "io");
    struct Place {
        std::size_t bucket;
        std::size_t tensor;
        index_t matrix;
    };
    std::vector<io::TensorToWrite> list;
    std::vector<Place> places;
    for (std::size_t b = 0; b < parameters.buckets.size(); ++b) {
        const auto& tensors = parameters.buckets[b]->tensors;
        for (std::size_t t = 0; t < tensors.size(); ++t) {
            for (index_t m = 0; m < tensors[t].count(); ++m) {
                list.push_back({tensors[t].peft_name(m), {tensors[t].rows, tensors[t].cols}});
                places.push_back({b, t, m});
            }
        }
    }

    std::size_t collected = 0;  // buckets so far; ranks other than 0 only take part in collecting
    std::vector<FullTensor> full;
    const auto collect_next = [&] {
        full = collect(parameters, optimizer, grid, collected, LoraContent::values);
        ++collected;
    };
    std::exception_ptr error;
    try {
        if (grid.world().is_root()) {
            io::create_folder(folder);
            const std::map<std::string, std::string> metadata = {{"format", "pt"}, {"family", architecture.family}};
            io::write_safetensors<float>(folder / weights_name, list, metadata,
                                         [&](std::size_t i, std::span<float> out) {
                                             while (collected <= places[i].bucket) {
                                                 collect_next();
                                             }
                                             const auto matrix = full[places[i].tensor].matrix(places[i].matrix);
                                             std::copy_n(matrix.data(), out.size(), out.data());
                                         });
            io::write_file_atomically(folder / config_name, adapter_config(base_model, parameters).dump(2) + "\n");
        }
    } catch (...) {
        error = std::current_exception();
    }
    while (collected < parameters.buckets.size()) {
        collect_next();
    }
    grid.world().agree([&] {
        if (error != nullptr) {
            std::rethrow_exception(error);
        }
    });
}

}  // namespace moesaic::train
