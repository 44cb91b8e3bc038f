// moesaic bench collectives: what training exchanges between ranks, beside a ping-pong over the same transport.
#include "bench/benchmark.hpp"
#include "bench/shapes.hpp"
#include "core/error.hpp"
#include "core/matrix.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace moesaic::bench {
namespace {

using core::ExitCode;
using core::Matrix;

/// An operation at one size: run it, and know what it must give.
struct Operation {
    std::string name;
    double bytes_per_rank;  ///< that the busiest rank must receive or send at least: for bandwidth
    std::function<void()> run;
    std::function<void()> prepare;     ///< fills the input, on every rank
    std::function<bool()> is_correct;  ///< after one run from a prepared input
    index_t repeats = 1;               ///< in one measurement
    Samples seconds{};                 ///< of one run
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

/// Every operation at one size: blocks of `n` floats of each rank.
class Exchange {
public:
    Exchange(const mpi::Communicator& world, index_t n)
        : world_(world),
          n_(n),
          ranks_(world.size()),
          mine_(n, 1),
          all_(n * ranks_, 1),
          received_(n * ranks_, 1),
          counts_(static_cast<std::size_t>(ranks_), n) {
        const auto bytes = static_cast<double>(n_ * static_cast<index_t>(sizeof(float)));
        const auto others = static_cast<double>(ranks_ - 1);
        operations = {ping_pong(bytes),
                      all_reduce(bytes * 2 * others / static_cast<double>(ranks_)),
                      reduce_scatter(bytes * others),
                      all_gather(bytes * others),
                      all_to_all(bytes * others),
                      broadcast(bytes),
                      gather(bytes * others)};
    }
    Exchange(const Exchange&) = delete;  // operations refer to the other members
    Exchange& operator=(const Exchange&) = delete;

    [[nodiscard]] index_t bytes() const { return n_ * static_cast<index_t>(sizeof(float)); }

