// Streaming rpcs over a real port: a core of test methods behind rpc::Service.
#ifndef GRADWIRE_TESTS_UNIT_SERVER_STREAMS_TESTING_H_
#define GRADWIRE_TESTS_UNIT_SERVER_STREAMS_TESTING_H_

#include <grpc/grpc.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/impl/codegen/client_unary_call.h>
#include <grpcpp/impl/codegen/proto_utils.h>
#include <grpcpp/support/sync_stream.h>
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "engine/base/status.h"
#include "google/rpc/status.pb.h"
#include "gradwire/v1/tensor.pb.h"
#include "proto/codec/status_codec.h"
#include "server/rpc/service.h"

namespace gradwire::rpc {

using server::Next;

inline constexpr char kServiceName[] = "gradwire.test.Streams";

// What watchers wait for: values in the order in which they were added.
class Topic {
 public:
  void Add(double value) {
    Notify([&] { values_.push_back(value); });
  }
  void Close() {
    Notify([&] { closed_ = true; });
  }
  // kMessage with the value at `index`.
  Next Get(size_t index, double* value) const {
    absl::MutexLock lock(&mutex_);
    if (index < values_.size()) {
      *value = values_[index];
      return Next::kMessage;
    }
    return closed_ ? Next::kEnd : Next::kWait;
  }
  // At once where the value is there.
  void OnReady(size_t index, absl::AnyInvocable<void()> wake) {
    absl::MutexLock lock(&mutex_);
    if (closed_ || index < values_.size()) return wake();
    waiting_.push_back(std::move(wake));
  }
  size_t waiting() const {
    absl::MutexLock lock(&mutex_);
    return waiting_.size();
  }

 private:
  void Notify(const std::function<void()>& change) {
    absl::MutexLock lock(&mutex_);  // wakes may come under any lock
    change();
    for (auto& wake : waiting_) wake();
    waiting_.clear();
  }
  mutable absl::Mutex mutex_;
  std::vector<double> values_;
  bool closed_ = false;
  std::vector<absl::AnyInvocable<void()>> waiting_;
};

// Counts what is alive.
class Counted {
 public:
  explicit Counted(std::atomic<int>* count) : count_(*count) { ++count_; }
  ~Counted() { --count_; }

 private:
  std::atomic<int>& count_;
};

class TestCore {
 public:
  using TensorSource = server::Source<v1::Tensor>;
  using TensorSink = server::Sink<v1::Tensor, v1::Tensor>;

  // A request's shape: {messages, elements of each, where it fails}.
  absl::StatusOr<std::unique_ptr<TensorSource>> Count(const v1::Tensor& request, server::Call&) {
    if (request.shape_size() != 3) return Error(Reason::kInvalidSpec, "shape: expected three");
    return std::make_unique<CountSource>(this, request);
  }
  // A request's shape: {where to begin}.
  absl::StatusOr<std::unique_ptr<TensorSource>> Watch(const v1::Tensor& request, server::Call&) {
    return std::make_unique<WatchSource>(this, request.shape(0));
  }
  // Adds the values up. Refuses negative ones.
  absl::StatusOr<std::unique_ptr<TensorSink>> Sum(server::Call&) {
    return std::make_unique<SumSink>(this);
  }
  absl::Status Echo(const v1::Tensor& request, v1::Tensor* response, server::Call&) {
    *response = request;
    return absl::OkStatus();
  }
  // Square roots, of one value, that wait for `hold_roots`.
  absl::Status Root(const v1::Tensor& request, v1::Tensor* response, server::Call& call) {
    ++roots;
    while (hold_roots != nullptr &&
           !hold_roots->WaitForNotificationWithTimeout(absl::Milliseconds(1))) {
      GW_RETURN_IF_ERROR(call.cancel->Poll());
    }
    if (request.values(0) < 0) return Error(Reason::kInvalidSpec, "is negative");
    response->add_values(std::sqrt(request.values(0)));
    response->mutable_data()->assign(root_bytes, 'x');
    return absl::OkStatus();
  }
  static void Refuse(const v1::Tensor&, const absl::Status& status, v1::Tensor* response) {
    response->Clear();
    response->add_shape(static_cast<int>(status.code()));
  }
  bool IsQuick(const v1::Tensor&, server::Call&) const { return quick; }

