#include "bench/collectives.hpp"

#include "bench/statistics.hpp"
#include "bench/timing.hpp"
#include "core/error.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

namespace moesaic::bench {
namespace {

using core::Matrix;

/// An operation at one size: run it, and know what it must give.
struct Operation {
    std::string name;
    double bytes_per_rank;  ///< that the busiest rank must receive or send at least: for bandwidth
    std::function<void()> run;
    std::function<void()> prepare;     ///< fills the input, on every rank
    std::function<bool()> is_correct;  ///< after one run from a prepared input
};

/// Small integers, whose sums are exact in FP32; they differ between ranks and neighbouring elements.
float element(index_t rank, index_t i) {
    return static_cast<float>((rank * 31 + i) % 61);
}

float sum_of_elements(index_t ranks, index_t i) {
    float sum = 0;
    for (index_t rank = 0; rank < ranks; ++rank) {
        sum += element(rank, i);
    }
    return sum;
}

void fill(Matrix<float>& values, index_t rank) {
    for (index_t i = 0; i < values.rows(); ++i) {
        values.data()[i] = element(rank, i);
    }
}

template <class Expected>
bool all_equal(const Matrix<float>& values, const Expected& expected) {
    for (index_t i = 0; i < values.rows(); ++i) {
        if (values.data()[i] != expected(i)) {
            return false;
        }
    }
    return true;
}

/// Buffers of every operation at one size: blocks of `n` floats of each rank.
class Exchange {
public:
    Exchange(const mpi::Communicator& world, index_t n)
        : world_(world),
          n_(n),
          ranks_(world.size()),
          mine_(n, 1),
          all_(n * ranks_, 1),
          received_(n * ranks_, 1),
          counts_(static_cast<std::size_t>(ranks_), n) {}

    [[nodiscard]] std::vector<Operation> operations() {
        const auto bytes = static_cast<double>(n_ * static_cast<index_t>(sizeof(float)));
        const auto others = static_cast<double>(ranks_ - 1);
        return {ping_pong(bytes),
                all_reduce(bytes * 2 * others / static_cast<double>(ranks_)),
                reduce_scatter(bytes * others),
                all_gather(bytes * others),
                all_to_all(bytes * others),
                broadcast(bytes),
                gather(bytes * others)};
    }

private:
    /// There and back between the first and the last rank; the time of both ways.
    Operation ping_pong(double bytes) {
        const int last = world_.size() - 1;
        return {"ping_pong", 2 * bytes,
                [this, last] {
                    const auto buffer = std::as_writable_bytes(std::span(mine_.data(), static_cast<std::size_t>(n_)));
                    if (world_.is_root()) {
                        world_.send(buffer, last);
                        world_.receive(buffer, last);
                    } else if (world_.rank() == last) {
                        world_.receive(buffer, 0);
                        world_.send(buffer, 0);
                    }
                },
                [this] { fill(mine_, world_.rank()); },
                [this, last] {
                    // What the first rank sent is what the last one got and sent back.
                    const index_t from = world_.rank() == last ? 0 : world_.rank();
                    return all_equal(mine_, [&](index_t i) { return element(from, i); });
                }};
    }

    Operation all_reduce(double bytes) {
        return {"all_reduce", bytes, [this] { world_.sum(std::span(mine_.data(), static_cast<std::size_t>(n_))); },
                [this] { fill(mine_, world_.rank()); },
                [this] { return all_equal(mine_, [this](index_t i) { return sum_of_elements(ranks_, i); }); }};
    }

    Operation reduce_scatter(double bytes) {
        return {"reduce_scatter", bytes, [this] { world_.reduce_scatter_rows<float>(all_, mine_, counts_); },
                [this] { fill(all_, world_.rank()); },
                [this] {
                    const index_t begin = world_.rank() * n_;
                    return all_equal(mine_, [&](index_t i) { return sum_of_elements(ranks_, begin + i); });
                }};
    }

    Operation all_gather(double bytes) {
        return {"all_gather", bytes, [this] { world_.all_gather_rows<float>(mine_, all_, counts_); },
                [this] { fill(mine_, world_.rank()); },
                [this] { return all_equal(all_, [this](index_t i) { return element(i / n_, i % n_); }); }};
    }

