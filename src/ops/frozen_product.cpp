#include "ops/frozen_product.hpp"

#include "core/parallel.hpp"
#include "ops/row_chunks.hpp"

#include <algorithm>
#include <array>

namespace moesaic::ops {

using core::bf16;

namespace {

/// How a contraction is cut. A segment of all strips of tokens of a chunk is 1 MiB in BF16, and stays in the L2 cache;
/// sums of a group of strips of features wait there while the segments pass, and all groups read all tokens of the
/// chunk.
struct Contraction {
    explicit Contraction(index_t in) : segments((blocks_of(in) + segment_blocks - 1) / segment_blocks) {
        if (segments > 1) {  // room for the sums
            segments = (blocks_of(in) + segment_blocks / 2 - 1) / (segment_blocks / 2);
            strips_of_group = 16;
        }
    }
    static constexpr index_t segment_blocks = 64;
    index_t segments;
    index_t strips_of_group = 1;
};
/// Between rows of sums, whose distance is no multiple of 1 KiB: such lines collide in L1.
constexpr index_t stride_gap = 16;

/// Token rows of a product.
struct PackedTokens {
    Strips x;
    Strips low;  ///< data is null where there is none
};

/// Part of a product: token strips [first_token, last_token), output feature strips [first, last).
struct Item {
    std::size_t product;
    index_t first_token;
    index_t last_token;
    index_t first;
    index_t last;
};

/// `count` cut into `ranges` ranges that differ by at most one, none longer than the first: where number `range`
/// begins.
constexpr index_t cut(index_t count, index_t range, index_t ranges) {
    return (count * range + ranges - 1) / ranges;
}

template <class Scalar>
struct Sizes {
    explicit Sizes(const FrozenProduct<Scalar>& product)
        : tokens(product.packed_x == nullptr ? product.x.rows() : product.packed_x->tokens()),
          in(product.packed_x == nullptr ? product.x.cols() : product.packed_x->columns()),
          out(product.take ? product.weight.rows() : product.y.cols()),
          token_strips(blocks_of(tokens)),
          contraction(in) {}
    index_t tokens;
    index_t in;
    index_t out;
    index_t token_strips;
    Contraction contraction;
};

/// Items of a chunk follow each other: threads that share a cache work on the same tokens. Where results are taken,
/// items of a range do, as there are more weights than any cache holds.
template <class Scalar>
std::vector<Item> cut_into_items(std::span<const FrozenProduct<Scalar>> batch, int threads) {
    std::vector<Item> items;
    for (std::size_t p = 0; p < batch.size(); ++p) {
        const Sizes<Scalar> sizes(batch[p]);
        const index_t chunks = (sizes.token_strips + most_strips_of_chunk - 1) / most_strips_of_chunk;
        const index_t strips = blocks_of(sizes.out);
        if (chunks == 0 || strips == 0) {
            continue;
        }
        // Each range reads the tokens again, which are many where the contraction is long.
        const index_t for_all_threads = (threads + chunks - 1) / chunks;
        const index_t of_whole_groups = strips / sizes.contraction.strips_of_group;
        const index_t wanted = threads == 1 ? 1 : (core::items_per_thread * threads + chunks - 1) / chunks;
        const index_t ranges = std::min({strips, wanted, std::max(for_all_threads, of_whole_groups)});
        const auto add = [&](index_t chunk, index_t first, index_t last) {
            items.push_back(
                {p, cut(sizes.token_strips, chunk, chunks), cut(sizes.token_strips, chunk + 1, chunks), first, last});
        };
        if (batch[p].take) {
            constexpr index_t strips_of_range = features_of_range / kernel_block;
            for (index_t first = 0; first < strips; first += strips_of_range) {
                for (index_t chunk = 0; chunk < chunks; ++chunk) {
                    add(chunk, first, std::min(strips, first + strips_of_range));
                }
            }
            continue;
        }
        for (index_t chunk = 0; chunk < chunks; ++chunk) {
            for (index_t range = 0; range < ranges; ++range) {
                add(chunk, cut(strips, range, ranges), cut(strips, range + 1, ranges));
            }
        }
    }
    return items;
}

/// One item on the calling thread.
template <class Scalar>
class ItemWork {
public:
    using Sum = accumulator_t<Scalar>;

