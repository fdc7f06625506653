#include "server/rpc/listen_address.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace gradwire::rpc {
namespace {

bool IsLoopback(absl::string_view host) {
  if (host == "localhost" || host == "[::1]") return true;
  in_addr address;
  return inet_pton(AF_INET, std::string(host).c_str(), &address) == 1 &&
         (ntohl(address.s_addr) >> 24) == 127;
}

}  // namespace

std::string ListenAddress::ToString(int bound_port) const {
  return unix_socket ? absl::StrCat("unix:", host) : absl::StrCat(host, ":", bound_port);
}

absl::StatusOr<ListenAddress> ParseListenAddress(absl::string_view text) {
  ListenAddress out;
  absl::string_view rest = text;
  if (absl::ConsumePrefix(&rest, "unix:")) {
    absl::ConsumePrefix(&rest, "//");
    out = {.unix_socket = true, .host = std::string(rest), .port = 0, .loopback = true};
    if (!rest.empty() && rest.size() < sizeof(sockaddr_un::sun_path)) return out;
    return absl::InvalidArgumentError(absl::StrCat("\"", text,
                                                   "\": the path of a Unix socket has 1 to ",
                                                   sizeof(sockaddr_un::sun_path) - 1, " bytes"));
  }
  const size_t colon = text.rfind(':');
  const absl::string_view host = text.substr(0, colon == absl::string_view::npos ? 0 : colon);
  const bool bare_ipv6 = !absl::StartsWith(host, "[") && absl::StrContains(host, ":");
  if (host.empty() || bare_ipv6 || !absl::SimpleAtoi(text.substr(colon + 1), &out.port) ||
      out.port < 0 || out.port > 65535) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", text, "\": expected HOST:PORT, [IPV6]:PORT or unix:PATH"));
  }
  out.host = std::string(host);
  out.loopback = IsLoopback(host);
  return out;
}

bool UnixSocketIsInUse(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
  const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  if (fd < 0) return false;
  const bool answers = connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
  close(fd);
  return answers;
}

}  // namespace gradwire::rpc
