// File: status.h
//
// How everything in Gradwire reports failure: absl::Status / absl::StatusOr, plus a stable
// *reason*.
//
//   absl::Status s = Error(Reason::kShapeMismatch, "node 7 \"fc1\" (MatMul): ...");
//   ReasonOf(s)  -> Reason::kShapeMismatch;   s.code() -> INVALID_ARGUMENT (fixed by the reason)
//
// A failure that concerns several places (every unsupported node of a model, say) is collected in
// `Problems` and becomes one Status that carries each place as a Violation; the service turns those
// into google.rpc.BadRequest field violations.
//
// Thread-safety: all functions are pure; a Problems object belongs to one thread.
#ifndef GRADWIRE_ENGINE_BASE_STATUS_H_
#define GRADWIRE_ENGINE_BASE_STATUS_H_

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace gradwire {

// Every reason that an error of Gradwire can carry. Names on the wire and status codes stand in one
// table in status.cc; docs/errors.md shows an example of each.
enum class Reason {
  kInvalidModel,
  kUnsupportedOp,
  kUnsupportedOpset,
  kNotDifferentiable,
  kDataDependentShape,
  kShapeMismatch,
  kDtypeUnsupported,
  kInvalidTensor,
  kUnknownInput,
  kMissingInput,
  kUnknownOutput,
  kUnknownWrt,
  kNotScalar,
  kGraphTooLarge,
  kResultTooLarge,
  kChunkOutOfRange,
  kDigestMismatch,
  kInvalidSpec,
  kMemoryLimit,
  kQueueFull,
  kDiskFull,
  kWrongState,
  kNonFiniteValue,
  kNumericsChanged,
  kExpired,
  kCorruptData,
  kDraining,
  kNotFound,
  kAlreadyExists,
  kRequestIdReused,
};

struct ReasonInfo {
  Reason reason;
  const char* name;       // as on the wire: "SHAPE_MISMATCH"
  absl::StatusCode code;  // the only status code that this reason travels with
};

// The whole table, in enum order.
absl::Span<const ReasonInfo> AllReasons();
const char* ReasonName(Reason reason);

// One place that is wrong: `where` is a path such as `node 7 "fc1" (MatMul)` or `inputs.x`.
struct Violation {
  std::string where;
  std::string what;
  bool operator==(const Violation&) const = default;
};

// Makes an error. `message` says where, what, got, expected; it is cut at kMaxMessageBytes.
inline constexpr size_t kMaxMessageBytes = 1024;
absl::Status Error(Reason reason, absl::string_view message);
absl::Status Error(Reason reason, absl::string_view message,
                   absl::Span<const Violation> violations);

// The wire name of the reason a status carries, or "" (OK, cancelled, deadline, internal).
std::string ReasonNameOf(const absl::Status& status);
// True when `status` carries exactly this reason.
bool HasReason(const absl::Status& status, Reason reason);
// The places attached to a status by Error() or Problems; empty where there are none.
std::vector<Violation> ViolationsOf(const absl::Status& status);

// Collects every problem of one pass, so that a caller learns all of them at once.
class Problems {
 public:
  void Add(Reason reason, std::string where, std::string what);
  // Adds a status with its reason; an OK status adds nothing.
  void Add(const absl::Status& status, absl::string_view where);
  bool empty() const { return violations_.empty(); }
  size_t size() const { return violations_.size(); }
  // OK when nothing was added. Else the reason of the first problem, a message that counts them and
  // spells out the first, and all of them (at most kMaxViolations) as violations.
  absl::Status ToStatus() const;
  static constexpr size_t kMaxViolations = 64;

 private:
  Reason reason_ = Reason::kInvalidModel;
  absl::Status other_;
  std::vector<Violation> violations_;
};

}  // namespace gradwire

#define GW_RETURN_IF_ERROR(expr)                                                 \
  do {                                                                           \
    if (::absl::Status gw_status_ = (expr); !gw_status_.ok()) return gw_status_; \
  } while (false)

#define GW_CONCAT_INNER_(a, b) a##b
#define GW_CONCAT_(a, b) GW_CONCAT_INNER_(a, b)
#define GW_ASSIGN_OR_RETURN(lhs, expr) GW_ASSIGN_OR_RETURN_(GW_CONCAT_(gw_or_, __LINE__), lhs, expr)
#define GW_ASSIGN_OR_RETURN_(tmp, lhs, expr) \
  auto tmp = (expr);                         \
  if (!tmp.ok()) return tmp.status();        \
  lhs = std::move(tmp).value()

#endif  // GRADWIRE_ENGINE_BASE_STATUS_H_
