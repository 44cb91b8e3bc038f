// Data order, schedules, the optimizer, and state that outlives a change of the rank count.
#include "core/enumeration.hpp"
#include "core/error.hpp"
#include "core/units.hpp"
#include "io/checkpoint.hpp"
#include "model/weights/synthetic.hpp"
#include "support/grids.hpp"
#include "support/shared_folder.hpp"
#include "support/small_decoder.hpp"
#include "train/adapter_store.hpp"
#include "train/batches.hpp"
#include "train/dataset.hpp"
#include "train/pass_size.hpp"
#include "train/run_state.hpp"
#include "train/schedule.hpp"
#include "train/what_fits.hpp"

#include <gtest/gtest.h>
#include <omp.h>

#include <fstream>
#include <functional>
#include <map>
#include <numeric>
#include <regex>
#include <set>

namespace moesaic::train {
namespace {

using core::Error;
using core::ExitCode;
using mpi::Communicator;
using test::SharedFolder;

Dataset dataset_of(const std::vector<index_t>& lengths) {
    Dataset data;
    for (const index_t length : lengths) {
        for (index_t i = 0; i < length; ++i) {
            data.tokens.push_back(static_cast<std::int32_t>(i % 29));
            data.labels.push_back(i % 2 == 0 ? static_cast<std::int32_t>(i % 29) : ops::ignored_label);
        }
        data.offsets.push_back(static_cast<index_t>(data.tokens.size()));
    }
    return data;
}

TEST(Schedule, FollowsTransformers) {
    const Schedule linear{ScheduleShape::linear, 1.0, 2, 10};
    EXPECT_DOUBLE_EQ(linear.at(0), 0.0);
    EXPECT_DOUBLE_EQ(linear.at(1), 0.5);
    EXPECT_DOUBLE_EQ(linear.at(2), 1.0);
    EXPECT_DOUBLE_EQ(linear.at(6), 0.5);
    EXPECT_DOUBLE_EQ(linear.at(10), 0.0);
    const Schedule cosine{ScheduleShape::cosine, 2.0, 0, 10};
    EXPECT_DOUBLE_EQ(cosine.at(0), 2.0);
    EXPECT_NEAR(cosine.at(5), 1.0, 1e-15);
    EXPECT_NEAR(cosine.at(10), 0.0, 1e-15);
    EXPECT_DOUBLE_EQ((Schedule{ScheduleShape::constant, 3.0, 0, 10}.at(9)), 3.0);
}

Dealing by_tokens(index_t ranks, index_t replica_ranks) {
    return {ranks, replica_ranks, [](index_t length, index_t) { return static_cast<double>(length); }};
}

TEST(Batches, WrapAroundInFileOrder) {
    const Dataset data = dataset_of({3, 4, 5});
    Batches batches(data, {2, 0, false}, 0, 0, by_tokens(1, 1));
    EXPECT_EQ(batches.at(0).passes.front().offsets, (std::vector<index_t>{0, 4, 7}));
    EXPECT_EQ(batches.at(1).passes.front().offsets, (std::vector<index_t>{0, 5, 8}));
    EXPECT_EQ(batches.at(1).tokens, 8);
    EXPECT_EQ(batches.at(1).target_tokens, 2 + 1);
}

TEST(Batches, ShuffledEpochsSeeEverySequenceOnce) {
    std::vector<index_t> lengths(11);
    std::iota(lengths.begin(), lengths.end(), index_t{1});  // a length identifies its sequence
    const Dataset data = dataset_of(lengths);
    std::vector<std::vector<index_t>> epochs;
    for (index_t epoch = 0; epoch < 2; ++epoch) {
        std::vector<index_t> seen;
        for (index_t step = 0; step < 3; ++step) {
            for (int rank = 0; rank < 3; ++rank) {
                Batches batches(data, {4, 0, true}, 17, rank, by_tokens(3, 3));
                const StepBatches share = batches.at(epoch * 3 + step);
                ASSERT_EQ(share.passes.size(), 1U);
                for (index_t s = 0; s < share.passes[0].sequences(); ++s) {
                    const auto at = static_cast<std::size_t>(s);
                    seen.push_back(share.passes[0].offsets[at + 1] - share.passes[0].offsets[at]);
                }
            }
        }
        epochs.push_back(seen);
        std::sort(seen.begin(), seen.end());
        EXPECT_EQ(seen, lengths);
    }
    EXPECT_NE(epochs[0], epochs[1]);
}

TEST(Batches, AllRanksHaveTheSameNumberOfPasses) {
    const Dataset data = dataset_of({9, 1, 1, 1, 1});
    std::set<std::size_t> passes;
    index_t tokens = 0;
    for (int rank = 0; rank < 4; ++rank) {
        const std::vector<index_t> all = {0, 1, 2, 3, 4};
        const StepBatches share = share_of(data, all, 1, rank, by_tokens(4, 4));
        passes.insert(share.passes.size());
        for (const auto& pass : share.passes) {
            EXPECT_LE(pass.sequences(), 1);
            tokens += pass.rows();
        }
    }
    EXPECT_EQ(passes.size(), 1U);
    EXPECT_EQ(tokens, 13);
}

TEST(Spread, BalancesTokens) {
    const Dataset data = dataset_of({8, 1, 7, 2, 6, 3, 5, 4});
    const std::vector<index_t> all = {0, 1, 2, 3, 4, 5, 6, 7};
    for (const auto& share : spread(data, all, by_tokens(4, 4))) {
        index_t tokens = 0;
        for (const index_t s : share) {
            tokens += data.length(s);
        }
        EXPECT_EQ(tokens, 9);
        EXPECT_TRUE(std::is_sorted(share.begin(), share.end(),
                                   [&](index_t a, index_t b) { return data.length(a) > data.length(b); }));
    }
}

/// Two sequences remain for four ranks that have one each: every replica gets one of them.
TEST(Spread, BalancesReplicas) {
    const Dataset data = dataset_of({5, 5, 5, 5, 5, 5});
    const std::vector<index_t> all = {0, 1, 2, 3, 4, 5};
    const auto numbers = [&](index_t replica_ranks) {
        std::vector<std::size_t> of_ranks;
        for (const auto& share : spread(data, all, by_tokens(4, replica_ranks))) {
            of_ranks.push_back(share.size());
        }
        return of_ranks;
    };
    EXPECT_EQ(numbers(2), (std::vector<std::size_t>{2, 1, 2, 1}));
    EXPECT_EQ(numbers(4), (std::vector<std::size_t>{2, 2, 1, 1}));
}

/// Scores of attention grow with the square of the length: half as many tokens in short sequences cost less.
TEST(Spread, LongSequencesCostMoreThanTheirTokens) {
    const model::Architecture architecture = model::synthetic_architecture("qwen3-30b-a3b");
    const Dealing dealing = dealing_for(architecture, {1, 2, 1});
    EXPECT_GT(dealing.cost(2000, 2000), 2 * dealing.cost(1000, 1000));
    EXPECT_LT(dealing.cost(2000, 1000), dealing.cost(2000, 2000));
    EXPECT_LT(dealing.cost(2000, 2000), dealing_for(architecture, {2, 1, 1}).cost(2000, 2000));
    const Dataset data = dataset_of({4000, 1000, 1000, 1000, 1000});
    const std::vector<index_t> all = {0, 1, 2, 3, 4};
    const auto shares = spread(data, all, dealing);
    EXPECT_EQ(shares[0], (std::vector<index_t>{0}));
    EXPECT_EQ(shares[1], (std::vector<index_t>{1, 2, 3, 4}));
}

TEST(Dataset, KnowsItsLargestSumAndFingerprint) {
    Dataset data = dataset_of({3, 9, 4});
    EXPECT_EQ(data.largest_sum(2), 13);
    EXPECT_EQ(data.largest_sum(3), 16);
    EXPECT_EQ(data.largest_sum(7), 16 + 16 + 9);  // epochs follow each other within a batch
    const auto before = data.fingerprint();
    data.labels.back() = 1;
    EXPECT_NE(data.fingerprint(), before);
    data.name = "a.jsonl";
    EXPECT_TRUE(data.warnings(9).empty());
    ASSERT_EQ(data.warnings(3).size(), 1U);
    EXPECT_NE(data.warnings(3)[0].find("(max_position_embeddings) in 2 of 3 sequences"), std::string::npos);
    EXPECT_EQ(data.summary(), "a.jsonl: 3 sequences of 3 to 9 tokens (median 4), 16 tokens, 7 trained on");
}

TEST(DatasetFile, IsTheSameOnAllRanksAndCutToLength) {
    const SharedFolder folder;
    if (Communicator::world().is_root()) {
        std::ofstream(folder / "a.jsonl") << R"({"input_ids":[1,2,3],"labels":[-100,2,3]})"
                                          << "\n\n"
                                          << R"({"input_ids":[4,5,6,7,8]})"
                                          << "\n";
    }
    Communicator::world().barrier();
    const Dataset data = load_dataset(Communicator::world(), folder / "a.jsonl", 10, 4);
    EXPECT_EQ(data.sequences(), 2);
    EXPECT_EQ(data.tokens, (std::vector<std::int32_t>{1, 2, 3, 4, 5, 6, 7}));
    EXPECT_EQ(data.labels, (std::vector<std::int32_t>{-100, 2, 3, 4, 5, 6, 7}));
    EXPECT_EQ(data.truncated, 1);
    EXPECT_EQ(data.target_tokens(0), 2);
    EXPECT_EQ(data.target_tokens(1), 3);
    EXPECT_TRUE(data.warnings(10).empty());
    const Dataset cut = load_dataset(Communicator::world(), folder / "a.jsonl", 10, 3);
    EXPECT_TRUE(cut.warnings(10).empty());
    if (Communicator::world().is_root()) {
        std::ofstream(folder / "b.jsonl") << R"({"input_ids":[1,2,3,4],"labels":[-100,-100,-100,4]})"
                                          << "\n"
                                          << R"({"input_ids":[4,5]})"
                                          << "\n";
    }
    Communicator::world().barrier();
    EXPECT_TRUE(load_dataset(Communicator::world(), folder / "b.jsonl", 10, 4).warnings(10).empty());
    const Dataset without = load_dataset(Communicator::world(), folder / "b.jsonl", 10, 3);
    ASSERT_EQ(without.warnings(10).size(), 1U);
    EXPECT_NE(
        without.warnings(10)[0].find("b.jsonl: no token is trained on in 1 of 2 sequences (data.max_length cut 1)"),
        std::string::npos)
        << without.warnings(10)[0];
}

/// Several files with weights, a limit of samples, and a part that is kept for evaluation.
TEST(TrainingData, IsMixedFromFiles) {
    const SharedFolder folder;
    const Communicator world = Communicator::world();
    if (world.is_root()) {
        for (const int file : {1, 2}) {
            std::ofstream stream(folder / (std::to_string(file) + ".jsonl"));
            for (int line = 0; line < 10; ++line) {
                stream << "{\"input_ids\":[" << file << "," << line + 10 << "]}\n";
            }
        }
    }
    world.barrier();
    const std::string first = (folder / "1.jsonl").string();
    const std::string second = (folder / "2.jsonl").string();
    const auto load = [&](const DataSettings& settings) { return load_training_data(world, settings, 100); };
    const auto visits_of = [](const Dataset& data, std::int32_t file) {
        std::map<std::int32_t, int> visits;
        for (index_t place = 0; place < data.epoch_size(); ++place) {
            const auto begin =
                static_cast<std::size_t>(data.offsets[static_cast<std::size_t>(data.epoch_sequence(place))]);
            if (data.tokens[begin] == file) {
                ++visits[data.tokens[begin + 1]];
            }
        }
        return visits;
    };
    const Dataset plain = load({.train = first}).train;
    EXPECT_TRUE(plain.epoch.empty());
    EXPECT_EQ(plain.fingerprint(), load_dataset(world, first, 100, 2048).fingerprint());

    const Dataset mixed = load({.train = first + "*2.5," + second + "*0.3"}).train;
    EXPECT_EQ(mixed.sequences(), 20);
    EXPECT_EQ(mixed.epoch_size(), 28);
    int thrice = 0;
    for (const auto& [token, count] : visits_of(mixed, 1)) {
        EXPECT_TRUE(count == 2 || count == 3);
        thrice += count == 3 ? 1 : 0;
    }
    EXPECT_EQ(thrice, 5);
    EXPECT_EQ(visits_of(mixed, 2).size(), 3U);
    EXPECT_EQ(mixed.epoch, load({.train = first + "*2.5," + second + "*0.3"}).train.epoch);
    EXPECT_NE(mixed.fingerprint(), load({.train = first + "*2," + second + "*0.8"}).train.fingerprint());
    Batches batches(mixed, {7, 0, true}, 0, 0, by_tokens(1, 1));
    index_t sequences = 0;
    for (index_t step = 0; step < 4; ++step) {
        sequences += batches.at(step).passes.front().sequences();
    }
    EXPECT_EQ(sequences, 28);

    EXPECT_EQ(load({.train = first + "," + second, .max_samples = 4}).train.sequences(), 8);
    const TrainingData split = load({.train = first + "," + second, .eval_fraction = 0.2});
    ASSERT_TRUE(split.eval.has_value());
    EXPECT_EQ(split.train.sequences(), 16);
    EXPECT_EQ(split.eval->sequences(), 4);
    for (const std::int32_t file : {1, 2}) {
        auto visits = visits_of(split.train, file);
        const auto held_back = visits_of(*split.eval, file);
        EXPECT_EQ(held_back.size(), 2U);
        visits.insert(held_back.begin(), held_back.end());
        EXPECT_EQ(visits.size(), 10U);  // no sequence is in both
    }
    for (const std::string& wrong : {first + "*0", first + "*-1", first + ",", first + "*1e9"}) {
        EXPECT_THROW(static_cast<void>(load({.train = wrong})), Error) << wrong;
    }
    EXPECT_THROW(static_cast<void>(load({.train = first, .eval_fraction = 0.01})), Error);
}

/// A rank's share of 16 GiB of weights in BF16, and 2 GiB for each of its sequences, 1 if it recomputes gate and up or
/// 0.75 if it recomputes layers; a step has 8.
MemoryPlan plan_of_small_run(const PassChoice& choice) {
    const double sequences =
        static_cast<double>(choice.micro_batch == 0 ? 8 / choice.grid.ranks() : choice.micro_batch);
    const double each = choice.activations == ops::Activations::retain      ? 2
                        : choice.activations == ops::Activations::recompute ? 1
                                                                            : 0.75;
    const double bits = choice.weights == ops::WeightChoice::int8   ? 8
                        : choice.weights == ops::WeightChoice::int4 ? 4
                                                                    : 16;
    const auto shares = static_cast<double>(choice.grid.expert * choice.grid.tensor);
    return {.items = {{"experts", bits / shares * core::gibibyte, "any"},
                      {"activations", each * sequences * core::gibibyte}}};
}

/// "OPTIONS" of each suggestion for a rank with so many GiB.
std::vector<std::string> suggested(const PassOptions& options, double gibibytes) {
    std::vector<std::string> texts;
    for (const Suggestion& suggestion : suggest(plan_of_small_run, options, gibibytes * core::gibibyte)) {
        EXPECT_LE(suggestion.bytes, gibibytes * core::gibibyte) << suggestion.options;
        texts.push_back(suggestion.options);
    }
    return texts;
}

TEST(PassSize, IsTheLargestThatFits) {
    const auto chosen = [&](index_t micro_batch, double gibibytes) {
        return choose_micro_batch(plan_of_small_run, {.wanted = {.micro_batch = micro_batch}, .batch_size = 8},
                                  gibibytes * core::gibibyte);
    };
    EXPECT_EQ(chosen(0, 32), 0);
    EXPECT_EQ(chosen(0, 31), 4);
    EXPECT_EQ(chosen(0, 21), 2);
    EXPECT_EQ(chosen(0, 3), 1);
    EXPECT_EQ(chosen(5, 3), 5);
}

TEST(PassSize, SuggestsWhatFitsTheCheapestFirst) {
    using Texts = std::vector<std::string>;
    const auto options = [](PassChoice wanted, index_t experts = 8) {
        return PassOptions{.wanted = wanted, .batch_size = 8, .experts = experts};
    };
    EXPECT_EQ(suggested(options({.micro_batch = 8}, 1), 24), (Texts{"--train.micro_batch 4", "--model.weights int8"}));
    EXPECT_EQ(suggested(options({.micro_batch = 1}, 1), 17),
              (Texts{"--train.activations recompute", "--model.weights int8"}));
    EXPECT_EQ(suggested(options({.micro_batch = 1}, 1), 16.8).front(), "--train.activations layer");
    EXPECT_EQ(suggested(options({.micro_batch = 1, .activations = ops::Activations::recompute}, 1), 16.8).front(),
              "--train.activations layer");
    EXPECT_EQ(suggested(options({.micro_batch = 1, .activations = ops::Activations::layer}, 1), 16.7),
              (Texts{"--model.weights int8"}));
    EXPECT_EQ(
        suggested(options({.micro_batch = 8}, 1), 17),
        (Texts{"--train.activations recompute --train.micro_batch 1", "--model.weights int8 --train.micro_batch 4"}));
    // Sequences are found by themselves where train.micro_batch is auto.
    EXPECT_EQ(suggested(options({.micro_batch = 0}, 1), 6), (Texts{"--model.weights int4"}));
    // Replicas can share experts; otherwise more ranks can.
    EXPECT_EQ(suggested(options({.grid = {4, 1, 1}}), 7),
              (Texts{"--parallel.expert 4 --parallel.data 1", "--model.weights int4",
                     "--parallel.expert 8 --parallel.data 1"}));
    EXPECT_EQ(suggested(options({.activations = ops::Activations::recompute}), 3),
              (Texts{"--model.weights int4 --parallel.expert 2", "--parallel.expert 8"}));
    EXPECT_EQ(suggested(options({}), 2),
              (Texts{"--model.weights int4 --parallel.expert 4 --train.activations recompute"}));
    EXPECT_EQ(suggested(options({}), 1), Texts{});
    // Weights that are multiplied as integers are in INT8 already.
    PassOptions integers = options({}, 1);
    integers.integers = true;
    EXPECT_EQ(suggested(integers, 6), (Texts{"--model.weights int4 --compute.experts auto"}));
    PassOptions other_keys = options({.micro_batch = 8}, 1);
    other_keys.micro_batch_key = "micro-batch";
    EXPECT_EQ(suggested(other_keys, 24).front(), "--micro-batch 4");
}

/// Two ranks of a host hold 6 GiB of weights each, or together.
TEST(PassSize, SuggestsToHoldReplicatedWeightsOncePerHost) {
    const auto suggested_first = [](double replicated, model::WeightSharing share) {
        const PlanOfPasses plan = [replicated](const PassChoice& choice) {
            MemoryPlan planned = plan_of_small_run(choice);
            const double holders = choice.share == model::WeightSharing::host ? 2 : 1;
            planned.items.push_back({"embedding and head", replicated / holders * core::gibibyte, "any"});
            return planned;
        };
        const auto suggestions =
            suggest(plan, {.wanted = {.micro_batch = 1, .share = share}, .batch_size = 8}, 21.5 * core::gibibyte);
        return suggestions.empty() ? std::string() : suggestions.front().options;
    };
    EXPECT_EQ(suggested_first(6, model::WeightSharing::none), "--model.share host");
    EXPECT_EQ(suggested_first(8, model::WeightSharing::none), "--model.share host --train.activations recompute");
    EXPECT_EQ(suggested_first(20, model::WeightSharing::host), "--model.weights int8");
    EXPECT_EQ(suggested_first(20, model::WeightSharing::none), "") << "it does not help enough";
}

TEST(PassSize, SaysHowManyHostsASuggestionNeeds) {
    const Suggestion more = {.options = "--parallel.expert 4", .bytes = 5 * core::gibibyte, .ranks = 8};
    EXPECT_EQ(more.describe(2), "--parallel.expert 4 (5.0 GiB per rank, 8 ranks on 4 hosts)");
    EXPECT_EQ(advice({more, {.options = "--a b", .bytes = core::gibibyte}}, 3),
              "try --parallel.expert 4 (5.0 GiB per rank, 8 ranks on 3 hosts), or --a b (1.0 GiB per rank)");
    EXPECT_EQ(advice({}, 1), "");
}

TEST(WhatFits, IsTheMostForEveryFormatAndGrid) {
    const auto grids = grids_to_compare({.data = 4, .expert = 2, .tensor = 2}, 5);
    ASSERT_EQ(grids, (std::vector<mpi::GridShape>{{1, 1, 2}, {1, 2, 2}, {1, 4, 2}}));
    const FitTable table = what_fits(plan_of_small_run, grids, 9.5 * core::gibibyte);
    ASSERT_EQ(table.rows.size(), 15U);
    EXPECT_EQ(table.rows[0].sequences, (std::vector<index_t>{0, 2, 3}));  // BF16, retained
    EXPECT_EQ(table.rows[1].sequences, (std::vector<index_t>{1, 5, 7}));
    EXPECT_EQ(table.rows[2].sequences, (std::vector<index_t>{2, 7, 10}));
    EXPECT_EQ(table.rows[6].weights, ops::WeightChoice::int8);
    EXPECT_EQ(table.rows[6].sequences, (std::vector<index_t>{2, 3, 4}));
    const std::string text = describe(table);
    EXPECT_NE(text.find("\n  bf16        retain             -       2       3\n"), std::string::npos) << text;
    EXPECT_EQ(what_fits(plan_of_small_run, {{1, 1, 1}}, 1e6 * core::gibibyte).rows[0].sequences.front(),
              FitTable::most_sequences);
}

TEST(DatasetFile, ErrorsNameFileAndLine) {
    const SharedFolder folder;
    const std::map<std::string, std::string> cases = {
        {R"({"input_ids":[1,10],"labels":[1,1]})", "input_ids[1] = 10"},
        {R"({"input_ids":[1,-1],"labels":[1,1]})", "input_ids[1] = -1"},
        {R"({"input_ids":[1,2],"labels":[1,-5]})", "labels[1] = -5"},
        {R"({"input_ids":[1,2,3],"labels":[2,3,-100]})", "labels[0] = 2"},
        {R"({"input_ids":[1,2],"attention_mask":[1]})", "1 attention_mask"},
        {R"({"input_ids":[1,2],"attention_mask":[0,2]})", "attention_mask[1]"},
        {R"({"input_ids":[1,2],"attention_mask":[0,0]})", "whole sequence"},
        {R"({"input_ids":[1,2,3],"attention_mask":[1,0,1]})", "[1] = 0"},
        {R"({"input_ids":[1,2],"labels":[1]})", "1 labels for 2"},
        {R"({"input_ids":[],"labels":[]})", "empty"},
        {R"({"labels":[1]})", "input_ids"},
        {R"({"input_ids":[1.5]})", "input_ids"},
        {R"({"input_ids":[1)", ":2"}};
    int number = 0;
    for (const auto& [line, part] : cases) {
        const auto file = folder / ("bad-" + std::to_string(number++));
        if (Communicator::world().is_root()) {
            std::ofstream(file) << R"({"input_ids":[1,2]})"
                                << "\n"
                                << line << "\n";
        }
        Communicator::world().barrier();
        try {
            static_cast<void>(load_dataset(Communicator::world(), file, 10, 100));
            FAIL() << line;
        } catch (const Error& error) {
            EXPECT_EQ(error.code(), ExitCode::corrupt_input) << error.what();
            EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
            EXPECT_NE(std::string(error.what()).find(file.string() + ":2"), std::string::npos) << error.what();
        }
    }
}

/// A small decoder whose gradients are filled with values that depend on the place in the full tensors alone.
struct Trained {
    explicit Trained(const Communicator& world, const std::optional<mpi::GridShape>& shape = {},
                     const model::LoraSettings& lora = {2, 3.0})
        : model(test::small_architecture(), world, 64, shape, lora),
          store(model.decoder.lora(), model.grid),
          optimizer(model.decoder.lora(), model.kernels, model.grid, {0.9, 0.999, 1e-8, 0.1}) {}

