#include "server/core/workers.h"

#include <gtest/gtest.h>

#include <atomic>
#include <set>
#include <thread>
#include <vector>

#include "absl/synchronization/notification.h"
#include "engine/base/status.h"

namespace gradwire::server {
namespace {

TEST(WorkersTest, RunsEveryJobThatWasTaken) {
  Admission admission(1 << 20);
  std::atomic<int> done{0};
  Workers workers({.workers = 2, .cpus = 2, .queue_limit = 1000, .admission = &admission});
  for (int i = 0; i < 500; ++i) {
    ASSERT_TRUE(workers.Submit([&done](Workspace&) { ++done; }).ok());
  }
  workers.Stop();
  EXPECT_EQ(done, 500);
}

TEST(WorkersTest, RefusesWhatDoesNotFitTheQueue) {
  Admission admission(1 << 20);
  absl::Notification started, release;
  Workers workers({.workers = 1, .cpus = 1, .queue_limit = 2, .admission = &admission});
  ASSERT_TRUE(workers
                  .Submit([&](Workspace&) {
                    started.Notify();
                    release.WaitForNotification();
                  })
                  .ok());
  started.WaitForNotification();
  EXPECT_TRUE(workers.Submit([](Workspace&) {}).ok());
  EXPECT_TRUE(workers.Submit([](Workspace&) {}).ok());
  EXPECT_TRUE(HasReason(workers.Submit([](Workspace&) {}), Reason::kQueueFull));
  release.Notify();
  workers.Stop();
  EXPECT_TRUE(HasReason(workers.Submit([](Workspace&) {}), Reason::kQueueFull));
}

// The jobs of open streams come and go in crowds: they neither fail nor keep new calls out.
TEST(WorkersTest, ResumedCallsTakeNoPlaceInTheQueue) {
  Admission admission(1 << 20);
  absl::Notification started, release;
  std::vector<int> order;
  Workers workers({.workers = 1, .cpus = 1, .queue_limit = 2, .admission = &admission});
  ASSERT_TRUE(workers
                  .Submit([&](Workspace&) {
                    started.Notify();
                    release.WaitForNotification();
                  })
                  .ok());
  started.WaitForNotification();
  for (int i = 0; i < 10; ++i) {
    EXPECT_TRUE(workers.Resume([&order, i](Workspace&) { order.push_back(i); }));
  }
  for (int i = 10; i < 12; ++i) {
    EXPECT_TRUE(workers.Submit([&order, i](Workspace&) { order.push_back(i); }).ok());
  }
  EXPECT_TRUE(HasReason(workers.Submit([](Workspace&) {}), Reason::kQueueFull));
  EXPECT_TRUE(workers.Resume([&order](Workspace&) { order.push_back(12); }));
  release.Notify();
  workers.Stop();
  EXPECT_EQ(order, (std::vector<int>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}));
  EXPECT_FALSE(workers.Resume([](Workspace&) {}));
}

TEST(WorkersTest, GivesEveryWorkerAWorkspaceOfItsOwn) {
  Admission admission(1 << 20);
  absl::Mutex mutex;
  std::set<Workspace*> seen;
  Workers workers({.workers = 2, .cpus = 2, .queue_limit = 1000, .admission = &admission});
  for (int i = 0; i < 100; ++i) {
    ASSERT_TRUE(workers
                    .Submit([&](Workspace& workspace) {
                      absl::MutexLock lock(&mutex);
                      seen.insert(&workspace);
                    })
                    .ok());
  }
  workers.Stop();
  EXPECT_LE(seen.size(), 2u);
  EXPECT_GE(seen.size(), 1u);
}

TEST(CpuGateTest, NeverHandsOutMoreThanThereAre) {
  CpuGate gate(3);
  std::atomic<int> busy{0};
  std::atomic<bool> exceeded{false};
  std::vector<std::thread> threads;
  for (int n = 1; n <= 4; ++n) {
    threads.emplace_back([&, n] {
      const int taken = std::min(n, 3);  // more than there are counts as all of them
      for (int i = 0; i < 500; ++i) {
        const CpuGate::Claim claim(&gate, n);
        if ((busy += taken) > 3) exceeded = true;
        std::this_thread::yield();
        busy -= taken;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_FALSE(exceeded);
}

TEST(CpuGateTest, WithoutAGateNothingIsWaitedFor) {
  const CpuGate::Claim first(nullptr, 100), second(nullptr, 100);
}

TEST(AvailableCpusTest, IsAtLeastOne) { EXPECT_GE(AvailableCpus(), 1); }

}  // namespace
}  // namespace gradwire::server
