// `gradwire`: Gradwire's command line. Its help texts say what it does.
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <exception>
#include <iostream>
#include <string>
#include <vector>

#include "client/cli/interrupt.h"
#include "client/cli/run.h"

namespace {

// Columns; 0 where there is no terminal that can draw a line again.
int TerminalWidth(int fd) {
  const char* terminal = getenv("TERM");
  if (isatty(fd) == 0 || (terminal != nullptr && std::string(terminal) == "dumb")) return 0;
  winsize size = {};
  constexpr int kUsual = 80;
  return ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 1 ? size.ws_col : kUsual;
}

}  // namespace

int main(int argc, char** argv) {
  gradwire::cli::ExitOnInterrupt();
  // gRPC's own log lines; errors come back as statuses.
  setenv("GRPC_VERBOSITY", "NONE", /*overwrite=*/0);
  const bool colours = getenv("NO_COLOR") == nullptr;
  const int width_out = TerminalWidth(STDOUT_FILENO);
  const int width_err = TerminalWidth(STDERR_FILENO);
  try {
    const int exit_code = gradwire::cli::Run(std::vector<std::string>(argv + 1, argv + argc),
                                             {.out = &std::cout,
                                              .err = &std::cerr,
                                              .colour_out = colours && width_out > 0,
                                              .colour_err = colours && width_err > 0,
                                              .width_out = width_out,
                                              .width_err = width_err});
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
