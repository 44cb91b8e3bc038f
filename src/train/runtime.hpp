// What every command that computes sets up first: placement and threads, kernels, the process grid, the model.
#pragma once

#include "core/options.hpp"
#include "host/placement.hpp"
#include "io/safetensors.hpp"
#include "kernels/compute_settings.hpp"
#include "kernels/kernel_set.hpp"
#include "model/decoder.hpp"
#include "model/families/architecture.hpp"
#include "mpi/communicator.hpp"
#include "mpi/place.hpp"
#include "mpi/process_grid.hpp"
#include "train/memory_plan.hpp"

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace moesaic::train {

using core::index_t;

/// Ranks that are ready to compute. Collective to construct.
struct Ranks {
    /// Prints where the ranks run and what costs speed there, if it `announces`.
    Ranks(const mpi::Communicator& world, const mpi::PlaceSettings& place, const kernels::ComputeSettings& compute,
          bool announces = true);
    /// For ranks that were placed, and whose threads were started, before.
    Ranks(const mpi::Communicator& group, const host::Placement& placed, bool bound,
          const kernels::ComputeSettings& compute);

    /// That this rank may use.
    [[nodiscard]] index_t memory_bytes() const;

    mpi::Communicator world;
    host::Placement placement;
    double foreign_load = 0;  ///< as of host::Binding
    bool threads_bound;
    kernels::KernelSet kernels;
    mpi::Communicator host_group;  ///< the ranks of this host
    index_t host_ranks = 1;        ///< of the host that has fewest

private:
    /// Collective. Finds the ranks of this host, and the memory that rows pass through between them.
    void share_memory();
};

/// Ranks and how they share the work. Collective to construct.
struct Runtime : Ranks {
    Runtime(const Ranks& ranks, const mpi::GridShape& shape) : Ranks(ranks), grid(world, shape) {}

    mpi::ProcessGrid grid;
};

/// Which model: a folder, or the name of random weights.
struct ModelSettings {
    std::string path;
    std::string synthetic;
    index_t layers = 0;                                                   ///< 0: all
    ops::WeightChoice weights = ops::WeightChoice::automatic;             ///< what routed experts are held in
    std::string cache{};                                                  ///< file of packed experts; empty: none
    ops::ExpertArithmetic arithmetic = ops::ExpertArithmetic::automatic;  ///< declared with the options of computing
    model::WeightSharing share = model::WeightSharing::none;
    double router_skew = 0;  ///< of random weights; declared by benchmarks

    void declare(core::OptionSet& set);
    /// That routed experts are to be held in, if it is not that of the files. Throws a usage error if the options
    /// contradict each other.
    [[nodiscard]] std::optional<ops::WeightFormat> expert_format() const;
    [[nodiscard]] bool uses_integers() const { return arithmetic == ops::ExpertArithmetic::int8; }
    /// Whether the run writes a cache of integers, which no tensor group of several ranks can.
    [[nodiscard]] bool makes_integer_cache() const;
    /// The grids that the model leaves of those that are wanted.
    [[nodiscard]] mpi::GridSettings settle(mpi::GridSettings wanted) const {
        wanted.tensor = makes_integer_cache() ? 1 : wanted.tensor;
        return wanted;
    }
    /// What messages and adapters call the model.
    [[nodiscard]] const std::string& name() const { return synthetic.empty() ? path : synthetic; }
};

/// Reads the architecture and checks that so many ranks as are wanted can share its experts, and that these can compute
/// as they are to.
[[nodiscard]] model::Architecture read_architecture(const ModelSettings& settings, const mpi::GridSettings& grid,
                                                    kernels::Precision precision);
/// Completes the architecture by what only the files of weights say, as model::fit_to_checkpoint does, where there are
/// any, which is not so beside a configuration alone.
void fit_to_checkpoint(const ModelSettings& settings, model::Architecture& architecture);

/// Prints those lines on rank 0 that are not empty.
void print_warnings(const mpi::Communicator& world, const std::vector<std::string>& lines);

/// What will be done with a model.
enum class Purpose : std::uint8_t { training, evaluation };

/// How the ranks that run compute, but for tokens and grid.
[[nodiscard]] MemoryRequest memory_request(const Ranks& ranks, std::size_t scalar_bytes, Purpose purpose);

/// Bytes of memory that each of `node_ranks` ranks of the host may use.
[[nodiscard]] double memory_of_rank(const host::Placement& placement, index_t node_ranks);

/// Throws with ExitCode::out_of_resources if a rank needs more than it may use. To be called before allocating.
/// `advice` says what would fit, if something is known to.
void require_memory(const host::Placement& placement, index_t node_ranks, const std::string& model, double bytes,
                    const std::string& advice = {});

/// How far this rank is with its weights.
struct LoadProgress {
    index_t layers = 0;
    index_t layers_of_model = 0;
    std::uint64_t bytes = 0;  ///< read from files
    double seconds = 0;       ///< since it began
};
/// "loading [##------------------] layer 5 of 48, 3.5 GiB, 1.2 GiB/s".
[[nodiscard]] std::string to_text(const LoadProgress& progress);

/// Collective. Builds the decoder and gets this rank's weights. Refuses before allocating what the memory can't hold.
/// `progress` is called after each layer; what it throws on one rank ends the loading of all.
template <class Scalar>
[[nodiscard]] std::unique_ptr<model::Decoder<Scalar>> load_model(
    const Runtime& runtime, const model::Architecture& architecture, const ModelSettings& model,
    const model::DecoderSettings& settings, Purpose purpose,
    const std::function<void(const LoadProgress&)>& progress = [](const LoadProgress&) {});

}  // namespace moesaic::train
