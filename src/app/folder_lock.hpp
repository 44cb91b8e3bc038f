// One run at a time owns an output folder.
#pragma once

#include "io/files.hpp"

#include <condition_variable>
#include <filesystem>
#include <mutex>
#include <thread>

namespace moesaic::app {

/// The file FOLDER/lock, which says who owns the folder while the object lives. The operating system frees the lock
/// when a process ends in whatever way, on network file systems too. Some of these lock within a host only: there the
/// file is touched regularly, and a lock that another host holds counts as left behind once it was not for two minutes,
/// or if it is that of an earlier start of the same batch job.
class FolderLock {
public:
    /// Creates the folder if it is missing. Throws a usage error that names host, process, job and start of the run
    /// that owns it.
    explicit FolderLock(std::filesystem::path folder);
    /// Removes the file, and a folder that was created and stayed empty.
    ~FolderLock();
    FolderLock(const FolderLock&) = delete;
    FolderLock& operator=(const FolderLock&) = delete;

    /// Throws unless the folder is still there under its name, and this run's.
    void require_held() const;

private:
    void acquire();
    void keep_fresh();

    std::filesystem::path folder_;
    std::filesystem::path file_;
    bool created_ = false;
    io::FileDescriptor descriptor_;
    std::mutex mutex_;
    std::condition_variable ended_;
    bool end_ = false;
    std::thread thread_;
};

}  // namespace moesaic::app
