// File: render_text.h
//
// Answers as text for people.
//
//       f = 39
//   df/dx = 12
//   df/dy = 31
#ifndef GRADWIRE_CLIENT_CLI_RENDER_TEXT_H_
#define GRADWIRE_CLIENT_CLI_RENDER_TEXT_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "client/cli/answer.h"
#include "client/client.h"

namespace gradwire::cli {

// Names right-aligned before their values, coloured on request; with `show_info` also how the
// answer was computed. The results of vectors are called (J'v)[x], (Jv)[f] and (Hv)[x], numbered
// where there are several: (Hv1)[x], (Hv2)[x].
std::string AnswerAsText(const Answer& answer, bool show_info, bool colour);
// A table of the worst entries, then what else was compared.
std::string CheckAsText(const CheckResult& result, const std::string& value_name, bool colour);
// Tables of values, ops and costs, then the issues, each with its path.
std::string AnalysisAsText(const GraphAnalysis& analysis, bool colour);
std::string CapabilitiesAsText(const ServerCapabilities& capabilities, absl::string_view address);
// "error: REASON: message", then one indented line for each detail that the message does not hold.
// Without a reason of the status's own it is `local_reason`, else the status code.
std::string ErrorAsText(const absl::Status& status, absl::string_view local_reason, bool colour);

}  // namespace gradwire::cli

#endif  // GRADWIRE_CLIENT_CLI_RENDER_TEXT_H_
