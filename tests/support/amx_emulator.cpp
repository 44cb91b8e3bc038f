#include "support/amx_emulator.hpp"

#if defined(__x86_64__)

#include <ucontext.h>

#include <array>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <mutex>

#include "kernels/isa.hpp"
#include "support/amx_decoder.hpp"
#include "support/amx_tiles.hpp"

namespace moesaic::test {
namespace {

// In the static block of thread-local storage: a signal handler must not be the one that allocates it.
__attribute__((tls_model("initial-exec"))) constinit thread_local AmxTiles tiles;

std::atomic<int> users = 0;
struct sigaction previous = {};

/// Registers by the numbers that instructions have for them.
constexpr std::array<int, 17> saved_registers = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                                                 REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                                 REG_R12, REG_R13, REG_R14, REG_R15, REG_RIP};

std::int64_t register_value(const gregset_t& registers, int number) {
    return number == AmxAddress::none ? 0 : registers[saved_registers[static_cast<std::size_t>(number)]];
}

/// RIP in `registers` is that of the next instruction.
void execute(const AmxInstruction& instruction, const gregset_t& registers) {
    const AmxAddress& address = instruction.address;
    auto* const memory = reinterpret_cast<char*>(register_value(registers, address.base) + address.displacement);
    const auto index = static_cast<std::uint64_t>(register_value(registers, address.index));
    const auto stride = static_cast<std::int64_t>(index << static_cast<unsigned>(address.shift));
    switch (instruction.operation) {
        case AmxOperation::ldtilecfg:
            return tiles.load_configuration(memory + stride);
        case AmxOperation::sttilecfg:
            return tiles.store_configuration(memory + stride);
        case AmxOperation::tilerelease:
            return tiles.release();
        case AmxOperation::tilezero:
            return tiles.zero(instruction.tile);
        case AmxOperation::tileloadd:
        case AmxOperation::tileloaddt1:
            return tiles.load(instruction.tile, memory, stride);
        case AmxOperation::tilestored:
            return tiles.store(instruction.tile, memory, stride);
        case AmxOperation::tdpbf16ps:
            return tiles.multiply_bf16(instruction.tile, instruction.left, instruction.right);
        case AmxOperation::tdpbssd:
            return tiles.multiply_bytes(instruction.tile, instruction.left, instruction.right);
    }
}

bool is_address_prefix(std::uint8_t byte) {
    return byte == 0x64 || byte == 0x65 || byte == 0x67;  // FS, GS, 32-bit addresses
}

/// Registers that this changes, MXCSR among them, are restored when it returns.
void on_illegal_instruction(int signal, siginfo_t* info, void* context) {
    const bool trapped = info->si_code > 0;  // else another process or thread sent the signal
    if (trapped) {
        gregset_t& registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
        const auto* code = reinterpret_cast<const std::uint8_t*>(registers[REG_RIP]);
        if (const std::optional<AmxInstruction> instruction = decode_amx(code)) {
            registers[REG_RIP] += instruction->length;
            execute(*instruction, registers);
            return;
        }
        if (is_address_prefix(code[0]) && decode_amx(code + 1).has_value()) {
            fail_amx("prefix 64, 65 or 67", "segments and 32-bit addresses are not emulated");
        }
    }
    sigaction(signal, &previous, nullptr);  // the instruction repeats, and now does what it would have done
    if (!trapped) {
        raise(signal);
    }
}

}  // namespace

AmxEmulator::AmxEmulator() {
    // Asks for the level first, whose self-test changes the handler too.
    if (!needed() || users++ > 0) {
        return;
    }
    static std::once_flag announced;
    std::call_once(announced, [] {
        std::puts("[ EMULATED ] AMX instructions, which this machine does not run");
        std::fflush(stdout);
    });
    struct sigaction action = {};
    action.sa_sigaction = on_illegal_instruction;
    action.sa_flags = SA_SIGINFO;
    sigemptyset(&action.sa_mask);
    sigaction(SIGILL, &action, &previous);
}

AmxEmulator::~AmxEmulator() {
    if (needed() && --users == 0) {
        sigaction(SIGILL, &previous, nullptr);
    }
}

bool AmxEmulator::needed() {
    using kernels::Isa;
    return kernels::runs(Isa::avx512) && !kernels::runs(Isa::amx);
}

bool AmxEmulator::holds_tiles() {
    return tiles.configured();
}

}  // namespace moesaic::test

#else  // no AMX kernels are built

namespace moesaic::test {

AmxEmulator::AmxEmulator() = default;
AmxEmulator::~AmxEmulator() = default;
bool AmxEmulator::needed() {
    return false;
}
bool AmxEmulator::holds_tiles() {
    return false;
}

}  // namespace moesaic::test

#endif
