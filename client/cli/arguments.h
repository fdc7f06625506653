// File: arguments.h
//
// The command line of `gradwire`, parsed: what stands in contract and help texts, as fields.
// Nothing of the file system or the network is looked at.
//
//   cli::ParsedArguments parsed = cli::ParseArguments({"grad", "x^2", "x=2"});
//   if (!parsed.arguments) { ... parsed.text, parsed.is_error ... }
#ifndef GRADWIRE_CLIENT_CLI_ARGUMENTS_H_
#define GRADWIRE_CLIENT_CLI_ARGUMENTS_H_

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "client/client.h"

namespace gradwire::cli {

enum class Command { kEval, kGrad, kVjp, kJvp, kHvp, kAnalyze, kHealth, kServerStatus };

// NAME=VALUE as written.
struct Assignment {
  std::string name;
  std::string value;
};

struct Arguments {
  Command command = Command::kEval;
  std::string server;
  bool json = false;
  bool show_info = false;
  std::string service;  // of health

  std::string model_path;  // exactly one of the two is set, where something is computed
  std::string formula;
  std::vector<Assignment> inputs;
  // The K vectors of vjp, jvp and hvp.
  std::vector<std::vector<Assignment>> vectors;
  std::vector<std::string> wrt;
  std::vector<std::string> outputs;
  std::string output_name;
  CallOptions call;
};

struct ParsedArguments {
  std::optional<Arguments> arguments;
  // Without arguments: a help text or the version, or what is wrong with the usage.
  std::string text;
  bool is_error = false;
};

// `words` are the words after the program's name.
ParsedArguments ParseArguments(std::vector<std::string> words);

// True where the words ask for JSON: for errors that come before they could be parsed.
bool AskForJson(const std::vector<std::string>& words);

}  // namespace gradwire::cli

#endif  // GRADWIRE_CLIENT_CLI_ARGUMENTS_H_
