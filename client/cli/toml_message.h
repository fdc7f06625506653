// File: toml_message.h
//
// TOML as the fields of a protobuf message, by their names in the .proto file.
//
//   GW_ASSIGN_OR_RETURN(toml::table table, ParseToml("stop.epochs = 30", "digits.toml"));
//   Problems problems;
//   SetFields(table, "", &job, &problems);       // job.stop().epochs() == 30
//
// Tables are messages and maps, arrays are repeated fields. Besides:
// - a Duration is "30s", "1h30m", or a number of seconds;
// - an enum value is its name, in any case: "skip_step";
// - a message that is a choice between others may be the name of one, with all its defaults:
//   optimizer = "adam" for optimizer.adam = {};
// - a gradwire.v1.Tensor may be a number or nested arrays of them.
//
// Every mistake is reported, with its place: "digits.toml:12: optimizer.adam.lrr: there is no such
// field; did you mean 'lr'?".
#ifndef GRADWIRE_CLIENT_CLI_TOML_MESSAGE_H_
#define GRADWIRE_CLIENT_CLI_TOML_MESSAGE_H_

#include <google/protobuf/message.h>
#include <toml++/toml.h>

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/base/status.h"

namespace gradwire::cli {

// `source` is what messages call it: a file, or an option of the command line, such as "--set lr".
// Errors: INVALID_SPEC, with line and column.
absl::StatusOr<toml::table> ParseToml(absl::string_view text, const std::string& source);

// "digits.toml:12: stop.epochs", or "--epochs: stop.epochs" for what an option says.
std::string PlaceOf(const toml::node& node, absl::string_view key);

// `prefix` begins the keys in messages: "" or "stop.".
void SetFields(const toml::table& table, const std::string& prefix,
               google::protobuf::Message* message, Problems* problems);

}  // namespace gradwire::cli

#endif  // GRADWIRE_CLIENT_CLI_TOML_MESSAGE_H_
