// The shells around streaming rpcs: between a Source or a Sink of the core (server/core/stream.h)
// and gRPC's reactors. service.h makes rpcs of them.
//
// A stream takes no thread while it waits. What there is to do for it, opening it, making or taking
// one message, is a job of a worker, and at most one message is held: the next one is made when
// gRPC has taken the last from us, or read when the last has been dealt with.
#ifndef GRADWIRE_SERVER_RPC_STREAMS_H_
#define GRADWIRE_SERVER_RPC_STREAMS_H_

#include <grpcpp/grpcpp.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "engine/base/status.h"
#include "server/core/stream.h"
#include "server/rpc/call_shell.h"
#include "server/rpc/wire.h"

namespace gradwire::rpc {

// What the two kinds have in common: who may touch the call. That is one party at a time, its
// owner:
//
//   kBusy         a thread of ours: a job that is queued or runs, or a reaction of gRPC
//   kTransfer     gRPC, until the message is written or read
//   kWaiting      nobody, until the source wakes it, the caller goes away or the server drains
//   kEnded        nobody: gRPC will call OnDone
//
// The owner alone ends the call. Who finds it waiting, under the lock, becomes its owner.
class Stream {
 public:
  virtual ~Stream() = default;
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

 protected:
  enum class State { kBusy, kTransfer, kWaiting, kEnded };
  // Outlives the call: wakes may come late, and an unlock must not touch a call that is gone.
  struct Link {
    absl::Mutex mutex;
    State state ABSL_GUARDED_BY(mutex) = State::kBusy;
    bool woken ABSL_GUARDED_BY(mutex) = false;        // since OnReady was called
    Stream* stream ABSL_GUARDED_BY(mutex) = nullptr;  // null when it is gone
  };

  Stream(const Environment& environment, const std::string& method,
         grpc::CallbackServerContext* context);
  // Takes the call in and queues its first job.
  void StartWith(int64_t request_bytes);

  // The next thing to do, on a worker, as the owner.
  virtual absl::Status Step() = 0;
  // Frees the source or sink.
  virtual void Close() = 0;
  virtual void FinishRpc(const grpc::Status& status) = 0;
  // The server drains or cancels. True where the stream, which the caller has locked, is to end.
  virtual bool EndsNow(const Link& link) ABSL_EXCLUSIVE_LOCKS_REQUIRED(link.mutex) = 0;

  // As the owner, who is no owner after it.
  void End(const absl::Status& status);
  absl::Status Resume();
  // Resumes, or ends.
  void GoOn();
  // Holds memory for one message.
  absl::Status HoldMessage(int64_t bytes);
  void DropMessage();
  // In OnDone.
  void Leave();

  const std::shared_ptr<Link>& link() const { return link_; }
  CallShell& shell() { return shell_; }
  // The one message, as it is on the wire.
  grpc::ByteBuffer& message() { return message_; }
  // The reason to stop, where there is one.
  absl::Status Poll() { return shell_.cancel().Poll(); }
  bool draining() const { return shell_.environment().in_flight->draining(); }

 private:
  static void LookAgain(const std::shared_ptr<Link>& link);
  void Run(server::Workspace& workspace);

  CallShell shell_;
  const std::shared_ptr<Link> link_;
  server::Reservation message_memory_;
  grpc::ByteBuffer message_;
};

class ServerStreamCall : public Stream, public grpc::ServerWriteReactor<grpc::ByteBuffer> {
 public:
  ServerStreamCall(const Environment& environment, const std::string& method,
                   grpc::CallbackServerContext* context, const grpc::ByteBuffer* request);
  // To be called once, from the handler.
  void Start() { StartWith(static_cast<int64_t>(request_->Length())); }

 protected:
  // Makes the source.
  virtual absl::Status Open(grpc::ByteBuffer* request) = 0;
  // Where there is a message, Encode()s it.
  virtual absl::StatusOr<server::Next> Pull() = 0;
  virtual void OnReady(absl::AnyInvocable<void()> wake) = 0;
  absl::Status Encode(const google::protobuf::Message& next);

