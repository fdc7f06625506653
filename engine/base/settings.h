// File: settings.h
//
// Settings: named numbers that a user gives, read against a table that says which names there are,
// what they are where nothing is given, and which values are legal. How the specifications of
// optimisers, schedules and losses are checked.
//
//   const SettingDef kDefs[] = {{"lr", 1e-3, kNonNegative}, {"nesterov", 0, kFlag}};
//   Problems problems;
//   Settings s = Complete(kDefs, {{"lr", 0.1}}, "optimizer.sgd", &problems);
//   s.at("lr") == 0.1 && s.at("nesterov") == 0
//
// Errors: INVALID_SPEC for each name that there is none of (saying which there are), each value
// that is not finite or out of range, each required one that is missing: all at once.
// Thread-safety: pure functions.
#ifndef GRADWIRE_ENGINE_BASE_SETTINGS_H_
#define GRADWIRE_ENGINE_BASE_SETTINGS_H_

#include <limits>
#include <map>
#include <string>

#include "absl/types/span.h"
#include "engine/base/status.h"

namespace gradwire {

using Settings = std::map<std::string, double>;  // flags are 0 or 1

// Finite numbers between two bounds.
struct Range {
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
  bool open_min = false, open_max = false;  // the bound itself is out
  bool whole = false;                       // integers only
  bool Holds(double value) const;
  std::string ToString() const;  // "a number in [0, 1)", "a whole number of at least 1"
};
inline constexpr Range kAnyNumber = {};
inline constexpr Range kNonNegative = {.min = 0};
inline constexpr Range kPositive = {.min = 0, .open_min = true};
inline constexpr Range kUpToOne = {.min = 0, .max = 1};
inline constexpr Range kBelowOne = {.min = 0, .max = 1, .open_max = true};
inline constexpr Range kFlag = {.min = 0, .max = 1, .whole = true};
inline constexpr Range kCount = {.min = 0, .max = 9007199254740992, .whole = true};
inline constexpr Range kPositiveCount = {.min = 1, .max = 9007199254740992, .whole = true};

inline constexpr double kRequired = std::numeric_limits<double>::quiet_NaN();

struct SettingDef {
  const char* name;
  double fallback;  // kRequired: there is none
  Range range;
};

// What is given, and the fallbacks of the rest. Problems are told of "`where`.NAME"; a value that
// is refused is left at its fallback.
Settings Complete(absl::Span<const SettingDef> defs, const Settings& given, absl::string_view where,
                  Problems* problems);

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_BASE_SETTINGS_H_
