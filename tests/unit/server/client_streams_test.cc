#include <string>
#include <thread>

#include "tests/unit/server/streams_testing.h"

namespace gradwire::rpc {
namespace {

using ClientStreamTest = StreamsTest;

TEST_F(ClientStreamTest, PushesEveryMessageThenAnswers) {
  for (const int n : {0, 1, 10'000}) {
    grpc::ClientContext context;
    v1::Tensor response;
    const auto writer = Write(&context, &response);
    double sum = 0;
    for (int i = 0; i < n; ++i, sum += i) ASSERT_TRUE(writer->Write(OfValue(i + 1)));
    writer->WritesDone();
    const grpc::Status status = writer->Finish();
    ASSERT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(response.values(0), sum);
  }
  EXPECT_TRUE(AllIsFreed());
}

TEST_F(ClientStreamTest, AnErrorInTheMiddleEndsTheCallAtOnce) {
  grpc::ClientContext context;
  v1::Tensor response;
  const auto writer = Write(&context, &response);
  EXPECT_TRUE(writer->Write(OfValue(1)));
  EXPECT_TRUE(writer->Write(OfValue(-1)));
  EXPECT_TRUE(Eventually([&] { return !writer->Write(OfValue(1)); })) << "without WritesDone";
  const absl::Status status = StatusOf(writer->Finish());
  EXPECT_TRUE(HasReason(status, Reason::kDigestMismatch)) << status;
  EXPECT_EQ(core_.pushes, 2);
  EXPECT_EQ(core_.finished_sinks, 0);
  EXPECT_TRUE(AllIsFreed());
}

TEST_F(ClientStreamTest, BytesThatAreNoMessageAreTheCallersFault) {
  grpc::ClientContext context;
  v1::Tensor response;
  const auto writer = Write<grpc::ByteBuffer>(&context, &response);
  const grpc::Slice good(OfValue(1).SerializeAsString()), bad(std::string(100, '\xff'));
  EXPECT_TRUE(writer->Write(grpc::ByteBuffer(&good, 1)));
  EXPECT_TRUE(writer->Write(grpc::ByteBuffer(&bad, 1)));
  const absl::Status status = StatusOf(writer->Finish());
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(HasReason(status, Reason::kInvalidSpec)) << status;
  EXPECT_EQ(core_.pushes, 1);
  EXPECT_EQ(core_.finished_sinks, 0);
}

TEST_F(ClientStreamTest, AnOversizedMessageIsRefused) {
  grpc::ClientContext context;
  v1::Tensor response;
  const auto writer = Write(&context, &response);
  EXPECT_TRUE(writer->Write(OfValue(1)));
  v1::Tensor large;
  large.mutable_data()->assign(kMaxMessage + 1, 'x');
  writer->Write(large);
  writer->WritesDone();
  const absl::Status status = StatusOf(writer->Finish());
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_TRUE(AllIsFreed());
  EXPECT_EQ(core_.pushes, 1);
}

TEST_F(ClientStreamTest, EachMessageIsAdmitted) {
  auto rest = admission_.Reserve(kMemoryLimit - 100'000, "the test");
  ASSERT_TRUE(rest.ok());
  grpc::ClientContext context;
  v1::Tensor response, large;
  const auto writer = Write(&context, &response);
  large.mutable_data()->assign(60'000, 'x');
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(writer->Write(large)) << "the last is given back";
  large.mutable_data()->assign(200'000, 'x');
  writer->Write(large);
  const absl::Status status = StatusOf(writer->Finish());
  EXPECT_TRUE(HasReason(status, Reason::kMemoryLimit)) << status;
  EXPECT_EQ(core_.pushes, 5);
}

TEST_F(ClientStreamTest, AMessageIsReadWhenTheLastIsDealtWith) {
  absl::Notification go_on;
  core_.hold_pushes = &go_on;
  grpc::ClientContext context;
  v1::Tensor response;
  const auto writer = Write(&context, &response);
  std::thread client([&] {
    v1::Tensor large = OfValue(1);
    large.mutable_data()->assign(1 << 20, 'x');
    for (int i = 0; i < 32; ++i) EXPECT_TRUE(writer->Write(large));
    writer->WritesDone();
  });
  absl::SleepFor(absl::Milliseconds(200));
  EXPECT_EQ(core_.pushes, 1);
  EXPECT_LT(admission_.reserved_bytes(), 2 << 20);
  go_on.Notify();
  client.join();
  EXPECT_TRUE(writer->Finish().ok());
  EXPECT_EQ(response.values(0), 32);
}

TEST_F(ClientStreamTest, ACallerThatGoesAwayHasNotSaidThatItIsDone) {
  for (int i = 0; i < 100; ++i) {
    grpc::ClientContext context;
    v1::Tensor response;
    const int before = core_.pushes;
    const auto writer = Write(&context, &response);
    EXPECT_TRUE(writer->Write(OfValue(1)));
    // Of a call before, a push may still come.
    EXPECT_TRUE(i % 2 == 0 || Eventually([&] { return core_.pushes > before; }));
    context.TryCancel();
    EXPECT_EQ(writer->Finish().error_code(), grpc::StatusCode::CANCELLED);
  }
  EXPECT_TRUE(AllIsFreed());
  EXPECT_EQ(core_.finished_sinks, 0);
}

TEST_F(ClientStreamTest, ADrainLetsAnUploadEndAndCancelsOneThatDoesNot) {
  grpc::ClientContext context, idle_context;
  v1::Tensor response, idle_response;
  const auto writer = Write(&context, &response);
  const auto idle = Write(&idle_context, &idle_response);
  EXPECT_TRUE(writer->Write(OfValue(1)));
  EXPECT_TRUE(idle->Write(OfValue(1)));
  ASSERT_TRUE(Eventually([&] { return core_.pushes == 2; }));
  in_flight_.Drain();
  EXPECT_TRUE(writer->Write(OfValue(2)));
  writer->WritesDone();
  EXPECT_TRUE(writer->Finish().ok());
  EXPECT_EQ(response.values(0), 3);
  EXPECT_FALSE(in_flight_.WaitUntilEmpty(absl::Now() + absl::Milliseconds(50)));
  in_flight_.CancelAll();
  const absl::Status status = StatusOf(idle->Finish());
  EXPECT_TRUE(HasReason(status, Reason::kDraining)) << status;
}

}  // namespace
}  // namespace gradwire::rpc