    void set_gradients(std::uint64_t seed) {
        for (const auto& bucket : model.decoder.lora().buckets) {
            for (const model::LoraTensor& tensor : bucket->tensors) {
                core::Matrix<float> full(tensor.count() * tensor.rows, tensor.cols);
                test::fill_random(full.view(), seed + test::hash_of(tensor.name) % 1000);
                take_piece(tensor, full, bucket->view(tensor, bucket->gradients));
            }
        }
        for (std::size_t b = 0; b < model.decoder.lora().buckets.size(); ++b) {
            if (!optimizer.group(b).is_root()) {  // gradients are summed over the group: only one rank contributes
                model.decoder.lora().buckets[b]->gradients.fill(0);
            }
        }
    }
    double step(std::uint64_t seed) {
        set_gradients(seed);
        optimizer.reduce_gradients();
        const double squares = model.grid.world().sum(optimizer.squared_norm());
        optimizer.step(1e-2, 0.5);
        return squares;
    }
    std::map<std::string, std::vector<float>> everything() {
        std::map<std::string, std::vector<float>> all;
        const auto keep_as = [&](const std::string& content) {
            return [&all, content](const FullTensor& full) {
                all[full.tensor->name + "/" + content].assign(full.values.data(),
                                                              full.values.data() + full.values.size());
            };
        };
        store.for_each_tensor(keep_as("values"));
        for (const OwnedData data : core::values_of<OwnedData>()) {
            store.for_each_tensor([&](std::size_t bucket) { return optimizer.gather(bucket, data); },
                                  keep_as(std::string(core::name_of(data))));
        }
        return all;
    }

