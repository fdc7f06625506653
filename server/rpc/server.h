// File: server.h
//
// Server: Gradwire's services on gRPC, from the engine to the port.
//
//   GW_ASSIGN_OR_RETURN(std::unique_ptr<Server> server, Server::Start({.listen =
//   {"127.0.0.1:0"}})); std::cout << server->addresses()[0];   // "127.0.0.1:40123" server->Stop();
//   // drains
//
// Serves gradwire.v1.GradientService and gradwire.v1.ServerService, grpc.health.v1 (overall and for
// each of them) and reflection. Compressed requests are refused: this gRPC inflates them before it
// looks at their size.
//
// Thread-safety: all methods may be called from any thread; Stop() once.
#ifndef GRADWIRE_SERVER_RPC_SERVER_H_
#define GRADWIRE_SERVER_RPC_SERVER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/engine.h"

namespace gradwire::rpc {

struct ServerOptions {
  // "HOST:PORT" (port 0 takes a free one) or "unix:PATH".
  std::vector<std::string> listen = {"127.0.0.1:50051"};
  // Allows addresses that other machines reach, in plain text and without authentication.
  bool allow_insecure = false;
  // What is acknowledged is kept here, through restarts; no other server may use it. Empty: in
  // memory.
  std::string data_dir;
  int64_t memory_limit_bytes = 0;                    // 0: half of the cgroup's or machine's memory
  int64_t max_message_bytes = int64_t{64} << 20;     // of a request and of a reply
  int64_t max_nodes = 200'000;                       // of a graph
  int workers = 0;                                   // computing threads; 0: one a CPU, at least 2
  int threads = 0;                                   // team of a large Program; 0: one a CPU
  int max_running_jobs = 0;                          // side by side; 0: as many as have their team
  int queue_limit = 256;                             // calls that wait for a worker
  absl::Duration drain_timeout = absl::Seconds(30);  // for calls that run when Stop() is called
  EngineOptions::SelfCheck self_check = EngineOptions::SelfCheck::kAuto;
};

class Server {
 public:
  // Builds the engine (with its self-check), binds and serves. When it returns, calls are answered.
  // Errors: INVALID_ARGUMENT for options that cannot be; FAILED_PRECONDITION for an address beyond
  // loopback without allow_insecure, or a data directory in use; UNAVAILABLE where an address
  // cannot be bound; those of the data directory's file system.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const ServerOptions& options);
  ~Server();  // Stop()

  // What was bound, in the order of options.listen: "127.0.0.1:50051", "unix:/run/gradwire".
  const std::vector<std::string>& addresses() const;
  // The options, with what was chosen in place of each 0.
  const ServerOptions& options() const;
  Engine& engine();

  // Health says NOT_SERVING, new calls and streams that wait get DRAINING, running ones have until
  // drain_timeout; what is left is cancelled and answered with DRAINING. Returns when every thread
  // of ours has ended.
  void Stop();

 private:
  struct State;
  explicit Server(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace gradwire::rpc

#endif  // GRADWIRE_SERVER_RPC_SERVER_H_
