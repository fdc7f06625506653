// Addresses to listen on: "HOST:PORT" and "unix:PATH".
#ifndef GRADWIRE_SERVER_RPC_LISTEN_ADDRESS_H_
#define GRADWIRE_SERVER_RPC_LISTEN_ADDRESS_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace gradwire::rpc {

struct ListenAddress {
  bool unix_socket = false;
  std::string host;       // as written: "127.0.0.1", "[::1]"; the path of a socket
  int port = 0;           // 0 takes a free one
  bool loopback = false;  // nobody outside this machine reaches it

  // As gRPC takes it, with `port` in place of the one that was asked for.
  std::string ToString(int bound_port) const;
};

// INVALID_ARGUMENT where it is neither.
absl::StatusOr<ListenAddress> ParseListenAddress(absl::string_view text);

// True where another process answers on this Unix socket: gRPC would take the path away from it.
bool UnixSocketIsInUse(const std::string& path);

}  // namespace gradwire::rpc

#endif  // GRADWIRE_SERVER_RPC_LISTEN_ADDRESS_H_