 private:
  absl::Status Step() final;
  void FinishRpc(const grpc::Status& status) final { Finish(status); }
  bool EndsNow(const Link& link) final ABSL_EXCLUSIVE_LOCKS_REQUIRED(link.mutex);
  absl::Status Write();
  absl::Status Wait();
  static void Wake(Link& link);

  void OnWriteDone(bool ok) final;
  void OnCancel() final;
  void OnDone() final;

  grpc::ByteBuffer* request_;  // null once the source is open
  bool sent_metadata_ = false;
};

class ClientStreamCall : public Stream, public grpc::ServerReadReactor<grpc::ByteBuffer> {
 public:
  ClientStreamCall(const Environment& environment, const std::string& method,
                   grpc::CallbackServerContext* context, grpc::ByteBuffer* response);
  // To be called once, from the handler.
  void Start() { StartWith(0); }

 protected:
  // Makes the sink.
  virtual absl::Status Open() = 0;
  virtual absl::Status Push(grpc::ByteBuffer* message) = 0;
  virtual absl::Status FinishSink(grpc::ByteBuffer* response) = 0;

 private:
  absl::Status Step() final;
  void FinishRpc(const grpc::Status& status) final { Finish(status); }
  bool EndsNow(const Link& link) final ABSL_EXCLUSIVE_LOCKS_REQUIRED(link.mutex);
  absl::Status Read();

  void OnReadDone(bool ok) final;
  void OnCancel() final { shell().cancel().Cancel(); }
  void OnDone() final;

  grpc::ByteBuffer* const response_;
  bool opened_ = false;
  bool has_all_ = false;  // the caller has said that there is no more
};

template <typename Core, typename Request, typename Message>
class TypedServerStream final : public ServerStreamCall {
 public:
  using Method = absl::StatusOr<std::unique_ptr<server::Source<Message>>> (Core::*)(const Request&,
                                                                                    server::Call&);
  template <typename... Args>
  TypedServerStream(Core* core, Method method, Args&&... args)
      : ServerStreamCall(std::forward<Args>(args)...), core_(*core), open_(method) {}

 private:
  absl::Status Open(grpc::ByteBuffer* bytes) override {
    Request request;
    GW_RETURN_IF_ERROR(Parse(bytes, &request));
    GW_ASSIGN_OR_RETURN(source_, (core_.*open_)(request, shell().call()));
    return absl::OkStatus();
  }
  absl::StatusOr<server::Next> Pull() override {
    Message message;
    GW_ASSIGN_OR_RETURN(const server::Next next, source_->Pull(&message));
    if (next == server::Next::kMessage) GW_RETURN_IF_ERROR(Encode(message));
    return next;
  }
  void OnReady(absl::AnyInvocable<void()> wake) override { source_->OnReady(std::move(wake)); }
  void Close() override { source_.reset(); }

  Core& core_;
  const Method open_;
  std::unique_ptr<server::Source<Message>> source_;
};

template <typename Core, typename Request, typename Response>
class TypedClientStream final : public ClientStreamCall {
 public:
  using Method =
      absl::StatusOr<std::unique_ptr<server::Sink<Request, Response>>> (Core::*)(server::Call&);
  template <typename... Args>
  TypedClientStream(Core* core, Method method, Args&&... args)
      : ClientStreamCall(std::forward<Args>(args)...), core_(*core), open_(method) {}

 private:
  absl::Status Open() override {
    GW_ASSIGN_OR_RETURN(sink_, (core_.*open_)(shell().call()));
    return absl::OkStatus();
  }
  absl::Status Push(grpc::ByteBuffer* bytes) override {
    Request request;
    GW_RETURN_IF_ERROR(Parse(bytes, &request));
    return sink_->Push(request);
  }
  absl::Status FinishSink(grpc::ByteBuffer* bytes) override {
    Response response;
    GW_RETURN_IF_ERROR(sink_->Finish(&response));
    return shell().Serialize(response, bytes);
  }
  void Close() override { sink_.reset(); }

  Core& core_;
  const Method open_;
  std::unique_ptr<server::Sink<Request, Response>> sink_;
};

}  // namespace gradwire::rpc

#endif  // GRADWIRE_SERVER_RPC_STREAMS_H_
