// File: server_core.h
//
// ServerCore: the rpcs of ServerService without their transport.
//
// What ops can do is computed from the op table, by trying: each op is imported at each of its
// opset ranges with each element type, and differentiated both ways. So the answer cannot differ
// from what the engine does.
//
//   ServerCore core(&engine, {.limits = limits, .workers = 2, .threads = 2});
//   v1::Capabilities capabilities;
//   absl::Status status = core.GetCapabilities({}, &capabilities, call);
//
// Thread-safety: every method may be called from any thread.
#ifndef GRADWIRE_SERVER_CORE_SERVER_CORE_H_
#define GRADWIRE_SERVER_CORE_SERVER_CORE_H_

#include <atomic>
#include <string>

#include "absl/base/call_once.h"
#include "absl/status/status.h"
#include "engine/engine.h"
#include "gradwire/v1/server_service.pb.h"
#include "server/core/call.h"

namespace gradwire::server {

class ServerCore {
 public:
  struct Options {
    int64_t max_message_bytes = 0;
    int64_t memory_limit_bytes = 0;
    int workers = 1;
    int threads = 1;
    bool on_disk = false;      // what is acknowledged survives
    std::string grpc_version;  // the transport's, which the core does not know
  };
  ServerCore(const Engine* engine, const Options& options) : engine_(*engine), options_(options) {}

  // The first call computes the answer, in about a tenth of a second.
  absl::Status GetCapabilities(const v1::GetCapabilitiesRequest& request,
                               v1::Capabilities* response, Call& call);
  // True where the answer is known.
  bool IsQuick(const v1::GetCapabilitiesRequest&, Call&) const { return known_.load(); }

 private:
  v1::Capabilities Describe() const;

  const Engine& engine_;
  const Options options_;
  absl::once_flag once_;
  std::atomic<bool> known_{false};
  v1::Capabilities capabilities_;
};

// The rows of `registry`, one for each ONNX name and opset range; ordered by domain, name and
// opset.
std::vector<v1::OpCapability> DescribeOps(const OpRegistry& registry);

}  // namespace gradwire::server

#endif  // GRADWIRE_SERVER_CORE_SERVER_CORE_H_
