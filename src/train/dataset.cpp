#include "train/dataset.hpp"

#include "core/error.hpp"
#include "core/options.hpp"
#include "core/trace.hpp"
#include "io/json.hpp"

#include <xxhash.h>

#include <algorithm>
#include <array>
#include <functional>
#include <numeric>

namespace moesaic::train {
namespace {

using core::ExitCode;

std::vector<std::int32_t> read_ids(const nlohmann::json& line, const std::string& key, const std::string& where,
                                   index_t vocabulary, bool ignored_allowed) {
    auto ids = io::get<std::vector<std::int32_t>>(line, key, where);
    for (std::size_t i = 0; i < ids.size(); ++i) {
        const bool valid = (ids[i] >= 0 && ids[i] < vocabulary) || (ignored_allowed && ids[i] == ops::ignored_label);
        core::require(valid, ExitCode::corrupt_input,
                      "{}: {}[{}] = {} is outside of the vocabulary (0 to {}); tokenize with the model's tokenizer",
                      where, key, i, ids[i], vocabulary - 1);
    }
    return ids;
}

}  // namespace

void DataSettings::declare_train(core::OptionSet& set) {
    set.add("data.train", train, "JSON lines with input_ids and labels to train on");
}

void DataSettings::declare_eval(core::OptionSet& set) {
    set.add("data.eval", eval, "JSON lines with input_ids and labels to evaluate on");
    set.add("data.max_length", max_length, "longer sequences are cut to this many tokens",
            core::integer_within(2, io::max_json_size));
}

index_t Dataset::length(index_t sequence) const {
    const auto s = static_cast<std::size_t>(sequence);
    return offsets[s + 1] - offsets[s];
}

index_t Dataset::target_tokens(index_t sequence) const {
    const auto s = static_cast<std::size_t>(sequence);
    return std::count_if(labels.begin() + offsets[s] + 1, labels.begin() + offsets[s + 1],
                         [](std::int32_t label) { return label != ops::ignored_label; });
}

index_t Dataset::largest_sum(index_t count) const {
    std::vector<index_t> lengths(static_cast<std::size_t>(sequences()));
    for (std::size_t s = 0; s < lengths.size(); ++s) {
        lengths[s] = offsets[s + 1] - offsets[s];
    }
    std::sort(lengths.begin(), lengths.end(), std::greater<>());
    return std::accumulate(lengths.begin(), lengths.begin() + std::min(count, sequences()), index_t{0});
}

std::uint64_t Dataset::fingerprint() const {
    const std::uint64_t of_tokens = XXH3_64bits(tokens.data(), tokens.size() * sizeof(std::int32_t));
    const std::uint64_t of_offsets = XXH3_64bits_withSeed(offsets.data(), offsets.size() * sizeof(index_t), of_tokens);
    return XXH3_64bits_withSeed(labels.data(), labels.size() * sizeof(std::int32_t), of_offsets);
}

ops::TokenBatch Dataset::batch(std::span<const index_t> chosen) const {
    ops::TokenBatch batch;
    for (const index_t sequence : chosen) {
        const auto begin = offsets[static_cast<std::size_t>(sequence)];
        const auto end = offsets[static_cast<std::size_t>(sequence) + 1];
        batch.tokens.insert(batch.tokens.end(), tokens.begin() + begin, tokens.begin() + end);
        batch.labels.insert(batch.labels.end(), labels.begin() + begin, labels.begin() + end);
        for (index_t position = 0; position < end - begin; ++position) {
            batch.positions.push_back(position);
        }
        batch.offsets.push_back(batch.rows());
        batch.sequence_ids.push_back(sequence);
    }
    return batch;
}

Dataset read_token_lines(const std::filesystem::path& file, index_t vocabulary, index_t max_length) {
    Dataset data;
    data.name = file.string();
    io::for_each_json_line(file, [&](const nlohmann::json& line, std::size_t number) {
        const std::string where = data.name + ':' + std::to_string(number);
        auto tokens = read_ids(line, "input_ids", where, vocabulary, false);
        auto labels = line.contains("labels") ? read_ids(line, "labels", where, vocabulary, true) : tokens;
        core::require(!tokens.empty(), ExitCode::corrupt_input, "{}: input_ids is empty; remove the line", where);
        core::require(labels.size() == tokens.size(), ExitCode::corrupt_input,
                      "{}: {} labels for {} input_ids (there must be one each); correct the line", where, labels.size(),
                      tokens.size());
        if (static_cast<index_t>(tokens.size()) > max_length) {
            tokens.resize(static_cast<std::size_t>(max_length));
            labels.resize(static_cast<std::size_t>(max_length));
            ++data.truncated;
        }
        data.tokens.insert(data.tokens.end(), tokens.begin(), tokens.end());
        data.labels.insert(data.labels.end(), labels.begin(), labels.end());
        data.offsets.push_back(static_cast<index_t>(data.tokens.size()));
    });
    core::require(data.sequences() > 0, ExitCode::corrupt_input, "{}: no sequences (the file is empty); add JSON lines",
                  data.name);
    return data;
}

Dataset load_dataset(const mpi::Communicator& world, const std::filesystem::path& file, index_t vocabulary,
                     index_t max_length) {
    const core::trace::Scope scope(core::scopes::load_dataset);
    Dataset data;
    data.name = file.string();
    world.agree([&] {
        if (world.is_root()) {
            data = read_token_lines(file, vocabulary, max_length);
        }
    });
    std::array<index_t, 3> sizes = {static_cast<index_t>(data.tokens.size()), data.sequences(), data.truncated};
    world.broadcast(std::span<index_t>(sizes));
    data.tokens.resize(static_cast<std::size_t>(sizes[0]));
    data.labels.resize(static_cast<std::size_t>(sizes[0]));
    data.offsets.resize(static_cast<std::size_t>(sizes[1]) + 1);
    data.truncated = sizes[2];
    world.broadcast(std::span<std::int32_t>(data.tokens));
    world.broadcast(std::span<std::int32_t>(data.labels));
    world.broadcast(std::span<index_t>(data.offsets));
    return data;
}

}  // namespace moesaic::train
