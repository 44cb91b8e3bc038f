#include "app/runtime.hpp"

#include "app/command.hpp"
#include "core/error.hpp"
#include "model/weights.hpp"

namespace moesaic::app {
namespace {

using core::ExitCode;

/// The kernels of the level, with a usage error on all ranks if one of them can't run it.
kernels::KernelSet choose_kernels(const mpi::Communicator& world, const std::string& level) {
    std::unique_ptr<kernels::KernelSet> chosen;
    world.agree([&] { chosen = std::make_unique<kernels::KernelSet>(level); });
    return *chosen;
}

/// Elements of a layer's attention weights.
double attention_elements(const model::Architecture& a) {
    const model::AttentionSettings& attention = a.attention;
    const auto hidden = static_cast<double>(a.hidden);
    const auto heads = static_cast<double>(attention.heads);
    const auto queries = heads * static_cast<double>(attention.head_size);
    const auto outputs = heads * static_cast<double>(attention.value_size);
    if (attention.kind == model::AttentionKind::grouped) {
        const auto keys = static_cast<double>(attention.kv_heads) * static_cast<double>(attention.head_size);
        return 2 * hidden * (queries + keys);
    }
    const auto query_rank = static_cast<double>(attention.query_rank);
    const auto kv_rank = static_cast<double>(attention.kv_rank);
    const auto rotated = static_cast<double>(attention.rope.size);
    const double query = attention.query_rank > 0 ? query_rank * (hidden + queries) : hidden * queries;
    return query + hidden * (kv_rank + rotated) + kv_rank * (queries - heads * rotated + outputs) + hidden * outputs;
}

}  // namespace

Runtime::Runtime(const mpi::Communicator& communicator, const train::ParallelOptions& parallel,
                 const train::ComputeOptions& compute)
    : world(communicator),
      placement(mpi::place(world, static_cast<int>(core::parse_auto(parallel.threads)))),
      threads_bound(mpi::bind_threads(placement)),
      kernels(choose_kernels(world, compute.isa_level())),
      grid(world, core::parse_auto(parallel.tensor), core::parse_auto(parallel.data)) {}

std::vector<std::string> parse(const mpi::Communicator& world, core::OptionSet& options,
                               std::span<const std::string> arguments, bool first_word_is_config) {
    std::vector<std::string> words;
    world.agree([&] { words = options.parse(arguments, first_word_is_config); });
    return words;
}

bool parse_options_only(const mpi::Communicator& world, std::string_view command, core::OptionSet& options,
                        std::span<const std::string> arguments) {
    if (asks_for_help(arguments)) {
        print_help(world, command, options.help());
        return false;
    }
    const auto words = parse(world, options, arguments, true);
    world.agree([&] {
        core::require(words.empty(), ExitCode::usage,
                      "unexpected argument {} (options are written --section.key VALUE); remove it",
                      words.empty() ? "" : words.front());
    });
    return true;
}

void require_set(const std::string& key, const std::string& value) {
    core::require(!value.empty(), ExitCode::usage,
                  "{} is not set (it has no default); write --{} VALUE, or set it in the "
                  "configuration file",
                  key, key);
}

model::Architecture read_architecture(const Runtime& runtime, const std::string& path) {
    model::Architecture architecture;
    runtime.world.agree([&] {
        require_set("model.path", path);
        architecture = model::read_architecture(path);
        core::require(
            architecture.expert_intermediate >= runtime.grid.tensor().size(), ExitCode::usage,
            "parallel.tensor = {} exceeds the experts' intermediate size {} of {}; use fewer ranks per tensor "
            "group",
            runtime.grid.tensor().size(), architecture.expert_intermediate, path);
    });
    return architecture;
}

double weight_bytes(const model::Architecture& a, index_t tensor_ranks, std::size_t scalar_bytes) {
    // Floating point, because sizes of a hostile file may overflow integers.
    const auto padded = [](index_t extent) {
        return static_cast<double>(model::blocks_of(extent) * model::block_size);
    };
    const auto hidden = static_cast<double>(a.hidden);
    const auto moe_layers = static_cast<double>(a.moe_layers());
    const auto dense_layers = static_cast<double>(a.layers) - moe_layers;
    const index_t slice = (a.expert_intermediate + tensor_ranks - 1) / tensor_ranks;
    const double experts = static_cast<double>(a.experts) * (3 * padded(a.hidden) * padded(slice) + hidden);
    const double shared = 3 * hidden * static_cast<double>(a.shared.intermediate);
    const double dense = 3 * hidden * static_cast<double>(a.dense_intermediate);
    const double vocabulary = static_cast<double>(a.vocabulary) * hidden * (a.tied_head ? 1 : 2);
    const double elements = vocabulary + static_cast<double>(a.layers) * attention_elements(a) +
                            moe_layers * (experts + shared) + dense_layers * dense;
    return elements * static_cast<double>(scalar_bytes);
}

template <class T>
std::unique_ptr<model::Decoder<T>> load_model(const Runtime& runtime, const model::Architecture& architecture,
                                              const std::string& path, const model::DecoderSettings& settings) {
    std::unique_ptr<model::Decoder<T>> decoder;
    std::string unused;
    runtime.world.agree([&] {
        const double needed = weight_bytes(architecture, runtime.grid.tensor().size(), sizeof(T));
        const auto available =
            runtime.placement.memory_available_bytes / static_cast<std::uint64_t>(runtime.placement.node_ranks);
        constexpr double gib = 1024.0 * 1024.0 * 1024.0;
        core::require(
            needed <= static_cast<double>(available), ExitCode::out_of_resources,
            "{}: the weights need {:.1f} GiB per rank ({:.1f} GiB of {} are available to it); use more nodes, "
            "or a smaller model",
            path, needed / gib, static_cast<double>(available) / gib, runtime.placement.host);
        const auto tensors = io::TensorSource::open_model(path);
        decoder = std::make_unique<model::Decoder<T>>(architecture, settings, runtime.kernels, runtime.grid);
        const model::CheckpointWeights<T> weights(tensors, architecture);
        decoder->load(weights);
        weights.check_complete();
        unused = weights.unused();
    });
    if (!unused.empty()) {
        print(runtime.world, unused + "\n");
    }
    return decoder;
}

#define MOESAIC_INSTANTIATE(T)                                                                            \
    template std::unique_ptr<model::Decoder<T>> load_model<T>(const Runtime&, const model::Architecture&, \
                                                              const std::string&, const model::DecoderSettings&);
MOESAIC_INSTANTIATE(core::bf16)
MOESAIC_INSTANTIATE(float)
#undef MOESAIC_INSTANTIATE

}  // namespace moesaic::app
