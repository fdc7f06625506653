#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/base/status.h"
#include "gtest/gtest.h"
#include "server/store/store.h"

namespace gradwire::store {
namespace {

class SqliteStoreTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = testing::TempDir() + "/store-XXXXXX";
    dir_ = mkdtemp(name.data());
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  std::unique_ptr<Store> Open() {
    auto store = OpenSqliteStore(dir_ + "/state.db");
    EXPECT_TRUE(store.ok()) << store.status();
    return *std::move(store);
  }
  std::string dir_;
};

absl::Status PutJob(Store& store, const std::string& id, int state) {
  return store.Write([&](Store::Transaction& t) {
    return t.Put({.kind = Kind::kJob, .id = id, .state = state, .bytes = "bytes of " + id});
  });
}

std::optional<Resource> Find(Store& store, const std::string& id) {
  std::optional<Resource> out;
  EXPECT_TRUE(store
                  .Read([&](Store::Snapshot& s) -> absl::Status {
                    GW_ASSIGN_OR_RETURN(out, s.Get(Kind::kJob, id));
                    return absl::OkStatus();
                  })
                  .ok());
  return out;
}

TEST_F(SqliteStoreTest, KeepsResourcesThroughAReopening) {
  ASSERT_TRUE(PutJob(*Open(), "a", 2).ok());
  const auto found = Find(*Open(), "a");
  ASSERT_TRUE(found);
  EXPECT_EQ(found->state, 2);
  EXPECT_EQ(found->bytes, "bytes of a");
  EXPECT_FALSE(Find(*Open(), "b"));
}

TEST_F(SqliteStoreTest, AReplacedResourceKeepsItsPlace) {
  auto store = Open();
  ASSERT_TRUE(PutJob(*store, "a", 1).ok());
  ASSERT_TRUE(PutJob(*store, "b", 1).ok());
  ASSERT_TRUE(PutJob(*store, "a", 3).ok());
  ASSERT_TRUE(store
                  ->Read([](Store::Snapshot& s) -> absl::Status {
                    GW_ASSIGN_OR_RETURN(const auto all, s.List(Kind::kJob, 0, 10, {}));
                    EXPECT_EQ(all.size(), 2u);
                    EXPECT_EQ(all[0].id, "b");
                    EXPECT_EQ(all[1].state, 3);
                    GW_ASSIGN_OR_RETURN(const auto some, s.List(Kind::kJob, 0, 10, {3, 4}));
                    EXPECT_EQ(some.size(), 1u);
                    GW_ASSIGN_OR_RETURN(const auto rest, s.List(Kind::kJob, all[0].serial, 10, {}));
                    EXPECT_EQ(rest.size(), 1u);
                    return absl::OkStatus();
                  })
                  .ok());
}

TEST_F(SqliteStoreTest, AFailedWriteLeavesNothing) {
  auto store = Open();
  const absl::Status failed = store->Write([](Store::Transaction& t) -> absl::Status {
    GW_RETURN_IF_ERROR(t.Put({.kind = Kind::kJob, .id = "a"}));
    return absl::AbortedError("on second thoughts");
  });
  EXPECT_EQ(failed.code(), absl::StatusCode::kAborted);
  EXPECT_FALSE(Find(*store, "a"));
  EXPECT_TRUE(PutJob(*store, "a", 1).ok()) << "the store goes on";
}

TEST_F(SqliteStoreTest, EventsAreReadOnFromANumber) {
  auto store = Open();
  ASSERT_TRUE(store
                  ->Write([](Store::Transaction& t) -> absl::Status {
                    for (int64_t n = 1; n <= 10; ++n) {
                      GW_RETURN_IF_ERROR(
                          t.AppendEvent("j", {n, n * 2, n % 2 == 0, absl::StrCat("event ", n)}));
                    }
                    GW_ASSIGN_OR_RETURN(const auto after, t.Events("j", 7, 2));
                    EXPECT_EQ(after.size(), 2u);
                    EXPECT_EQ(after[0].bytes, "event 8");
                    GW_ASSIGN_OR_RETURN(const auto last, t.LastEvent("j", 0));
                    EXPECT_EQ(last->number, 9);
                    EXPECT_FALSE(t.AppendEvent("j", {10, 1, 0, "twice"}).ok());
                    return absl::OkStatus();
                  })
                  .ok());
}

TEST_F(SqliteStoreTest, ThinningKeepsTheLastAndAtMostTheLimit) {
  auto store = Open();
  ASSERT_TRUE(store
                  ->Write([](Store::Transaction& t) -> absl::Status {
                    for (int64_t n = 1; n <= 1000; ++n) {
                      GW_RETURN_IF_ERROR(t.AppendEvent("j", {n, n, 1, ""}));
                    }
                    for (int limit : {1, 2, 7, 100, 999, 1000, 5000}) {
                      int64_t total = 0;
                      GW_ASSIGN_OR_RETURN(const auto some,
                                          t.ThinnedEvents("j", 1, 0, INT64_MAX, limit, &total));
                      EXPECT_EQ(total, 1000);
                      EXPECT_LE(some.size(), static_cast<size_t>(limit));
                      EXPECT_EQ(some.back().number, 1000);
                    }
                    int64_t total = 0;
                    GW_ASSIGN_OR_RETURN(const auto part,
                                        t.ThinnedEvents("j", 1, 10, 12, 9, &total));
                    EXPECT_EQ(part.size(), 3u);
                    return absl::OkStatus();
                  })
                  .ok());
}

TEST_F(SqliteStoreTest, AJobGoesWithItsEventsAndCheckpoints) {
  auto store = Open();
  ASSERT_TRUE(PutJob(*store, "j", 1).ok());
  ASSERT_TRUE(store
                  ->Write([](Store::Transaction& t) -> absl::Status {
                    GW_RETURN_IF_ERROR(t.AppendEvent("j", {1, 1, 0, ""}));
                    GW_RETURN_IF_ERROR(t.PutCheckpoint("j", {5, "", "blob5"}));
                    GW_RETURN_IF_ERROR(t.PutCheckpoint("j", {7, "", "blob7"}));
                    GW_ASSIGN_OR_RETURN(const auto all, t.Checkpoints("j"));
                    EXPECT_EQ(all.front().step, 7);
                    EXPECT_TRUE(*t.UsesBlob("blob5"));
                    GW_RETURN_IF_ERROR(t.DeleteCheckpoint("j", 5));
                    EXPECT_FALSE(*t.UsesBlob("blob5"));
                    GW_RETURN_IF_ERROR(t.Delete(Kind::kJob, "j"));
                    EXPECT_FALSE(*t.UsesBlob("blob7"));
                    EXPECT_TRUE(t.Events("j", 0, 10)->empty());
                    return absl::OkStatus();
                  })
                  .ok());
}

TEST_F(SqliteStoreTest, AnswersAreForgottenByAgeAndByNumber) {
  auto store = Open();
  const auto known = [&] {
    int count = 0;
    EXPECT_TRUE(store
                    ->Read([&](Store::Snapshot& s) -> absl::Status {
                      for (int i = 0; i < 10; ++i) {
                        count += s.FindRequest(absl::StrCat("id", i))->has_value() ? 1 : 0;
                      }
                      return absl::OkStatus();
                    })
                    .ok());
    return count;
  };
  const auto forget = [&](int64_t since, int64_t count) {
    return store->Write([&](Store::Transaction& t) { return t.ForgetRequests(since, count); });
  };
  ASSERT_TRUE(store
                  ->Write([](Store::Transaction& t) -> absl::Status {
                    for (int i = 0; i < 10; ++i) {
                      GW_RETURN_IF_ERROR(t.PutRequest(absl::StrCat("id", i), {"m", "q", "a"}));
                    }
                    return absl::OkStatus();
                  })
                  .ok());
  const int64_t now = absl::ToUnixSeconds(absl::Now());
  ASSERT_TRUE(forget(now - 3600, kMaxAnswers).ok());
  EXPECT_EQ(known(), 10);
  ASSERT_TRUE(forget(now - 3600, 4).ok());
  EXPECT_EQ(known(), 4);
  ASSERT_TRUE(forget(now + 3600, kMaxAnswers).ok());
  EXPECT_EQ(known(), 0);
}

TEST_F(SqliteStoreTest, BlobsThatNothingHasAreDeleted) {
  auto store = Open();
  auto blobs = BlobStore::Open(dir_ + "/blobs");
  ASSERT_TRUE(blobs.ok());
  const std::string graph = *(*blobs)->Put("of a graph"), first = *(*blobs)->Put("of a job"),
                    second = *(*blobs)->Put("and this"),
                    checkpoint = *(*blobs)->Put("its checkpoint"),
                    orphan = *(*blobs)->Put("of nobody");
  ASSERT_TRUE(
      store
          ->Write([&](Store::Transaction& t) -> absl::Status {
            GW_RETURN_IF_ERROR(t.Put({.kind = Kind::kGraph, .id = "g", .blobs = {graph}}));
            GW_RETURN_IF_ERROR(t.Put({.kind = Kind::kJob, .id = "j", .blobs = {first, second}}));
            return t.PutCheckpoint("j", {5, "", checkpoint});
          })
          .ok());
  ASSERT_TRUE(DeleteOrphans(*store, **blobs).ok());
  std::vector<std::string> left = {graph, first, second, checkpoint};
  std::sort(left.begin(), left.end());
  EXPECT_EQ(*(*blobs)->List(), left);
}

TEST_F(SqliteStoreTest, WhatWasAcknowledgedSurvivesAKill) {
  Open();
  const pid_t child = fork();
  if (child == 0) {
    auto store = OpenSqliteStore(dir_ + "/state.db");
    const bool ok = store.ok() && PutJob(**store, "acknowledged", 1).ok();
    (*store)
        ->Write([](Store::Transaction& t) -> absl::Status {
          t.Put({.kind = Kind::kJob, .id = "not yet"}).IgnoreError();
          _exit(0);
        })
        .IgnoreError();
    _exit(ok ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  auto store = Open();
  EXPECT_TRUE(Find(*store, "acknowledged"));
  EXPECT_FALSE(Find(*store, "not yet"));
}

}  // namespace
}  // namespace gradwire::store
