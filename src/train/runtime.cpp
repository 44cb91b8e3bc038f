#include "train/runtime.hpp"

#include "core/counted.hpp"
#include "core/enumeration.hpp"
#include "core/error.hpp"
#include "core/text.hpp"
#include "core/trace.hpp"
#include "core/units.hpp"
#include "host/placement_report.hpp"
#include "host/process_memory.hpp"
#include "model/weights/packed_cache.hpp"
#include "model/weights/shared_weights.hpp"
#include "model/weights/synthetic.hpp"
#include "model/weights/weights.hpp"
#include "mpi/print.hpp"
#include "ops/arithmetic_option.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <optional>
#include <span>

namespace moesaic::train {
namespace {

using core::ExitCode;

/// The kernels, with a usage error on all ranks if one of them can't run their level.
kernels::KernelSet choose_kernels(const mpi::Communicator& world, const kernels::ComputeSettings& compute) {
    std::unique_ptr<kernels::KernelSet> chosen;
    world.agree([&] { chosen = std::make_unique<kernels::KernelSet>(compute.kernels()); });
    return *chosen;
}

/// Collective. Before this rank has threads of its own that keep cores busy.
double measure_foreign_load(const mpi::Communicator& world, const host::Placement& placement) {
    world.barrier();
    return host::measure_foreign_load(placement);
}

const char* describe(host::ThreadPlaces places) {
    switch (places) {
        case host::ThreadPlaces::own_units:
            return "each bound to a core";
        case host::ThreadPlaces::rank_cores:
            return "free to move among the rank's cores";
        case host::ThreadPlaces::as_inherited:
            break;
    }
    return "unbound";
}

/// Collective. The ranks with memory that those of a host pass rows through, if there is room for it.
mpi::Communicator with_stage(const mpi::Communicator& world) {
    try {
        return world.with_shared_stage();
    } catch (const mpi::AgreedError& error) {
        mpi::print(world,
                   fmt::format("warning: rows travel through MPI alone, which takes longer: {}\n", error.what()));
        return world;
    }
}

/// Collective.
void announce_placement(const Ranks& ranks) {
    const host::Placement& p = ranks.placement;
    const index_t fewest = ranks.world.min(static_cast<index_t>(p.threads));
    const index_t most = ranks.world.max(static_cast<index_t>(p.threads));
    const index_t hosts = ranks.world.sum(static_cast<index_t>(p.node_rank == 0 ? 1 : 0));
    mpi::print(
        ranks.world,
        fmt::format("{} on {}, {}{} each, {}; rank 0 on {}: cores {}\n", core::counted(ranks.world.size(), "rank"),
                    core::counted(hosts, "host"), fewest == most ? "" : fmt::format("{} to ", fewest),
                    core::counted(most, "thread"), describe(host::places_for(p)), p.host, core::ranges(p.cores)));
    const host::Binding binding = {
        .threads_bound = ranks.threads_bound, .foreign_load = ranks.foreign_load, .memory_nodes = {}};
    for (const host::RemarkLine& line : mpi::gather_remarks(ranks.world, host::remarks(p, binding))) {
        mpi::print(ranks.world, line.with_severity() + "\n");
    }
}

/// What files of weights say, and what was chosen instead.
void complete(const ModelSettings& settings, const std::optional<io::TensorSource>& tensors,
              model::Architecture& architecture) {
    if (tensors) {
        model::fit_to_checkpoint(*tensors, architecture);
    } else {
        architecture.stored = {architecture.quantisation.experts, architecture.quantisation.projections,
                               architecture.stored.embedding};
    }
    if (const auto format = settings.expert_format()) {
        architecture.stored.experts = format;
    }
}

}  // namespace

Ranks::Ranks(const mpi::Communicator& communicator, const mpi::PlaceSettings& place,
             const kernels::ComputeSettings& compute, bool announces)
    : world(communicator),
      placement(mpi::place(world, place)),
      foreign_load(measure_foreign_load(world, placement)),
      threads_bound(host::bind_threads(placement)),
      kernels(choose_kernels(world, compute)),
      host_group(world) {
    share_memory();
    host::update_memory(placement);  // threads took some of their address space
    if (announces) {
        announce_placement(*this);
    }
}

Ranks::Ranks(const mpi::Communicator& group, const host::Placement& placed, bool bound,
             const kernels::ComputeSettings& compute)
    : world(group),
      placement(placed),
      threads_bound(bound),
      kernels(choose_kernels(world, compute)),
      host_group(world) {
    share_memory();
}

void Ranks::share_memory() {
    world = with_stage(world);  // now that this process is bound, its pages come to lie on its NUMA node
    host_group = world.split_by_node();
    host_ranks = world.min(static_cast<index_t>(host_group.size()));
}

index_t Ranks::memory_bytes() const {
    return static_cast<index_t>(memory_of_rank(placement, placement.node_ranks));
}

void ModelSettings::declare(core::OptionSet& set) {
    set.add_path("model.path", path,
                 "folder of a Hugging Face checkpoint, with config.json and *.safetensors; or give model.synthetic")
        .known_as({"model_name_or_path", "model_name", "base_model", "model_id"});
    set.add("model.synthetic", synthetic,
            fmt::format("random weights instead of model.path, in the sizes of {}",
                        fmt::join(model::synthetic_names(), ", ")));
    set.add("model.layers", layers, "use only so many layers, the first ones, for benchmarks; 0: all",
            core::at_least(0));
    set.add_enum(
           "model.weights", weights,
           "what routed experts are held in: auto, as the files have them; or rounded to bf16, fp8, int8, int4 or "
           "mxfp4, with a scale for every 32 elements of a row")
        .known_as({"load_in_8bit", "load_in_4bit", "quantization_bit", "quantization", "quantization_method"});
    set.add_path("model.cache", cache,
                 "file that keeps the routed experts as they are packed in memory: made by the first start, read by "
                 "later ones, on any grid of ranks");
    set.add_enum(
        "model.share", share,
        "what the ranks of a host hold together in shared memory: none; or host: embedding, attention, dense and "
        "shared feed-forward networks and head, which are read and held once instead of by every rank, but lie "
        "on other NUMA nodes than some of their readers");
}

std::optional<ops::WeightFormat> ModelSettings::expert_format() const {
    return ops::chosen_format(weights, arithmetic, "model.weights");
}

bool ModelSettings::makes_integer_cache() const {
    std::error_code error;
    return uses_integers() && !cache.empty() && !std::filesystem::exists(cache, error);
}

namespace {

/// Throws a usage error if experts can't compute as they are to.
void check_arithmetic(const ModelSettings& model, const mpi::GridSettings& grid, kernels::Precision precision) {
    static_cast<void>(model.expert_format());
    if (!model.uses_integers()) {
        return;
    }
    core::require(precision != kernels::Precision::fp32, ExitCode::usage,
                  "compute.experts = {} with compute.precision = {} (which would be rounded to 8 bits); remove one",
                  core::name_of(model.arithmetic), core::name_of(precision));
    core::require(grid.tensor <= 1 || !model.makes_integer_cache(), ExitCode::usage,
                  "model.cache = {} can't be made by {} ranks per tensor group with compute.experts = {} (each rounds "
                  "its own part of a row); make it with parallel.tensor = 1",
                  model.cache, grid.tensor, core::name_of(model.arithmetic));
}

}  // namespace

model::Architecture read_architecture(const ModelSettings& settings, const mpi::GridSettings& grid,
                                      kernels::Precision precision) {
    check_arithmetic(settings, grid, precision);
    core::require(settings.path.empty() || settings.synthetic.empty(), ExitCode::usage,
                  "model.path = {} and model.synthetic = {} are both set (a model comes from one of them); remove one",
                  settings.path, settings.synthetic);
    model::Architecture architecture;
    if (settings.synthetic.empty()) {
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
    const bool has_files = settings.synthetic.empty() && io::TensorSource::is_model(settings.path);
    complete(settings, has_files ? std::optional(io::TensorSource::open_model(settings.path)) : std::nullopt,
             architecture);
}

void print_warnings(const mpi::Communicator& world, const std::vector<std::string>& lines) {
    for (const std::string& line : lines) {
        if (!line.empty()) {
            mpi::print(world, line + "\n");
        }
    }
}

MemoryRequest memory_request(const Ranks& ranks, std::size_t scalar_bytes, Purpose purpose) {
    return {.host_ranks = ranks.host_ranks,
            .threads = ranks.placement.threads,
            .scalar_bytes = static_cast<index_t>(scalar_bytes),
            .packed_bytes = packed_bytes(ranks.kernels, static_cast<index_t>(scalar_bytes)),
            .in_parts = scalar_bytes < sizeof(float) && ranks.kernels.operand_parts<core::bf16>() == 2,
            .training = purpose == Purpose::training};
}

double memory_of_rank(const host::Placement& placement, index_t node_ranks) {
    constexpr double usable = 0.9;  // some is left for the system and the threads
    return usable * std::min(static_cast<double>(placement.memory_available_bytes) / static_cast<double>(node_ranks),
                             static_cast<double>(placement.process_memory_bytes));
}

void require_memory(const host::Placement& placement, index_t node_ranks, const std::string& model, double bytes,
                    const std::string& advice) {
    const double available = memory_of_rank(placement, node_ranks);
    core::require(bytes <= available, ExitCode::out_of_resources,
                  "{}: about {:.1f} GiB per rank are needed ({:.1f} GiB are available on {} with {} on it{}); {}",
                  model, bytes / core::gibibyte, available / core::gibibyte, placement.host,
                  core::counted(node_ranks, "rank"),
                  placement.memory_limit.empty() ? "" : ": " + placement.memory_limit,
                  advice.empty() ? "use more nodes, fewer tokens per pass, or a smaller model" : advice);
}

std::string to_text(const LoadProgress& progress) {
    constexpr index_t bar_width = 20;
    const index_t done = bar_width * progress.layers / std::max<index_t>(progress.layers_of_model, 1);
    std::string text = fmt::format("loading [{:-<{}}] layer {} of {}", std::string(static_cast<std::size_t>(done), '#'),
                                   bar_width, progress.layers, progress.layers_of_model);
    if (progress.bytes > 0 && progress.seconds > 0) {
        const double gibibytes = static_cast<double>(progress.bytes) / core::gibibyte;
        text += fmt::format(", {:.2f} GiB, {:.2f} GiB/s", gibibytes, gibibytes / progress.seconds);
    }
    return text;
}

namespace {

/// Collective. Says how fast all ranks together read, if it was much.
void announce_loading(const mpi::Communicator& world, const LoadProgress& mine) {
    constexpr double least_bytes = core::gibibyte;
    const double bytes = static_cast<double>(world.sum(static_cast<index_t>(mine.bytes)));
    const double seconds = world.max(mine.seconds);
    if (bytes >= least_bytes && seconds > 0) {
        mpi::print(world, fmt::format("loaded {:.1f} GiB in {:.1f} s, {:.2f} GiB/s\n", bytes / core::gibibyte, seconds,
                                      bytes / core::gibibyte / seconds));
    }
}

}  // namespace

namespace {

/// Collective. Calls load(source), or load with the source that the cache file makes of it.
template <class Scalar, class Load>
void load_through_cache(const Runtime& runtime, const std::string& file, const std::vector<model::LayerPlan>& layers,
                        const model::WeightSource<Scalar>& source, const Load& load) {
    using Cache = model::PackedCache<Scalar>;
    const mpi::Communicator& world = runtime.world;
    if (file.empty()) {
        world.agree([&] { load(source); });
        return;
    }
    std::optional<io::PartialFile> partial;  // of rank 0, if the file is to be made
    std::string opened = file;
    world.agree([&] {
        if (!world.is_root()) {
            return;
        }
        io::remove_abandoned(file);
        std::error_code error;
        if (!std::filesystem::exists(file, error)) {
            partial.emplace(file, io::Writers::several);
            Cache::create(*partial, layers, source.fingerprint());
            opened = partial->path().string();
        }
    });
    world.broadcast(opened);
    const bool is_there = opened == file;
    world.agree([&] {
        const auto use = is_there                        ? Cache::Use::read
                         : runtime.grid.data().is_root() ? Cache::Use::write
                                                         : Cache::Use::pass;
        Cache cache(source, layers, use, opened);
        load(cache);
        cache.close();
    });
    world.agree([&] {
        if (partial) {
            partial->commit();
        }
    });
    if (!is_there) {
        mpi::print(world, fmt::format("packed experts written to {}\n", file));
    }
}

}  // namespace

namespace {

/// Collective. Memory for replicated weights, if ranks of this host share them.
template <class Scalar>
std::shared_ptr<mpi::HostMemory> memory_to_share(const Runtime& runtime, const ModelSettings& model,
                                                 const model::Architecture& architecture,
                                                 const std::vector<model::LayerPlan>& layers) {
    std::shared_ptr<mpi::HostMemory> memory;
    if (model.share == model::WeightSharing::none) {
        return memory;
    }
    const bool is_shared = runtime.host_group.size() > 1;
    const std::size_t bytes = model::SharedWeights<Scalar>::bytes_of(architecture, layers);
    runtime.world.agree([&] {
        if (is_shared) {
            mpi::HostMemory::require_room(bytes, "or set model.share = none");
        }
    });
    runtime.world.agree([&] {
        if (is_shared) {
            memory = std::make_shared<mpi::HostMemory>(runtime.host_group, bytes);
        }
    });
    return memory;
}

}  // namespace

template <class Scalar>
std::unique_ptr<model::Decoder<Scalar>> load_model(const Runtime& runtime, const model::Architecture& architecture,
                                                   const ModelSettings& model, const model::DecoderSettings& settings,
                                                   Purpose purpose,
                                                   const std::function<void(const LoadProgress&)>& progress) {
    std::unique_ptr<model::Decoder<Scalar>> decoder;
    std::string unused;
    model::Architecture as_stored = architecture;
    std::optional<io::TensorSource> tensors;
    runtime.world.agree([&] {
        if (model.synthetic.empty()) {
            tensors = io::TensorSource::open_model(model.path);
        }
        complete(model, tensors, as_stored);
        MemoryRequest request = memory_request(runtime, sizeof(Scalar), purpose);
        request.set_grid(runtime.grid.shape());
        request.share = model.share;
        request.pass = {settings.max_tokens};
        require_memory(runtime.placement, runtime.placement.node_ranks, model.name(),
                       plan_memory(as_stored, settings, request).total());
    });
    print_warnings(runtime.world, {as_stored.warning});
    if (model.uses_integers() && runtime.kernels.of<kernels::int8>().gemm.isa == kernels::Isa::portable) {
        mpi::print(runtime.world,
                   "warning: compute.experts = int8 has no kernels here but portable ones (AVX512_VNNI or AMX INT8 are "
                   "missing, or not wanted): leave it out for speed\n");
    }
    print_warnings(runtime.world, settings.lora.warnings);
    std::unique_ptr<model::WeightSource<Scalar>> source;
    const model::CheckpointWeights<Scalar>* checkpoint = nullptr;
    std::vector<model::LayerPlan> layers;
    LoadProgress done;
    runtime.world.agree([&] {
        decoder = std::make_unique<model::Decoder<Scalar>>(as_stored, settings, runtime.kernels, runtime.grid);
        layers = model::plan_layers(as_stored, settings, model::place_in(runtime.grid));
        if (tensors) {
            auto weights = std::make_unique<model::CheckpointWeights<Scalar>>(*tensors, as_stored);
            checkpoint = weights.get();
            source = std::move(weights);
        } else {
            source = std::make_unique<model::SyntheticWeights<Scalar>>(0, model.router_skew);
        }
    });
    const std::shared_ptr<mpi::HostMemory> memory = memory_to_share<Scalar>(runtime, model, as_stored, layers);
    load_through_cache(runtime, model.cache, layers, *source, [&](const model::WeightSource<Scalar>& weights) {
        std::optional<model::SharedWeights<Scalar>> shared;
        if (memory) {
            shared.emplace(weights, memory);
        }
        const std::int64_t begin_ns = core::trace::now_ns();
        decoder->load(shared ? *shared : weights, [&](index_t loaded) {
            done = {loaded, architecture.layers, weights.bytes_read(),
                    static_cast<double>(core::trace::now_ns() - begin_ns) * 1e-9};
            progress(done);
        });
        if (checkpoint != nullptr) {
            checkpoint->check_complete();
            unused = checkpoint->unused();
        }
    });
    if (memory) {
        memory->publish();
    }
    announce_loading(runtime.world, done);
    host::return_freed_memory();  // loading took more than it left
    print_warnings(runtime.world, {unused});
    return decoder;
}

#define MOESAIC_INSTANTIATE(Scalar)                                                                               \
    template std::unique_ptr<model::Decoder<Scalar>> load_model<Scalar>(                                          \
        const Runtime&, const model::Architecture&, const ModelSettings&, const model::DecoderSettings&, Purpose, \
        const std::function<void(const LoadProgress&)>&);
MOESAIC_INSTANTIATE(core::bf16)
MOESAIC_INSTANTIATE(float)
#undef MOESAIC_INSTANTIATE

}  // namespace moesaic::train
