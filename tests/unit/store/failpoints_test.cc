#include "server/store/failpoints.h"

#include <cerrno>
#include <cstdlib>
#include <set>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/store/store_testing.h"

namespace gradwire::store {
namespace {

using FailpointsTest = StoreTest;

std::vector<int> Hits(Failpoint point, int n) {
  std::vector<int> out;
  for (int i = 0; i < n; ++i) out.push_back(HitFailpoint(point));
  return out;
}

TEST_F(FailpointsTest, TheTableIsInEnumOrderAndNamesAreTheirOwn) {
  std::set<std::string> names;
  for (size_t i = 0; i < AllFailpoints().size(); ++i) {
    EXPECT_EQ(static_cast<size_t>(AllFailpoints()[i].point), i);
    EXPECT_TRUE(names.insert(AllFailpoints()[i].name).second);
  }
  EXPECT_EQ(AllFailpoints().size(), static_cast<size_t>(Failpoint::kDatabaseCommit) + 1);
}

TEST_F(FailpointsTest, FailsTheNthHitOrFromTheNthOn) {
  const Failpoint point = Failpoint::kBlobWrite;
  ASSERT_TRUE(SetFailpoints("blob.write=eio@2").ok());
  EXPECT_EQ(Hits(point, 4), (std::vector<int>{0, EIO, 0, 0}));
  ASSERT_TRUE(SetFailpoints("blob.write=enospc@3+").ok());
  EXPECT_EQ(Hits(point, 4), (std::vector<int>{0, 0, ENOSPC, ENOSPC}));
  ASSERT_TRUE(SetFailpoints("blob.write=eio@2,blob.write=enospc").ok());
  EXPECT_EQ(Hits(point, 3), (std::vector<int>{ENOSPC, EIO, ENOSPC}));
  EXPECT_EQ(FailpointHits(point), 3);
  EXPECT_EQ(Hits(Failpoint::kBlobFsync, 2), (std::vector<int>{0, 0}));
  ASSERT_TRUE(SetFailpoints("").ok());
  EXPECT_EQ(Hits(point, 2), (std::vector<int>{0, 0}));
}

TEST_F(FailpointsTest, KillsTheProcess) {
  EXPECT_FALSE(SurvivesInChild([] {
    ASSERT_TRUE(SetFailpoints("db.commit=kill@2").ok());
    HitFailpoint(Failpoint::kDatabaseCommit);
    HitFailpoint(Failpoint::kDatabaseCommit);
  }));
}

TEST_F(FailpointsTest, RefusesWhatDoesNotParseAndKeepsWhatWasSet) {
  ASSERT_TRUE(SetFailpoints("blob.write=eio").ok());
  for (const char* rules :
       {"blob.write", "blob.wirte=eio", "blob.write=explode", "=", "blob.write=", "blob.write=eio@",
        "blob.write=eio@0", "blob.write=eio@+", "blob.write=eio@x", "blob.write=eio@1+,counts"}) {
    EXPECT_EQ(SetFailpoints(rules).code(), absl::StatusCode::kInvalidArgument) << rules;
  }
  EXPECT_EQ(HitFailpoint(Failpoint::kBlobWrite), EIO);
}

// In processes that have not looked at the environment yet.
TEST(FailpointsDeathTest, ReadsTheEnvironment) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        setenv("GRADWIRE_FAILPOINTS", "blob.rename=enospc@2,count", 1);
        const bool good = Hits(Failpoint::kBlobRename, 3) == std::vector<int>({0, ENOSPC, 0});
        exit(good ? 0 : 1);
      },
      ::testing::ExitedWithCode(0),
      "failpoint blob.write 0\n(.*\n)*failpoint blob.rename 3\n(.*\n)*failpoint db.commit 0\n");
  EXPECT_EXIT(
      {
        setenv("GRADWIRE_FAILPOINTS", "count", 1);
        LogFailpointHits();  // before any hit
        _exit(0);
      },
      ::testing::ExitedWithCode(0), "failpoint db.commit 0\n");
  EXPECT_EXIT(
      {
        setenv("GRADWIRE_FAILPOINTS", "blob.rename=enospc@two", 1);
        HitFailpoint(Failpoint::kBlobRename);
      },
      ::testing::ExitedWithCode(2), "GRADWIRE_FAILPOINTS: .*blob.rename=enospc@two");
}

}  // namespace
}  // namespace gradwire::store