    ItemWork(const kernels::KernelSet& kernels, const StripProducts<Scalar>& products,
             const FrozenProduct<Scalar>& product, const PackedTokens& operand, const Item& item,
             typename FrozenScratch<Scalar>::OfThread& scratch)
        : elementwise_(kernels.elementwise<Sum>()),
          products_(products),
          product_(product),
          sizes_(product),
          operand_(operand),
          item_(item),
          scratch_(scratch),
          forward_(product.direction == Direction::forward),
          tokens_(std::min(sizes_.tokens, item.last_token * kernel_block) - item.first_token * kernel_block),
          stride_(padded(tokens_) + stride_gap) {}

    void run() {
        if (sizes_.tokens <= products_.few_rows()) {
            multiply_few_rows();
        } else {
            multiply_strips();
        }
    }

private:
    void multiply_few_rows() {
        const auto* x = reinterpret_cast<const Sum*>(operand_.x.data);
        std::array<Sum, block_elements> results;
        std::array<Sum, block_elements> transposed;
        for (index_t strip = item_.first; strip < item_.last; ++strip) {
            const index_t feature = strip * kernel_block;
            const index_t features = extent_of_block(sizes_.out, strip);
            const auto y = product_.take ? MatrixView<Sum>(results.data(), tokens_, features, kernel_block)
                                         : product_.y.columns(feature, features);
            products_.few_rows_by_weights(tokens_, x, blocks_from(0, strip, blocks_of(sizes_.in)), scratch_.unpacked,
                                          !forward_, sizes_.in, features, y.data(), y.stride(), product_.accumulate);
            if (product_.take) {
                elementwise_.transpose_narrow(tokens_, features, y.data(), y.stride(), transposed.data(), kernel_block);
                product_.take(feature, 0, {transposed.data(), features, tokens_, kernel_block});
            }
        }
    }

    void multiply_strips() {
        const index_t group = sizes_.contraction.strips_of_group;
        struct Run {
            index_t segment;
            index_t strip;
        };
        std::vector<Run> runs;
        for (index_t first = item_.first; first < item_.last; first += group) {
            for (index_t segment = 0; segment < sizes_.contraction.segments; ++segment) {
                for (index_t strip = first; strip < std::min(first + group, item_.last); ++strip) {
                    runs.push_back({segment, strip});
                }
            }
        }
        scratch_.weights.start(static_cast<index_t>(runs.size()), products_.largest_panel(tokens_), forward_ ? 1 : 2,
                               [&](index_t i) {
                                   const Run& run = runs[static_cast<std::size_t>(i)];
                                   return weights_of(run.segment, run.strip);
                               });
        scratch_.weights.ask_for_first_panels();
        scratch_.panels.forget();
        const index_t size = forward_ ? kernel_block * stride_ : blocks_of(tokens_) * block_elements;
        Sum* sums = scratch_.sums.reserve(static_cast<std::size_t>(group * size));
        for (const Run& run : runs) {
            add(run.segment, run.strip, sums + (run.strip - item_.first) % group * size);
        }
    }

    [[nodiscard]] index_t begin_of(index_t segment) const {
        return cut(blocks_of(sizes_.in), segment, sizes_.contraction.segments);
    }
    [[nodiscard]] StoredRun weights_of(index_t segment, index_t strip) const {
        const index_t first = begin_of(segment);
        return blocks_from(first, strip, begin_of(segment + 1) - first);
    }
    /// `count` blocks along the contraction for one strip of features.
    [[nodiscard]] StoredRun blocks_from(index_t first, index_t strip, index_t count) const {
        const PackedWeights& weight = product_.weight;
        return forward_ ? weight.row_run(0, strip, first, count) : weight.column_run(0, strip, first, count);
    }

    /// Adds one segment of the contraction to the sums of a strip; the last one makes them results.
    void add(index_t segment, index_t strip, Sum* sums) {
        const index_t features = extent_of_block(sizes_.out, strip);
        const auto from_here = [&](Strips strips) {
            strips.data = strips.data == nullptr ? nullptr : strips.at(item_.first_token, begin_of(segment));
            return strips;
        };
        const Strips tokens = from_here(operand_.x);
        const bool is_last = segment == sizes_.contraction.segments - 1;
        const auto done = [&](index_t token_strip) {
            if (is_last) {
                write(strip, token_strip, sums);
            }
        };
        if (forward_) {
            products_.weights_by_tokens(scratch_.weights, features, tokens, tokens_, sums, stride_, segment > 0,
                                        scratch_.panel, {}, done, from_here(operand_.low));
        } else {
            products_.tokens_by_weights(tokens, tokens_, scratch_.weights, features, sums, segment > 0, scratch_.panels,
                                        {}, done);
        }
    }

