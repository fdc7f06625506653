// File: interrupt.h
//
// Ctrl-C. It ends the program at once, with exit code 130; the server notices the closed
// connection. A job goes on, and whoever watches one says so:
//
//   InterruptMessage goodbye("jobs/3f goes on; watch it: gradwire jobs watch jobs/3f\n");
#ifndef GRADWIRE_CLIENT_CLI_INTERRUPT_H_
#define GRADWIRE_CLIENT_CLI_INTERRUPT_H_

#include <string>

namespace gradwire::cli {

// Called once, by main().
void ExitOnInterrupt();

// While it lives, Ctrl-C writes the text to the standard error first. One at a time.
class InterruptMessage {
 public:
  explicit InterruptMessage(std::string text);
  ~InterruptMessage();
  InterruptMessage(const InterruptMessage&) = delete;
  InterruptMessage& operator=(const InterruptMessage&) = delete;

 private:
  const std::string text_;
};

}  // namespace gradwire::cli

#endif  // GRADWIRE_CLIENT_CLI_INTERRUPT_H_
