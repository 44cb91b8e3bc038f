#include "model/weights/shared_weights.hpp"

#include "core/error.hpp"

#include <algorithm>
#include <optional>
#include <utility>

namespace moesaic::model {
namespace {

/// Matrices begin at multiples of it, a page of most systems: the pages of each are those of the ranks that fill it.
constexpr std::size_t alignment = 4096;

std::size_t aligned(std::size_t bytes) {
    return (bytes + alignment - 1) / alignment * alignment;
}

}  // namespace

template <class Scalar>
std::size_t SharedWeights<Scalar>::bytes_of(const Architecture& architecture, const std::vector<LayerPlan>& layers) {
    std::size_t bytes = 0;
    const auto add = [&](std::optional<ops::WeightFormat> stored, index_t rows, index_t cols) {
        const index_t of_matrix = ops::PackedWeights::bytes_of(ops::format_for<Scalar>(stored), rows, cols);
        bytes += aligned(static_cast<std::size_t>(of_matrix));
    };
    for (int matrices = architecture.tied_head ? 1 : 2; matrices > 0; --matrices) {
        add(architecture.stored.embedding, architecture.vocabulary, architecture.hidden);
    }
    for (const LayerPlan& layer : layers) {
        for (const BlockPlan* block : {&layer.mixer, &layer.feed_forward}) {
            for (const ProjectionPlan& projection : block->projections) {
                if (!projection.is_routed()) {
                    add(projection.stored, projection.out, projection.in);
                }
            }
        }
    }
    return bytes;
}

template <class Scalar>
SharedWeights<Scalar>::SharedWeights(const WeightSource<Scalar>& source, std::shared_ptr<mpi::HostMemory> memory)
    : source_(source), memory_(std::move(memory)) {}

template <class Scalar>
void SharedWeights<Scalar>::fill_whole(const std::string& name, ops::PackedWeights& weights) const {
    core::require(taken_ + weights.bytes() <= memory_->bytes().size(), core::ExitCode::runtime_failure,
                  "{} of {} bytes exceeds the memory that ranks share ({} of {} bytes are taken); report this", name,
                  weights.bytes(), taken_, memory_->bytes().size());
    weights.use({memory_, memory_->bytes().data() + taken_});
    taken_ += aligned(weights.bytes());
    const core::Slice mine = blocks_slice(weights.rows(), memory_->host().rank(), memory_->host().size());
    if (mine.extent == 0) {
        source_.mark_read_elsewhere(name);
        return;
    }
    const ops::PackedMatrix rows = weights.matrix().rows(mine.begin, mine.extent);
    const MatrixView<std::byte> blocks = rows.blocks();
    memory_->take_pages({blocks.data(), static_cast<std::size_t>(blocks.rows() * blocks.stride())});
    source_.fill(name, {weights.rows(), weights.cols(), mine.begin, 0}, rows);
}

template class SharedWeights<core::bf16>;
template class SharedWeights<float>;

}  // namespace moesaic::model
