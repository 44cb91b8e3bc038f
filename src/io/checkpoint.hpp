// Checkpoints: one HDF5 file per step that holds a JSON header and named float arrays, and the folder they are kept in.
// HDF5 is not thread-safe here: use these classes from one thread at a time.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/matrix.hpp"

namespace moesaic::io {

using core::index_t;

/// Writes one checkpoint under a temporary name; `commit` renames it after it was closed, reopened and read back.
/// Without commit the destructor removes the temporary file, and an older file of the same name stays as it was.
/// A full disk throws core::Error with ExitCode::out_of_resources.
class CheckpointWriter {
public:
    /// Creates the folder of `file` if it is missing. `header` is what the reader's `header()` returns.
    CheckpointWriter(const std::filesystem::path& file, const nlohmann::json& header);
    CheckpointWriter(const CheckpointWriter&) = delete;
    CheckpointWriter& operator=(const CheckpointWriter&) = delete;
    ~CheckpointWriter();

    /// Adds a dataset, for example "lora/model.layers.0.mlp.experts.gate_proj.lora_A/values", with `values` in
    /// row-major order. `shape` has one dimension or more; '/' separates groups, which are created as needed.
    void write(const std::string& dataset, std::span<const index_t> shape, std::span<const float> values);
    /// Call once, after the last `write`.
    void commit();

private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

/// Reads a checkpoint. Whatever the file holds, no more is allocated than its own size asks for; a damaged file or one
/// that was not written by CheckpointWriter throws core::Error with ExitCode::corrupt_input.
class CheckpointReader {
public:
    /// Checks signature, schema, version, header, and that all links lead to plain datasets inside the file.
    explicit CheckpointReader(const std::filesystem::path& file);
    CheckpointReader(CheckpointReader&&) noexcept;
    CheckpointReader& operator=(CheckpointReader&&) noexcept;
    ~CheckpointReader();

    [[nodiscard]] const nlohmann::json& header() const;
    /// Names of all datasets, sorted.
    [[nodiscard]] std::vector<std::string> datasets() const;
    [[nodiscard]] bool contains(const std::string& dataset) const;
    [[nodiscard]] std::vector<index_t> shape(const std::string& dataset) const;
    /// Reads all elements, row-major; `out` must have exactly their number. Checksums are verified.
    void read(const std::string& dataset, std::span<float> out) const;

private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

/// A folder of checkpoints `step-00000042.h5` and the text file `latest` with the name of the one to resume from.
/// Looking does not change the folder, so that other processes may look while one writes.
class CheckpointFolder {
public:
    explicit CheckpointFolder(std::filesystem::path folder);

    [[nodiscard]] const std::filesystem::path& path() const noexcept { return folder_; }
    [[nodiscard]] std::filesystem::path file_for_step(std::int64_t step) const;
    /// Steps of the complete checkpoints, ascending.
    [[nodiscard]] std::vector<std::int64_t> steps() const;
    /// The checkpoint to resume from: the one that `latest` names, or the newest if `latest` or its file is missing.
    [[nodiscard]] std::optional<std::filesystem::path> latest() const;

    /// Makes the committed checkpoint of `step` the latest, then removes all but the `keep` (1 or more) newest of the
    /// steps up to it, and what earlier crashes left under temporary names. Later steps, which an older run left, stay.
    /// Only the writing process may call it.
    void publish(std::int64_t step, int keep) const;

private:
    std::filesystem::path folder_;
};

}  // namespace moesaic::io
