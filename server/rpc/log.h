// File: log.h
//
// Structured logs: one JSON object a line, on stderr.
//
//   StartLog(LogLevel::kInfo);
//   Log(LogLevel::kInfo, "listening", {{"address", "127.0.0.1:50051"}, {"workers", 2}});
//   => {"time":"2026-01-31T12:00:00.123Z","level":"info","event":"listening","address":"...", ...}
//
// Cost: a load and a compare below the level. Thread-safety: any thread, once StartLog returned.
#ifndef GRADWIRE_SERVER_RPC_LOG_H_
#define GRADWIRE_SERVER_RPC_LOG_H_

#include <cstdint>
#include <initializer_list>

#include "absl/strings/string_view.h"

namespace gradwire::rpc {

enum class LogLevel { kDebug, kInfo, kWarning, kError, kOff };

struct LogField {
  LogField(absl::string_view n, absl::string_view v) : name(n), text(v) {}
  LogField(absl::string_view n, const char* v) : name(n), text(v) {}
  LogField(absl::string_view n, int64_t v) : name(n), number(v), is_number(true) {}
  LogField(absl::string_view n, int v) : LogField(n, static_cast<int64_t>(v)) {}
  absl::string_view name;
  absl::string_view text;
  int64_t number = 0;
  bool is_number = false;
};

// Sets the level, and sends gRPC's own messages the same way.
void StartLog(LogLevel level);
bool LogEnabled(LogLevel level);
void Log(LogLevel level, absl::string_view event, std::initializer_list<LogField> fields);

}  // namespace gradwire::rpc

#endif  // GRADWIRE_SERVER_RPC_LOG_H_