  Topic topic;
  std::atomic<int> alive{0};
  std::atomic<int> pulls{0};
  std::atomic<int> pushes{0};
  std::atomic<int> finished_sinks{0};
  absl::Notification* hold_pushes = nullptr;
  std::atomic<int> roots{0};
  absl::Notification* hold_roots = nullptr;
  size_t root_bytes = 0;
  bool quick = false;
  absl::Mutex mutex;
  std::set<std::thread::id> threads ABSL_GUARDED_BY(mutex);

 private:
  void NoteThread() {
    absl::MutexLock lock(&mutex);
    threads.insert(std::this_thread::get_id());
  }

  class CountSource final : public TensorSource {
   public:
    CountSource(TestCore* core, const v1::Tensor& request)
        : core_(*core), alive_(&core->alive), request_(request) {}
    absl::StatusOr<Next> Pull(v1::Tensor* message) override {
      core_.NoteThread();
      ++core_.pulls;
      EXPECT_EQ(message->ByteSizeLong(), 0u);
      if (next_ == request_.shape(2)) return Error(Reason::kCorruptData, "the disk is damaged");
      if (next_ == request_.shape(0)) return Next::kEnd;
      message->add_shape(next_++);
      message->mutable_data()->assign(request_.shape(1), 'x');
      return Next::kMessage;
    }
    void OnReady(absl::AnyInvocable<void()>) override { FAIL() << "it never waits"; }

   private:
    TestCore& core_;
    const Counted alive_;
    const v1::Tensor request_;
    int64_t next_ = 0;
  };

  class WatchSource final : public TensorSource {
   public:
    WatchSource(TestCore* core, int64_t next) : core_(*core), alive_(&core->alive), next_(next) {}
    absl::StatusOr<Next> Pull(v1::Tensor* message) override {
      core_.NoteThread();
      double value;
      const Next next = core_.topic.Get(next_, &value);
      if (next == Next::kMessage) {
        message->add_values(value);
        ++next_;
      }
      return next;
    }
    void OnReady(absl::AnyInvocable<void()> wake) override {
      core_.topic.OnReady(next_, std::move(wake));
    }

   private:
    TestCore& core_;
    const Counted alive_;
    size_t next_;
  };

  class SumSink final : public TensorSink {
   public:
    explicit SumSink(TestCore* core) : core_(*core), alive_(&core->alive) {}
    absl::Status Push(const v1::Tensor& request) override {
      core_.NoteThread();
      EXPECT_EQ(++busy_, 1) << "one at a time";
      ++core_.pushes;
      if (core_.hold_pushes != nullptr) core_.hold_pushes->WaitForNotification();
      for (const double value : request.values()) {
        if (value < 0) return Error(Reason::kDigestMismatch, absl::StrCat("got ", value));
        sum_ += value;
      }
      --busy_;
      return absl::OkStatus();
    }
    absl::Status Finish(v1::Tensor* response) override {
      ++core_.finished_sinks;
      response->add_values(sum_);
      return absl::OkStatus();
    }

