#include "train/runtime.hpp"

#include "core/error.hpp"
#include "core/units.hpp"
#include "model/weights/synthetic.hpp"
#include "model/weights/weights.hpp"
#include "mpi/print.hpp"

#include <fmt/ranges.h>

#include <optional>

namespace moesaic::train {
namespace {

using core::ExitCode;

/// The kernels of the level, with a usage error on all ranks if one of them can't run it.
kernels::KernelSet choose_kernels(const mpi::Communicator& world, const std::string& level) {
    std::unique_ptr<kernels::KernelSet> chosen;
    world.agree([&] { chosen = std::make_unique<kernels::KernelSet>(level); });
    return *chosen;
}

}  // namespace

Runtime::Runtime(const mpi::Communicator& communicator, const mpi::PlaceSettings& place, const mpi::GridShape& shape,
                 const kernels::ComputeSettings& compute)
    : world(communicator),
      placement(mpi::place(world, place)),
      threads_bound(host::bind_threads(placement)),
      kernels(choose_kernels(world, compute.isa_level())),
      grid(world, shape) {}

Runtime::Runtime(const mpi::Communicator& group, const host::Placement& placed, bool bound, const mpi::GridShape& shape,
                 const kernels::ComputeSettings& compute)
    : world(group),
      placement(placed),
      threads_bound(bound),
      kernels(choose_kernels(world, compute.isa_level())),
      grid(world, shape) {}

index_t Runtime::memory_bytes() const {
    return static_cast<index_t>(memory_of_rank(placement, placement.node_ranks));
}

void ModelSettings::declare(core::OptionSet& set) {
    set.add("model.path", path, "folder of a Hugging Face checkpoint: config.json and *.safetensors");
    set.add(
        "model.synthetic", synthetic,
        fmt::format("instead of a path: random weights in the sizes of {}", fmt::join(model::synthetic_names(), ", ")));
    set.add("model.layers", layers, "use the first layers only, for benchmarks; 0: all", core::at_least(0));
}

model::Architecture read_architecture(const ModelSettings& settings, const mpi::GridShape& grid) {
    core::require(settings.path.empty() || settings.synthetic.empty(), ExitCode::usage,
                  "model.path = {} and model.synthetic = {} are both set (a model comes from one of them); remove one",
                  settings.path, settings.synthetic);
    model::Architecture architecture;
    if (settings.synthetic.empty()) {
        core::require_set("model.path", settings.path);
        architecture = model::read_architecture(std::filesystem::path(settings.path));
    } else {
        architecture = model::synthetic_architecture(settings.synthetic);
    }
    if (settings.layers > 0) {
        architecture.limit_layers(settings.layers);
    }
    core::require(architecture.expert_intermediate >= grid.tensor, ExitCode::usage,
                  "parallel.tensor = {} exceeds the experts' intermediate size {} of {}; use fewer ranks per tensor "
                  "group",
                  grid.tensor, architecture.expert_intermediate, settings.name());
    core::require(architecture.experts >= grid.expert, ExitCode::usage,
                  "parallel.expert = {} exceeds the number of experts of {}, {} (each group needs one at least); use "
                  "fewer groups",
                  grid.expert, settings.name(), architecture.experts);
    return architecture;
}

void fit_to_checkpoint(const ModelSettings& settings, model::Architecture& architecture) {
    if (settings.synthetic.empty() && io::TensorSource::is_model(settings.path)) {
        model::fit_to_checkpoint(io::TensorSource::open_model(settings.path), architecture);
    }
}

void print_warnings(const mpi::Communicator& world, const std::vector<std::string>& lines) {
    for (const std::string& line : lines) {
        if (!line.empty()) {
            mpi::print(world, line + "\n");
        }
    }
}

model::Architecture read_architecture(const Runtime& runtime, const ModelSettings& settings) {
    model::Architecture architecture;
    runtime.world.agree([&] { architecture = read_architecture(settings, runtime.grid.shape()); });
    return architecture;
}

MemoryPlan plan_memory(const Runtime& runtime, const model::Architecture& architecture,
                       const model::DecoderSettings& settings, std::size_t scalar_bytes, Purpose purpose) {
    return plan_memory(architecture, settings,
                       {.tokens = settings.max_tokens,
                        .data_ranks = runtime.grid.data().size(),
                        .expert_ranks = runtime.grid.expert().size(),
                        .tensor_ranks = runtime.grid.tensor().size(),
                        .threads = runtime.placement.threads,
                        .scalar_bytes = static_cast<index_t>(scalar_bytes),
                        .packed_bytes = packed_bytes(runtime.kernels, static_cast<index_t>(scalar_bytes)),
                        .training = purpose == Purpose::training});
}

double memory_of_rank(const host::Placement& placement, index_t node_ranks) {
    constexpr double usable = 0.9;  // some is left for the system and the threads
    return usable * static_cast<double>(placement.memory_available_bytes) / static_cast<double>(node_ranks);
}

void require_memory(const host::Placement& placement, index_t node_ranks, const std::string& model, double bytes) {
    const double available = memory_of_rank(placement, node_ranks);
    core::require(bytes <= available, ExitCode::out_of_resources,
                  "{}: about {:.1f} GiB per rank are needed ({:.1f} GiB are available on {} with {} ranks on it); use "
                  "more nodes, fewer tokens per pass, or a smaller model",
                  model, bytes / core::gibibyte, available / core::gibibyte, placement.host, node_ranks);
}

template <class Scalar>
std::unique_ptr<model::Decoder<Scalar>> load_model(const Runtime& runtime, const model::Architecture& architecture,
                                                   const ModelSettings& model, const model::DecoderSettings& settings,
                                                   Purpose purpose) {
    std::unique_ptr<model::Decoder<Scalar>> decoder;
    std::string unused;
    model::Architecture as_stored = architecture;
    std::optional<io::TensorSource> tensors;
    runtime.world.agree([&] {
        if (model.synthetic.empty()) {
            tensors = io::TensorSource::open_model(model.path);
            model::fit_to_checkpoint(*tensors, as_stored);
        }
        require_memory(runtime.placement, runtime.placement.node_ranks, model.name(),
                       plan_memory(runtime, as_stored, settings, sizeof(Scalar), purpose).total());
    });
    print_warnings(runtime.world, {as_stored.warning, settings.lora.warning});
    runtime.world.agree([&] {
        decoder = std::make_unique<model::Decoder<Scalar>>(as_stored, settings, runtime.kernels, runtime.grid);
        if (!tensors) {
            decoder->load(model::SyntheticWeights<Scalar>(0));
            return;
        }
        const model::CheckpointWeights<Scalar> weights(*tensors, as_stored);
        decoder->load(weights);
        weights.check_complete();
        unused = weights.unused();
    });
    print_warnings(runtime.world, {unused});
    return decoder;
}

#define MOESAIC_INSTANTIATE(Scalar)                                      \
    template std::unique_ptr<model::Decoder<Scalar>> load_model<Scalar>( \
        const Runtime&, const model::Architecture&, const ModelSettings&, const model::DecoderSettings&, Purpose);
MOESAIC_INSTANTIATE(core::bf16)
MOESAIC_INSTANTIATE(float)
#undef MOESAIC_INSTANTIATE

}  // namespace moesaic::train
