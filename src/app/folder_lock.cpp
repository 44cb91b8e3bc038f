#include "app/folder_lock.hpp"

#include "core/error.hpp"
#include "core/text.hpp"
#include "host/placement.hpp"
#include "io/json.hpp"

#include <fcntl.h>
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <string>

namespace moesaic::app {
namespace {

using core::ExitCode;
namespace fs = std::filesystem;

constexpr std::chrono::seconds touched_every{15};
constexpr std::chrono::seconds stale_after{120};
constexpr std::size_t most_bytes = 4096;

/// Number of the batch job that this process belongs to, with the system's name; empty outside of jobs.
std::string batch_job() {
    for (const char* name : {"SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID"}) {
        if (const char* job = std::getenv(name); job != nullptr && *job != '\0') {
            return fmt::format("{} {}", name, job);
        }
    }
    return {};
}

struct Owner {
    std::string host;
    std::string job;
    std::string since;
    std::int64_t process = 0;
};

Owner myself() {
    return {host::host_name(), batch_job(),
            fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::chrono::system_clock::now())), getpid()};
}

std::string to_text(const Owner& owner) {
    return nlohmann::json{{"host", owner.host}, {"job", owner.job}, {"since", owner.since}, {"process", owner.process}}
               .dump() +
           "\n";
}

/// Whoever wrote the file; nobody if it is empty or damaged.
Owner read_owner(int descriptor) {
    std::array<char, most_bytes> text{};
    const ssize_t size = pread(descriptor, text.data(), text.size(), 0);
    const auto json =
        nlohmann::json::parse(text.data(), text.data() + std::max<ssize_t>(size, 0), nullptr, false);  // no exceptions
    Owner owner;
    if (json.is_object()) {
        const auto text_of = [&](const char* key) {
            return json.contains(key) && json[key].is_string() ? core::printable(json[key].get<std::string>())
                                                               : std::string();
        };
        owner = {text_of("host"), text_of("job"), text_of("since"), 0};
        owner.process = json.value("process", nlohmann::json(0)).is_number_integer()
                            ? json["process"].get<std::int64_t>()
                            : std::int64_t{0};
    }
    return owner;
}

enum class Locked { yes, no, unsupported };

Locked try_lock(int descriptor) {
    struct flock whole {};
    whole.l_type = F_WRLCK;
    whole.l_whence = SEEK_SET;
    if (fcntl(descriptor, F_OFD_SETLK, &whole) == 0) {
        return Locked::yes;
    }
    return errno == EAGAIN || errno == EACCES ? Locked::no : Locked::unsupported;
}

struct stat status_of(int descriptor) {
    struct stat status {};
    fstat(descriptor, &status);
    return status;
}

bool is_same_file(const fs::path& path, int descriptor) {
    struct stat by_name {};
    const struct stat opened = status_of(descriptor);
    return stat(path.c_str(), &by_name) == 0 && by_name.st_ino == opened.st_ino && by_name.st_dev == opened.st_dev;
}

/// Whether the owner that the file names may still run, given what the lock itself says.
bool may_run(const Owner& owner, Locked locked, int descriptor) {
    if (owner.host.empty()) {
        return false;
    }
    if (owner.host == host::host_name()) {
        return locked == Locked::unsupported && (kill(static_cast<pid_t>(owner.process), 0) == 0 || errno == EPERM);
    }
    const auto age =
        std::chrono::system_clock::now() - std::chrono::system_clock::from_time_t(status_of(descriptor).st_mtim.tv_sec);
    return (owner.job.empty() || owner.job != batch_job()) && age < stale_after;
}

[[noreturn]] void refuse(const fs::path& folder, const fs::path& file, const Owner& owner) {
    core::fail(
        ExitCode::usage,
        "{} belongs to a run that has not ended (process {} on {}{}, since {}); wait for it or stop it, or choose "
        "another output.dir. If it is gone, remove {}",
        folder.string(), owner.process, owner.host.empty() ? "an unknown host" : owner.host,
        owner.job.empty() ? "" : ", " + owner.job, owner.since.empty() ? "an unknown time" : owner.since,
        file.string());
}

}  // namespace

FolderLock::FolderLock(fs::path folder)
    : folder_(std::move(folder)), file_(folder_ / "lock"), created_(!fs::exists(folder_)) {
    io::create_folder(folder_);
    acquire();
    thread_ = std::thread([this] { keep_fresh(); });
}

void FolderLock::acquire() {
    for (;;) {
        descriptor_ = io::FileDescriptor(open(file_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666));
        if (descriptor_.get() < 0) {
            io::fail_writing(file_, errno);
        }
        const Locked locked = try_lock(descriptor_.get());
        const Owner owner = read_owner(descriptor_.get());
        if (locked == Locked::no || may_run(owner, locked, descriptor_.get())) {
            refuse(folder_, file_, owner);
        }
        if (is_same_file(file_, descriptor_.get())) {  // its owner may have removed it between opening and locking
            break;
        }
    }
    const std::string text = to_text(myself());
    if (ftruncate(descriptor_.get(), 0) != 0 ||
        pwrite(descriptor_.get(), text.data(), text.size(), 0) != static_cast<ssize_t>(text.size())) {
        io::fail_writing(file_, errno);
    }
}

void FolderLock::keep_fresh() {
    std::unique_lock lock(mutex_);
    while (!ended_.wait_for(lock, touched_every, [this] { return end_; })) {
        futimens(descriptor_.get(), nullptr);
    }
}

FolderLock::~FolderLock() {
    {
        const std::lock_guard lock(mutex_);
        end_ = true;
    }
    ended_.notify_all();
    thread_.join();
    if (is_same_file(file_, descriptor_.get())) {
        std::error_code ignored;
        fs::remove(file_, ignored);
        if (created_) {
            fs::remove(folder_, ignored);  // fails unless it is empty
        }
    }
}

void FolderLock::require_held() const {
    core::require(is_same_file(file_, descriptor_.get()), ExitCode::runtime_failure,
                  "{} was removed, renamed or taken over by another run while this one used it; start again, with a "
                  "folder that stays",
                  folder_.string());
}

}  // namespace moesaic::app
