// Over a real port: what a gradient costs beside an empty call, and what K cotangents cost beside K
// calls. Both sides of a ratio are timed in turns within one run; counters are medians.
//
//   build/bench/bin/rpc_bench
#include <benchmark/benchmark.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/impl/codegen/client_unary_call.h>

#include <algorithm>
#include <chrono>

#include "bench/workloads.h"
#include "google/protobuf/wrappers.pb.h"
#include "gradwire/v1/gradient_service.grpc.pb.h"
#include "proto/codec/tensor_codec.h"
#include "server/rpc/server.h"

namespace gradwire::bench {
namespace {

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double Median(std::vector<double> v) {
  std::nth_element(v.begin(), v.begin() + v.size() / 2, v.end());
  return v[v.size() / 2];
}

struct Service {
  std::unique_ptr<rpc::Server> server;
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<v1::GradientService::Stub> stub;
};

Service Start() {
  rpc::ServerOptions options;
  options.listen = {"127.0.0.1:0"};
  auto server = rpc::Server::Start(options);
  if (!server.ok()) std::abort();
  Service s;
  s.server = *std::move(server);
  s.channel = grpc::CreateChannel(s.server->addresses()[0], grpc::InsecureChannelCredentials());
  s.stub = v1::GradientService::NewStub(s.channel);
  return s;
}

// grpc.health.v1's messages have one field each, numbered 1, of these types.
void Check(Service& s) {
  static const grpc::internal::RpcMethod kCheck("/grpc.health.v1.Health/Check",
                                                grpc::internal::RpcMethod::NORMAL_RPC);
  grpc::ClientContext context;
  google::protobuf::StringValue request;
  google::protobuf::Int32Value response;
  const grpc::Status status =
      grpc::internal::BlockingUnaryCall<google::protobuf::StringValue, google::protobuf::Int32Value,
                                        google::protobuf::MessageLite,
                                        google::protobuf::MessageLite>(
          s.channel.get(), kCheck, &context, request, &response);
  if (!status.ok()) std::abort();
}

v1::ComputeGradientRequest SeedRequest() {
  v1::ComputeGradientRequest request;
  request.mutable_model()->set_expression("x^2*y + y^3");
  (*request.mutable_inputs())["x"] = codec::ToProto(Tensor::Scalar(2.0));
  (*request.mutable_inputs())["y"] = codec::ToProto(Tensor::Scalar(3.0));
  return request;
}

void SeedGradient(Service& s) {
  grpc::ClientContext context;
  const v1::ComputeGradientRequest request = SeedRequest();
  v1::ComputeGradientResponse response;
  if (!s.stub->ComputeGradient(&context, request, &response).ok()) std::abort();
}

void BM_SeedOverRpc(benchmark::State& state) {
  Service s = Start();
  for (int i = 0; i < 200; ++i) {
    Check(s);
    SeedGradient(s);
  }
  std::vector<double> empty, gradient;
  for (auto _ : state) {
    const double a = Now();
    Check(s);
    const double b = Now();
    SeedGradient(s);
    const double c = Now();
    empty.push_back(b - a);
    gradient.push_back(c - b);
    state.SetIterationTime(c - b);
  }
  state.counters["empty_us"] = Median(empty) * 1e6;
  state.counters["gradient_us"] = Median(gradient) * 1e6;
  state.counters["ratio"] = Median(gradient) / Median(empty);
}
BENCHMARK(BM_SeedOverRpc)->UseManualTime()->MinTime(3);

// As many as the server holds of a stream.
constexpr int kAtOnce = 64;
using Stream = grpc::ClientReaderWriter<v1::StreamComputeRequest, v1::StreamComputeResponse>;

void Exchange(Stream& stream, const v1::StreamComputeRequest& request) {
  v1::StreamComputeResponse response;
  for (int i = 0; i < kAtOnce; ++i) {
    if (!stream.Write(request)) std::abort();
  }
  for (int i = 0; i < kAtOnce; ++i) {
    if (!stream.Read(&response) || response.has_status()) std::abort();
  }
}

// The seed's gradient on one stream beside as many calls, and beside its value only.
void BM_SeedOverStream(benchmark::State& state) {
  Service s = Start();
  grpc::ClientContext context;
  const auto stream = s.stub->StreamCompute(&context);
  v1::StreamComputeRequest request;
  *request.mutable_compute_gradient() = SeedRequest();
  v1::StreamComputeRequest cheap;
  *cheap.mutable_evaluate()->mutable_model() = request.compute_gradient().model();
  *cheap.mutable_evaluate()->mutable_inputs() = request.compute_gradient().inputs();
  for (int i = 0; i < 5; ++i) {
    Exchange(*stream, request);
    Exchange(*stream, cheap);
    SeedGradient(s);
  }
  std::vector<double> streamed, value, unary;
  for (auto _ : state) {
    const double a = Now();
    Exchange(*stream, request);
    const double b = Now();
    Exchange(*stream, cheap);
    const double c = Now();
    for (int i = 0; i < kAtOnce; ++i) SeedGradient(s);
    const double d = Now();
    streamed.push_back((b - a) / kAtOnce);
    value.push_back((c - b) / kAtOnce);
    unary.push_back((d - c) / kAtOnce);
    state.SetIterationTime(b - a);
  }
  stream->WritesDone();
  if (!stream->Finish().ok()) std::abort();
  state.counters["stream_us"] = Median(streamed) * 1e6;
  state.counters["stream_value_us"] = Median(value) * 1e6;
  state.counters["unary_us"] = Median(unary) * 1e6;
  state.counters["calls_ratio"] = Median(unary) / Median(streamed);
}
BENCHMARK(BM_SeedOverStream)->UseManualTime()->MinTime(1);

v1::ComputeVjpRequest VjpRequest(int k) {
  const Workload w = MlpSmall();
  v1::ComputeVjpRequest request;
  request.mutable_model()->set_text(w.model);
  for (const auto& [name, tensor] : w.inputs) {
    (*request.mutable_inputs())[name] = codec::ToProto(tensor);
  }
  request.add_wrt("b1");
  for (int i = 0; i < k; ++i) {
    (*request.add_cotangents()->mutable_tensors())["loss"] =
        codec::ToProto(Tensor::Scalar(1.0f + static_cast<float>(i)));
  }
  return request;
}

void Vjp(Service& s, const v1::ComputeVjpRequest& request) {
  grpc::ClientContext context;
  v1::ComputeVjpResponse response;
  if (!s.stub->ComputeVjp(&context, request, &response).ok()) std::abort();
}

void BM_64CotangentsOverRpc(benchmark::State& state) {
  Service s = Start();
  const v1::ComputeVjpRequest one = VjpRequest(1), all = VjpRequest(64);
  Vjp(s, one);
  Vjp(s, all);
  std::vector<double> together, apart;
  for (auto _ : state) {
    const double a = Now();
    Vjp(s, all);
    const double b = Now();
    for (int i = 0; i < 64; ++i) Vjp(s, one);
    const double c = Now();
    together.push_back(b - a);
    apart.push_back(c - b);
    state.SetIterationTime(b - a);
  }
  state.counters["one_call_us"] = Median(together) * 1e6;
  state.counters["64_calls_us"] = Median(apart) * 1e6;
  state.counters["ratio"] = Median(together) / Median(apart);
}
BENCHMARK(BM_64CotangentsOverRpc)->UseManualTime()->MinTime(0.05);

}  // namespace
}  // namespace gradwire::bench

BENCHMARK_MAIN();
