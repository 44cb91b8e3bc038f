#include "core/matrix.hpp"

#include <sys/mman.h>

namespace moesaic::core {

void* allocate_lines(std::size_t bytes) noexcept {
    constexpr std::size_t line = 64;
    constexpr std::size_t huge_page = std::size_t{1} << 21;
    const bool is_large = bytes >= 2 * huge_page;
    void* memory = std::aligned_alloc(is_large ? huge_page : line, (bytes + line - 1) / line * line);
    if (memory != nullptr && is_large) {
        // Where huge pages are off, small ones do, as they do for the rest: a huge page would be in memory as a whole.
        madvise(memory, bytes / huge_page * huge_page, MADV_HUGEPAGE);
    }
    return memory;
}

}  // namespace moesaic::core
