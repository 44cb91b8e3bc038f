#include "host/fabrics.hpp"

#include "support/temporary_folder.hpp"

#include <gtest/gtest.h>

namespace moesaic::host {
namespace {

TEST(Fabrics, AreThoseThatAreUp) {
    const test::TemporaryFolder root;
    EXPECT_TRUE(active_fabrics(root.path()).empty());
    root.write("sys/class/infiniband/mlx5_0/ports/1/state", "4: ACTIVE\n");
    root.write("sys/class/infiniband/mlx5_0/ports/1/rate", "200 Gb/sec (4X HDR)\n");
    root.write("sys/class/infiniband/mlx5_1/ports/1/state", "1: DOWN\n");
    root.write("sys/class/cxi/cxi0/device", "");
    EXPECT_EQ(active_fabrics(root.path()), (std::vector<std::string>{"mlx5_0:1 (200 Gb/sec (4X HDR))", "cxi0"}));
}

}  // namespace
}  // namespace moesaic::host
