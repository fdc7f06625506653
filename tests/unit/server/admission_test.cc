#include "server/core/admission.h"

#include <gtest/gtest.h>

#include <thread>
#include <utility>
#include <vector>

#include "engine/base/status.h"

namespace gradwire::server {
namespace {

TEST(AdmissionTest, RefusesWhatIsNotLeftAndSaysHowMuchIs) {
  Admission admission(100);
  auto first = admission.Reserve(70, "the request");
  ASSERT_TRUE(first.ok());
  const auto second = admission.Reserve(31, "the request");
  EXPECT_TRUE(HasReason(second.status(), Reason::kMemoryLimit));
  EXPECT_EQ(second.status().message(), "the request: needs 31 bytes, available are 30 of 100");
  EXPECT_EQ(admission.reserved_bytes(), 70);
  EXPECT_TRUE(admission.Reserve(30, "the request").ok());
}

TEST(AdmissionTest, GivesBackAtTheEndOfTheScope) {
  Admission admission(100);
  {
    auto held = admission.Reserve(60, "a");
    ASSERT_TRUE(held.ok());
    Reservation moved = *std::move(held);
    EXPECT_EQ(admission.reserved_bytes(), 60);
    moved = Reservation(&admission);
    EXPECT_EQ(admission.reserved_bytes(), 0);
    ASSERT_TRUE(moved.Grow(10, "b").ok());
    EXPECT_EQ(admission.reserved_bytes(), 10);
  }
  EXPECT_EQ(admission.reserved_bytes(), 0);
}

TEST(AdmissionTest, AFailedGrowthLeavesTheReservationAsItWas) {
  Admission admission(100);
  auto held = admission.Reserve(60, "a");
  ASSERT_TRUE(held.ok());
  EXPECT_FALSE(held->Grow(INT64_MAX, "b").ok());
  EXPECT_EQ(held->bytes(), 60);
  EXPECT_EQ(admission.reserved_bytes(), 60);
}

TEST(AdmissionTest, TellsWhatCanNeverFitFromWhatMustWait) {
  Admission admission(100);
  auto other = admission.Reserve(90, "another call");
  Reservation mine(&admission);
  EXPECT_TRUE(mine.CheckPossible(100, "the call").ok());
  EXPECT_TRUE(HasReason(mine.CheckPossible(101, "the call"), Reason::kMemoryLimit));
}

TEST(AdmissionTest, NeverGrantsMoreThanTheLimitToManyThreads) {
  Admission admission(1000);
  std::atomic<bool> exceeded{false};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 10'000; ++i) {
        auto held = admission.Reserve(400, "a");
        if (admission.reserved_bytes() > 1000) exceeded = true;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_FALSE(exceeded);
  EXPECT_EQ(admission.reserved_bytes(), 0);
}

TEST(WorkspaceTest, KeepsASmallArenaAndGivesBackALargeOne) {
  Admission admission(int64_t{1} << 30);
  Workspace workspace(&admission, int64_t{4} << 20);
  ASSERT_TRUE(workspace.Admit(int64_t{2} << 20).ok());
  void* small = workspace.arena()->Reserve(int64_t{2} << 20);
  workspace.Trim();
  EXPECT_EQ(workspace.reserved_bytes(), int64_t{2} << 20);
  EXPECT_EQ(workspace.arena()->Reserve(int64_t{2} << 20), small);

  ASSERT_TRUE(workspace.Admit(int64_t{8} << 20).ok());
  EXPECT_EQ(admission.reserved_bytes(), int64_t{8} << 20);
  workspace.arena()->Reserve(int64_t{8} << 20);
  workspace.Trim();
  EXPECT_EQ(admission.reserved_bytes(), 0);
  EXPECT_EQ(workspace.arena()->bytes(), 0);
}

TEST(DefaultMemoryLimitTest, IsPositiveAndBelowTheMachines) {
  EXPECT_GT(DefaultMemoryLimit(), int64_t{16} << 20);
}

}  // namespace
}  // namespace gradwire::server
