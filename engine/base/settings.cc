#include "engine/base/settings.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_join.h"

namespace gradwire {

bool Range::Holds(double value) const {
  return std::isfinite(value) && (open_min ? value > min : value >= min) &&
         (open_max ? value < max : value <= max) && (!whole || value == std::floor(value));
}

std::string Range::ToString() const {
  if (whole && min == 0 && max == 1) return "0 or 1";
  const std::string what = whole ? "a whole number" : "a number";
  const bool low = std::isfinite(min);
  // The largest whole number that is exact says nothing to the reader.
  const bool high = std::isfinite(max) && !(whole && max > 1e15);
  if (low && high) {
    return absl::StrCat(what, " in ", open_min ? "(" : "[", min, ", ", max, open_max ? ")" : "]");
  }
  if (low) return absl::StrCat(what, open_min ? " above " : " of at least ", min);
  if (high) return absl::StrCat(what, open_max ? " below " : " of at most ", max);
  return "a finite number";
}

Settings Complete(absl::Span<const SettingDef> defs, const Settings& given, absl::string_view where,
                  Problems* problems) {
  const auto refuse = [&](absl::string_view name, std::string what) {
    problems->Add(Reason::kInvalidSpec, absl::StrCat(where, ".", name), std::move(what));
  };
  Settings out;
  for (const SettingDef& def : defs) {
    out[def.name] = def.fallback;
    if (std::isnan(def.fallback) && given.count(def.name) == 0) {
      refuse(def.name, absl::StrCat("is required: ", def.range.ToString()));
    }
  }
  for (const auto& [name, value] : given) {
    const auto* def = std::find_if(defs.begin(), defs.end(),
                                   [&name = name](const SettingDef& d) { return name == d.name; });
    if (def == defs.end()) {
      const auto add_name = [](std::string* text, const SettingDef& d) { text->append(d.name); };
      refuse(name, defs.empty() ? "there is no such setting, nor any other"
                                : absl::StrCat("there is no such setting, only ",
                                               absl::StrJoin(defs, ", ", add_name)));
    } else if (!def->range.Holds(value)) {
      refuse(name, absl::StrCat("got ", value, ", expected ", def->range.ToString()));
    } else {
      out[name] = value;
    }
  }
  return out;
}

}  // namespace gradwire
