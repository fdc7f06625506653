// A folder of its own for each test, and what a test may find in it.
#ifndef GRADWIRE_TESTS_UNIT_STORE_STORE_TESTING_H_
#define GRADWIRE_TESTS_UNIT_STORE_STORE_TESTING_H_

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "gtest/gtest.h"
#include "server/store/failpoints.h"

namespace gradwire::store {

class StoreTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "/gw_store_XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    dir_ = pattern;
  }
  void TearDown() override {
    ASSERT_TRUE(SetFailpoints("").ok());
    std::filesystem::remove_all(dir_);
  }

  const std::string& dir() const { return dir_; }
  std::string Path(const std::string& name) const { return dir_ + "/" + name; }

  // Every file below the folder, relative to it.
  std::vector<std::string> Files() const {
    std::vector<std::string> out;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(dir_)) {
      if (entry.is_regular_file()) {
        out.push_back(std::filesystem::relative(entry.path(), dir_).string());
      }
    }
    return out;
  }

  static std::string Read(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  static void Overwrite(const std::string& path, const std::string& bytes) {
    std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
  }

 private:
  std::string dir_;
};

// Runs `body` in a process of its own; true where it came to its end, false where it was killed.
inline bool SurvivesInChild(absl::FunctionRef<void()> body) {
  const pid_t child = fork();
  if (child == 0) {
    body();
    _exit(0);
  }
  int status = 0;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  const bool ended = WIFEXITED(status);
  EXPECT_EQ(ended ? WEXITSTATUS(status) : 0, 0);
  EXPECT_TRUE(ended || (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)) << status;
  return ended;
}

}  // namespace gradwire::store

#endif  // GRADWIRE_TESTS_UNIT_STORE_STORE_TESTING_H_
