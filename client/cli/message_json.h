// File: message_json.h
//
// Protobuf messages as JSON, one object on one line, as the other JSON of the command line is:
// field names as in the .proto files, 64-bit integers as numbers, tensors as {"dtype", "shape",
// "data"}, numbers that are not finite as "NaN" and "Infinity", durations as "1.500000000s", times
// as RFC 3339.
//
//   MessageAsJson(event)   // {"number": 7, "time": "...", "step": 5, "metrics": {...}}
//
// Numbers, strings and enums are always there, messages, lists and maps only where they are set.
// Bytes (a model's .onnx) are left out.
#ifndef GRADWIRE_CLIENT_CLI_MESSAGE_JSON_H_
#define GRADWIRE_CLIENT_CLI_MESSAGE_JSON_H_

#include <google/protobuf/message.h>

#include <string>

namespace gradwire::cli {

std::string MessageAsJson(const google::protobuf::Message& message);

// {"jobs": [...]}
template <typename Messages>
std::string MessagesAsJson(const char* key, const Messages& messages) {
  std::string out = std::string("{\"") + key + "\": [";
  const char* separator = "";
  for (const auto& message : messages) {
    out += separator + MessageAsJson(message);
    separator = ", ";
  }
  return out + "]}";
}

}  // namespace gradwire::cli

#endif  // GRADWIRE_CLIENT_CLI_MESSAGE_JSON_H_
