#include "server/rpc/server.h"

#include <gmock/gmock.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <thread>

#include "absl/strings/str_cat.h"
#include "engine/base/status.h"
#include "google/rpc/status.pb.h"
#include "gradwire/v1/gradient_service.grpc.pb.h"
#include "gradwire/v1/server_service.grpc.pb.h"
#include "gradwire/v1/training_service.pb.h"
#include "proto/codec/status_codec.h"
#include "proto/codec/tensor_codec.h"
#include "server/rpc/listen_address.h"

namespace gradwire::rpc {
namespace {

using ::testing::HasSubstr;

ServerOptions Options() {
  ServerOptions options;
  options.listen = {"127.0.0.1:0"};
  options.workers = 2;
  options.threads = 1;
  options.drain_timeout = absl::Seconds(1);
  options.self_check = EngineOptions::SelfCheck::kNever;
  return options;
}

std::unique_ptr<Server> StartServer(const ServerOptions& options = Options()) {
  auto server = Server::Start(options);
  EXPECT_TRUE(server.ok()) << server.status();
  return server.ok() ? *std::move(server) : nullptr;
}

// A channel with a connection of its own.
std::shared_ptr<grpc::Channel> Connect(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetMaxReceiveMessageSize(-1);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

v1::ComputeGradientRequest SeedRequest() {
  v1::ComputeGradientRequest request;
  request.mutable_model()->set_expression("x^2*y + y^3");
  (*request.mutable_inputs())["x"] = codec::ToProto(Tensor::Scalar(2.0));
  (*request.mutable_inputs())["y"] = codec::ToProto(Tensor::Scalar(3.0));
  return request;
}

double ScalarOf(const v1::Tensor& tensor) {
  double out = 0;
  EXPECT_EQ(tensor.data().size(), sizeof(out));
  std::memcpy(&out, tensor.data().data(), std::min(sizeof(out), tensor.data().size()));
  return out;
}

// A formula with far more work than any test waits for, in many steps.
v1::EvaluateRequest LongRequest() {
  v1::EvaluateRequest request;
  std::string formula = "a = x @ x";
  for (int i = 0; i < 2000; ++i)
    absl::StrAppend(&formula, "; a", i, " = ", i ? absl::StrCat("a", i - 1) : "a", " @ x");
  request.mutable_model()->set_expression(formula + "; a1999[0]");
  v1::Tensor& x = (*request.mutable_inputs())["x"];
  codec::StartTensor({DType::kDouble, {400, 400}}, &x);
  return request;
}

absl::Status StatusOf(const grpc::Status& status) {
  google::rpc::Status wire;
  if (!status.error_details().empty() && wire.ParseFromString(status.error_details())) {
    return codec::FromRpcStatus(wire);
  }
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

TEST(ServerTest, AnswersAGradientOverAPort) {
  const auto server = StartServer();
  const auto stub = v1::GradientService::NewStub(Connect(server->addresses()[0]));
  for (int i = 0; i < 3; ++i) {  // by a worker, then on gRPC's own thread
    grpc::ClientContext context;
    v1::ComputeGradientResponse reply;
    const grpc::Status status = stub->ComputeGradient(&context, SeedRequest(), &reply);
    ASSERT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(ScalarOf(reply.value()), 39);
    EXPECT_EQ(ScalarOf(reply.gradients().at("x")), 12);
    EXPECT_EQ(ScalarOf(reply.gradients().at("y")), 31);
    EXPECT_EQ(reply.info().cache_hit(), i > 0);
  }
}

TEST(ServerTest, AnswersOnAUnixSocket) {
  ServerOptions options = Options();
  const std::string path = absl::StrCat(::testing::TempDir(), "gw_", getpid(), ".sock");
  options.listen = {"unix:" + path};
  const auto server = StartServer(options);
  EXPECT_EQ(server->addresses()[0], "unix:" + path);
  const auto stub = v1::GradientService::NewStub(Connect("unix:" + path));
  grpc::ClientContext context;
  v1::ComputeGradientResponse reply;
  EXPECT_TRUE(stub->ComputeGradient(&context, SeedRequest(), &reply).ok());
  EXPECT_TRUE(absl::IsUnavailable(Server::Start(options).status()));
}

TEST(ServerTest, ErrorsCarryReasonAndPlaces) {
  const auto server = StartServer();
  const auto stub = v1::GradientService::NewStub(Connect(server->addresses()[0]));
  v1::ComputeGradientRequest request = SeedRequest();
  request.mutable_inputs()->erase("y");
  grpc::ClientContext context;
  v1::ComputeGradientResponse reply;
  const absl::Status status = StatusOf(stub->ComputeGradient(&context, request, &reply));
  EXPECT_TRUE(HasReason(status, Reason::kMissingInput)) << status;
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  ASSERT_EQ(ViolationsOf(status).size(), 1u);
  EXPECT_EQ(ViolationsOf(status)[0].where, "inputs.y");
}

TEST(ServerTest, BytesThatAreNoRequestAreTheCallersFault) {
  const auto server = StartServer();
  grpc::GenericStub stub(Connect(server->addresses()[0]));
  for (const size_t size : {3, 100'000}) {
    const grpc::Slice slice(std::string(size, '\xff'));
    grpc::ByteBuffer request(&slice, 1), reply;
    grpc::ClientContext context;
    grpc::CompletionQueue queue;
    auto call =
        stub.PrepareUnaryCall(&context, "/gradwire.v1.GradientService/Evaluate", request, &queue);
    call->StartCall();
    grpc::Status status;
    call->Finish(&reply, &status, nullptr);
    void* tag;
    bool ok;
    queue.Next(&tag, &ok);
    EXPECT_TRUE(HasReason(StatusOf(status), Reason::kInvalidSpec)) << status.error_message();
  }
}

TEST(ServerTest, CapabilitiesListTheOps) {
  const auto server = StartServer();
  const auto stub = v1::ServerService::NewStub(Connect(server->addresses()[0]));
  grpc::ClientContext context;
  v1::Capabilities reply;
  ASSERT_TRUE(stub->GetCapabilities(&context, {}, &reply).ok());
  const auto matmul = std::find_if(reply.ops().begin(), reply.ops().end(),
                                   [](const auto& op) { return op.name() == "MatMul"; });
  ASSERT_NE(matmul, reply.ops().end());
  EXPECT_TRUE(matmul->value() && matmul->vjp() && matmul->jvp());
  EXPECT_EQ(matmul->first_opset(), 6);
  EXPECT_EQ(matmul->last_opset(), 23);
  EXPECT_GE(matmul->data_types_size(), 2);
  for (const v1::OpCapability& op : reply.ops()) EXPECT_TRUE(op.value()) << op.ShortDebugString();
  EXPECT_EQ(reply.durability(), v1::MEMORY_ONLY);
  EXPECT_EQ(reply.workers(), 2);
  EXPECT_EQ(reply.limits().max_message_bytes(), int64_t{64} << 20);
}

TEST(ServerTest, EveryOptimiserAndScheduleOfTheContractIsListedWithItsSettings) {
  const auto server = StartServer();
  const auto stub = v1::ServerService::NewStub(Connect(server->addresses()[0]));
  grpc::ClientContext context;
  v1::Capabilities reply;
  ASSERT_TRUE(stub->GetCapabilities(&context, {}, &reply).ok());
  const auto expect_same = [](const google::protobuf::Descriptor& message, const auto& choices) {
    std::map<std::string, const google::protobuf::Descriptor*> fields;
    for (int i = 0; i < message.field_count(); ++i) {
      fields[message.field(i)->name()] = message.field(i)->message_type();
    }
    EXPECT_EQ(static_cast<size_t>(choices.size()), fields.size());
    for (const v1::Choice& choice : choices) {
      EXPECT_FALSE(choice.doc().empty()) << choice.name();
      ASSERT_EQ(fields.count(choice.name()), 1u) << choice.name();
      for (const v1::Setting& setting : choice.settings()) {
        EXPECT_NE(fields[choice.name()]->FindFieldByName(setting.name()), nullptr)
            << choice.name() << "." << setting.name();
      }
    }
  };
  expect_same(*v1::Optimizer::descriptor(), reply.optimizers());
  expect_same(*v1::Schedule::descriptor(), reply.schedules());
  const auto huber = std::find_if(reply.losses().begin(), reply.losses().end(),
                                  [](const auto& loss) { return loss.name() == "huber"; });
  ASSERT_NE(huber, reply.losses().end());
  ASSERT_EQ(huber->settings_size(), 1);
  EXPECT_EQ(huber->settings(0).name(), "delta");
  EXPECT_EQ(huber->settings(0).fallback(), 1);
}

TEST(ServerTest, ADeadlineAndACancelStopTheComputation) {
  const auto server = StartServer();
  const auto stub = v1::GradientService::NewStub(Connect(server->addresses()[0]));
  {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(200));
    v1::EvaluateResponse reply;
    EXPECT_EQ(stub->Evaluate(&context, LongRequest(), &reply).error_code(),
              grpc::StatusCode::DEADLINE_EXCEEDED);
  }
  {
    grpc::ClientContext context;
    std::thread cancel([&context] {
      absl::SleepFor(absl::Milliseconds(200));
      context.TryCancel();
    });
    v1::EvaluateResponse reply;
    EXPECT_EQ(stub->Evaluate(&context, LongRequest(), &reply).error_code(),
              grpc::StatusCode::CANCELLED);
    cancel.join();
  }
  // Both workers are free again well before the work would have been done.
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(5));
  v1::ComputeGradientResponse reply;
  EXPECT_TRUE(stub->ComputeGradient(&context, SeedRequest(), &reply).ok());
}

TEST(ServerTest, StopCancelsWhatIsLeftAndAnswersItWithDraining) {
  auto server = StartServer();
  const auto stub = v1::GradientService::NewStub(Connect(server->addresses()[0]));
  absl::Status status;
  std::thread caller([&] {
    grpc::ClientContext context;
    v1::EvaluateResponse reply;
    status = StatusOf(stub->Evaluate(&context, LongRequest(), &reply));
  });
  absl::SleepFor(absl::Milliseconds(300));
  const absl::Time start = absl::Now();
  server->Stop();
  EXPECT_LT(absl::Now() - start, absl::Seconds(8));
  caller.join();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_TRUE(HasReason(status, Reason::kDraining)) << status;
}

TEST(ServerTest, LimitsMessages) {
  ServerOptions options = Options();
  options.max_message_bytes = 100'000;
  const auto server = StartServer(options);
  const auto stub = v1::GradientService::NewStub(Connect(server->addresses()[0]));
  v1::EvaluateRequest request;
  request.mutable_model()->set_expression("x + 1");
  codec::StartTensor({DType::kDouble, {20'000}}, &(*request.mutable_inputs())["x"]);
  grpc::ClientContext context;
  v1::EvaluateResponse reply;
  const grpc::Status status = stub->Evaluate(&context, request, &reply);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr("100000"));
}

TEST(ServerTest, AdmitsARequestBeforeItIsRead) {
  ServerOptions options = Options();
  options.memory_limit_bytes = 50'000;
  const auto server = StartServer(options);
  const auto stub = v1::GradientService::NewStub(Connect(server->addresses()[0]));
  v1::EvaluateRequest request;
  request.mutable_model()->set_expression("x + 1");
  codec::StartTensor({DType::kDouble, {20'000}}, &(*request.mutable_inputs())["x"]);
  grpc::ClientContext context;
  v1::EvaluateResponse reply;
  const absl::Status status = StatusOf(stub->Evaluate(&context, request, &reply));
  EXPECT_TRUE(HasReason(status, Reason::kMemoryLimit)) << status;
}

TEST(ServerTest, RequestsAboveTheParsersTrustArriveWhole) {
  ServerOptions options = Options();
  const auto server = StartServer(options);
  const auto stub = v1::GradientService::NewStub(Connect(server->addresses()[0]));
  v1::EvaluateRequest request;
  request.mutable_model()->set_expression("sum(x) + y");
  constexpr int64_t kElements = 6'500'000;  // 52 MB
  v1::Tensor& x = (*request.mutable_inputs())["x"];
  codec::StartTensor({DType::kDouble, {kElements}}, &x);
  auto* elements = reinterpret_cast<double*>(x.mutable_data()->data());
  std::fill(elements, elements + kElements, 2.0);
  (*request.mutable_inputs())["y"].add_values(5);
  grpc::ClientContext context;
  v1::EvaluateResponse reply;
  const grpc::Status status = stub->Evaluate(&context, request, &reply);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(ScalarOf(reply.outputs().at("f")), 2.0 * kElements + 5);
}

TEST(ServerTest, RefusesToBeReachedFromOutsideUnlessToldTo) {
  ServerOptions options = Options();
  options.listen = {"0.0.0.0:0"};
  const auto refused = Server::Start(options);
  EXPECT_TRUE(absl::IsFailedPrecondition(refused.status()));
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("--allow-insecure"));
  options.allow_insecure = true;
  EXPECT_NE(StartServer(options), nullptr);
}

TEST(ServerTest, SaysSoWhereTheAddressIsTaken) {
  const auto first = StartServer();
  ServerOptions options = Options();
  options.listen = first->addresses();
  const auto second = Server::Start(options);
  EXPECT_TRUE(absl::IsUnavailable(second.status())) << second.status();
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(first->addresses()[0]));
}

TEST(ListenAddressTest, KnowsLoopback) {
  for (const char* text : {"127.0.0.1:1", "127.9.9.9:0", "localhost:80", "[::1]:5", "unix:/a"}) {
    const auto address = ParseListenAddress(text);
    ASSERT_TRUE(address.ok()) << text;
    EXPECT_TRUE(address->loopback) << text;
  }
  for (const char* text : {"0.0.0.0:1", "[::]:1", "10.0.0.1:1", "example.org:1", "127.evil:1"}) {
    const auto address = ParseListenAddress(text);
    ASSERT_TRUE(address.ok()) << text;
    EXPECT_FALSE(address->loopback) << text;
  }
  for (const char* text : {"", "127.0.0.1", ":50051", "a:b", "a:70000", "::1:5", "unix:"}) {
    EXPECT_FALSE(ParseListenAddress(text).ok()) << text;
  }
}

}  // namespace
}  // namespace gradwire::rpc
