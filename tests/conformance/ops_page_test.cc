// docs/ops.md is what the op table says.
#include "server/core/ops_page.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <sstream>

#include "engine/ops/all_ops.h"

namespace gradwire {
namespace {

TEST(OpsPageTest, IsUpToDate) {
  const std::string path = GRADWIRE_SOURCE_DIR "/docs/ops.md";
  const std::string want = server::OpsPage(AllOps());
  if (std::getenv("GRADWIRE_UPDATE_DOCS") != nullptr) std::ofstream(path) << want;
  std::ifstream file(path);
  std::stringstream got;
  got << file.rdbuf();
  EXPECT_EQ(got.str(), want) << "docs/ops.md differs from the op table. To write it anew:\n"
                                "  GRADWIRE_UPDATE_DOCS=1 ctest --preset dev -R OpsPageTest";
}

}  // namespace
}  // namespace gradwire