   private:
    TestCore& core_;
    const Counted alive_;
    std::atomic<int> busy_{0};
    double sum_ = 0;
  };
};

inline absl::Status StatusOf(const grpc::Status& status) {
  google::rpc::Status wire;
  if (!status.error_details().empty() && wire.ParseFromString(status.error_details())) {
    return codec::FromRpcStatus(wire);
  }
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

inline v1::Tensor OfShape(std::initializer_list<int64_t> shape) {
  v1::Tensor out;
  for (const int64_t extent : shape) out.add_shape(extent);
  return out;
}
inline v1::Tensor OfValue(double value) {
  v1::Tensor out;
  out.add_values(value);
  return out;
}

inline bool Eventually(const std::function<bool()>& condition) {
  const absl::Time deadline = absl::Now() + absl::Seconds(10);
  while (!condition() && absl::Now() < deadline) absl::SleepFor(absl::Milliseconds(1));
  return condition();
}

class StreamsTest : public ::testing::Test {
 protected:
  static constexpr int64_t kMemoryLimit = int64_t{64} << 20;
  static constexpr int64_t kMaxMessage = int64_t{4} << 20;

  // Or the end of each test's server would be that of gRPC, which may wait 10 s for a poller.
  static void SetUpTestSuite() { grpc_init(); }

  void SetUp() override {
    service_.Add("Count", &core_, &TestCore::Count);
    service_.Add("Watch", &core_, &TestCore::Watch);
    service_.Add("Sum", &core_, &TestCore::Sum);
    service_.Add("Echo", &core_, &TestCore::Echo);
    service_.AddExchange("Root", &core_, &TestCore::Root);
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.SetMaxReceiveMessageSize(kMaxMessage);
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    ASSERT_NE(server_, nullptr);
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    channel_ = grpc::CreateCustomChannel(absl::StrCat("127.0.0.1:", port),
                                         grpc::InsecureChannelCredentials(), arguments);
  }
  // In the order of Server::Stop().
  void TearDown() override {
    in_flight_.Drain();
    in_flight_.CancelAll();
    EXPECT_TRUE(in_flight_.WaitUntilEmpty(absl::Now() + absl::Seconds(10)));
    workers_.Stop();
    server_->Shutdown();
    server_->Wait();
    EXPECT_EQ(core_.alive, 0);
    EXPECT_EQ(admission_.reserved_bytes(), 0);
    absl::MutexLock lock(&core_.mutex);
    EXPECT_LE(core_.threads.size(), 2u) << "only workers run the core";
  }

  using Reader = std::unique_ptr<grpc::ClientReader<v1::Tensor>>;
  Reader Read(const char* rpc, const v1::Tensor& request, grpc::ClientContext* context) {
    const std::string path = absl::StrCat("/", kServiceName, "/", rpc);
    return Reader(grpc::internal::ClientReaderFactory<v1::Tensor>::Create(
        channel_.get(), {path.c_str(), grpc::internal::RpcMethod::SERVER_STREAMING}, context,
        request));
  }
  // A watcher that waits.
  Reader Watch(int64_t from, grpc::ClientContext* context) {
    Reader reader = Read("Watch", OfShape({from}), context);
    reader->WaitForInitialMetadata();
    return reader;
  }
  template <typename Message = v1::Tensor>
  std::unique_ptr<grpc::ClientWriter<Message>> Write(grpc::ClientContext* context,
                                                     v1::Tensor* response) {
    const std::string path = absl::StrCat("/", kServiceName, "/Sum");
    return std::unique_ptr<grpc::ClientWriter<Message>>(
        grpc::internal::ClientWriterFactory<Message>::Create(
            channel_.get(), {path.c_str(), grpc::internal::RpcMethod::CLIENT_STREAMING}, context,
            response));
  }
  template <typename Message = v1::Tensor>
  std::unique_ptr<grpc::ClientReaderWriter<Message, v1::Tensor>> Roots(
      grpc::ClientContext* context) {
    const std::string path = absl::StrCat("/", kServiceName, "/Root");
    return std::unique_ptr<grpc::ClientReaderWriter<Message, v1::Tensor>>(
        grpc::internal::ClientReaderWriterFactory<Message, v1::Tensor>::Create(
            channel_.get(), {path.c_str(), grpc::internal::RpcMethod::BIDI_STREAMING}, context));
  }
  absl::Status Echo() {
    grpc::ClientContext context;
    v1::Tensor response;
    const std::string path = absl::StrCat("/", kServiceName, "/Echo");
    return StatusOf(grpc::internal::BlockingUnaryCall<v1::Tensor, v1::Tensor>(
        channel_.get(), {path.c_str(), grpc::internal::RpcMethod::NORMAL_RPC}, &context, OfValue(1),
        &response));
  }
  // Nothing of any call is left.
  bool AllIsFreed() {
    return Eventually([&] { return core_.alive == 0 && admission_.reserved_bytes() == 0; });
  }

  TestCore core_;
  server::Admission admission_{kMemoryLimit};
  server::Workers workers_{{.workers = 2, .cpus = 2, .queue_limit = 8, .admission = &admission_}};
  InFlight in_flight_;
  const Environment environment_{&admission_, &workers_, &in_flight_, kMaxMessage};
  Service service_{&environment_, kServiceName};
  std::unique_ptr<grpc::Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
};

}  // namespace gradwire::rpc

#endif  // GRADWIRE_TESTS_UNIT_SERVER_STREAMS_TESTING_H_
