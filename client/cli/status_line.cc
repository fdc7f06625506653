#include "client/cli/status_line.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "client/cli/text.h"

namespace gradwire::cli {
namespace {

constexpr absl::Duration kRedraw = absl::Milliseconds(100);
constexpr absl::Duration kPlainLines = absl::Seconds(2);
constexpr char kClearLine[] = "\r\x1b[K";

}  // namespace

StatusLine::StatusLine(std::ostream* out, int width) : out_(out), width_(width) {}

StatusLine::~StatusLine() {
  if (!open_.empty()) *out_ << "\n" << std::flush;
}

bool StatusLine::IsDue() const {
  return absl::Now() - shown_ >= (width_ > 0 ? kRedraw : kPlainLines);
}

void StatusLine::Update(const std::string& text) {
  if (!IsDue()) return;
  shown_ = absl::Now();
  if (width_ == 0) {
    *out_ << text << "\n" << std::flush;
    return;
  }
  // A line that wraps could not be drawn again.
  open_ = text.substr(0, static_cast<size_t>(width_ - 1));
  *out_ << kClearLine << open_ << std::flush;
}

void StatusLine::Keep(absl::string_view text) {
  const std::string open = std::exchange(open_, "");
  *out_ << (open.empty() ? "" : kClearLine) << text << "\n" << std::flush;
  // Whatever comes next is news.
  shown_ = absl::InfinitePast();
}

std::string Bar(double fraction) {
  constexpr int kWidth = 25;
  const int filled = static_cast<int>(kWidth * std::clamp(fraction, 0.0, 1.0));
  return absl::StrCat("[", std::string(filled, '#'), std::string(kWidth - filled, '-'), "]");
}

TransferProgress ShowTransfer(const char* verb, StatusLine* line) {
  return [verb, line](int64_t done, int64_t total) {
    if (!line->on_terminal() || !line->IsDue()) return;
    const double fraction = total > 0 ? static_cast<double>(done) / static_cast<double>(total) : 1;
    line->Update(absl::StrFormat("%s %s %3.0f%%  %s of %s", verb, Bar(fraction), 100 * fraction,
                                 BytesText(done), BytesText(total)));
  };
}

}  // namespace gradwire::cli
