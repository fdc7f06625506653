#include "client/cli/interrupt.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <utility>

#include "client/cli/console.h"

namespace gradwire::cli {
namespace {

std::atomic<const std::string*> message{nullptr};

// Only what is safe in a signal handler.
void OnInterrupt(int) {
  if (const std::string* text = message.load()) {
    [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, text->data(), text->size());
  }
  _exit(kInterrupted);
}

}  // namespace

void ExitOnInterrupt() { signal(SIGINT, OnInterrupt); }

InterruptMessage::InterruptMessage(std::string text) : text_(std::move(text)) { message = &text_; }

InterruptMessage::~InterruptMessage() { message = nullptr; }

}  // namespace gradwire::cli
