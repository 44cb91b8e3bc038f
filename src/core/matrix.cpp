#include "core/matrix.hpp"

#include <sys/mman.h>

namespace moesaic::core {

void* allocate_lines(std::size_t bytes) noexcept {
    constexpr std::size_t line = 64;
    constexpr std::size_t huge_page = std::size_t{1} << 21;
    const std::size_t alignment = bytes >= 2 * huge_page ? huge_page : line;
    const std::size_t rounded = (bytes + alignment - 1) / alignment * alignment;
    void* memory = std::aligned_alloc(alignment, rounded);
    if (memory != nullptr && alignment == huge_page) {
        madvise(memory, rounded, MADV_HUGEPAGE);  // where huge pages are off, small ones do
    }
    return memory;
}

}  // namespace moesaic::core