    test::SmallDecoder<float> model;
    AdapterStore store;
    ShardedAdamW optimizer;
};

TEST(AdamW, GivesTheSameOnAllRankCounts) {
    for (const mpi::GridShape& shape : test::grids_of(Communicator::world().size())) {
        SCOPED_TRACE(describe(shape));
        Trained alone(Communicator::self());
        Trained together(Communicator::world(), shape);
        for (std::uint64_t step = 0; step < 3; ++step) {
            const double expected = alone.step(step);
            EXPECT_NEAR(together.step(step), expected, 1e-10 * expected);
        }
        const auto expected = alone.everything();
        const auto found = together.everything();
        if (Communicator::world().is_root()) {
            EXPECT_EQ(found.size(), 2U * 6U * 4U);
            EXPECT_EQ(found, expected);
        }
    }
}

TEST(AdamW, FollowsTheDefinition) {
    Trained run(Communicator::self());
    auto& bucket = *run.model.decoder.lora().buckets[0];
    const double before = bucket.values.data()[3];
    double value = before;
    double first = 0;
    double second = 0;
    for (int t = 1; t <= 3; ++t) {
        run.set_gradients(static_cast<std::uint64_t>(t));
        const double gradient = 0.5 * static_cast<double>(bucket.gradients.data()[3]);  // 0.5: the clip scale
        run.optimizer.reduce_gradients();
        run.optimizer.step(1e-2, 0.5);
        first = 0.9 * first + 0.1 * gradient;
        second = 0.999 * second + 0.001 * gradient * gradient;
        value -= 1e-2 * 0.1 * value;
        value -= 1e-2 * (first / (1 - std::pow(0.9, t))) / (std::sqrt(second / (1 - std::pow(0.999, t))) + 1e-8);
    }
    EXPECT_NEAR(bucket.values.data()[3], value, 1e-6);
    EXPECT_NE(value, before);
    EXPECT_EQ(run.optimizer.updates(), 3);
}

TEST(AdamW, GivesTheSameForAllThreadCounts) {
    const kernels::KernelSet kernels;
    const mpi::ProcessGrid grid(Communicator::self(), {});
    const int threads_before = omp_get_max_threads();
    std::vector<double> squares;
    std::vector<std::vector<float>> values;
    for (const int threads : {1, 2, 5}) {
        omp_set_num_threads(threads);
        model::LoraParameters<float> parameters;
        parameters.buckets.push_back(std::make_unique<model::ParameterBucket<float>>());
        model::ParameterBucket<float>& bucket = *parameters.buckets.front();
        model::LoraTensor tensor;
        tensor.modules = {"module"};
        tensor.held = {0, 1};
        tensor.local_rows = 401;
        tensor.local_cols = 307;
        bucket.tensors.push_back(tensor);
        allocate(bucket);
        test::fill_random(bucket.values.view(), 1);
        test::fill_random(bucket.gradients.view(), 2);
        double expected = 0;
        for (const float gradient : bucket.gradients.flat()) {
            expected += static_cast<double>(gradient) * static_cast<double>(gradient);
        }
        ShardedAdamW optimizer(parameters, kernels, grid, {});
        optimizer.reduce_gradients();
        squares.push_back(optimizer.squared_norm());
        EXPECT_NEAR(squares.back(), expected, 1e-12 * expected);
        optimizer.step(1e-2, 0.5);
        values.emplace_back(bucket.values.flat().begin(), bucket.values.flat().end());
        EXPECT_EQ(squares.back(), squares.front());
        EXPECT_EQ(values.back(), values.front());
    }
    omp_set_num_threads(threads_before);
}

/// One that was written on a grid and is read on one rank; one that is read on the grid.
TEST(Checkpoint, ContinuesOnAnyGrid) {
    const model::Architecture architecture = test::small_architecture();
    const RunState state{2, 8, true, 5, 99};
    for (const mpi::GridShape& shape : test::grids_of(Communicator::world().size())) {
        SCOPED_TRACE(describe(shape));
        const SharedFolder folder;
        Trained first(Communicator::world(), shape, test::adapters_everywhere());
        first.step(1);
        first.step(2);
        save_checkpoint(folder / "checkpoints", 2, state, {}, architecture, first.store, first.optimizer);
        Trained second(Communicator::world(), mpi::GridShape{shape.expert, shape.tensor, shape.data},
                       test::adapters_everywhere());
        static_cast<void>(load_checkpoint(folder / "checkpoints/step-00000002.h5", state, architecture, second.store,
                                          second.optimizer));
        first.step(3);
        second.step(3);
        const auto uninterrupted = first.everything();
        const auto continued = second.everything();
        if (Communicator::world().is_root()) {
            EXPECT_EQ(continued, uninterrupted);
        }
    }
}

/// Version 1 of the schema had other names for the factors of experts.
TEST(Checkpoint, OfTheFirstVersionIsReadToo) {
    const SharedFolder folder;
    const model::Architecture architecture = test::small_architecture();
    const RunState state{2, 8, true, 5, 99};
    Trained first(Communicator::world(), {}, test::adapters_everywhere());
    first.step(1);
    save_checkpoint(folder / "new", 1, state, {}, architecture, first.store, first.optimizer);
    if (Communicator::world().is_root()) {
        const io::CheckpointReader reader(folder / "new/step-00000002.h5");
        io::CheckpointWriter writer(folder / "old.h5", reader.header());
        index_t renamed = 0;
        for (const std::string& dataset : reader.datasets()) {
            const std::string older =
                std::regex_replace(dataset, std::regex("model\\.(layers\\.[0-9]+)\\.mlp\\.experts"), "$1.experts");
            renamed += older == dataset ? 0 : 1;
            const std::vector<index_t> shape = reader.shape(dataset);
            std::vector<float> values(
                static_cast<std::size_t>(std::reduce(shape.begin(), shape.end(), index_t{1}, std::multiplies<>())));
            reader.read(dataset, values);
            writer.write(older, shape, values);
        }
        writer.commit();
        EXPECT_EQ(renamed, 2 * 6 * 3);
    }
    Communicator::world().barrier();
    Trained second(Communicator::world(), {}, test::adapters_everywhere());
    static_cast<void>(load_checkpoint(folder / "old.h5", state, architecture, second.store, second.optimizer));
    first.step(3);
    second.step(3);
    EXPECT_EQ(second.everything(), first.everything());
}

TEST(Checkpoint, ContinuesAtAnotherRankCount) {
    const SharedFolder folder;
    const model::Architecture architecture = test::small_architecture();
    Trained together(Communicator::world(), {}, test::adapters_everywhere());
    together.step(1);
    together.step(2);
    const RunState state{2, 8, true, 5, 99};
    save_checkpoint(folder / "checkpoints", 2, state, {}, architecture, together.store, together.optimizer);
    const auto file = folder / "checkpoints/step-00000002.h5";

    Trained alone(Communicator::self(), {}, test::adapters_everywhere());
    RunState expected = state;
    expected.step = 0;
    const RunState found = load_checkpoint(file, expected, architecture, alone.store, alone.optimizer);
    EXPECT_EQ(found.step, 2);
    EXPECT_EQ(alone.optimizer.updates(), 2);
    together.step(3);
    alone.step(3);
    const auto continued = alone.everything();
    const auto uninterrupted = together.everything();
    if (Communicator::world().is_root()) {
        EXPECT_EQ(continued, uninterrupted);
    }

    expected.data_fingerprint = 1;
    EXPECT_THROW(static_cast<void>(load_checkpoint(file, expected, architecture, alone.store, alone.optimizer)), Error);
    model::Architecture other = architecture;
    other.hidden = 20;
    EXPECT_THROW(static_cast<void>(load_checkpoint(file, state, other, alone.store, alone.optimizer)), Error);
    model::LoraSettings other_rank = test::adapters_everywhere();
    other_rank.rank_pattern = {};
    for (const model::LoraSettings& lora : {model::LoraSettings{2, 3.0}, other_rank}) {
        Trained different(Communicator::self(), {}, lora);
        try {
            static_cast<void>(load_checkpoint(file, state, architecture, different.store, different.optimizer));
            FAIL();
        } catch (const Error& error) {
            EXPECT_EQ(error.code(), ExitCode::usage);
            EXPECT_NE(std::string(error.what()).find("lora adapters was"), std::string::npos) << error.what();
        }
    }
}

}  // namespace
}  // namespace moesaic::train
