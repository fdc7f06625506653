#include "engine/onnx/text_scanner.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <system_error>

#include "absl/strings/ascii.h"
#include "absl/strings/charconv.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status.h"

namespace gradwire {
namespace {

bool IsIdentifierStart(char c) { return absl::ascii_isalpha(c) || c == '_'; }
bool IsIdentifierPart(char c) { return absl::ascii_isalnum(c) || c == '_'; }
// In parts: about what a NodeProto takes in memory beside its names.
constexpr int64_t kNodeWeight = 4;

bool IsContinuation(char c) { return (c & 0xC0) == 0x80; }

template <typename T>
bool ReadFloatAs(absl::string_view digits, T* out) {
  const char* end = digits.data() + digits.size();
  const absl::from_chars_result r = absl::from_chars(digits.data(), end, *out);
  if (r.ptr != end) return false;
  return r.ec == std::errc() || (r.ec == std::errc::result_out_of_range && std::abs(*out) < 1);
}

template <typename T>
bool ReadIntegerAs(absl::string_view digits, T* out) {
  const char* end = digits.data() + digits.size();
  const std::from_chars_result r = std::from_chars(digits.data(), end, *out);
  return r.ec == std::errc() && r.ptr == end;
}

// Length of the UTF-8 character at `at`, 0 where there is none.
size_t CharacterBytes(absl::string_view text, size_t at) {
  const unsigned char lead = text[at];
  if (lead < 0x80) return 1;
  const size_t length = lead >= 0xF0 && lead < 0xF5 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC2 ? 2 : 0;
  if (length == 0 || lead >= 0xF5 || at + length > text.size()) return 0;
  for (size_t i = 1; i < length; ++i) {
    if (!IsContinuation(text[at + i])) return 0;
  }
  return length;
}

// Appends `text` with control characters and broken UTF-8 replaced; returns the characters added.
int64_t AppendPrintable(absl::string_view text, std::string* out) {
  int64_t characters = 0;
  for (size_t i = 0; i < text.size(); ++characters) {
    const size_t length = CharacterBytes(text, i);
    const bool printable = length > 1 || (length == 1 && text[i] >= 0x20 && text[i] != 0x7F);
    if (printable) {
      absl::StrAppend(out, text.substr(i, length));
    } else {
      out->push_back(text[i] == '\t' || text[i] == '\r' ? ' ' : '?');
    }
    i += std::max<size_t>(length, 1);
  }
  return characters;
}

}  // namespace

std::string PrintableText(absl::string_view text) {
  constexpr size_t kMaxBytes = 40;
  std::string out;
  if (text.size() <= kMaxBytes) {
    AppendPrintable(text, &out);
    return out;
  }
  size_t end = kMaxBytes;
  while (end > kMaxBytes - 4 && IsContinuation(text[end])) --end;
  AppendPrintable(text.substr(0, end), &out);
  return out + "...";
}

TextPlace LocateInText(absl::string_view text, size_t offset) {
  constexpr size_t kBefore = 56, kWidth = 76;
  offset = std::min(offset, text.size());
  TextPlace place;
  place.line += std::count(text.begin(), text.begin() + offset, '\n');
  const size_t newline = offset == 0 ? absl::string_view::npos : text.rfind('\n', offset - 1);
  const size_t line_start = newline == absl::string_view::npos ? 0 : newline + 1;
  const size_t line_end = std::min(text.find('\n', offset), text.size());
  const absl::string_view before = text.substr(line_start, offset - line_start);
  place.column +=
      std::count_if(before.begin(), before.end(), [](char c) { return !IsContinuation(c); });

  size_t start = line_start;
  if (offset - line_start > kBefore) {
    start = offset - kBefore;
    while (start < offset && IsContinuation(text[start])) ++start;
    place.snippet = "...";
  }
  size_t end = std::min(line_end, start + kWidth);
  while (end > offset && end < line_end && IsContinuation(text[end])) --end;
  const int64_t indent = static_cast<int64_t>(place.snippet.size()) +
                         AppendPrintable(text.substr(start, offset - start), &place.snippet);
  AppendPrintable(text.substr(offset, end - offset), &place.snippet);
  while (!place.snippet.empty() && place.snippet.back() == ' ') place.snippet.pop_back();
  if (end < line_end) absl::StrAppend(&place.snippet, "...");
  absl::StrAppend(&place.snippet, "\n", std::string(indent, ' '), "^");
  return place;
}

absl::Status TooManyNodes(int64_t max_nodes) {
  return Error(Reason::kGraphTooLarge,
               absl::StrCat("the text describes more than ", max_nodes,
                            " nodes, or more names and attributes than so many nodes have"));
}

bool ReadFloat(absl::string_view digits, float* out) { return ReadFloatAs(digits, out); }
bool ReadFloat(absl::string_view digits, double* out) { return ReadFloatAs(digits, out); }
bool ReadInteger(absl::string_view digits, int64_t* out) { return ReadIntegerAs(digits, out); }
bool ReadInteger(absl::string_view digits, uint64_t* out) { return ReadIntegerAs(digits, out); }

bool IsNonFiniteWord(absl::string_view word) {
  return absl::EqualsIgnoreCase(word, "inf") || absl::EqualsIgnoreCase(word, "infinity") ||
         absl::EqualsIgnoreCase(word, "nan");
}

bool TextScanner::Fail(size_t at, absl::string_view got, absl::string_view expected) {
  if (!status_.ok()) return false;
  const TextPlace place = LocateInText(text_, at);
  status_ = Error(Reason::kInvalidModel,
                  absl::StrCat("line ", place.line, ", column ", place.column, ": got ", got,
                               ", expected ", expected, "\n", place.snippet));
  return false;
}

bool TextScanner::Expected(absl::string_view what) {
  SkipSpace();
  return Fail(pos_, DescribeNext(), what);
}

bool TextScanner::FailLiteral(const Literal& literal, absl::string_view expected) {
  return Fail(literal.at,
              literal.kind == LiteralKind::kString
                  ? absl::StrCat("the string \"", PrintableText(literal.string), "\"")
                  : PrintableText(literal.digits),
              expected);
}

bool TextScanner::CountNode() {
  if (++nodes_ > max_nodes_ && status_.ok()) status_ = TooManyNodes(max_nodes_);
  return CountPart(kNodeWeight);
}

bool TextScanner::CountPart(int64_t weight) {
  parts_ += weight;
  if (parts_ > MaxParts(max_nodes_) && status_.ok()) status_ = TooManyNodes(max_nodes_);
  return status_.ok();
}

void TextScanner::SkipSpace() {
  while (pos_ < text_.size()) {
    if (text_[pos_] == '#') {
      pos_ = std::min(text_.find('\n', pos_), text_.size());
    } else if (absl::ascii_isspace(text_[pos_])) {
      ++pos_;
    } else {
      return;
    }
  }
}

size_t TextScanner::NextPosition() {
  SkipSpace();
  return pos_;
}

bool TextScanner::AtEnd() {
  SkipSpace();
  return pos_ >= text_.size();
}

char TextScanner::Peek() { return AtEnd() ? '\0' : text_[pos_]; }

bool TextScanner::Take(char c) {
  if (AtEnd() || text_[pos_] != c) return false;
  ++pos_;
  return true;
}

bool TextScanner::Match(char c) {
  return Take(c) || Expected(absl::StrCat("'", absl::string_view(&c, 1), "'"));
}

bool TextScanner::MatchArrow() {
  SkipSpace();
  if (!absl::StartsWith(text_.substr(pos_), "=>")) return Expected("'=>'");
  pos_ += 2;
  return true;
}

absl::string_view TextScanner::PeekIdentifier() {
  SkipSpace();
  size_t end = pos_;
  if (end < text_.size() && IsIdentifierStart(text_[end])) {
    while (end < text_.size() && IsIdentifierPart(text_[end])) ++end;
  }
  return text_.substr(pos_, end - pos_);
}

absl::string_view TextScanner::TakeIdentifier() {
  const absl::string_view id = PeekIdentifier();
  pos_ += id.size();
  return id;
}

bool TextScanner::ParseIdentifier(absl::string_view what, std::string* out) {
  const absl::string_view id = TakeIdentifier();
  if (id.empty()) return Expected(what);
  *out = std::string(id);
  return CountPart();
}

bool TextScanner::ParseName(absl::string_view what, std::string* out) {
  return Peek() == '"' ? ParseQuoted(out) : ParseIdentifier(what, out);
}

bool TextScanner::ParseQuoted(std::string* out) {
  if (Peek() != '"') return Expected("a string in quotes");
  out->clear();
  for (size_t i = pos_ + 1; i < text_.size(); ++i) {
    if (text_[i] == '"') {
      pos_ = i + 1;
      return CountPart();
    }
    if (text_[i] == '\\' && ++i == text_.size()) break;
    out->push_back(text_[i]);
  }
  return Fail(pos_, "a string without an end", "a '\"' after it");
}

bool TextScanner::ParseLiteral(absl::string_view what, Literal* out) {
  const char c = Peek();
  out->at = pos_;
  if (c == '"') {
    out->kind = LiteralKind::kString;
    return ParseQuoted(&out->string);
  }
  const size_t first = pos_ + (c == '-' ? 1 : 0);
  size_t end = first;
  if (first < text_.size() && absl::ascii_isalpha(text_[first])) {
    while (end < text_.size() && IsIdentifierPart(text_[end])) ++end;
    if (!IsNonFiniteWord(text_.substr(first, end - first))) return Expected(what);
    out->kind = LiteralKind::kFloat;
  } else {
    if (SkipDigits(first) == first) return Expected(what);
    end = ScanNumber(first, &out->kind);
    if (end == absl::string_view::npos) return false;
  }
  out->digits = text_.substr(pos_, end - pos_);
  pos_ = end;
  return true;
}

size_t TextScanner::ScanNumber(size_t at, LiteralKind* kind) {
  *kind = LiteralKind::kInteger;
  size_t end = SkipDigits(at);
  if (end < text_.size() && text_[end] == '.') {
    *kind = LiteralKind::kFloat;
    end = SkipDigits(end + 1);
  }
  if (end < text_.size() && (text_[end] == 'e' || text_[end] == 'E')) {
    *kind = LiteralKind::kFloat;
    ++end;
    if (end < text_.size() && (text_[end] == '+' || text_[end] == '-')) ++end;
    const size_t exponent = end;
    end = SkipDigits(end);
    if (end == exponent) {
      Fail(end, "an exponent without digits", "digits");
      return absl::string_view::npos;
    }
  }
  return end;
}

size_t TextScanner::SkipDigits(size_t at) const {
  while (at < text_.size() && absl::ascii_isdigit(text_[at])) ++at;
  return at;
}

std::string TextScanner::DescribeNext() {
  if (AtEnd()) return "the end of the text";
  const absl::string_view id = PeekIdentifier();
  if (!id.empty()) return absl::StrCat("\"", PrintableText(id), "\"");
  const size_t digits = SkipDigits(pos_) - pos_;
  if (digits > 0) return PrintableText(text_.substr(pos_, digits));
  if (text_[pos_] == '"') return "a string";
  const size_t length = std::max<size_t>(CharacterBytes(text_, pos_), 1);
  return absl::StrCat("'", PrintableText(text_.substr(pos_, length)), "'");
}

}  // namespace gradwire
