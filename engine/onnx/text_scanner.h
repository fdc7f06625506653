// File: text_scanner.h
//
// What the readers of models written by people (onnx_text.h, formula.h) share: naming a place in a
// text, and the tokens of ONNX's textual syntax.
//
//   const TextPlace place = LocateInText("x + $", 4);
//   // place.line == 1, place.column == 5, place.snippet == "x + $\n    ^"
//
// Cost: LocateInText is linear in the offset; it is called once, when reading fails.
// Thread-safety: pure functions; a scanner belongs to one thread.
#ifndef GRADWIRE_ENGINE_ONNX_TEXT_SCANNER_H_
#define GRADWIRE_ENGINE_ONNX_TEXT_SCANNER_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "engine/base/checked.h"

namespace gradwire {

// A place in a text, for messages to people. Lines and columns count from 1, columns in characters
// (UTF-8), not bytes.
struct TextPlace {
  int64_t line = 1;
  int64_t column = 1;
  // The line in question, cut to about 80 characters around the place, and below it a caret.
  std::string snippet;
};

// The place `offset` bytes into `text`; an offset past the end means the end. Bytes that are not
// UTF-8 and control characters show as '?'.
TextPlace LocateInText(absl::string_view text, size_t offset);

// `text` as it may stand in a message: printable, cut to 40 bytes.
std::string PrintableText(absl::string_view text);

// What the readers allow by default: as the server does (`--max-nodes`).
inline constexpr int64_t kDefaultMaxNodes = 200'000;
// How many tokens or parts of a graph they allow, however small each is.
inline int64_t MaxParts(int64_t max_nodes) {
  return SaturatingAdd(SaturatingMul(max_nodes, 16), 1'000'000);
}
// The status of a graph that is larger.
absl::Status TooManyNodes(int64_t max_nodes);

// A decimal number, all of `digits`. False where it is malformed or overflows; what is too small
// becomes subnormal or zero. Also reads inf and nan.
bool ReadFloat(absl::string_view digits, float* out);
bool ReadFloat(absl::string_view digits, double* out);
bool ReadInteger(absl::string_view digits, int64_t* out);
bool ReadInteger(absl::string_view digits, uint64_t* out);
// "inf", "infinity" or "nan" in any case.
bool IsNonFiniteWord(absl::string_view word);

// The tokens of ONNX's textual syntax; the parser derives from it. Every function that can fail
// returns false after a failure, which stands in status() from then on; only the first is kept.
// Space and comments before a token are skipped.
class TextScanner {
 public:
  // `text` must outlive the scanner. A graph of more than `max_nodes` is refused.
  TextScanner(absl::string_view text, int64_t max_nodes) : text_(text), max_nodes_(max_nodes) {}
  const absl::Status& status() const { return status_; }

 protected:
  enum class LiteralKind { kInteger, kFloat, kString };
  struct Literal {
    LiteralKind kind = LiteralKind::kInteger;
    size_t at = 0;
    absl::string_view digits;  // of a number
    std::string string;        // of a string, unescaped
  };

  // Fails at the byte `at`: "line 1, column 2: got ..., expected ...".
  bool Fail(size_t at, absl::string_view got, absl::string_view expected);
  // Fails at the next token, which was not `what`.
  bool Expected(absl::string_view what);
  // Fails at a literal that is no `expected`.
  bool FailLiteral(const Literal& literal, absl::string_view expected);

  // Fails with GRAPH_TOO_LARGE once there are too many nodes, or too many names, attributes and the
  // like for so many nodes: a few bytes of text may become hundreds in a message.
  bool CountNode();
  bool CountPart(int64_t weight = 1);

  // Where the next token starts.
  size_t NextPosition();
  bool AtEnd();
  // The next character; '\0' at the end.
  char Peek();
  // Consumes `c` if it comes next.
  bool Take(char c);
  // Consumes `c`, which must come next.
  bool Match(char c);
  bool MatchArrow();  // "=>"

  // The identifier that comes next, "" if none does; PeekIdentifier leaves it there.
  absl::string_view PeekIdentifier();
  absl::string_view TakeIdentifier();
  bool ParseIdentifier(absl::string_view what, std::string* out);
  // An identifier, or any name in quotes.
  bool ParseName(absl::string_view what, std::string* out);
  // "text", where \ makes the character after it stand for itself.
  bool ParseQuoted(std::string* out);
  // A number or a string.
  bool ParseLiteral(absl::string_view what, Literal* out);

  template <typename T>  // int64_t, uint64_t
  bool ParseInteger(absl::string_view what, T* out) {
    Literal literal;
    if (!ParseLiteral(what, &literal)) return false;
    if (literal.kind != LiteralKind::kInteger) return FailLiteral(literal, what);
    return ToInteger(literal, out);
  }
  template <typename T>
  bool ToInteger(const Literal& literal, T* out) {
    return ReadInteger(literal.digits, out) ||
           FailLiteral(literal, T(-1) < T(0) ? "an integer of 64 bits"
                                             : "a non-negative integer of 64 bits");
  }
  template <typename T>  // float, double
  bool ParseFloat(T* out) {
    Literal literal;
    return ParseLiteral("a number", &literal) && ToFloat(literal, out);
  }
  template <typename T>
  bool ToFloat(const Literal& literal, T* out) {
    if (literal.kind == LiteralKind::kString) return FailLiteral(literal, "a number");
    return ReadFloat(literal.digits, out) ||
           FailLiteral(literal, sizeof(T) == sizeof(float) ? "a number in the range of a float"
                                                           : "a number in the range of a double");
  }

 private:
  void SkipSpace();
  size_t SkipDigits(size_t at) const;
  // The end of the number whose digits start at `at`, npos after a failure.
  size_t ScanNumber(size_t at, LiteralKind* kind);
  std::string DescribeNext();

  absl::string_view text_;
  size_t pos_ = 0;
  int64_t max_nodes_;
  int64_t nodes_ = 0;
  int64_t parts_ = 0;
  absl::Status status_;
};

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_ONNX_TEXT_SCANNER_H_
