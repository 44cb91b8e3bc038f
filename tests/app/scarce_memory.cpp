// Memory that ends: the test executable moesaic_scarce is the program linked with this operator new and, so that what
// happens before does not count, this main. MOESAIC_TEST_ALLOCATIONS says how many succeed; if it is negative, only the
// one after as many fails, and there is memory again.
#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <limits>
#include <new>

namespace {

constexpr long unlimited = std::numeric_limits<long>::max();
std::atomic<long> left{unlimited};
std::atomic<bool> fails_once{false};

bool may_allocate() {
    if (left.load() == unlimited) {
        return true;
    }
    const long before = left.fetch_sub(1);
    return before > 0 || (fails_once && before < 0);
}

}  // namespace

void* operator new(std::size_t bytes) {
    void* memory = may_allocate() ? std::malloc(bytes) : nullptr;
    if (memory == nullptr) {
        throw std::bad_alloc();
    }
    return memory;
}

void operator delete(void* memory) noexcept {
    std::free(memory);
}

void operator delete(void* memory, std::size_t) noexcept {
    std::free(memory);
}

// NOLINTBEGIN(bugprone-reserved-identifier): names of the linker's option --wrap
extern "C" int __real_main(int argc, char** argv);
extern "C" int __wrap_main(int argc, char** argv) {
    if (const char* text = std::getenv("MOESAIC_TEST_ALLOCATIONS")) {
        const long allocations = std::atol(text);
        fails_once = allocations < 0;
        left = std::labs(allocations);
    }
    return __real_main(argc, argv);
}
// NOLINTEND(bugprone-reserved-identifier)