    /// One block of the result. Sums of forward are [32 features, tokens], those of backward [tokens, 32 features].
    void write(index_t strip, index_t token_strip, Sum* sums) {
        const index_t features = extent_of_block(sizes_.out, strip);
        const index_t tokens = extent_of_block(tokens_, token_strip);
        const index_t first_token = (item_.first_token + token_strip) * kernel_block;
        sums += token_strip * (forward_ ? kernel_block : block_elements);
        if (product_.take) {
            product_.take(strip * kernel_block, first_token, {sums, features, tokens, stride_});
            return;
        }
        const MatrixView<Sum> out = product_.y.rows(first_token, tokens).columns(strip * kernel_block, features);
        if (!product_.accumulate) {
            const auto copy = forward_ ? elementwise_.transpose_narrow : elementwise_.narrow_rows;
            forward_ ? copy(features, tokens, sums, stride_, out.data(), out.stride())
                     : copy(tokens, features, sums, kernel_block, out.data(), out.stride());
            return;
        }
        std::array<Sum, block_elements> transposed;
        if (forward_) {
            elementwise_.transpose_narrow(features, tokens, sums, stride_, transposed.data(), kernel_block);
            sums = transposed.data();
        }
        for (index_t row = 0; row < tokens; ++row) {
            elementwise_.add(features, out[row], sums + row * kernel_block, out[row]);
        }
    }

