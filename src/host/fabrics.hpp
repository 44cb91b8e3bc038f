// Networks of this host that are made for message passing.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace moesaic::host {

/// Ports of InfiniBand, Omni-Path, RoCE and Slingshot adapters that are up, as "mlx5_0:1 (200 Gb/sec (4X HDR))". `root`
/// holds the folder sys of Linux.
[[nodiscard]] std::vector<std::string> active_fabrics(const std::filesystem::path& root = "/");

}  // namespace moesaic::host
