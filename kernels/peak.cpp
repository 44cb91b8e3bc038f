#include "kernels/peak.hpp"

#include "kernels/detail/peak_loop.hpp"

#include <algorithm>

namespace moesaic::kernels {

std::span<const PeakLoop> peak_loops() {
    static constexpr PeakLoop list[] = {
        {Isa::portable, detail::portable_peak_operations, detail::portable_peak, detail::portable_read},
#if MOESAIC_HAVE_ISA_KERNELS
        {Isa::avx2, detail::avx2_peak_operations, detail::avx2_peak, detail::avx2_read},
        {Isa::avx512, detail::avx512_peak_operations, detail::avx512_peak, detail::avx512_read},
        {Isa::avx512_bf16, detail::avx512_bf16_peak_operations, detail::avx512_bf16_peak, detail::avx512_read},
        {Isa::amx, detail::amx_peak_operations, detail::amx_peak, detail::avx512_read},
#endif
    };
    return list;
}

const PeakLoop& peak_loop(Isa isa) {
    const auto loops = peak_loops();
    return *std::find_if(loops.begin(), loops.end(), [isa](const PeakLoop& loop) { return loop.isa == isa; });
}

}  // namespace moesaic::kernels
