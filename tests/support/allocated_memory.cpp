#include "support/allocated_memory.hpp"

#include <malloc.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <new>

namespace {

std::atomic<std::size_t> current{0};
std::atomic<std::size_t> peak{0};

void* count(void* memory) {
    if (memory != nullptr) {
        const std::size_t now = current += malloc_usable_size(memory);
        std::size_t before = peak;
        while (now > before && !peak.compare_exchange_weak(before, now)) {
        }
    }
    return memory;
}

}  // namespace

// Buffers come from the first and go to the second, as the linker was told to call them.
extern "C" {
void* __real_aligned_alloc(std::size_t alignment, std::size_t bytes);  // NOLINT(bugprone-reserved-identifier)
void __real_free(void* memory);                                        // NOLINT(bugprone-reserved-identifier)

void* __wrap_aligned_alloc(std::size_t alignment, std::size_t bytes) {  // NOLINT(bugprone-reserved-identifier)
    return count(__real_aligned_alloc(alignment, bytes));
}
void __wrap_free(void* memory) {  // NOLINT(bugprone-reserved-identifier)
    current -= malloc_usable_size(memory);
    __real_free(memory);
}
}

// Standard containers.
void* operator new(std::size_t bytes) {
    void* memory = count(std::malloc(bytes));
    if (memory == nullptr) {
        throw std::bad_alloc();
    }
    return memory;
}
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
    return count(std::malloc(bytes));
}
void operator delete(void* memory) noexcept {
    __wrap_free(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
    __wrap_free(memory);
}

namespace moesaic::test {

std::size_t allocated_bytes() {
    return current;
}

std::size_t peak_bytes() {
    return peak;
}

void reset_peak_bytes() {
    peak = current.load();
}

}  // namespace moesaic::test
