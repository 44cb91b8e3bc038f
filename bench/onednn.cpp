#include "bench/onednn.hpp"

#include <fmt/format.h>
#include <dnnl.hpp>

#include <unordered_map>
#include <vector>

namespace moesaic::bench {
namespace {

using core::bf16;
using dnnl::memory;

memory::desc description(index_t rows, index_t cols, memory::data_type type, memory::format_tag format) {
    return {{rows, cols}, type, format};
}

dnnl::matmul::primitive_desc describe_product(const dnnl::engine& engine, index_t m, index_t n, index_t k) {
    using Type = memory::data_type;
    using Format = memory::format_tag;
    const auto a = description(m, k, Type::bf16, Format::ab);
    const auto w = description(k, n, Type::bf16, Format::any);
    const auto c = description(m, n, Type::f32, Format::ab);
#if DNNL_VERSION_MAJOR < 3
    return {dnnl::matmul::desc(a, w, c), engine};
#else
    return {engine, a, w, c};
#endif
}

class PackedProduct final : public OneDnnProduct {
public:
    PackedProduct(core::MatrixView<const bf16> a, std::span<const core::Matrix<bf16>> weights,
                  core::MatrixView<float> c)
        : engine_(dnnl::engine::kind::cpu, 0),
          stream_(engine_),
          description_(describe_product(engine_, c.rows(), c.cols(), a.cols())),
          product_(description_),
          a_(description_.src_desc(), engine_, const_cast<bf16*>(a.data())),  // NOLINT: oneDNN knows no const
          c_(description_.dst_desc(), engine_, c.data()) {
        const auto stored =
            description(a.cols(), c.cols(), memory::data_type::bf16, memory::format_tag::ba);  // W^T of W [n, k]
        for (const core::Matrix<bf16>& weight : weights) {
            memory plain(stored, engine_, const_cast<bf16*>(weight.data()));  // NOLINT
            packed_.emplace_back(description_.weights_desc(), engine_);
            dnnl::reorder(plain, packed_.back()).execute(stream_, plain, packed_.back());
            stream_.wait();
        }
    }

    void run(std::size_t weight) override {
        product_.execute(stream_, {{DNNL_ARG_SRC, a_}, {DNNL_ARG_WEIGHTS, packed_[weight]}, {DNNL_ARG_DST, c_}});
        stream_.wait();
    }

    [[nodiscard]] std::string implementation() const override { return description_.impl_info_str(); }

private:
    dnnl::engine engine_;
    dnnl::stream stream_;
    dnnl::matmul::primitive_desc description_;
    dnnl::matmul product_;
    memory a_;
    memory c_;
    std::vector<memory> packed_;
};

}  // namespace

std::string onednn_version() {
    const dnnl_version_t* version = dnnl_version();
    return fmt::format("oneDNN {}.{}.{}", version->major, version->minor, version->patch);
}

std::unique_ptr<OneDnnProduct> make_onednn_product(core::MatrixView<const bf16> a,
                                                   std::span<const core::Matrix<bf16>> weights,
                                                   core::MatrixView<float> c) {
    try {
        return std::make_unique<PackedProduct>(a, weights, c);
    } catch (const dnnl::error& error) {
        if (error.status == dnnl_unimplemented) {
            return nullptr;
        }
        throw;
    }
}

}  // namespace moesaic::bench
