// What the tools interface of MPI tells about the way of messages.
#include <mpi.h>

#include "mpi/check.hpp"
#include "mpi/communicator.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>
#include <set>
#include <string_view>

namespace moesaic::mpi {
namespace {

/// Names of the components of Open MPI that are loaded, as "pml/ob1" and "btl/tcp". Components that were not chosen are
/// unloaded, and their control variables, which begin with these names, can't be queried any more.
std::set<std::string> loaded_components() {
    std::set<std::string> components;
    int count = 0;
    check(MPI_T_cvar_get_num(&count), "MPI_T_cvar_get_num");
    for (int index = 0; index < count; ++index) {
        std::array<char, 256> name{};
        auto length = static_cast<int>(name.size());
        int verbosity = 0;
        int binding = 0;
        int scope = 0;
        MPI_Datatype type = MPI_DATATYPE_NULL;
        if (MPI_T_cvar_get_info(index, name.data(), &length, &verbosity, &type, nullptr, nullptr, nullptr, &binding,
                                &scope) != MPI_SUCCESS) {
            continue;
        }
        const std::string_view text = name.data();
        for (const std::string_view framework : {"pml", "mtl", "btl"}) {
            const std::size_t end = text.find('_', framework.size() + 1);
            if (text.starts_with(framework) && text.size() > framework.size() && text[framework.size()] == '_') {
                const std::string_view component = text.substr(framework.size() + 1, end - framework.size() - 1);
                if (component != "base") {
                    components.insert(fmt::format("{}/{}", framework, component));
                }
            }
        }
    }
    return components;
}

/// Those of one framework: {"self", "tcp"} of btl.
std::vector<std::string> of_framework(const std::set<std::string>& components, std::string_view framework) {
    std::vector<std::string> names;
    for (const std::string& component : components) {
        if (component.starts_with(framework)) {
            names.push_back(component.substr(framework.size() + 1));
        }
    }
    return names;
}

}  // namespace

std::string Environment::transport() {
    int provided = MPI_THREAD_SINGLE;
    check(MPI_T_init_thread(MPI_THREAD_SINGLE, &provided), "MPI_T_init_thread");
    const std::set<std::string> components = loaded_components();
    check(MPI_T_finalize(), "MPI_T_finalize");
    const std::vector<std::string> messaging = of_framework(components, "pml");
    if (messaging.empty()) {
        return {};
    }
    // ob1 sends over the byte transfer layers and cm over one of the matching ones; others, as ucx, have their own.
    const std::string below = messaging.front() == "ob1" ? "btl" : messaging.front() == "cm" ? "mtl" : "";
    const std::vector<std::string> layers =
        below.empty() ? std::vector<std::string>{} : of_framework(components, below);
    return fmt::format("{}{}{}", fmt::join(messaging, ", "), layers.empty() ? "" : " over ", fmt::join(layers, ", "));
}

}  // namespace moesaic::mpi
