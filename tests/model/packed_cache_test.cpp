// The cache of packed experts: any slices of blocks from what any ranks wrote, and files of other weights or damaged
// ones.
#include "model/weights/packed_cache.hpp"

#include "core/error.hpp"
#include "support/random_model.hpp"
#include "support/raw_tensors.hpp"
#include "support/small_decoder.hpp"
#include "support/temporary_folder.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

namespace moesaic::model {
namespace {

using core::ExitCode;
using ops::WeightFormat;
using Cache = PackedCache<float>;

class PackedCacheTest : public testing::TestWithParam<WeightFormat> {
protected:
    PackedCacheTest() {
        architecture_.expert_intermediate = 80;  // three blocks, the last one not full
        architecture_.hidden = 256;              // rows of blocks have gaps in memory
        architecture_.stored.experts = GetParam();
    }

    [[nodiscard]] std::vector<LayerPlan> layers(index_t tensor = 0, index_t ranks = 1) const {
        return plan_layers(architecture_, {.lora = {}, .max_tokens = 8},
                           {.expert = 0, .expert_ranks = 1, .tensor = tensor, .tensor_ranks = ranks});
    }
    /// Calls use(projection, expert, its slice) for what a rank holds.
    template <class Use>
    static void for_each_matrix(const std::vector<LayerPlan>& layers, const Use& use) {
        for (const LayerPlan& layer : layers) {
            for (const ProjectionPlan& p : layer.feed_forward.projections) {
                for (index_t e = 0; p.is_routed() && e < p.count(); ++e) {
                    const bool by_rows = p.sharded == ShardedSide::out;
                    use(p, p.modules[static_cast<std::size_t>(e)] + ".weight",
                        TensorSlice{p.out, p.in, by_rows ? p.shard.begin : 0, by_rows ? 0 : p.shard.begin});
                }
            }
        }
    }
    void fill_all(const WeightSource<float>& source, const std::vector<LayerPlan>& layers) const {
        for_each_matrix(layers, [&](const ProjectionPlan& p, const std::string& name, const TensorSlice& part) {
            ops::PackedWeights packed(GetParam(), p.local_out(), p.local_in());
            source.fill(name, part, packed.matrix());
        });
    }
    /// The file as `ranks` ranks of a tensor group write it.
    void write_with(index_t ranks) const {
        io::PartialFile partial(file_);
        Cache::create(partial, layers(), random_.fingerprint());
        for (index_t rank = 0; rank < ranks; ++rank) {
            const std::vector<LayerPlan> mine = layers(rank, ranks);
            Cache cache(random_, mine, Cache::Use::write, partial.path());
            fill_all(cache, mine);
            cache.close();
        }
        partial.commit();
    }
    void expect_error(ExitCode code, const std::string& part) const {
        const std::vector<LayerPlan> all = layers();
        try {
            fill_all(Cache(random_, all, Cache::Use::read, file_), all);
            ADD_FAILURE() << "no error";
        } catch (const core::Error& error) {
            EXPECT_EQ(error.code(), code) << error.what();
            EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
        }
    }

    /// Deterministic, so that what the cache delivers can be compared with it.
    test::RandomWeights<float> random_;
    Architecture architecture_ = test::small_architecture();
    test::TemporaryFolder folder_;
    std::filesystem::path file_ = folder_ / "experts.cache";
};

TEST_P(PackedCacheTest, GivesAnyRankTheSlicesThatAnyRanksWrote) {
    for (const index_t writers : {1, 2, 3}) {
        write_with(writers);
        for (const index_t readers : {1, 3, 2}) {
            for (index_t rank = 0; rank < readers; ++rank) {
                const std::vector<LayerPlan> mine = layers(rank, readers);
                const Cache cache(random_, mine, Cache::Use::read, file_);
                for_each_matrix(mine, [&](const ProjectionPlan& p, const std::string& name, const TensorSlice& part) {
                    ops::PackedWeights expected(GetParam(), p.local_out(), p.local_in());
                    random_.fill(name, part, expected.matrix());
                    ops::PackedWeights found(GetParam(), p.local_out(), p.local_in());
                    cache.fill(name, part, found.matrix());
                    const auto a = found.matrix().blocks();
                    const auto b = expected.matrix().blocks();
                    for (index_t row = 0; row < a.rows(); ++row) {
                        ASSERT_TRUE(std::equal(a[row], a[row] + a.cols(), b[row]))
                            << name << " of rank " << rank << " of " << readers << ", written by " << writers;
                    }
                });
                EXPECT_GT(cache.bytes_read(), 0U);
            }
        }
    }
}

TEST_P(PackedCacheTest, IsRefusedForOtherWeightsFormatsAndVersions) {
    write_with(1);
    const test::RawTensors tensors = test::read_raw(file_);
    const std::map<std::string, std::string> metadata = io::TensorSource::open_file(file_).metadata();
    const auto with = [&](const std::string& key, const std::string& value) {
        std::map<std::string, std::string> changed = metadata;
        changed.at(key) = value;
        test::write_raw(file_, tensors, changed);
    };
    with("fingerprint", "0123456789abcdef");
    expect_error(ExitCode::usage, "fingerprint is 0123456789abcdef (this run asks for ");
    with("weights", "MXFP4, FP8");
    expect_error(ExitCode::usage, "weights is MXFP4, FP8");
    with("version", "0");
    expect_error(ExitCode::usage, "version is 0 (this run asks for 1)");
    test::write_raw(file_, tensors);
    expect_error(ExitCode::usage, "is missing");
    with("version", metadata.at("version"));
    architecture_.expert_intermediate = 112;
    expect_error(ExitCode::usage, "is missing or has another shape");
}

TEST_P(PackedCacheTest, IsRefusedWhenABlockIsDamaged) {
    write_with(1);
    test::RawTensors tensors = test::read_raw(file_);
    const std::map<std::string, std::string> metadata = io::TensorSource::open_file(file_).metadata();
    std::string& bytes = tensors.at("model.layers.1.mlp.experts.up_proj").bytes;
    bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 1);
    test::write_raw(file_, tensors, metadata);
    expect_error(ExitCode::corrupt_input, "blocks of tensor model.layers.1.mlp.experts.up_proj are damaged");
}

TEST_P(PackedCacheTest, DoesNotHoldSlicesThatCutBlocks) {
    write_with(1);
    architecture_.expert_intermediate = 80;
    const std::vector<LayerPlan> mine = layers(1, 4);  // three blocks for four ranks
    const Cache cache(random_, mine, Cache::Use::read, file_);
    EXPECT_THROW(fill_all(cache, mine), core::Error);
}

INSTANTIATE_TEST_SUITE_P(Formats, PackedCacheTest,
                         testing::Values(WeightFormat::fp32, WeightFormat::int4, WeightFormat::nvfp4),
                         [](const auto& format) { return std::string(ops::facts_of(format.param).name); });

}  // namespace
}  // namespace moesaic::model
