// Tokenised sequences with labels, the same on all ranks.
#pragma once

#include "core/matrix.hpp"
#include "mpi/communicator.hpp"
#include "ops/token_batch.hpp"

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace moesaic::core {
class OptionSet;
}

namespace moesaic::train {

using core::index_t;

/// Files to read; an empty name stands for none.
struct DataSettings {
    std::string train;
    std::string eval;
    index_t max_length = 2048;  ///< longer sequences are cut

    void declare_train(core::OptionSet& set);
    void declare_eval(core::OptionSet& set);
};

/// Sequence s has elements [offsets[s], offsets[s + 1]) of tokens and labels.
struct Dataset {
    std::string name;  ///< the file, for messages
    std::vector<std::int32_t> tokens;
    std::vector<std::int32_t> labels;  ///< model::ignored_label where not trained on
    std::vector<index_t> offsets{0};
    index_t truncated = 0;  ///< sequences that were cut to the maximal length

    [[nodiscard]] index_t sequences() const noexcept { return static_cast<index_t>(offsets.size()) - 1; }
    [[nodiscard]] index_t length(index_t sequence) const;
    /// Tokens of a sequence that are predicted: labels after the first one that are not ignored.
    [[nodiscard]] index_t target_tokens(index_t sequence) const;
    /// Largest number of tokens in any `count` different sequences.
    [[nodiscard]] index_t largest_sum(index_t count) const;
    /// A hash of all tokens and labels, to recognise the data when a run is resumed.
    [[nodiscard]] std::uint64_t fingerprint() const;
    /// The given sequences as one batch.
    [[nodiscard]] ops::TokenBatch batch(std::span<const index_t> sequences) const;
};

/// Reads JSON lines {"input_ids": [...], "labels": [...]} (labels may be missing: all tokens are trained on). Sequences
/// are cut to `max_length`. A token outside of [0, vocabulary), lists of different length or an empty sequence is an
/// error that names file and line.
[[nodiscard]] Dataset read_token_lines(const std::filesystem::path& file, index_t vocabulary, index_t max_length);

/// Collective. Rank 0 reads the file and all ranks get the result, or its error.
[[nodiscard]] Dataset load_dataset(const mpi::Communicator& world, const std::filesystem::path& file,
                                   index_t vocabulary, index_t max_length);

}  // namespace moesaic::train