    const kernels::ElementwiseKernels<Sum>& elementwise_;
    const StripProducts<Scalar>& products_;
    const FrozenProduct<Scalar>& product_;
    Sizes<Scalar> sizes_;
    const PackedTokens& operand_;
    const Item& item_;
    typename FrozenScratch<Scalar>::OfThread& scratch_;
    bool forward_;
    index_t tokens_;
    index_t stride_;  ///< between features in the sums of forward
};

/// Few rows are not packed: x + low [T, in] in the accumulator's type.
template <class Scalar>
Strips widen_few_rows(const kernels::KernelSet& kernels, MatrixView<const Scalar> x, MatrixView<const Scalar> low,
                      core::Buffer<std::byte>& storage) {
    using Sum = accumulator_t<Scalar>;
    auto* out = reinterpret_cast<Sum*>(storage.reserve(static_cast<std::size_t>(x.rows() * x.cols()) * sizeof(Sum)));
    for (index_t row = 0; row < x.rows(); ++row) {
        Sum* of_row = out + row * x.cols();
        kernels.elementwise<Scalar>().widen(x.cols(), x[row], of_row);
        for (index_t i = 0; i < low.cols(); ++i) {
            of_row[i] += core::widen(low(row, i));
        }
    }
    return {storage.data(), 0, 0};
}

/// Token rows of every product as packed strips; products of the same x share them.
template <class Scalar>
std::vector<PackedTokens> pack_operands(const kernels::KernelSet& kernels, const StripProducts<Scalar>& products,
                                        std::span<const FrozenProduct<Scalar>> batch, int threads,
                                        FrozenScratch<Scalar>& scratch) {
    struct Task {
        MatrixView<const Scalar> rows;
        Direction direction;
        Strips strips;
        index_t strip;
    };
    std::vector<PackedTokens> operands;
    std::vector<Task> tasks;
    scratch.operands.resize(std::max(scratch.operands.size(), 2 * batch.size()));
    for (std::size_t p = 0; p < batch.size(); ++p) {
        const FrozenProduct<Scalar>& product = batch[p];
        if (product.packed_x != nullptr) {
            operands.push_back({product.packed_x->strips(), {}});
            continue;
        }
        const auto same = std::find_if(
            batch.begin(), batch.begin() + static_cast<std::ptrdiff_t>(p), [&](const FrozenProduct<Scalar>& earlier) {
                return earlier.x.data() == product.x.data() && earlier.low.data() == product.low.data() &&
                       earlier.x.cols() == product.x.cols() && earlier.x.rows() == product.x.rows() &&
                       earlier.direction == product.direction;
            });
        if (same != batch.begin() + static_cast<std::ptrdiff_t>(p)) {
            operands.push_back(operands[static_cast<std::size_t>(same - batch.begin())]);
            continue;
        }
        const Sizes<Scalar> sizes(product);
        if (sizes.tokens <= products.few_rows()) {
            operands.push_back({widen_few_rows(kernels, product.x, product.low, scratch.operands[2 * p]), {}});
            continue;
        }
        const auto pack = [&](MatrixView<const Scalar> rows, core::Buffer<std::byte>& storage) {
            const Strips strips = product.direction == Direction::forward
                                      ? products.right_strips(storage, sizes.token_strips, blocks_of(sizes.in))
                                      : products.left_strips(storage, sizes.token_strips, blocks_of(sizes.in));
            for (index_t strip = 0; strip < sizes.token_strips; ++strip) {
                tasks.push_back({rows, product.direction, strips, strip});
            }
            return strips;
        };
        operands.push_back({pack(product.x, scratch.operands[2 * p]),
                            product.low.empty() ? Strips() : pack(product.low, scratch.operands[2 * p + 1])});
    }
    core::parallel_for(static_cast<index_t>(tasks.size()), threads, [&](index_t i) {
        const Task& task = tasks[static_cast<std::size_t>(i)];
        const MatrixView<const Scalar> x = task.rows;
        const auto vectors =
            products.rows(x[task.strip * kernel_block], x.stride(), extent_of_block(x.rows(), task.strip), x.cols());
        if (task.direction == Direction::forward) {
            products.pack_tokens(task.strips.at(task.strip), vectors);
        } else {
            products.pack_left(task.strips.at(task.strip), vectors);
        }
    });
    return operands;
}

}  // namespace

template <class Scalar>
void PackedRows<Scalar>::resize(const kernels::KernelSet& kernels, index_t tokens, index_t columns) {
    const StripProducts<Scalar> products(kernels);
    tokens_ = tokens;
    columns_ = columns;
    strips_ = tokens <= products.few_rows()
                  ? Strips{storage_.reserve(static_cast<std::size_t>(tokens * columns) * sizeof(accumulator_t<Scalar>))}
                  : products.left_strips(storage_, blocks_of(tokens), blocks_of(columns));
}

template <class Scalar>
void PackedRows<Scalar>::store(const kernels::KernelSet& kernels, index_t first_column, index_t first_token,
                               MatrixView<const Scalar> block) const {
    const StripProducts<Scalar> products(kernels);
    if (tokens_ <= products.few_rows()) {
        auto* rows = reinterpret_cast<accumulator_t<Scalar>*>(strips_.data);
        kernels.elementwise<Scalar>().transpose_widen(block.rows(), block.cols(), block.data(), block.stride(),
                                                      rows + first_column, columns_);
        return;
    }
    products.pack_left(strips_.at(first_token / kernel_block, first_column / kernel_block),
                       products.columns(block.data(), block.stride(), block.cols(), block.rows()));
}

void plan_frozen_threads(std::string_view name, index_t out, index_t in, std::vector<BufferPlan>& buffers) {
    const index_t longest = std::max(out, in);
    const index_t sums =
        Contraction(longest).strips_of_group * kernel_block * (most_strips_of_chunk * kernel_block + stride_gap);
    const index_t panels = 3 * kernel_block * std::min(padded(longest), Contraction::segment_blocks * kernel_block);
    buffers.push_back({name, Rows::threads, Element::sum, sums + panels});
}

template <class Scalar>
void multiply(const kernels::KernelSet& kernels, std::span<const FrozenProduct<Scalar>> batch,
              FrozenScratch<Scalar>& scratch) {
    double work = 0;
    for (const FrozenProduct<Scalar>& product : batch) {
        const Sizes<Scalar> sizes(product);
        work += static_cast<double>(sizes.tokens * sizes.in) * static_cast<double>(sizes.out);
    }
    const int threads = core::threads_for(work);
    const StripProducts<Scalar> products(kernels);
    const std::vector<PackedTokens> operands = pack_operands(kernels, products, batch, threads, scratch);
    const std::vector<Item> items = cut_into_items(batch, threads);
    scratch.of_thread.resize(std::max(scratch.of_thread.size(), static_cast<std::size_t>(threads)));
    core::parallel_for(static_cast<index_t>(items.size()), threads, [&](index_t i) {
        const Item& item = items[static_cast<std::size_t>(i)];
        const typename StripProducts<Scalar>::TileState tiles(products);
        ItemWork<Scalar>(kernels, products, batch[item.product], operands[item.product], item,
                         scratch.of_thread[static_cast<std::size_t>(omp_get_thread_num())])
            .run();
    });
}

#define MOESAIC_INSTANTIATE(Scalar)                                                                   \
    template class PackedRows<Scalar>;                                                                \
    template void multiply<Scalar>(const kernels::KernelSet&, std::span<const FrozenProduct<Scalar>>, \
                                   FrozenScratch<Scalar>&);
MOESAIC_INSTANTIATE(bf16)
MOESAIC_INSTANTIATE(float)
MOESAIC_INSTANTIATE(double)
#undef MOESAIC_INSTANTIATE

}  // namespace moesaic::ops
