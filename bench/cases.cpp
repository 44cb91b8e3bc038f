#include "bench/cases.hpp"

#include "bench/shapes.hpp"
#include "core/error.hpp"
#include "core/text.hpp"
#include "io/files.hpp"

#include <set>

namespace moesaic::bench {
namespace {

using core::ExitCode;

/// The numbers that a list asks for, in ascending order: sizes, `word` for `most`, "powers" for 1, 2, 4, ... and
/// `most`.
std::vector<index_t> counts_of(const std::string& key, const std::string& list, std::string_view word, index_t most) {
    std::set<index_t> counts;
    for (const std::string& item : core::split(list)) {
        core::require(!item.empty(), ExitCode::usage,
                      "{} = \"{}\" lacks an entry (a list has one on each side of a comma); write for example {} = {}",
                      key, list, key, word);
        if (item == word || item == "powers") {
            counts.insert(most);
            for (index_t power = 1; item == "powers" && power < most; power *= 2) {
                counts.insert(power);
            }
        } else {
            counts.merge(std::set<index_t>{parse_sizes(key, item).front()});
        }
    }
    return {counts.begin(), counts.end()};
}

}  // namespace

CaseSpec::CaseSpec(const BenchmarkKind& kind_in, std::string name_in)
    : kind(&kind_in), name(std::move(name_in)), settings(kind_in.make_settings()), threads(kind_in.threads) {}

void CaseSpec::declare(core::OptionSet& set, const std::string& prefix) {
    set.set_prefix(prefix);
    settings->declare(set);
    set.add("ranks", ranks,
            "how many ranks take part: a number, all, or powers (1, 2, 4, ... all); several, separated by commas, one "
            "after the other");
    set.add(
        "threads", threads,
        "threads per rank: a number, auto (one per physical core of the rank) or powers (1, 2, 4, ... auto); several, "
        "separated by commas, one after the other");
    settings->declare_sections(set);
    kind->takes_run ? compute.declare(set) : compute.declare_isa(set);
    set.set_prefix("");
}

void CaseSpec::check(index_t world_ranks) const {
    for (const index_t r : rank_counts(world_ranks)) {
        core::require(r <= world_ranks, ExitCode::usage,
                      "{}: ranks = {} exceeds the ranks of the job, {}; start more with mpirun or srun, or lower it",
                      name, r, world_ranks);
        settings->check(r);
    }
    core::require(
        compute.precision != kernels::Precision::fp32, ExitCode::usage,
        "{}: compute.precision = fp32 is not measured (it is the reference, and computed by portable kernels); "
        "use bf16x2 or bf16",
        name);
    static_cast<void>(thread_counts(1));
}

std::vector<index_t> CaseSpec::rank_counts(index_t world_ranks) const {
    return counts_of(name + ".ranks", ranks, "all", world_ranks);
}

std::vector<index_t> CaseSpec::thread_counts(index_t of_all_cores) const {
    return counts_of(name + ".threads", threads, "auto", of_all_cores);
}

void BenchOptions::declare(core::OptionSet& set) {
    set.add("repeat", repetition.least, "least number of repetitions, after a warm-up", core::at_least(1));
    set.add("spread", repetition.spread_percent,
            "more repetitions until half of every interval is within this many percent of its median");
    set.add("seconds", repetition.seconds, "or until a case has taken this long; 0: no more than --repeat");
    set.add("rounds", repetition.rounds,
            "rounds in which all cases take turns, so that each is spread over the whole run", core::at_least(1));
    set.add_path("output", output, "write everything to this JSON file");
    set.add_paths("turns", turns,
                  "GET,GIVE: named pipes through which two runs pass turns of measuring back and forth");
    set.add_path("google-benchmark", google_output, "write the times to this file as Google Benchmark does");
}

void BenchOptions::check_output() const {
    for (const std::string& file : {output, google_output}) {
        if (!file.empty()) {
            io::require_writable(file);
        }
    }
}

}  // namespace moesaic::bench
