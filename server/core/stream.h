// File: stream.h
//
// What a streaming rpc is to the core, which knows no transport:
//
//   Source<Message>          gives the messages of a server stream, one at a time, when asked
//   Sink<Request, Response>  takes those of a client stream, and answers at its end
//
//   class Countdown : public Source<v1::Tensor> {
//     absl::StatusOr<Next> Pull(v1::Tensor* message) override {
//       if (n_ == 0) return Next::kEnd;
//       message->add_values(n_--);
//       return Next::kMessage;
//     }
//     void OnReady(absl::AnyInvocable<void()>) override {}  // never waits
//     int n_ = 3;
//   };
//   // A method of a core, and so an rpc (server/rpc/service.h):
//   absl::StatusOr<std::unique_ptr<Source<v1::Tensor>>> Count(const v1::CountRequest&, Call&);
//
// The Call that a method got outlives what the method made of it: that may poll call.cancel and
// grow call.memory by what it holds. It is called by one thread at a time, a worker, and freed as
// soon as the call has ended, for whatever reason, by any thread but never during one of its
// methods; so its destructor must not block.
#ifndef GRADWIRE_SERVER_CORE_STREAM_H_
#define GRADWIRE_SERVER_CORE_STREAM_H_

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace gradwire::server {

// What a Source answers.
enum class Next {
  kMessage,  // here is one
  kWait,     // none now: OnReady says when to ask again
  kEnd,      // there will be none any more: the stream ends with OK
};

template <typename Message>
class Source {
 public:
  virtual ~Source() = default;
  // Fills `message`, which is empty, where it has one. It is asked for the next one when the reader
  // has taken this one, so a slow reader holds back its own source only. An error ends the stream.
  virtual absl::StatusOr<Next> Pull(Message* message) = 0;
  // Called once after each kWait. Whoever learns first that Pull is worth a try calls `wake`, at
  // most once, from any thread, possibly at once and under any lock: it only queues. It may come
  // too early, and after the end of the call, when it does nothing; it may never come.
  // Whoever keeps wakes drops that of a source that is freed, or callers that come and go pile up.
  virtual void OnReady(absl::AnyInvocable<void()> wake) = 0;
};

template <typename Request, typename Response>
class Sink {
 public:
  virtual ~Sink() = default;
  // The next message is read from the wire once this one is dealt with. An error ends the call.
  virtual absl::Status Push(const Request& request) = 0;
  // The caller has sent all it wants to. Not called after an error, nor, as far as the transport
  // can tell, where the stream broke off; a sink that must know whether it has everything is told
  // so by the messages, with a size or a digest.
  virtual absl::Status Finish(Response* response) = 0;
};

}  // namespace gradwire::server

#endif  // GRADWIRE_SERVER_CORE_STREAM_H_
