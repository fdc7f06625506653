#include "client/cli/report.h"

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "client/cli/render_json.h"
#include "client/cli/render_text.h"
#include "engine/base/status.h"

namespace gradwire::cli {
namespace {

// Its payload is shown as the reason of an error that has none.
constexpr char kLocalUrl[] = "gradwire/local";

std::string LocalReason(const absl::Status& status) {
  const auto payload = status.GetPayload(kLocalUrl);
  return payload ? std::string(*payload) : "";
}

int ExitCodeOf(const absl::Status& status) {
  if (!LocalReason(status).empty()) return kUsage;
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
      return kUnavailable;
    case absl::StatusCode::kDeadlineExceeded:
      return kDeadline;
    default:
      return kRefused;
  }
}

}  // namespace

absl::Status UsageError(absl::string_view message) {
  absl::Status status = absl::InvalidArgumentError(message);
  status.SetPayload(kLocalUrl, absl::Cord("USAGE"));
  return status;
}

absl::Status AsLocal(absl::Status status) {
  if (!status.ok()) status.SetPayload(kLocalUrl, absl::Cord("LOCAL_INPUT"));
  return status;
}

absl::Status Explained(const absl::Status& status, const std::string& address) {
  if (!ReasonNameOf(status).empty() || !LocalReason(status).empty()) return status;
  if (status.code() == absl::StatusCode::kUnimplemented) {
    return absl::UnimplementedError(absl::StrCat("the server at ", address,
                                                 " does not have this call; it may be older than "
                                                 "this program"));
  }
  if (status.code() != absl::StatusCode::kUnavailable) return status;
  return absl::UnavailableError(
      absl::StrCat("no server answers at ", address, ": ", status.message(),
                   "\n  start one:          gradwire-server --listen=", address,
                   "\n  or choose another:  --server=HOST:PORT, or GRADWIRE_SERVER"));
}

int Report(const absl::Status& status, bool json, const Console& console) {
  if (json) {
    *console.out << ErrorAsJson(status, LocalReason(status)) << "\n";
  } else {
    *console.err << ErrorAsText(status, LocalReason(status), console.colour_err);
  }
  return ExitCodeOf(status);
}

}  // namespace gradwire::cli
