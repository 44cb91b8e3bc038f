#include "train/dataset.hpp"

#include "core/counted.hpp"
#include "core/error.hpp"
#include "core/options.hpp"
#include "core/random.hpp"
#include "core/text.hpp"
#include "core/trace.hpp"
#include "io/files.hpp"
#include "io/json.hpp"

#include <fmt/ranges.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <functional>
#include <iterator>
#include <numeric>
#include <string_view>

namespace moesaic::train {
namespace {

using core::ExitCode;

constexpr double largest_weight = 1000;
/// Of random numbers: files use their numbers.
constexpr std::uint64_t eval_stream = 1U << 30U;

/// What a line of a data file may hold.
constexpr std::array<std::string_view, 3> known_keys = {"input_ids", "labels", "attention_mask"};

void require_known_keys(const nlohmann::json& line, const std::string& where) {
    for (const auto& [key, value] : line.items()) {
        core::require(std::find(known_keys.begin(), known_keys.end(), key) != known_keys.end(), ExitCode::usage,
                      "{}: unknown key '{}' (known are {}); tokenize the text, and remove or rename what is left",
                      where, core::printable(key), fmt::join(known_keys, ", "));
    }
}

/// One sequence of a file, checked.
struct Sequence {
    std::vector<std::int32_t> tokens;
    std::vector<std::int32_t> labels;
};

std::vector<std::int32_t> read_list(const nlohmann::json& line, const std::string& key, const std::string& where,
                                    std::size_t length) {
    auto values = io::get<std::vector<std::int32_t>>(line, key, where);
    core::require(values.size() == length, ExitCode::corrupt_input,
                  "{}: {} {} for {} input_ids (there must be one each); correct the line", where, values.size(), key,
                  length);
    return values;
}

/// Drops the padding at both ends that the mask leaves out.
void drop_padding(Sequence& sequence, const std::vector<std::int32_t>& mask, const std::string& where) {
    for (std::size_t i = 0; i < mask.size(); ++i) {
        core::require(mask[i] == 0 || mask[i] == 1, ExitCode::corrupt_input,
                      "{}: attention_mask[{}] = {} is neither 0 nor 1; correct the line", where, i, mask[i]);
    }
    const auto begin = std::find(mask.begin(), mask.end(), 1);
    const auto end = std::find(mask.rbegin(), std::make_reverse_iterator(begin), 1).base();
    core::require(begin != mask.end(), ExitCode::corrupt_input,
                  "{}: attention_mask leaves out the whole sequence; remove the line", where);
    const auto hole = std::find(begin, end, 0);
    core::require(hole == end, ExitCode::corrupt_input,
                  "{}: attention_mask[{}] = 0 lies between tokens that take part (only padding at the ends can be left "
                  "out); make a sequence of each part",
                  where, hole - mask.begin());
    for (std::vector<std::int32_t>* values : {&sequence.tokens, &sequence.labels}) {
        values->erase(values->begin() + (end - mask.begin()), values->end());
        values->erase(values->begin(), values->begin() + (begin - mask.begin()));
    }
}

Sequence read_sequence(const nlohmann::json& line, const std::string& where, index_t vocabulary) {
    require_known_keys(line, where);
    Sequence sequence;
    sequence.tokens = io::get<std::vector<std::int32_t>>(line, "input_ids", where);
    const std::size_t length = sequence.tokens.size();
    core::require(length > 0, ExitCode::corrupt_input, "{}: input_ids is empty; remove the line", where);
    sequence.labels = line.contains("labels") ? read_list(line, "labels", where, length) : sequence.tokens;
    for (std::size_t i = 0; i < length; ++i) {
        const std::int32_t token = sequence.tokens[i];
        const std::int32_t label = sequence.labels[i];
        core::require(
            token >= 0 && token < vocabulary, ExitCode::corrupt_input,
            "{}: input_ids[{}] = {} is outside of the vocabulary (0 to {}); tokenize with the model's tokenizer", where,
            i, token, vocabulary - 1);
        core::require(label == token || label == ops::ignored_label, ExitCode::corrupt_input,
                      "{}: labels[{}] = {} is neither input_ids[{}] = {} nor {} (a position's label is its own token; "
                      "the trainer shifts by one); correct the labels",
                      where, i, label, i, token, ops::ignored_label);
    }
    if (line.contains("attention_mask")) {
        drop_padding(sequence, read_list(line, "attention_mask", where, length), where);
    }
    return sequence;
}

/// The first `count` places of a random order of `size`, in ascending order; the same for equal arguments.
std::vector<index_t> choose(index_t count, index_t size, std::uint64_t stream) {
    std::vector<index_t> chosen = core::CounterRandom(0, stream).permutation(size);
    chosen.resize(static_cast<std::size_t>(count));
    std::sort(chosen.begin(), chosen.end());
    return chosen;
}

struct WeightedFile {
    std::string path;
    double weight = 1;
};

/// "a.jsonl*2,b.jsonl"; a star belongs to the path if no number follows it.
std::vector<WeightedFile> parse_files(const std::string& text) {
    std::vector<WeightedFile> files;
    for (const std::string& part : core::split(text)) {
        WeightedFile file{part};
        const std::size_t star = part.rfind('*');
        if (star != std::string::npos) {
            const char* end = part.data() + part.size();
            double weight = 0;
            const auto [stop, error] = std::from_chars(part.data() + star + 1, end, weight);
            if (error == std::errc() && stop == end) {
                core::require(weight > 0 && weight <= largest_weight, ExitCode::usage,
                              "data.train: {} has weight {} (it must be positive and at most {}); correct it", part,
                              weight, largest_weight);
                file = {part.substr(0, star), weight};
            }
        }
        core::require(!file.path.empty(), ExitCode::usage,
                      "data.train = {} has an empty file name (names are separated by commas); correct it", text);
        files.push_back(file);
    }
    return files;
}

void append(Dataset& data, const Sequence& sequence) {
    data.tokens.insert(data.tokens.end(), sequence.tokens.begin(), sequence.tokens.end());
    data.labels.insert(data.labels.end(), sequence.labels.begin(), sequence.labels.end());
    data.offsets.push_back(static_cast<index_t>(data.tokens.size()));
}

/// Appends the sequences of `other`, each so often that an epoch holds `weight` times as many as there are.
void append(Dataset& data, const Dataset& other, double weight, std::uint64_t stream) {
    const index_t first = data.sequences();
    const index_t count = other.sequences();
    const index_t tokens_before = data.offsets.back();
    data.tokens.insert(data.tokens.end(), other.tokens.begin(), other.tokens.end());
    data.labels.insert(data.labels.end(), other.labels.begin(), other.labels.end());
    std::transform(other.offsets.begin() + 1, other.offsets.end(), std::back_inserter(data.offsets),
                   [&](index_t offset) { return tokens_before + offset; });
    data.truncated += other.truncated;
    const auto visits = std::max<index_t>(1, std::llround(weight * static_cast<double>(count)));
    for (index_t visit = 0; visit < visits / count * count; ++visit) {
        data.epoch.push_back(first + visit % count);
    }
    for (const index_t sequence : choose(visits % count, count, stream)) {
        data.epoch.push_back(first + sequence);
    }
}

/// Moves a share of the sequences of `from` to a data set of their own.
Dataset split_off(Dataset& from, double fraction) {
    const index_t count = from.sequences();
    const auto kept_back = static_cast<index_t>(std::llround(fraction * static_cast<double>(count)));
    core::require(
        kept_back > 0 && kept_back < count, ExitCode::usage,
        "data.eval_fraction = {} of {} is {} (one side would be empty); choose another fraction, or name a file in "
        "data.eval",
        fraction, core::counted(count, "sequence"), kept_back);
    const std::vector<index_t> chosen = choose(kept_back, count, eval_stream);
    Dataset parts[2];
    for (index_t s = 0; s < count; ++s) {
        const auto begin = from.offsets[static_cast<std::size_t>(s)];
        const auto end = from.offsets[static_cast<std::size_t>(s) + 1];
        append(parts[std::binary_search(chosen.begin(), chosen.end(), s) ? 1 : 0],
               {{from.tokens.begin() + begin, from.tokens.begin() + end},
                {from.labels.begin() + begin, from.labels.begin() + end}});
    }
    parts[0].truncated = from.truncated;
    parts[0].name = from.name;
    parts[1].name = fmt::format("{} % of {}", 100 * fraction, from.name);
    from = std::move(parts[0]);
    return std::move(parts[1]);
}

void require_targets(const Dataset& data) {
    core::require(data.target_tokens() > 0, ExitCode::corrupt_input,
                  "{}: no token is trained on (every label after a sequence's first is {}, or was cut off by "
                  "data.max_length); correct the labels",
                  data.name, ops::ignored_label);
}

TrainingData read_training_data(const DataSettings& settings, index_t vocabulary) {
    TrainingData data;
    const std::vector<WeightedFile> files = parse_files(settings.train);
    std::vector<Dataset> held_back;
    for (std::size_t f = 0; f < files.size(); ++f) {
        Dataset part = read_token_lines(files[f].path, vocabulary, settings.max_length, settings.max_samples);
        if (settings.eval_fraction > 0) {
            held_back.push_back(split_off(part, settings.eval_fraction));
        }
        data.train.name += (f == 0 ? "" : ", ") + part.name;
        append(data.train, part, files[f].weight, f);
    }
    if (data.train.epoch_size() == data.train.sequences() &&
        std::is_sorted(data.train.epoch.begin(), data.train.epoch.end())) {
        data.train.epoch.clear();
    }
    require_targets(data.train);
    if (!settings.eval.empty()) {
        data.eval = read_token_lines(settings.eval, vocabulary, settings.max_length);
    } else if (settings.eval_fraction > 0) {
        data.eval.emplace();
        data.eval->name = fmt::format("{} % of {}", 100 * settings.eval_fraction, data.train.name);
        for (const Dataset& part : held_back) {
            append(*data.eval, part, 1, 0);
        }
        data.eval->epoch.clear();
        require_targets(*data.eval);
    }
    return data;
}

void broadcast(const mpi::Communicator& world, Dataset& data) {
    std::array<index_t, 4> sizes = {static_cast<index_t>(data.tokens.size()), data.sequences(),
                                    static_cast<index_t>(data.epoch.size()), data.truncated};
    world.broadcast(data.name);
    world.broadcast(std::span<index_t>(sizes));
    data.tokens.resize(static_cast<std::size_t>(sizes[0]));
    data.labels.resize(static_cast<std::size_t>(sizes[0]));
    data.offsets.resize(static_cast<std::size_t>(sizes[1]) + 1);
    data.epoch.resize(static_cast<std::size_t>(sizes[2]));
    data.truncated = sizes[3];
    world.broadcast(std::span<std::int32_t>(data.tokens));
    world.broadcast(std::span<std::int32_t>(data.labels));
    world.broadcast(std::span<index_t>(data.offsets));
    world.broadcast(std::span<index_t>(data.epoch));
}

}  // namespace

void DataSettings::declare(core::OptionSet& set) {
    set.add_paths("data.train", train,
                  "JSON lines with input_ids and labels to train on; several files as a.jsonl*2,b.jsonl, with weights")
        .known_as({"dataset", "train_file", "train_files", "data_path", "dataset_name", "train_data"});
    set.add_path("data.eval", eval, "JSON lines with input_ids and labels to evaluate on")
        .known_as({"eval_dataset", "validation_file", "eval_file", "val_data", "test_file"});
    set.add("data.max_length", max_length, "longer sequences are cut to this many tokens",
            core::integer_within(2, io::max_json_size))
        .known_as({"max_seq_length", "max_seq_len", "cutoff_len", "model_max_length", "block_size"});
    set.add("data.eval_fraction", eval_fraction,
            "share of the training sequences to evaluate on instead, unless data.eval is set; 0: none",
            core::within(0, 0.9))
        .known_as({"val_size", "validation_split", "test_size"});
    set.add("data.max_samples", max_samples, "sequences to take of each training file, from its beginning; 0: all",
            core::at_least(0));
    set.explain({"pad_to_multiple_of", "group_by_length", "padding"}, "sequences are computed without padding");
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

index_t Dataset::target_tokens() const {
    index_t sum = 0;
    for (index_t s = 0; s < sequences(); ++s) {
        sum += target_tokens(s);
    }
    return sum;
}

double Dataset::mean_length() const {
    const index_t count = epoch_size();
    return static_cast<double>(largest_sum(count)) / static_cast<double>(count);
}

index_t Dataset::largest_sum(index_t count) const {
    std::vector<index_t> lengths(static_cast<std::size_t>(epoch_size()));
    for (std::size_t place = 0; place < lengths.size(); ++place) {
        lengths[place] = length(epoch_sequence(static_cast<index_t>(place)));
    }
    std::sort(lengths.begin(), lengths.end(), std::greater<>());
    const auto sum_of = [&](index_t places) {
        return std::accumulate(lengths.begin(), lengths.begin() + places, index_t{0});
    };
    return count / epoch_size() * sum_of(epoch_size()) + sum_of(count % epoch_size());
}

std::uint64_t Dataset::fingerprint() const {
    const std::uint64_t of_tokens = XXH3_64bits(tokens.data(), tokens.size() * sizeof(std::int32_t));
    const std::uint64_t of_offsets = XXH3_64bits_withSeed(offsets.data(), offsets.size() * sizeof(index_t), of_tokens);
    const std::uint64_t of_labels =
        XXH3_64bits_withSeed(labels.data(), labels.size() * sizeof(std::int32_t), of_offsets);
    return epoch.empty() ? of_labels : XXH3_64bits_withSeed(epoch.data(), epoch.size() * sizeof(index_t), of_labels);
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

std::string Dataset::summary() const {
    std::vector<index_t> lengths(static_cast<std::size_t>(sequences()));
    for (std::size_t s = 0; s < lengths.size(); ++s) {
        lengths[s] = length(static_cast<index_t>(s));
    }
    std::sort(lengths.begin(), lengths.end());
    std::string text = fmt::format("{}: {} of {} to {} tokens (median {}), {} tokens, {} trained on", name,
                                   core::counted(sequences(), "sequence"), lengths.front(), lengths.back(),
                                   lengths[lengths.size() / 2], tokens.size(), target_tokens());
    if (!epoch.empty()) {
        text += fmt::format("; {} in an epoch", epoch_size());
    }
    if (truncated > 0) {
        text += fmt::format("; {} cut", truncated);
    }
    return text;
}

std::vector<std::string> Dataset::warnings(index_t positions) const {
    index_t longer = 0;
    index_t without_target = 0;
    for (index_t s = 0; s < sequences(); ++s) {
        longer += length(s) > positions ? 1 : 0;
        without_target += target_tokens(s) == 0 ? 1 : 0;
    }
    const std::string all = core::counted(sequences(), "sequence");
    std::vector<std::string> lines;
    if (longer > 0) {
        lines.push_back(
            fmt::format("warning: {}: more tokens than the {} positions that the model was made for "
                        "(max_position_embeddings) in {} of {}; data.max_length cuts them",
                        name, positions, longer, all));
    }
    if (without_target > 0) {
        lines.push_back(
            fmt::format("warning: {}: no token is trained on in {} of {} ({}); such sequences take time and change "
                        "nothing: {}",
                        name, without_target, all,
                        truncated > 0 ? fmt::format("data.max_length cut {}", truncated) : "all their labels are -100",
                        truncated > 0 ? "raise data.max_length, or leave them out" : "leave them out"));
    }
    return lines;
}

Dataset read_token_lines(const std::filesystem::path& file, index_t vocabulary, index_t max_length,
                         index_t max_samples) {
    Dataset data;
    data.name = file.string();
    io::for_each_json_line(file, [&](const nlohmann::json& line, std::size_t number) {
        if (max_samples > 0 && data.sequences() == max_samples) {
            return;
        }
        Sequence sequence = read_sequence(line, data.name + ':' + std::to_string(number), vocabulary);
        if (static_cast<index_t>(sequence.tokens.size()) > max_length) {
            sequence.tokens.resize(static_cast<std::size_t>(max_length));
            sequence.labels.resize(static_cast<std::size_t>(max_length));
            ++data.truncated;
        }
        append(data, sequence);
    });
    core::require(data.sequences() > 0, ExitCode::corrupt_input, "{}: no sequences (the file is empty); add JSON lines",
                  data.name);
    require_targets(data);
    return data;
}

Dataset load_dataset(const mpi::Communicator& world, const std::filesystem::path& file, index_t vocabulary,
                     index_t max_length) {
    const core::trace::Scope scope(core::scopes::load_dataset);
    Dataset data;
    world.agree([&] {
        if (world.is_root()) {
            data = read_token_lines(file, vocabulary, max_length);
        }
    });
    broadcast(world, data);
    return data;
}

TrainingData load_training_data(const mpi::Communicator& world, const DataSettings& settings, index_t vocabulary) {
    const core::trace::Scope scope(core::scopes::load_dataset);
    TrainingData data;
    world.agree([&] {
        if (world.is_root()) {
            data = read_training_data(settings, vocabulary);
        }
    });
    broadcast(world, data.train);
    bool evaluates = data.eval.has_value();
    world.broadcast(std::span<bool>(&evaluates, 1));
    if (evaluates) {
        if (!data.eval) {
            data.eval.emplace();
        }
        broadcast(world, *data.eval);
    }
    return data;
}

}  // namespace moesaic::train
