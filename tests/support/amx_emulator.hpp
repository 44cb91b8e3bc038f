// Runs the AMX instructions of kernels on machines without AMX, so that their tests need not be skipped there.
#pragma once

namespace moesaic::test {

/// While one lives, AMX instructions of all threads of the process are emulated when they trap (SIGILL), each thread
/// with tiles of its own; the first one prints so. What a CPU would refuse, such as a tile that is not configured, ends
/// the process with a message. Memory is accessed by plain code, so that AddressSanitizer sees it. Any other illegal
/// instruction goes to the handler that was there before. Does nothing where emulation is not `needed`. Create it from
/// serial code. A trap costs up to some ten microseconds.
class AmxEmulator {
public:
    AmxEmulator();
    ~AmxEmulator();
    AmxEmulator(const AmxEmulator&) = delete;
    AmxEmulator& operator=(const AmxEmulator&) = delete;

    /// True if the machine does not run AMX but all else that AMX kernels need: AVX-512 F, BW, VL and DQ.
    [[nodiscard]] static bool needed();

    /// True if the emulated tiles of the calling thread are configured: a kernel has not released them.
    [[nodiscard]] static bool holds_tiles();
};

}  // namespace moesaic::test
