// Tokenised sequences with labels, the same on all ranks.
#pragma once

#include "core/matrix.hpp"
#include "mpi/communicator.hpp"
#include "ops/token_batch.hpp"

#include <cstdint>
#include <filesystem>
#include <optional>
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
    std::string train = {};  ///< one file, or several as "a.jsonl*2,b.jsonl" with weights
    std::string eval = {};
    index_t max_length = 2048;  ///< longer sequences are cut
    index_t max_samples = 0;    ///< sequences to take of each file for training; 0: all
    double eval_fraction = 0;   ///< of the training sequences, which are kept for evaluation; 0: none

    void declare(core::OptionSet& set);
};

/// Sequence s has elements [offsets[s], offsets[s + 1]) of tokens and labels.
struct Dataset {
    std::string name;  ///< the files, for messages
    std::vector<std::int32_t> tokens;
    std::vector<std::int32_t> labels;  ///< the token itself, or ops::ignored_label where it is not trained on
    std::vector<index_t> offsets{0};
    std::vector<index_t> epoch{};  ///< the sequences of an epoch, some perhaps repeatedly; empty: each of them once
    index_t truncated = 0;         ///< sequences that were cut to the maximal length

    [[nodiscard]] index_t sequences() const noexcept { return static_cast<index_t>(offsets.size()) - 1; }
    [[nodiscard]] index_t length(index_t sequence) const;
    /// Tokens of a sequence that are predicted: labels after the first one that are not ignored.
    [[nodiscard]] index_t target_tokens(index_t sequence) const;
    [[nodiscard]] index_t target_tokens() const;

    [[nodiscard]] index_t epoch_size() const noexcept {
        return epoch.empty() ? sequences() : static_cast<index_t>(epoch.size());
    }
    /// Sequence at a place of an epoch in file order.
    [[nodiscard]] index_t epoch_sequence(index_t place) const {
        return epoch.empty() ? place : epoch[static_cast<std::size_t>(place)];
    }
    /// Largest number of tokens that `count` places of an epoch hold together; epochs follow each other.
    [[nodiscard]] index_t largest_sum(index_t count) const;
    /// Average tokens of the sequences of an epoch.
    [[nodiscard]] double mean_length() const;

    /// A hash of all tokens and labels and of the epoch, to recognise the data when a run is resumed.
    [[nodiscard]] std::uint64_t fingerprint() const;
    /// The given sequences as one batch.
    [[nodiscard]] ops::TokenBatch batch(std::span<const index_t> sequences) const;
    /// A line for sequences without a target, and one for those longer than the positions that a model was made for.
    [[nodiscard]] std::vector<std::string> warnings(index_t positions) const;
    /// "FILE: 12 sequences of 3 to 48 tokens (median 20), ...", one line for people.
    [[nodiscard]] std::string summary() const;
};

/// Reads JSON lines {"input_ids": [...], "labels": [...], "attention_mask": [...]}. Without labels all tokens are
/// trained on. Positions that the mask leaves out at the beginning or the end are padding, which is dropped. Sequences
/// are cut to `max_length`, and reading ends after `max_samples` of them (0: never).
///
/// Errors name file and line: another key, a token outside of [0, vocabulary), a label that is neither its position's
/// token nor -100, a mask with a hole, lists of different length, an empty sequence; and a file without a trained
/// token.
[[nodiscard]] Dataset read_token_lines(const std::filesystem::path& file, index_t vocabulary, index_t max_length,
                                       index_t max_samples = 0);

/// Collective. Rank 0 reads the file and all ranks get the result, or its error.
[[nodiscard]] Dataset load_dataset(const mpi::Communicator& world, const std::filesystem::path& file,
                                   index_t vocabulary, index_t max_length);

/// What a training run trains on and, if it does so, evaluates on.
struct TrainingData {
    Dataset train;
    std::optional<Dataset> eval;
};

/// Collective, as load_dataset. A file of weight w contributes each of its sequences w times to an epoch; of a
/// fraction, as many sequences as it asks for, which are the same ones in every epoch and on every machine. So are the
/// sequences that `eval_fraction` keeps for evaluation.
[[nodiscard]] TrainingData load_training_data(const mpi::Communicator& world, const DataSettings& settings,
                                              index_t vocabulary);

}  // namespace moesaic::train
