#include "ops/row_chunks.hpp"

#include "core/parallel.hpp"

#include <algorithm>
#include <cmath>

namespace moesaic::ops {

std::vector<RowChunk> make_chunks(const RoutedRows& routed, index_t largest) {
    std::vector<RowChunk> chunks;
    index_t strip = 0;
    for (index_t e = 0; e + 1 < static_cast<index_t>(routed.first.size()); ++e) {
        const index_t rows = routed.count(e);
        const index_t count = (rows + largest - 1) / largest;
        const index_t length = count == 0 ? 0 : blocks_of((rows + count - 1) / count) * kernel_block;
        for (index_t begin = 0; begin < rows; begin += length) {
            chunks.push_back({e, routed.begin(e) + begin, std::min(length, rows - begin), strip});
            strip += chunks.back().strips();
        }
    }
    return chunks;
}

std::vector<WorkItem> make_items(const std::vector<RowChunk>& chunks, index_t strips, int threads) {
    const auto work_of = [&](const RowChunk& chunk) {
        return static_cast<double>(chunk.rows + rows_worth_reading) * static_cast<double>(strips);
    };
    double total = 0;
    for (const RowChunk& chunk : chunks) {
        total += work_of(chunk);
    }
    const double largest = threads == 1 ? total : total / static_cast<double>(core::items_per_thread * threads);
    std::vector<WorkItem> items;
    for (std::size_t c = 0; c < chunks.size(); ++c) {
        const double work = work_of(chunks[c]);
        const auto ranges = std::clamp(static_cast<index_t>(std::ceil(work / largest)), index_t{1}, strips);
        for (index_t range = 0; range < ranges; ++range) {
            const index_t first = strips * range / ranges;
            const index_t last = strips * (range + 1) / ranges;
            items.push_back({static_cast<index_t>(c), first, last,
                             work * static_cast<double>(last - first) / static_cast<double>(strips)});
        }
    }
    std::stable_sort(items.begin(), items.end(), [](const WorkItem& a, const WorkItem& b) { return a.work > b.work; });
    return items;
}

}  // namespace moesaic::ops
