// The shell around an exchange: a bidirectional stream on which each message of the caller is a
// call of its own, answered by one message, in order of completion. service.h makes an rpc of it.
//
// Requests are read while others are computed, small and quick ones on the thread that read them.
// At most kMaxHeldCalls are held, computed or waiting to be written: a caller that does not read is
// not read either, and holds back nobody else. A message that does not parse ends the stream;
// anything else that is wrong is in its own answer.
#ifndef GRADWIRE_SERVER_RPC_EXCHANGE_H_
#define GRADWIRE_SERVER_RPC_EXCHANGE_H_

#include <grpcpp/grpcpp.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <deque>
#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "engine/base/status.h"
#include "server/core/call.h"
#include "server/rpc/call_shell.h"
#include "server/rpc/wire.h"

namespace gradwire::rpc {

inline constexpr size_t kMaxHeldCalls = 64;

class ExchangeCall : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  ExchangeCall(const Environment& environment, const std::string& method,
               grpc::CallbackServerContext* context);
  // To be called once, from the handler.
  void Start();

 protected:
  // One message of the caller and its answer.
  class Item {
   public:
    virtual ~Item() = default;
    virtual bool IsQuick() = 0;
    virtual void Run() = 0;
    // Makes the answer that of an error.
    virtual void Refuse(const absl::Status& status) = 0;
    virtual const google::protobuf::Message& response() const = 0;

    server::Call call;
  };
  virtual absl::StatusOr<std::shared_ptr<Item>> Parse(grpc::ByteBuffer* message) = 0;

 private:
  // Outlives the call: an unlock must not touch a call that is gone.
  struct Link {
    absl::Mutex mutex;
    ExchangeCall* call ABSL_GUARDED_BY(mutex) = nullptr;  // null when it is gone
  };
  struct Answer {
    grpc::ByteBuffer bytes;
    server::Reservation memory;
  };

  absl::Status Take();
  void RunItem(Item& item, server::Workspace& workspace, server::CpuGate* gate);
  void Complete(Item& item);
  void Fail(const absl::Status& status);
  // Starts what can be started. True where the caller of it has to finish the rpc, as the last
  // thing it does with it.
  bool AdvanceLocked(const Link& link) ABSL_EXCLUSIVE_LOCKS_REQUIRED(link.mutex);
  void Advance();
  void FinishRpc();
  static void LookAgain(const std::shared_ptr<Link>& link);

  void OnReadDone(bool ok) final;
  void OnWriteDone(bool ok) final;
  void OnCancel() final;
  void OnDone() final;

  CallShell shell_;
  const std::shared_ptr<Link> link_;
  grpc::ByteBuffer incoming_;
  Answer outgoing_;
  // Under link_->mutex.
  std::deque<Answer> answers_;  // that wait to be written
  size_t running_ = 0;
  bool reading_ = false;  // until the message is parsed
  bool writing_ = false;
  bool has_all_ = false;  // the caller has said that there is no more
  bool finished_ = false;
  absl::Status failure_;
};

// `Core::Refuse(request, status, &response)` makes an answer of an error.
template <typename Core, typename Request, typename Response>
class TypedExchange final : public ExchangeCall {
 public:
  using Method = absl::Status (Core::*)(const Request&, Response*, server::Call&);
  template <typename... Args>
  TypedExchange(Core* core, Method method, Args&&... args)
      : ExchangeCall(std::forward<Args>(args)...), core_(*core), run_(method) {}

 private:
  class TypedItem final : public Item {
   public:
    explicit TypedItem(TypedExchange* exchange) : exchange_(*exchange) {}
    bool IsQuick() override { return exchange_.core_.IsQuick(request_, call); }
    void Run() override {
      // In one expression g++ 12's undefined-behaviour sanitizer finds a null pointer that is none.
      Core& core = exchange_.core_;
      const Method run = exchange_.run_;
      const absl::Status status = (core.*run)(request_, &response_, call);
      if (!status.ok()) Refuse(status);
    }
    void Refuse(const absl::Status& status) override { Core::Refuse(request_, status, &response_); }
    const google::protobuf::Message& response() const override { return response_; }
    Request* request() { return &request_; }

   private:
    TypedExchange& exchange_;
    Request request_;
    Response response_;
  };

  absl::StatusOr<std::shared_ptr<Item>> Parse(grpc::ByteBuffer* message) override {
    auto item = std::make_shared<TypedItem>(this);
    GW_RETURN_IF_ERROR(rpc::Parse(message, item->request()));
    return item;
  }

  Core& core_;
  const Method run_;
};

}  // namespace gradwire::rpc

#endif  // GRADWIRE_SERVER_RPC_EXCHANGE_H_
