#include <algorithm>
#include <thread>
#include <vector>

#include "tests/unit/server/streams_testing.h"

namespace gradwire::rpc {
namespace {

using ExchangeTest = StreamsTest;

TEST_F(ExchangeTest, AnswersEachMessageOnItsOwn) {
  for (const bool quick : {false, true}) {
    core_.quick = quick;
    grpc::ClientContext context;
    const auto stream = Roots(&context);
    std::thread writer([&stream] {
      for (int i = -1; i < 2000; ++i) EXPECT_TRUE(stream->Write(OfValue(i)));
      stream->WritesDone();
    });
    std::vector<double> roots;
    int refusals = 0;
    v1::Tensor answer;
    while (stream->Read(&answer)) {
      if (answer.values_size() == 1) {
        roots.push_back(answer.values(0));
      } else {
        EXPECT_EQ(answer.shape(0), static_cast<int>(absl::StatusCode::kInvalidArgument));
        ++refusals;
      }
    }
    writer.join();
    EXPECT_TRUE(stream->Finish().ok());
    EXPECT_EQ(refusals, 1);
    ASSERT_EQ(roots.size(), 2000u);
    std::sort(roots.begin(), roots.end());
    for (int i = 0; i < 2000; ++i) EXPECT_EQ(roots[i], std::sqrt(static_cast<double>(i)));
    EXPECT_TRUE(AllIsFreed());
  }
}

TEST_F(ExchangeTest, ACallerThatDoesNotReadIsNotReadEither) {
  core_.root_bytes = 100'000;  // so that gRPC's own buffers are full soon
  grpc::ClientContext context;
  const auto stream = Roots(&context);
  std::thread writer([&stream] {
    while (stream->Write(OfValue(4))) {
    }
  });
  int last = -1;
  EXPECT_TRUE(Eventually([&] {
    absl::SleepFor(absl::Milliseconds(50));
    return std::exchange(last, core_.roots.load()) == core_.roots;
  })) << "it is read on and on";
  EXPECT_LT(core_.roots, 1000);
  EXPECT_TRUE(Echo().ok()) << "another caller is served";
  EXPECT_LT(admission_.reserved_bytes(), int64_t{16} << 20);
  context.TryCancel();
  writer.join();
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(AllIsFreed());
}

TEST_F(ExchangeTest, BytesThatAreNoMessageEndTheStream) {
  grpc::ClientContext context;
  const auto stream = Roots<grpc::ByteBuffer>(&context);
  const grpc::Slice bad(std::string(100, '\xff'));
  EXPECT_TRUE(stream->Write(grpc::ByteBuffer(&bad, 1)));
  v1::Tensor answer;
  EXPECT_FALSE(stream->Read(&answer));
  const absl::Status status = StatusOf(stream->Finish());
  EXPECT_TRUE(HasReason(status, Reason::kInvalidSpec)) << status;
  EXPECT_TRUE(AllIsFreed());
}

TEST_F(ExchangeTest, ACallerThatGoesAwayStopsWhatIsUnderWay) {
  absl::Notification never;
  core_.hold_roots = &never;
  grpc::ClientContext context;
  const auto stream = Roots(&context);
  for (int i = 0; i < 10; ++i) EXPECT_TRUE(stream->Write(OfValue(i)));
  EXPECT_TRUE(Eventually([&] { return core_.roots == 2; })) << "both workers have one";
  context.TryCancel();
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(AllIsFreed());
}

TEST_F(ExchangeTest, TheDeadlineOfTheStreamIsThatOfItsCalls) {
  absl::Notification never;
  core_.hold_roots = &never;
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Milliseconds(200)));
  const auto stream = Roots(&context);
  EXPECT_TRUE(stream->Write(OfValue(1)));
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_TRUE(AllIsFreed());
}

TEST_F(ExchangeTest, ADrainAnswersWhatIsUnderWayAndEndsTheStream) {
  absl::Notification go;
  core_.hold_roots = &go;
  grpc::ClientContext context, idle_context;
  const auto stream = Roots(&context), idle = Roots(&idle_context);
  idle->Write(OfValue(9));
  EXPECT_TRUE(stream->Write(OfValue(4)));
  EXPECT_TRUE(Eventually([&] { return core_.roots == 2; }));
  in_flight_.Drain();
  go.Notify();
  v1::Tensor answer;
  EXPECT_TRUE(stream->Read(&answer));
  EXPECT_EQ(answer.values(0), 2);
  EXPECT_FALSE(stream->Read(&answer));
  EXPECT_TRUE(HasReason(StatusOf(stream->Finish()), Reason::kDraining));
  EXPECT_TRUE(idle->Read(&answer));
  EXPECT_TRUE(HasReason(StatusOf(idle->Finish()), Reason::kDraining));
  EXPECT_TRUE(AllIsFreed());
}

}  // namespace
}  // namespace gradwire::rpc
