// ProgressBar: how far a loop is, on a terminal as one line that is drawn again, elsewhere as a few
// plain lines.
//
//   ProgressBar bar(stdout, "training", 1000);
//   for (int step = 1; step <= 1000; ++step) bar.Update(step, absl::StrCat("loss ", loss));
//
//   training [###########--------------]  45%  450/1000  loss 0.0712  2.1 s left
//
// Thread-safety: belongs to one thread.
#ifndef GRADWIRE_EXAMPLES_DIGITS_PROGRESS_H_
#define GRADWIRE_EXAMPLES_DIGITS_PROGRESS_H_

#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace gradwire {

class ProgressBar {
 public:
  ProgressBar(std::FILE* out, std::string title, int64_t total)
      : out_(out),
        title_(std::move(title)),
        total_(std::max<int64_t>(total, 1)),
        terminal_(isatty(fileno(out)) == 1),
        start_(absl::Now()) {}
  ~ProgressBar() { EndLine(); }
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  // `done` of the total are done; `note` says how it goes. Call it as often as you like.
  void Update(int64_t done, const std::string& note) {
    if (!IsDue(done)) return;
    const std::string line =
        absl::StrFormat("%s %s%3d%%  %d/%d  %s%s", title_, Bar(done), 100 * done / total_, done,
                        total_, note, TimeLeft(done));
    if (terminal_) {
      std::fprintf(out_, "\r\033[K%s", line.c_str());
      line_open_ = true;
    } else {
      std::fprintf(out_, "%s\n", line.c_str());
    }
    if (done >= total_) EndLine();
    std::fflush(out_);
  }

 private:
  static constexpr int kWidth = 25;
  static constexpr int kPlainLines = 10;

  // On a terminal ten times a second, elsewhere at every tenth of the way.
  bool IsDue(int64_t done) {
    if (terminal_) {
      const absl::Time now = absl::Now();
      if (done < total_ && now - drawn_ < absl::Milliseconds(100)) return false;
      drawn_ = now;
      return true;
    }
    const int64_t tenth = kPlainLines * done / total_;
    return std::exchange(tenth_, tenth) != tenth;
  }

  std::string Bar(int64_t done) const {
    if (!terminal_) return "";
    const int64_t filled = kWidth * std::min(done, total_) / total_;
    return absl::StrCat("[", std::string(filled, '#'), std::string(kWidth - filled, '-'), "] ");
  }

  std::string TimeLeft(int64_t done) const {
    if (!terminal_ || done <= 0 || done >= total_) return "";
    const double left = absl::ToDoubleSeconds(absl::Now() - start_) * (total_ - done) / done;
    return absl::StrFormat("  %.1f s left", left);
  }

  void EndLine() {
    if (std::exchange(line_open_, false)) std::fputc('\n', out_);
  }

  std::FILE* const out_;
  const std::string title_;
  const int64_t total_;
  const bool terminal_;
  const absl::Time start_;
  absl::Time drawn_ = absl::InfinitePast();
  int64_t tenth_ = 0;
  bool line_open_ = false;
};

}  // namespace gradwire

#endif  // GRADWIRE_EXAMPLES_DIGITS_PROGRESS_H_
