// File: render_json.h
//
// Answers as JSON, one object each, in the form that the contract fixes:
//
//   {"value": {"dtype": "DOUBLE", "shape": [], "data": [39]},
//    "gradients": {"x": {...}, "y": {...}}, "info": {...}}
//
// DOUBLE numbers have 17 significant digits (%.17g) and FLOAT 9, so that they are given back
// exactly; numbers that are not finite are the strings "NaN", "Infinity" and "-Infinity"; BOOL
// elements are true and false. Names that are not UTF-8 get replacement characters.
#ifndef GRADWIRE_CLIENT_CLI_RENDER_JSON_H_
#define GRADWIRE_CLIENT_CLI_RENDER_JSON_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "client/cli/answer.h"
#include "client/client.h"
#include "engine/tensor/tensor.h"

namespace gradwire::cli {

std::string TensorAsJson(const TensorView& tensor);
std::string AnswerAsJson(const Answer& answer);
// The fields of CheckGradientsResponse.
std::string CheckAsJson(const CheckResult& result);
// The fields of AnalyzeGraphResponse, shapes as lists of numbers and symbols.
std::string AnalysisAsJson(const GraphAnalysis& analysis);
std::string CapabilitiesAsJson(const ServerCapabilities& capabilities, absl::string_view address);
// {"error": {"code", "reason", "message", "details": [{"field", "description"}]}}. Without a reason
// of the status's own it is `local_reason`, such as "USAGE".
std::string ErrorAsJson(const absl::Status& status, absl::string_view local_reason = "");
std::string NumberAsJson(double number);
// The text in quotes, escaped.
std::string StringAsJson(absl::string_view text);

}  // namespace gradwire::cli

#endif  // GRADWIRE_CLIENT_CLI_RENDER_JSON_H_
