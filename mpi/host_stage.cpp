#include "mpi/host_stage.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

namespace moesaic::mpi {

namespace {

/// A thread copies or sums so many bytes at a time.
constexpr std::size_t bytes_of_task = std::size_t{1} << 14U;
/// Waking the team takes as long as copying this.
constexpr std::size_t bytes_for_threads = std::size_t{1} << 17U;

template <class Byte>
std::size_t length(const Pieces<Byte>& pieces) {
    std::size_t sum = 0;
    for (const std::span<Byte>& piece : pieces) {
        sum += piece.size();
    }
    return sum;
}

template <class Byte>
std::size_t longest(const std::vector<Pieces<Byte>>& lists) {
    std::size_t most = 0;
    for (const Pieces<Byte>& pieces : lists) {
        most = std::max(most, length(pieces));
    }
    return most;
}

std::size_t steps_for(std::size_t bytes, std::size_t of_step) {
    return (bytes + of_step - 1) / of_step;
}

/// Calls body(offset, part) for parts of [begin, begin + count) of `bytes`, as far as they go; offsets from `begin`.
template <class Byte, class Body>
void for_each_part(std::span<Byte> bytes, std::size_t begin, std::size_t count, const Body& body) {
    const std::size_t end = std::min(begin + count, bytes.size());
    for (std::size_t at = begin; at < end; at += bytes_of_task) {
        body(at - begin, bytes.subspan(at, std::min(bytes_of_task, end - at)));
    }
}

template <class Byte, class Body>
void for_each_part(const Pieces<Byte>& pieces, std::size_t begin, std::size_t count, const Body& body) {
    std::size_t before = 0;
    for (const std::span<Byte>& piece : pieces) {
        const std::size_t first = std::clamp(begin, before, before + piece.size());
        const std::size_t last = std::clamp(begin + count, before, before + piece.size());
        for_each_part(piece, first - before, last - first,
                      [&](std::size_t offset, std::span<Byte> part) { body(first - begin + offset, part); });
        before += piece.size();
    }
}

}  // namespace

HostStage::HostStage(const Communicator& host, int number) : memory_(host, bytes_for(host.size())), number_(number) {}

void HostStage::take_pages() const {
    memory_.take_pages(memory_.bytes().subspan(static_cast<std::size_t>(rank()) * 2 * piece_bytes, 2 * piece_bytes));
}

StagedGroup::StagedGroup(std::shared_ptr<const HostStage> stage, std::vector<int> places, MPI_Comm group)
    : stage_(std::move(stage)),
      places_(std::move(places)),
      group_(group),
      rank_(static_cast<std::size_t>(std::find(places_.begin(), places_.end(), stage_->rank()) - places_.begin())) {
    constexpr std::size_t cache_line = 64;
    lane_bytes_ = HostStage::piece_bytes / places_.size() / cache_line * cache_line;
}

void StagedGroup::meet() const {
    stage_->synchronise();
    check(MPI_Barrier(group_), "MPI_Barrier");
    stage_->synchronise();
}

template <class Fill, class Use>
void StagedGroup::run_steps(std::size_t steps, const Fill& fill, const Use& use) const {
    Copies copies;
    for (std::size_t step = 0; step <= steps; ++step) {
        if (step > 0) {
            use(step - 1, copies);
        }
        if (step < steps) {
            fill(step, copies);
        }
        std::size_t bytes = 0;
        for (const Copy& copy : copies) {
            bytes += copy.bytes;
        }
        const auto count = static_cast<index_t>(copies.size());
#pragma omp parallel for schedule(static) if (bytes >= bytes_for_threads)
        for (index_t i = 0; i < count; ++i) {
            const Copy& copy = copies[static_cast<std::size_t>(i)];
            std::memcpy(copy.to, copy.from, copy.bytes);
        }
        copies.clear();
        meet();  // after the last one, too: places are those of all groups
    }
}

void StagedGroup::all_gather(const Pieces<const std::byte>& mine, const std::vector<Pieces<std::byte>>& all) const {
    constexpr std::size_t bytes = HostStage::piece_bytes;
    const auto fill = [&](std::size_t step, Copies& copies) {
        for_each_part(mine, step * bytes, bytes, [&](std::size_t offset, std::span<const std::byte> part) {
            copies.push_back({place(rank_, step) + offset, part.data(), part.size()});
        });
    };
    const bool in_place = mine.front().data() == all[rank_].front().data();
    const auto use = [&](std::size_t step, Copies& copies) {
        for (std::size_t i = in_place ? 1 : 0; i < places_.size(); ++i) {
            const std::byte* from = place(after(i), step);
            for_each_part(all[after(i)], step * bytes, bytes, [&](std::size_t offset, std::span<std::byte> part) {
                copies.push_back({part.data(), from + offset, part.size()});
            });
        }
    };
    run_steps(steps_for(longest(all), bytes), fill, use);
}

/// parts[r]: what rank r gets.
template <class Part>
void StagedGroup::fill_lanes(const std::vector<Part>& parts, std::size_t step, Copies& copies) const {
    for (std::size_t i = 1; i < places_.size(); ++i) {
        std::byte* to = lane(rank_, after(i), step);
        for_each_part(parts[after(i)], step * lane_bytes_, lane_bytes_,
                      [&](std::size_t offset, std::span<const std::byte> part) {
                          copies.push_back({to + offset, part.data(), part.size()});
                      });
    }
}

bool StagedGroup::all_to_all(const Pieces<const std::byte>& sent, const Pieces<std::byte>& received) const {
    std::uint64_t most = 0;
    for (const std::span<const std::byte>& bytes : sent) {
        most = std::max(most, bytes.size());
    }
    check(MPI_Allreduce(MPI_IN_PLACE, &most, 1, MPI_UINT64_T, MPI_MAX, group_), "MPI_Allreduce");
    if (most < least_bytes) {
        return false;
    }
    const auto fill = [&](std::size_t step, Copies& copies) { fill_lanes(sent, step, copies); };
    const auto use = [&](std::size_t step, Copies& copies) {
        for (std::size_t i = 0; i < places_.size(); ++i) {
            const std::byte* from = i == 0 ? sent[rank_].data() + step * lane_bytes_ : lane(after(i), rank_, step);
            for_each_part(received[after(i)], step * lane_bytes_, lane_bytes_,
                          [&](std::size_t offset, std::span<std::byte> part) {
                              copies.push_back({part.data(), from + offset, part.size()});
                          });
        }
    };
    run_steps(steps_for(most, lane_bytes_), fill, use);
    return true;
}

template <class T>
void StagedGroup::reduce_scatter(const std::vector<Pieces<const std::byte>>& parts, T* sums) const {
    const auto fill = [&](std::size_t step, Copies& copies) { fill_lanes(parts, step, copies); };
    struct Sum {
        std::size_t offset;  // in the lanes of this rank
        std::span<const std::byte> own;
    };
    std::vector<Sum> tasks;
    const auto use = [&](std::size_t step, Copies&) {
        tasks.clear();
        for_each_part(parts[rank_], step * lane_bytes_, lane_bytes_,
                      [&](std::size_t offset, std::span<const std::byte> own) {
                          tasks.push_back({offset, own});
                      });
        const auto count = static_cast<index_t>(tasks.size());
#pragma omp parallel for schedule(static) if (tasks.size() * places_.size() * bytes_of_task >= bytes_for_threads)
        for (index_t i = 0; i < count; ++i) {
            const Sum& task = tasks[static_cast<std::size_t>(i)];
            T* out = sums + (step * lane_bytes_ + task.offset) / sizeof(T);
            for (std::size_t r = 0; r < places_.size(); ++r) {
                const std::byte* bytes = r == rank_ ? task.own.data() : lane(r, rank_, step) + task.offset;
                const T* from = reinterpret_cast<const T*>(bytes);
                for (std::size_t e = 0; e < task.own.size() / sizeof(T); ++e) {
                    out[e] = r == 0 ? from[e] : out[e] + from[e];
                }
            }
        }
    };
    run_steps(steps_for(longest(parts), lane_bytes_), fill, use);
}

template void StagedGroup::reduce_scatter(const std::vector<Pieces<const std::byte>>&, float*) const;
template void StagedGroup::reduce_scatter(const std::vector<Pieces<const std::byte>>&, double*) const;

}  // namespace moesaic::mpi
