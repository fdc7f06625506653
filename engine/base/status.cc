#include "engine/base/status.h"

#include <algorithm>
#include <iterator>

#include "absl/strings/cord.h"
#include "absl/strings/str_split.h"

namespace gradwire {
namespace {

constexpr char kReasonUrl[] = "gradwire/reason";
constexpr char kViolationsUrl[] = "gradwire/violations";

using absl::StatusCode;
constexpr ReasonInfo kReasons[] = {
    {Reason::kInvalidModel, "INVALID_MODEL", StatusCode::kInvalidArgument},
    {Reason::kUnsupportedOp, "UNSUPPORTED_OP", StatusCode::kInvalidArgument},
    {Reason::kUnsupportedOpset, "UNSUPPORTED_OPSET", StatusCode::kInvalidArgument},
    {Reason::kNotDifferentiable, "NOT_DIFFERENTIABLE", StatusCode::kInvalidArgument},
    {Reason::kDataDependentShape, "DATA_DEPENDENT_SHAPE", StatusCode::kInvalidArgument},
    {Reason::kShapeMismatch, "SHAPE_MISMATCH", StatusCode::kInvalidArgument},
    {Reason::kDtypeUnsupported, "DTYPE_UNSUPPORTED", StatusCode::kInvalidArgument},
    {Reason::kInvalidTensor, "INVALID_TENSOR", StatusCode::kInvalidArgument},
    {Reason::kUnknownInput, "UNKNOWN_INPUT", StatusCode::kInvalidArgument},
    {Reason::kMissingInput, "MISSING_INPUT", StatusCode::kInvalidArgument},
    {Reason::kUnknownOutput, "UNKNOWN_OUTPUT", StatusCode::kInvalidArgument},
    {Reason::kUnknownWrt, "UNKNOWN_WRT", StatusCode::kInvalidArgument},
    {Reason::kNotScalar, "NOT_SCALAR", StatusCode::kInvalidArgument},
    {Reason::kGraphTooLarge, "GRAPH_TOO_LARGE", StatusCode::kInvalidArgument},
    {Reason::kResultTooLarge, "RESULT_TOO_LARGE", StatusCode::kInvalidArgument},
    {Reason::kChunkOutOfRange, "CHUNK_OUT_OF_RANGE", StatusCode::kInvalidArgument},
    {Reason::kDigestMismatch, "DIGEST_MISMATCH", StatusCode::kInvalidArgument},
    {Reason::kInvalidSpec, "INVALID_SPEC", StatusCode::kInvalidArgument},
    {Reason::kMemoryLimit, "MEMORY_LIMIT", StatusCode::kResourceExhausted},
    {Reason::kQueueFull, "QUEUE_FULL", StatusCode::kResourceExhausted},
    {Reason::kDiskFull, "DISK_FULL", StatusCode::kResourceExhausted},
    {Reason::kWrongState, "WRONG_STATE", StatusCode::kFailedPrecondition},
    {Reason::kNonFiniteValue, "NON_FINITE_VALUE", StatusCode::kFailedPrecondition},
    {Reason::kNumericsChanged, "NUMERICS_CHANGED", StatusCode::kFailedPrecondition},
    {Reason::kExpired, "EXPIRED", StatusCode::kFailedPrecondition},
    {Reason::kCorruptData, "CORRUPT_DATA", StatusCode::kDataLoss},
    {Reason::kDraining, "DRAINING", StatusCode::kUnavailable},
    {Reason::kNotFound, "NOT_FOUND", StatusCode::kNotFound},
    {Reason::kAlreadyExists, "ALREADY_EXISTS", StatusCode::kAlreadyExists},
    {Reason::kRequestIdReused, "REQUEST_ID_REUSED", StatusCode::kAlreadyExists},
};

// Violations travel in a status payload as where \x1f what, one per \x1e.
std::string Encode(absl::Span<const Violation> violations) {
  std::string out;
  for (const Violation& v : violations) {
    if (!out.empty()) out += '\x1e';
    absl::StrAppend(&out, v.where, "\x1f", v.what);
  }
  return out;
}

std::string Cut(absl::string_view text, size_t limit) {
  if (text.size() <= limit) return std::string(text);
  size_t end = limit - 3;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;  // whole UTF-8
  return absl::StrCat(text.substr(0, end), "...");
}

}  // namespace

absl::Span<const ReasonInfo> AllReasons() { return kReasons; }

const char* ReasonName(Reason reason) { return kReasons[static_cast<size_t>(reason)].name; }

absl::Status Error(Reason reason, absl::string_view message) { return Error(reason, message, {}); }

absl::Status Error(Reason reason, absl::string_view message,
                   absl::Span<const Violation> violations) {
  const ReasonInfo& info = kReasons[static_cast<size_t>(reason)];
  absl::Status status(info.code, Cut(message, kMaxMessageBytes));
  status.SetPayload(kReasonUrl, absl::Cord(info.name));
  if (!violations.empty()) status.SetPayload(kViolationsUrl, absl::Cord(Encode(violations)));
  return status;
}

std::string ReasonNameOf(const absl::Status& status) {
  auto payload = status.GetPayload(kReasonUrl);
  return payload ? std::string(*payload) : std::string();
}

bool HasReason(const absl::Status& status, Reason reason) {
  return ReasonNameOf(status) == ReasonName(reason);
}

std::vector<Violation> ViolationsOf(const absl::Status& status) {
  std::vector<Violation> out;
  auto payload = status.GetPayload(kViolationsUrl);
  if (!payload) return out;
  const std::string text(*payload);
  for (absl::string_view part : absl::StrSplit(text, '\x1e')) {
    std::pair<absl::string_view, absl::string_view> pair =
        absl::StrSplit(part, absl::MaxSplits('\x1f', 1));
    out.push_back({std::string(pair.first), std::string(pair.second)});
  }
  return out;
}

void Problems::Add(Reason reason, std::string where, std::string what) {
  if (violations_.empty()) reason_ = reason;
  violations_.push_back({std::move(where), std::move(what)});
}

void Problems::Add(const absl::Status& status, absl::string_view where) {
  if (status.ok()) return;
  const std::string name = ReasonNameOf(status);
  const auto* info = std::find_if(std::begin(kReasons), std::end(kReasons),
                                  [&](const ReasonInfo& r) { return name == r.name; });
  if (info == std::end(kReasons)) {  // not an input's fault: keep it whole
    if (other_.ok()) other_ = status;
    violations_.push_back({std::string(where), std::string(status.message())});
    return;
  }
  Add(info->reason, std::string(where), std::string(status.message()));
}

absl::Status Problems::ToStatus() const {
  if (!other_.ok()) return other_;
  if (violations_.empty()) return absl::OkStatus();
  const Violation& first = violations_.front();
  std::string message = absl::StrCat(first.where, first.where.empty() ? "" : ": ", first.what);
  if (violations_.size() > 1) {
    message = absl::StrCat(violations_.size(), " problems; the first: ", message);
  }
  const size_t n = std::min(violations_.size(), kMaxViolations);
  return Error(reason_, message, absl::MakeConstSpan(violations_).subspan(0, n));
}

}  // namespace gradwire
