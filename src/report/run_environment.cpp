#include "report/run_environment.hpp"

#include "core/units.hpp"
#include "io/json.hpp"
#include "measure/run_keys.hpp"
#include "report/json_text.hpp"

#include <map>
#include <set>
#include <string>
#include <vector>

namespace moesaic::report {

namespace fs = std::filesystem;
namespace keys = measure::run_keys;

Section memory_section(const RunRecord& record, const measure::TraceSummary& trace) {
    const nlohmann::json& run = record.json;
    const std::string source = record.source();
    Section section{"Memory", {}};
    double planned = 0;
    if (run.contains(keys::memory_plan)) {
        Table plan{"Plan per rank", {{"for", ""}, {"memory", "MiB"}}, {}};
        for (const auto& item : io::get<std::vector<nlohmann::json>>(run, keys::memory_plan, source)) {
            const double bytes = io::get<double>(item, keys::bytes, source);
            plan.rows.push_back({io::get<std::string>(item, keys::purpose, source), bytes / core::mebibyte});
            planned += bytes;
        }
        plan.rows.push_back({std::string("together"), planned / core::mebibyte});
        section.blocks.emplace_back(plan);
    }
    Table peaks{"Peak of each rank", {{"rank", ""}, {"resident at most", "MiB"}, {"over the plan", "MiB"}}, {}};
    for (const auto& rank : io::get<std::vector<nlohmann::json>>(run, keys::ranks, source)) {
        const int number = io::get<int>(rank, keys::rank, source);
        const auto traced = trace.peak_memory_bytes.find(number);
        const double bytes = io::get_or<double>(rank, keys::peak_memory_bytes,
                                                traced == trace.peak_memory_bytes.end() ? 0 : traced->second, source);
        if (bytes > 0) {
            peaks.rows.push_back(
                {static_cast<double>(number), bytes / core::mebibyte, (bytes - planned) / core::mebibyte});
        }
    }
    if (!peaks.rows.empty()) {
        section.blocks.emplace_back(peaks);
        section.blocks.emplace_back(
            Paragraph{"The plan counts weights, factors, activations and buffers; the resident memory also holds the "
                      "program, the "
                      "MPI library, the data and the trace."});
    }
    return section;
}

std::optional<Section> sessions_section(const RunRecord& record) {
    const auto sessions = io::get_or<std::vector<nlohmann::json>>(record.json, keys::sessions, {}, record.source());
    if (sessions.size() < 2) {
        return {};
    }
    Table table{"Sessions", {{"session", ""}}, {}};
    std::map<std::string, std::size_t> columns;
    for (const nlohmann::json& session : sessions) {
        Table members;
        add_flat(session, "", members);
        std::vector<Cell>& row = table.rows.emplace_back();
        row.emplace_back(static_cast<double>(table.rows.size()));
        row.resize(table.columns.size(), std::string());
        for (const std::vector<Cell>& member : members.rows) {
            const auto& key = std::get<std::string>(member[0]);
            const auto [column, is_new] = columns.try_emplace(key, table.columns.size());
            if (is_new) {
                table.columns.push_back({key, ""});
                row.emplace_back(std::string());
            }
            row[column->second] = member[1];
        }
    }
    for (std::vector<Cell>& row : table.rows) {
        row.resize(table.columns.size(), std::string());
    }
    return Section{
        "Sessions",
        {Paragraph{"The run was continued from a checkpoint. Losses, totals and the trace are those of all sessions."},
         table}};
}

Section checkpoints_section(const RunRecord& record) {
    Table table{"Checkpoints", {{"file", ""}, {"size", "MiB"}}, {}};
    std::error_code error;
    std::set<fs::path> files;
    for (const fs::directory_entry& entry : fs::directory_iterator(record.folder / "checkpoints", error)) {
        if (entry.path().extension() == ".h5") {
            files.insert(entry.path());
        }
    }
    for (const fs::path& file : files) {
        const auto bytes = fs::file_size(file, error);
        table.rows.push_back({file.filename().string(), error ? 0.0 : static_cast<double>(bytes) / core::mebibyte});
    }
    if (files.empty()) {
        return {"Checkpoints", {Paragraph{"There is no checkpoint."}}};
    }
    return {"Checkpoints", {table}};
}

Section environment_section(const RunRecord& record) {
    const nlohmann::json& run = record.json;
    const std::string source = record.source();
    const auto text = [&](const char* key) { return io::get_or<std::string>(run, key, "", source); };
    Table program{"Program", {{"", ""}, {"", ""}}, {}};
    for (const char* key :
         {keys::started, keys::finished, keys::version, keys::git_revision, keys::compiler, keys::mpi}) {
        program.rows.push_back({std::string(key), text(key)});
    }
    for (const char* key : {keys::kernels, keys::grid}) {
        program.rows.push_back({std::string(key), plain_text(io::get_or<nlohmann::json>(run, key, {}, source))});
    }
    Table ranks{
        "Ranks", {{"rank", ""}, {"host", ""}, {"threads", ""}, {"cores", ""}, {"NUMA nodes", ""}, {"bound", ""}}, {}};
    for (const auto& rank : io::get<std::vector<nlohmann::json>>(run, keys::ranks, source)) {
        ranks.rows.push_back({io::get<double>(rank, keys::rank, source), io::get<std::string>(rank, keys::host, source),
                              io::get<double>(rank, keys::threads, source),
                              plain_text(io::get<nlohmann::json>(rank, keys::cores, source)),
                              plain_text(io::get<nlohmann::json>(rank, keys::numa_nodes, source)),
                              std::string(io::get<bool>(rank, keys::threads_bound, source) ? "yes" : "no")});
    }
    Table options{"Configuration", {{"key", ""}, {"value", ""}}, {}};
    const auto configuration = io::get<nlohmann::json>(run, keys::configuration, source);
    for (const auto& [key, value] : configuration.items()) {
        options.rows.push_back({key, plain_text(value)});
    }
    return {"Environment and configuration", {program, ranks, options}};
}

}  // namespace moesaic::report
