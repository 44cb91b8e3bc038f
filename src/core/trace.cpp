#include "core/trace.hpp"

#include <atomic>
#include <memory>
#include <mutex>
#include <utility>

namespace moesaic::core::trace {
namespace {

/// Bounds the memory of one thread's ring: 2^15 records of 72 bytes.
constexpr std::size_t records_per_thread = std::size_t{1} << 15U;
constexpr std::size_t most_counters = std::size_t{1} << 12U;

struct Record {
    ScopeName scope;
    std::int64_t begin;  // ticks
    std::int64_t end;    // ticks
    std::int64_t bytes;
    Transfer transfer;
};

/// Written by one thread, emptied by whoever calls take().
struct Ring {
    explicit Ring(int index) : thread(index) {}

    int thread;
    std::unique_ptr<Record[]> records = std::make_unique_for_overwrite<Record[]>(records_per_thread);
    std::atomic<std::size_t> written{0};
    std::atomic<std::size_t> taken{0};
};

std::atomic<bool> recording{false};
std::atomic<std::int64_t> dropped_records{0};
std::mutex shared_mutex;
// All guarded by shared_mutex. Rings live as long as the process.
std::vector<std::unique_ptr<Ring>> rings;
std::vector<Counter> counters;
TickScale scale;

thread_local ScopeName innermost;

Ring& ring_of_this_thread() {
    thread_local Ring* mine = nullptr;
    if (mine == nullptr) {
        const std::lock_guard lock(shared_mutex);
        rings.push_back(std::make_unique<Ring>(static_cast<int>(rings.size())));
        mine = rings.back().get();
    }
    return *mine;
}

void keep(const Record& record) noexcept {
    try {
        Ring& ring = ring_of_this_thread();
        const std::size_t written = ring.written.load(std::memory_order_relaxed);
        if (written - ring.taken.load(std::memory_order_acquire) < records_per_thread) {
            ring.records[written % records_per_thread] = record;
            ring.written.store(written + 1, std::memory_order_release);
            return;
        }
    } catch (const std::bad_alloc&) {
        // A trace is worth less than the run that it describes: count the event as dropped.
    }
    dropped_records.fetch_add(1, std::memory_order_relaxed);
}

}  // namespace

void enable(bool on) {
    if (on) {
        const std::lock_guard lock(shared_mutex);
        scale.calibrate();
    }
    recording.store(on, std::memory_order_relaxed);
}

bool enabled() noexcept {
    return recording.load(std::memory_order_relaxed);
}

Scope::Scope(const ScopeName& name, std::int64_t bytes) noexcept : name_(name), bytes_(bytes), begin_(-1) {
    if (enabled() && name.name != nullptr) {
        outer_ = std::exchange(innermost, name);
        begin_ = ticks();
    }
}

Scope::~Scope() {
    if (begin_ >= 0) {
        keep({name_, begin_, ticks(), bytes_, transfer_});
        innermost = outer_;
    }
}

ScopeName innermost_scope() noexcept {
    return innermost;
}

void count(std::string name, std::vector<std::string> series, std::vector<std::int64_t> values) {
    if (!enabled()) {
        return;
    }
    const std::lock_guard lock(shared_mutex);
    if (counters.size() == most_counters) {
        dropped_records.fetch_add(1, std::memory_order_relaxed);
        return;
    }
    counters.push_back({std::move(name), std::move(series), std::move(values), monotonic_ns()});
}

std::vector<Event> take() {
    const std::lock_guard lock(shared_mutex);
    std::vector<std::size_t> ends;
    for (const auto& ring : rings) {
        ends.push_back(ring->written.load(std::memory_order_acquire));
    }
    scale.calibrate();  // after the last end that is converted
    std::vector<Event> all;
    for (std::size_t r = 0; r < rings.size(); ++r) {
        Ring& ring = *rings[r];
        for (std::size_t i = ring.taken.load(std::memory_order_relaxed); i != ends[r]; ++i) {
            const Record& record = ring.records[i % records_per_thread];
            all.push_back({record.scope.name, record.scope.category, scale.to_ns(record.begin), scale.to_ns(record.end),
                           record.bytes, ring.thread, record.transfer});
        }
        ring.taken.store(ends[r], std::memory_order_release);
    }
    return all;
}

std::vector<Counter> take_counters() {
    const std::lock_guard lock(shared_mutex);
    return std::exchange(counters, {});
}

std::int64_t dropped() noexcept {
    return dropped_records.load(std::memory_order_relaxed);
}

double ticks_per_second() {
    const std::lock_guard lock(shared_mutex);
    return scale.ticks_per_second();
}

}  // namespace moesaic::core::trace
