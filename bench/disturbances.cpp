#include "bench/disturbances.hpp"

#include "core/trace.hpp"
#include "host/placement_report.hpp"
#include "host/system_files.hpp"
#include "mpi/place.hpp"

#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <fstream>
#include <sstream>

namespace moesaic::bench {
namespace {

using std::filesystem::path;

constexpr double tolerated = 0.05;       // of the processors of a host
constexpr double tolerated_load = 0.25;  // the same; the load of a minute also remembers runs before this one

double seconds(const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
}

std::int64_t throttle_count(const path& root) {
    std::int64_t sum = 0;
    std::error_code error;
    for (const auto& cpu : std::filesystem::directory_iterator(root / "sys/devices/system/cpu", error)) {
        sum += std::strtoll(host::first_line(cpu.path() / "thermal_throttle/core_throttle_count").value_or("").c_str(),
                            nullptr, 10);
    }
    return sum;
}

}  // namespace

SystemCounters read_counters(const path& root) {
    SystemCounters counters;
    counters.seconds = static_cast<double>(core::trace::now_ns()) * 1e-9;
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    counters.own_cpu = seconds(usage.ru_utime) + seconds(usage.ru_stime);
    // proc_stat(5): cpu user nice system idle iowait irq softirq steal, in ticks; user holds guests already.
    std::ifstream stat(root / "proc/stat");
    std::string name;
    double user = 0;
    double nice = 0;
    double system = 0;
    double idle = 0;
    double io = 0;
    double irq = 0;
    double softirq = 0;
    double steal = 0;
    if (stat >> name >> user >> nice >> system >> idle >> io >> irq >> softirq >> steal) {
        const auto ticks = static_cast<double>(sysconf(_SC_CLK_TCK));
        counters.busy = (user + nice + system + irq + softirq) / ticks;
        counters.stolen = steal / ticks;
    }
    counters.load = std::strtod(host::first_line(root / "proc/loadavg").value_or("").c_str(), nullptr);
    counters.throttled = throttle_count(root);
    return counters;
}

std::vector<std::string> disturbances(const SystemCounters& before, const SystemCounters& after, double own_cpu,
                                      double processors) {
    std::vector<std::string> lines;
    const double available = processors * (after.seconds - before.seconds);
    const double others = after.busy - before.busy - own_cpu;
    const double stolen = after.stolen - before.stolen;
    if (before.load > tolerated_load * processors) {
        lines.push_back(fmt::format("load average {:.1f} on {} processors before the start", before.load, processors));
    }
    if (others > tolerated * available) {
        lines.push_back(fmt::format("other processes used {:.0f} % of the processors' time", 100 * others / available));
    }
    if (stolen > tolerated * available) {
        lines.push_back(fmt::format("the hypervisor gave {:.0f} % of the processors' time to other machines",
                                    100 * stolen / available));
    }
    if (after.throttled > before.throttled) {
        lines.push_back(fmt::format("cores were throttled {} times (heat)", after.throttled - before.throttled));
    }
    return lines;
}

std::vector<host::Remark> conditions(const host::Placement& placement, bool threads_bound, const path& root) {
    std::vector<host::Remark> list =
        host::remarks(placement, {.threads_bound = threads_bound, .foreign_load = 0, .memory_nodes = {}});
    const int unit = placement.processing_units.empty() ? 0 : placement.processing_units.front();
    const path frequency = root / fmt::format("sys/devices/system/cpu/cpu{}/cpufreq", unit);
    const std::string governor = host::first_line(frequency / "scaling_governor").value_or("");
    if (!governor.empty() && governor != "performance") {
        list.push_back({host::Severity::warning,
                        fmt::format("frequency governor {} (times vary less with performance)", governor)});
    }
    const double now = std::strtod(host::first_line(frequency / "scaling_cur_freq").value_or("").c_str(), nullptr);
    const double base = std::strtod(host::first_line(frequency / "base_frequency").value_or("").c_str(), nullptr);
    if (now > 0 && now < base) {
        list.push_back({host::Severity::warning, "its clock is below the base frequency",
                        fmt::format("{:.0f} MHz, base {:.0f}", now / 1000, base / 1000)});
    }
    return list;
}

std::vector<std::string> noise_warnings(const mpi::Communicator& world, const host::Placement& placement,
                                        bool threads_bound, const SystemCounters& before) {
    const SystemCounters after = read_counters();
    const mpi::Communicator host = world.split_by_node();
    const double own_cpu = host.sum(after.own_cpu - before.own_cpu);
    std::string of_host;
    if (host.is_root()) {
        const auto processors = static_cast<double>(sysconf(_SC_NPROCESSORS_ONLN));
        for (const std::string& line : disturbances(before, after, own_cpu, processors)) {
            of_host += fmt::format("{}: {}\n", placement.host, line);
        }
    }
    std::vector<std::string> lines;
    for (const host::RemarkLine& line : mpi::gather_remarks(world, conditions(placement, threads_bound))) {
        if (line.severity == host::Severity::warning) {
            lines.push_back(line.text);
        }
    }
    for (const std::string& text : world.gather(of_host)) {
        std::istringstream stream(text);
        for (std::string line; std::getline(stream, line);) {
            lines.push_back(line);
        }
    }
    return lines;
}

}  // namespace moesaic::bench
