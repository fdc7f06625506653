// File: status_line.h
//
// StatusLine: how something goes, in one line; on a terminal drawn again in place, elsewhere
// written now and then.
//
//   StatusLine line(console.err, console.width_err);
//   line.Update(absl::StrCat("uploading ", Bar(0.45), " 45%"));
//   line.Keep("server gone, waiting ...");   // a line of its own, that stays
//
// Thread-safety: belongs to one thread.
#ifndef GRADWIRE_CLIENT_CLI_STATUS_LINE_H_
#define GRADWIRE_CLIENT_CLI_STATUS_LINE_H_

#include <ostream>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "client/datasets.h"

namespace gradwire::cli {

class StatusLine {
 public:
  // `width`: columns of the terminal behind `out`, 0 where there is none.
  StatusLine(std::ostream* out, int width);
  // The last line stays.
  ~StatusLine();
  StatusLine(const StatusLine&) = delete;
  StatusLine& operator=(const StatusLine&) = delete;

  // Shows `text`, or leaves it out where the last one is too fresh: on a terminal a tenth of a
  // second, elsewhere two seconds.
  void Update(const std::string& text);
  // True where Update() would show its text: the text of others need not be made.
  bool IsDue() const;
  void Keep(absl::string_view text);
  bool on_terminal() const { return width_ > 0; }

 private:
  std::ostream* const out_;
  const int width_;
  absl::Time shown_ = absl::InfinitePast();
  std::string open_;  // what stands on the terminal's last line
};

// "[#########----------------]"; `fraction` from 0 to 1.
std::string Bar(double fraction);

// Shows a transfer, on a terminal: "uploading [###------] 30%  3 MiB of 10 MiB". Refers to `line`.
TransferProgress ShowTransfer(const char* verb, StatusLine* line);

}  // namespace gradwire::cli

#endif  // GRADWIRE_CLIENT_CLI_STATUS_LINE_H_
