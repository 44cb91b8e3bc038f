#include "app/metrics_file.hpp"

#include "core/error.hpp"
#include "io/files.hpp"
#include "io/json.hpp"
#include "measure/run_keys.hpp"

#include <cerrno>
#include <limits>
#include <string>

namespace moesaic::app {
namespace {

namespace keys = measure::run_keys;

/// Metrics of an earlier run may be long, but not unbounded.
constexpr std::size_t metrics_limit = std::size_t{1} << 30U;

}  // namespace

MetricsFile::MetricsFile(std::filesystem::path file, index_t last_step, bool resumed) : file_(std::move(file)) {
    std::string kept;
    if (resumed && std::filesystem::exists(file_)) {
        const std::string text = io::read_file(file_, metrics_limit);
        std::size_t begin = 0;
        // What follows the last line break was being written when the run was killed.
        for (std::size_t end = 0; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1) {
            const std::string line = text.substr(begin, end - begin);
            try {
                if (take(io::parse_json(line, file_.string()), last_step)) {
                    kept += line + '\n';
                }
            } catch (const core::Error&) {
                ++damaged_lines_;
            }
        }
    }
    io::write_file_atomically(file_, kept);
    stream_.reset(std::fopen(file_.c_str(), "a"));
    if (stream_ == nullptr) {
        io::fail_writing(file_, errno);
    }
}

bool MetricsFile::take(const nlohmann::json& line, index_t last_step) {
    const std::string source = file_.string();
    const auto step = io::get<index_t>(line, keys::step, source);
    if (step > last_step) {
        return false;
    }
    if (line.contains(keys::eval_loss)) {
        evaluations_.add(step, io::get<double>(line, keys::eval_loss, source));
    } else {
        const auto tokens = io::get<std::int64_t>(line, keys::tokens, source);
        sums_.seconds += io::get<double>(line, keys::seconds, source);
        sums_.tokens += tokens;
    }
    return true;
}

void MetricsFile::write(const nlohmann::ordered_json& line) {
    take(nlohmann::json(line), std::numeric_limits<index_t>::max());
    const std::string text = line.dump() + "\n";
    if (std::fwrite(text.data(), 1, text.size(), stream_.get()) != text.size() || std::fflush(stream_.get()) != 0) {
        io::fail_writing(file_, errno);
    }
}

}  // namespace moesaic::app
