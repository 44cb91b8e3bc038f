#include "host/fabrics.hpp"

#include "host/system_files.hpp"

#include <fmt/format.h>

namespace moesaic::host {

std::vector<std::string> active_fabrics(const std::filesystem::path& root) {
    std::vector<std::string> fabrics;
    for (const auto& device : entries_of(root / "sys/class/infiniband")) {
        for (const auto& port : entries_of(device / "ports")) {
            if (first_line(port / "state").value_or("").find("ACTIVE") != std::string::npos) {
                fabrics.push_back(fmt::format("{}:{} ({})", device.filename().string(), port.filename().string(),
                                              first_line(port / "rate").value_or("unknown rate")));
            }
        }
    }
    for (const auto& device : entries_of(root / "sys/class/cxi")) {
        fabrics.push_back(device.filename().string());
    }
    return fabrics;
}

}  // namespace moesaic::host
