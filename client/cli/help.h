// File: help.h
//
// The help texts of the command line.
#ifndef GRADWIRE_CLIENT_CLI_HELP_H_
#define GRADWIRE_CLIENT_CLI_HELP_H_

#include "client/cli/arguments.h"

namespace gradwire::cli {

inline constexpr char kVersion[] = "0.1.0";

extern const char kProgramHelp[];
extern const char kProgramExamples[];

struct CommandHelp {
  Command command;
  const char* name;
  const char* summary;
  const char* examples;
  const char* vector_option;  // "--vector"; null where the command takes no vectors
};

const CommandHelp& HelpOf(Command command);

}  // namespace gradwire::cli

#endif  // GRADWIRE_CLIENT_CLI_HELP_H_