    Operation all_to_all(double bytes) {
        return {"all_to_all", bytes, [this] { world_.all_to_all_rows<float>(all_, counts_, received_, counts_); },
                [this] { fill(all_, world_.rank()); },
                [this] {
                    const index_t begin = world_.rank() * n_;
                    return all_equal(received_, [&](index_t i) { return element(i / n_, begin + i % n_); });
                }};
    }

    Operation broadcast(double bytes) {
        return {"broadcast", bytes, [this] { world_.broadcast(std::span(mine_.data(), static_cast<std::size_t>(n_))); },
                [this] { fill(mine_, world_.rank()); },
                [this] { return all_equal(mine_, [](index_t i) { return element(0, i); }); }};
    }

    Operation gather(double bytes) {
        return {"gather", bytes,
                [this] {
                    world_.gather_blocks<float>(std::span(mine_.data(), static_cast<std::size_t>(n_)),
                                                std::span(all_.data(), static_cast<std::size_t>(all_.rows())), counts_);
                },
                [this] { fill(mine_, world_.rank()), all_.fill(-1); },
                [this] {
                    return !world_.is_root() || all_equal(all_, [this](index_t i) { return element(i / n_, i % n_); });
                }};
    }

    mpi::Communicator world_;
    index_t n_;
    index_t ranks_;
    Matrix<float> mine_;      // [n, 1]
    Matrix<float> all_;       // [ranks * n, 1]
    Matrix<float> received_;  // [ranks * n, 1]
    std::vector<index_t> counts_;
};

void check(const mpi::Communicator& world, const Operation& operation, index_t bytes) {
    operation.prepare();
    operation.run();
    world.agree([&] {
        core::require(operation.is_correct(), core::ExitCode::verification_failed,
                      "{} of {} bytes gives a wrong result (some elements differ from the exact ones); check the MPI "
                      "library and its transport",
                      operation.name, bytes);
    });
}

/// Seconds of one run. Sums that are repeated in place overflow to infinity, which costs no time.
Summary measure(const mpi::Communicator& world, const Operation& operation, index_t repeat) {
    constexpr double seconds_per_measurement = 0.02;
    const index_t runs = repeats_for(world, seconds_per_measurement, operation.run);
    std::vector<double> samples;
    for (index_t i = 0; i < repeat; ++i) {
        samples.push_back(seconds_of_slowest(world,
                                             [&] {
                                                 for (index_t run = 0; run < runs; ++run) {
                                                     operation.run();
                                                 }
                                             }) /
                          static_cast<double>(runs));
    }
    return summarize(samples);
}

}  // namespace

void run_collective_benchmark(Report& report, const CollectiveSettings& settings) {
    const mpi::Communicator& world = report.world();
    report.say(fmt::format("{:<15} {:>10} {:>12} {:>8} {:>10} {:>14}\n", "operation", "bytes", "us", "+- %", "GB/s",
                           "% of ping-pong"));
    for (const index_t bytes : settings.bytes) {
        Exchange exchange(world, bytes / static_cast<index_t>(sizeof(float)));
        double ping_pong = 0;  // GB/s
        for (const Operation& operation : exchange.operations()) {
            check(world, operation, bytes);
            const Summary seconds = measure(world, operation, settings.repeat);
            const Summary bandwidth = rate(operation.bytes_per_rank * 1e-9, seconds);
            // A message has arrived after half of there and back.
            const Summary time = scaled(operation.name == "ping_pong" ? 0.5e6 : 1e6, seconds);
            ping_pong = operation.name == "ping_pong" ? bandwidth.median : ping_pong;
            report.say(fmt::format("{:<15} {:>10} {:>12.2f} {:>8.1f} {:>10.3f} {:>14.0f}\n", operation.name, bytes,
                                   time.median, time.spread_percent(), bandwidth.median,
                                   100 * bandwidth.median / ping_pong));
            report.add(fmt::format("{}_{}", operation.name, bytes), "us", time);
            report.add(fmt::format("{}_{}_bandwidth", operation.name, bytes), "GB/s", bandwidth);
        }
    }
    report.say("\n");
}

}  // namespace moesaic::bench
