// Errors of one rank that become the error of every rank.
#include "core/error.hpp"
#include "core/trace.hpp"
#include "host/limits.hpp"
#include "mpi/communicator.hpp"

#include <fmt/format.h>

#include <exception>
#include <filesystem>
#include <new>

namespace moesaic::mpi {

using core::ExitCode;

namespace {

struct Failure {
    ExitCode code = ExitCode::runtime_failure;
    std::string message;
};

Failure describe(const std::exception_ptr& exception) {
    try {
        std::rethrow_exception(exception);
    } catch (const core::Error& error) {
        return {error.code(), error.what()};
    } catch (const std::bad_alloc&) {
        return {ExitCode::out_of_resources, host::out_of_memory_message()};
    } catch (const std::filesystem::filesystem_error& error) {
        return {ExitCode::usage, fmt::format("can't use {} ({}); check the path and its permissions",
                                             error.path1().string(), error.code().message())};
    } catch (const std::exception& error) {
        return {ExitCode::runtime_failure, error.what()};
    } catch (...) {
        return {ExitCode::runtime_failure, "unknown error (an exception without a message); this is a defect"};
    }
}

/// A rank that is out of memory must still reach the collectives that follow, so nothing escapes from here.
Failure describe_without_throwing(const std::exception_ptr& exception) noexcept {
    try {
        return describe(exception);
    } catch (...) {
        Failure failure;
        failure.code = ExitCode::out_of_resources;
        failure.message = "out of memory";  // short enough to need no allocation
        return failure;
    }
}

}  // namespace

void Communicator::agree(const std::function<void()>& work) const {
    std::exception_ptr exception;
    try {
        work();
    } catch (...) {
        exception = std::current_exception();
    }
    const core::trace::Scope scope(core::scopes::mpi_agree);
    const auto first = min<std::int64_t>(exception ? rank() : size());
    if (first == size()) {
        return;
    }
    const int failing = static_cast<int>(first);
    Failure failure;
    if (rank() == failing) {
        failure = describe_without_throwing(exception);
    }
    broadcast(std::span<ExitCode>(&failure.code, 1), failing);
    broadcast(failure.message, failing);
    throw AgreedError(failure.code,
                      size() > 1 ? fmt::format("rank {}: {}", failing, failure.message) : failure.message);
}

}  // namespace moesaic::mpi
