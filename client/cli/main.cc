// `gradwire`: Gradwire's command line. Its help texts say what it does.
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <exception>
#include <iostream>
#include <string>
#include <vector>

#include "client/cli/run.h"

namespace {

// The server notices the closed connection and stops computing.
void OnInterrupt(int) { _exit(gradwire::cli::kInterrupted); }

bool IsColourTerminal(int fd) {
  const char* terminal = getenv("TERM");
  return isatty(fd) != 0 && getenv("NO_COLOR") == nullptr &&
         (terminal == nullptr || std::string(terminal) != "dumb");
}

}  // namespace

int main(int argc, char** argv) {
  signal(SIGINT, OnInterrupt);
  // gRPC's own log lines; errors come back as statuses.
  setenv("GRPC_VERBOSITY", "NONE", /*overwrite=*/0);
  try {
    const int exit_code = gradwire::cli::Run(std::vector<std::string>(argv + 1, argv + argc),
                                             {.out = &std::cout,
                                              .err = &std::cerr,
                                              .colour_out = IsColourTerminal(STDOUT_FILENO),
                                              .colour_err = IsColourTerminal(STDERR_FILENO)});
    std::cout.flush();
    if (!std::cout.good()) {
      std::cerr << "error: OUTPUT: cannot write to the standard output\n";
      return gradwire::cli::kUsage;
    }
    return exit_code;
  } catch (const std::exception& error) {  // out of memory, in all likelihood
    std::cerr << "error: LOCAL: " << error.what() << "\n";
    return gradwire::cli::kUsage;
  }
}