    std::vector<Operation> operations;

private:
    /// There and back between the first and the last rank; the time of both ways. Each has a buffer to send and another
    /// one to receive, as osu_latency of the OSU Micro-Benchmarks: a single one would wander between their caches.
    Operation ping_pong(double bytes) {
        const int last = world_.size() - 1;
        return {"ping_pong", 2 * bytes,
                [this, last] {
                    const auto elements = static_cast<std::size_t>(n_);
                    const auto mine = std::as_bytes(std::span(mine_.data(), elements));
                    const auto received = std::as_writable_bytes(std::span(received_.data(), elements));
                    if (world_.is_root()) {
                        world_.send(mine, last);
                        world_.receive(received, last);
                    } else if (world_.rank() == last) {
                        world_.receive(received, 0);
                        world_.send(mine, 0);
                    }
                },
                [this] { fill(mine_, world_.rank()), received_.fill(-1); },
                [this, last] {
                    const bool takes_part = world_.is_root() || world_.rank() == last;
                    const index_t from = world_.is_root() ? last : 0;
                    for (index_t i = 0; takes_part && i < n_; ++i) {
                        if (received_.data()[i] != element(from, i)) {
                            return false;
                        }
                    }
                    return true;
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
        return {"broadcast", bytes,
                [this] {
                    world_.broadcast(std::span(mine_.data(), static_cast<std::size_t>(n_)));
                    world_.barrier();  // or the next one would begin before this one has arrived everywhere
                },
                [this] { fill(mine_, world_.rank()); },
                [this] { return all_equal(mine_, [](index_t i) { return element(0, i); }); }};
    }

    Operation gather(double bytes) {
        return {"gather", bytes,
                [this] {
                    world_.gather_blocks<float>(std::span(mine_.data(), static_cast<std::size_t>(n_)),
                                                std::span(all_.data(), static_cast<std::size_t>(all_.rows())), counts_);
                    world_.barrier();  // or ranks would send the next ones before the root has received these
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

/// What ranks exchange, at several sizes. The group has two ranks or more.
class CollectiveBenchmark final : public Benchmark {
public:
    /// Collective. Runs every operation at every size and adds the share of wrong elements to the checks of the case.
    CollectiveBenchmark(Console& console, const std::vector<index_t>& message_bytes);

    void repeat(bool record) override;
    [[nodiscard]] std::vector<std::span<const double>> samples() const override;
    void report(Console& console, const measure::MachineLimits& limits) const override;

private:
    mpi::Communicator world_;
    std::vector<std::unique_ptr<Exchange>> exchanges_;  ///< of every size
};

CollectiveBenchmark::CollectiveBenchmark(Console& console, const std::vector<index_t>& message_bytes)
    : world_(console.world()) {
    constexpr double seconds_per_measurement = 0.02;
    for (const index_t bytes : message_bytes) {
        world_.agree([&] {
            exchanges_.push_back(std::make_unique<Exchange>(world_, bytes / static_cast<index_t>(sizeof(float))));
        });
        for (Operation& operation : exchanges_.back()->operations) {
            operation.prepare();
            operation.run();
            console.add_check("error_" + measure::figures::time_of_message(operation.name, bytes).name,
                              operation.is_correct() ? 0 : 1, 0);
            operation.repeats = repeats_for(world_, seconds_per_measurement, operation.run);
        }
    }
}

/// Sums that are repeated in place overflow to infinity, which costs no time.
void CollectiveBenchmark::repeat(bool record) {
    for (const auto& exchange : exchanges_) {
        for (Operation& operation : exchange->operations) {
            const Sample seconds = seconds_of(world_, [&] {
                for (index_t run = 0; run < operation.repeats; ++run) {
                    operation.run();
                }
            });
            if (record) {
                operation.seconds.push_back(seconds * (1 / static_cast<double>(operation.repeats)));
            }
        }
    }
}

std::vector<std::span<const double>> CollectiveBenchmark::samples() const {
    std::vector<std::span<const double>> all;
    for (const auto& exchange : exchanges_) {
        for (const Operation& operation : exchange->operations) {
            all.emplace_back(operation.seconds.slowest);
        }
    }
    return all;
}

void CollectiveBenchmark::report(Console& console, const measure::MachineLimits&) const {
    console.say(fmt::format("{:<15} {:>10} {:>12} {:>8} {:>10} {:>14}\n", "operation", "bytes", "us", "+- %", "GB/s",
                            "% of ping-pong"));
    for (const auto& exchange : exchanges_) {
        double ping_pong = 0;  // GB/s
        for (const Operation& operation : exchange->operations) {
            const Samples bandwidth = operation.seconds.rates(operation.bytes_per_rank * 1e-9);
            // A message has arrived after half of there and back.
            const Samples microseconds = operation.seconds.scaled(operation.name == "ping_pong" ? 0.5e6 : 1e6);
            const measure::Summary time = measure::summarize(microseconds.slowest);
            const double median = measure::summarize(bandwidth.slowest).median;
            ping_pong = operation.name == "ping_pong" ? median : ping_pong;
            console.say(fmt::format("{:<15} {:>10} {:>12.2f} {:>8.1f} {:>10.3f} {:>14.0f}\n", operation.name,
                                    exchange->bytes(), time.median, time.spread_percent(), median,
                                    100 * median / ping_pong));
            console.add(measure::figures::time_of_message(operation.name, exchange->bytes()), "us",
                        measure::Better::lower, microseconds);
            console.add(measure::figures::bandwidth_of_message(operation.name, exchange->bytes()), "GB/s",
                        measure::Better::neither, bandwidth);
        }
    }
    console.say("\n");
}

class CollectiveBenchmarkSettings final : public BenchmarkSettings {
public:
    void declare(core::OptionSet& set) override {
        set.add("bytes", bytes_, "message sizes, separated by commas: 64, 64K, 1M");
    }
    void check(index_t ranks) const override {
        const std::vector<index_t> sizes = parse_sizes("bytes", bytes_);
        const bool whole_floats = std::all_of(
            sizes.begin(), sizes.end(), [](index_t size) { return size % static_cast<index_t>(sizeof(float)) == 0; });
        core::require(whole_floats, ExitCode::usage,
                      "bytes = {} has a size that is no multiple of 4 (what is sent is FP32); choose others", bytes_);
        core::require(ranks > 1, ExitCode::usage,
                      "one rank has nobody to exchange with (the job has a single rank); start several with mpirun or "
                      "srun");
    }
    [[nodiscard]] std::unique_ptr<Benchmark> prepare(const train::Runtime&, Console& console) const override {
        return std::make_unique<CollectiveBenchmark>(console, parse_sizes("bytes", bytes_));
    }

private:
    std::string bytes_ = "8,1024,65536,1048576,8388608";  ///< docs/benchmarking.md says of what
};

}  // namespace

std::unique_ptr<BenchmarkSettings> make_collectives_settings() {
    return std::make_unique<CollectiveBenchmarkSettings>();
}

}  // namespace moesaic::bench
