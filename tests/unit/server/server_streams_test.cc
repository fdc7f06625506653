#include <gmock/gmock.h>

#include <atomic>
#include <deque>
#include <filesystem>
#include <iterator>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "tests/unit/server/streams_testing.h"

namespace gradwire::rpc {
namespace {

using ::testing::HasSubstr;

using ServerStreamTest = StreamsTest;

TEST_F(ServerStreamTest, TenThousandMessagesArriveInOrder) {
  grpc::ClientContext context;
  const Reader reader = Read("Count", OfShape({10'000, 8, -1}), &context);
  v1::Tensor message;
  for (int i = 0; i < 10'000; ++i) {
    ASSERT_TRUE(reader->Read(&message)) << i;
    ASSERT_EQ(message.shape(0), i);
    ASSERT_EQ(message.data(), "xxxxxxxx");
  }
  EXPECT_FALSE(reader->Read(&message));
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_TRUE(AllIsFreed());
}

TEST_F(ServerStreamTest, ErrorsArriveWithTheirReason) {
  v1::Tensor message;
  {
    grpc::ClientContext context;
    const Reader reader = Read("Count", OfShape({1}), &context);
    EXPECT_FALSE(reader->Read(&message));
    EXPECT_TRUE(HasReason(StatusOf(reader->Finish()), Reason::kInvalidSpec));
  }
  {
    grpc::ClientContext context;
    const Reader reader = Read("Count", OfShape({10, 1, 3}), &context);
    for (int i = 0; i < 3; ++i) EXPECT_TRUE(reader->Read(&message));
    EXPECT_FALSE(reader->Read(&message));
    const absl::Status status = StatusOf(reader->Finish());
    EXPECT_TRUE(HasReason(status, Reason::kCorruptData)) << status;
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  }
  {
    grpc::ClientContext context;
    const Reader reader = Read("Count", OfShape({10, kMaxMessage, -1}), &context);
    EXPECT_FALSE(reader->Read(&message));
    EXPECT_TRUE(HasReason(StatusOf(reader->Finish()), Reason::kResultTooLarge));
  }
  EXPECT_TRUE(AllIsFreed());
}

TEST_F(ServerStreamTest, BytesThatAreNoRequestAreTheCallersFault) {
  const grpc::Slice slice(std::string(100, '\xff'));
  const grpc::ByteBuffer request(&slice, 1);
  grpc::ClientContext context;
  const std::string path = absl::StrCat("/", kServiceName, "/Count");
  const Reader reader(grpc::internal::ClientReaderFactory<v1::Tensor>::Create(
      channel_.get(), {path.c_str(), grpc::internal::RpcMethod::SERVER_STREAMING}, &context,
      request));
  v1::Tensor message;
  EXPECT_FALSE(reader->Read(&message));
  const absl::Status status = StatusOf(reader->Finish());
  EXPECT_TRUE(HasReason(status, Reason::kInvalidSpec)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("gradwire.v1.Tensor"));
}

TEST_F(ServerStreamTest, ASlowReaderHoldsBackItsOwnSourceOnly) {
  grpc::ClientContext slow_context;
  const Reader slow = Read("Count", OfShape({64, 1 << 20, -1}), &slow_context);
  v1::Tensor message;
  ASSERT_TRUE(slow->Read(&message));
  absl::SleepFor(absl::Milliseconds(300));
  const int pulls = core_.pulls;
  // The one that is held, and what lies in gRPC's and the kernel's buffers.
  EXPECT_LE(pulls, 16);
  EXPECT_LE(admission_.reserved_bytes(), 2 << 20);
  grpc::ClientContext context;
  const Reader fast = Read("Count", OfShape({64, 8, -1}), &context);
  int n = 0;
  while (fast->Read(&message)) ++n;
  EXPECT_EQ(n, 64);
  EXPECT_TRUE(fast->Finish().ok());
  n = 1;
  while (slow->Read(&message)) ++n;
  EXPECT_EQ(n, 64);
  EXPECT_TRUE(slow->Finish().ok());
}

TEST_F(ServerStreamTest, AWatcherGetsWhatHappensAsItHappens) {
  core_.topic.Add(1);
  core_.topic.Add(2);
  grpc::ClientContext context;
  const Reader reader = Read("Watch", OfShape({1}), &context);
  v1::Tensor message;
  ASSERT_TRUE(reader->Read(&message));
  EXPECT_EQ(message.values(0), 2);
  ASSERT_TRUE(Eventually([&] { return core_.topic.waiting() == 1; }));
  core_.topic.Add(3);
  ASSERT_TRUE(reader->Read(&message));
  EXPECT_EQ(message.values(0), 3);
  core_.topic.Close();
  EXPECT_FALSE(reader->Read(&message));
  EXPECT_TRUE(reader->Finish().ok());
}

// Wakes race with OnReady and with each other.
TEST_F(ServerStreamTest, NoWakeIsLost) {
  constexpr int kWatchers = 4, kValues = 20'000;
  std::vector<std::thread> watchers;
  for (int w = 0; w < kWatchers; ++w) {
    watchers.emplace_back([&] {
      grpc::ClientContext context;
      const Reader reader = Read("Watch", OfShape({0}), &context);
      v1::Tensor message;
      int n = 0;
      while (reader->Read(&message)) EXPECT_EQ(message.values(0), n++);
      EXPECT_EQ(n, kValues);
      EXPECT_TRUE(reader->Finish().ok());
    });
  }
  for (int i = 0; i < kValues; ++i) {
    core_.topic.Add(i);
    if (i % 16 == 0) std::this_thread::yield();
  }
  core_.topic.Close();
  for (std::thread& watcher : watchers) watcher.join();
}

TEST_F(ServerStreamTest, ACancelFreesTheSourceWhateverItDoes) {
  v1::Tensor message;
  {  // its reader does not read
    grpc::ClientContext context;
    const Reader reader = Read("Count", OfShape({1'000, 1 << 20, -1}), &context);
    ASSERT_TRUE(reader->Read(&message));
    context.TryCancel();
    EXPECT_TRUE(AllIsFreed());
    while (reader->Read(&message)) {
    }
    EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  }
  {  // it waits
    grpc::ClientContext context;
    const Reader reader = Watch(0, &context);
    EXPECT_EQ(core_.alive, 1);
    context.TryCancel();
    EXPECT_TRUE(AllIsFreed());
    EXPECT_EQ(core_.topic.waiting(), 1u);
    core_.topic.Add(1);  // wakes a call that is gone
    EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  }
  EXPECT_TRUE(in_flight_.WaitUntilEmpty(absl::Now() + absl::Seconds(5)));
}

TEST_F(ServerStreamTest, ADeadlineEndsAWatcher) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(200));
  const Reader reader = Watch(0, &context);
  v1::Tensor message;
  EXPECT_FALSE(reader->Read(&message));
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_TRUE(AllIsFreed());
}

// Cancels, wakes and ends at random moments: the sanitizers look on.
TEST_F(ServerStreamTest, CancelsMayComeAtAnyMoment) {
  std::atomic<bool> stop{false};
  std::thread producer([&] {
    for (int i = 0; !stop; ++i) {
      core_.topic.Add(i);
      absl::SleepFor(absl::Microseconds(50));
    }
  });
  std::vector<std::thread> callers;
  for (int c = 0; c < 4; ++c) {
    callers.emplace_back([&, c] {
      std::mt19937 random(c);
      for (int i = 0; i < 100; ++i) {
        grpc::ClientContext context;
        const Reader reader =
            Read(i % 2 ? "Watch" : "Count", OfShape({i % 3, 100, i % 5}), &context);
        v1::Tensor message;
        for (int reads = random() % 4; reads > 0 && reader->Read(&message); --reads) {
        }
        if (random() % 2) absl::SleepFor(absl::Microseconds(random() % 500));
        context.TryCancel();
        while (reader->Read(&message)) {
        }
        reader->Finish();
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  stop = true;
  producer.join();
  EXPECT_TRUE(AllIsFreed());
}

TEST_F(ServerStreamTest, ADrainEndsWatchersAtOnceAndLetsOthersGoOn) {
  grpc::ClientContext watch_context, count_context, late_context;
  const Reader watcher = Watch(0, &watch_context);
  const Reader busy = Read("Count", OfShape({40, 1 << 20, -1}), &count_context);
  v1::Tensor message;
  ASSERT_TRUE(busy->Read(&message));
  ASSERT_TRUE(Eventually([&] { return core_.topic.waiting() == 1; }));

  const absl::Time start = absl::Now();
  in_flight_.Drain();
  EXPECT_FALSE(watcher->Read(&message));
  const absl::Status status = StatusOf(watcher->Finish());
  EXPECT_LT(absl::Now() - start, absl::Milliseconds(200));
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(HasReason(status, Reason::kDraining)) << status;
  core_.topic.Add(1);  // a late wake

  const Reader late = Read("Watch", OfShape({0}), &late_context);
  EXPECT_FALSE(late->Read(&message));
  EXPECT_TRUE(HasReason(StatusOf(late->Finish()), Reason::kDraining));

  int n = 1;
  while (busy->Read(&message)) ++n;
  EXPECT_EQ(n, 40);
  EXPECT_TRUE(busy->Finish().ok());
}

TEST_F(ServerStreamTest, AStreamThatComesToWaitDuringTheDrainEndsThen) {
  for (int i = 0; i < 2'000; ++i) core_.topic.Add(i);
  grpc::ClientContext context;
  const Reader reader = Read("Watch", OfShape({0}), &context);
  v1::Tensor message;
  ASSERT_TRUE(reader->Read(&message));
  in_flight_.Drain();
  int n = 1;
  while (reader->Read(&message)) ++n;
  EXPECT_EQ(n, 2'000) << "what has happened is told";
  EXPECT_TRUE(HasReason(StatusOf(reader->Finish()), Reason::kDraining));
}

TEST_F(ServerStreamTest, CancellingWhatIsLeftEndsAReaderThatDoesNotRead) {
  grpc::ClientContext context;
  const Reader reader = Read("Count", OfShape({1'000, 1 << 20, -1}), &context);
  v1::Tensor message;
  ASSERT_TRUE(reader->Read(&message));
  absl::SleepFor(absl::Milliseconds(100));
  in_flight_.Drain();
  EXPECT_FALSE(in_flight_.WaitUntilEmpty(absl::Now() + absl::Milliseconds(50)));
  in_flight_.CancelAll();
  EXPECT_TRUE(in_flight_.WaitUntilEmpty(absl::Now() + absl::Seconds(2)));
  context.TryCancel();
}

TEST_F(ServerStreamTest, AHundredIdleStreamsTakeNoThreadsAndNoPlaceInTheQueue) {
  ASSERT_TRUE(Echo().ok());
  const auto threads = [] {
    return std::distance(std::filesystem::directory_iterator("/proc/self/task"), {});
  };
  std::deque<grpc::ClientContext> contexts;
  std::vector<Reader> readers;
  readers.push_back(Watch(0, &contexts.emplace_back()));
  const auto before = threads();
  // One after another: new calls do take places.
  while (readers.size() < 100) readers.push_back(Watch(0, &contexts.emplace_back()));
  ASSERT_TRUE(Eventually([&] { return core_.topic.waiting() == 100; }));
  EXPECT_LE(threads() - before, 10) << "gRPC's own pollers come and go";
  EXPECT_LE(admission_.reserved_bytes(), 100 * (32 << 10));
  EXPECT_TRUE(Echo().ok());
  // All are woken at once, with a queue of eight.
  core_.topic.Add(7);
  v1::Tensor message;
  for (const Reader& reader : readers) {
    ASSERT_TRUE(reader->Read(&message));
    EXPECT_EQ(message.values(0), 7);
  }
  EXPECT_TRUE(Echo().ok());
  core_.topic.Close();
  for (const Reader& reader : readers) EXPECT_TRUE(reader->Finish().ok());
}

TEST_F(ServerStreamTest, OpenStreamsAreAdmitted) {
  auto rest = admission_.Reserve(kMemoryLimit - 20'000, "the test");
  ASSERT_TRUE(rest.ok());
  grpc::ClientContext first_context, second_context;
  const Reader first = Watch(0, &first_context);
  const Reader second = Read("Watch", OfShape({0}), &second_context);
  v1::Tensor message;
  EXPECT_FALSE(second->Read(&message));
  EXPECT_TRUE(HasReason(StatusOf(second->Finish()), Reason::kMemoryLimit));
  first_context.TryCancel();
  EXPECT_EQ(first->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

}  // namespace
}  // namespace gradwire::rpc
