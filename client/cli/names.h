// File: names.h
//
// Names of resources, as people give them.
#ifndef GRADWIRE_CLIENT_CLI_NAMES_H_
#define GRADWIRE_CLIENT_CLI_NAMES_H_

#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "client/cli/render_json.h"

namespace gradwire::cli {

// "jobs/3f" for 3f and for jobs/3f.
inline std::string WithCollection(absl::string_view collection, absl::string_view name) {
  const std::string prefix = absl::StrCat(collection, "/");
  return absl::StartsWith(name, prefix) ? std::string(name) : absl::StrCat(prefix, name);
}

// {"deleted": ["jobs/3f"]}
inline std::string DeletedAsJson(const std::vector<std::string>& names) {
  std::string out = "{\"deleted\": [";
  const char* separator = "";
  for (const std::string& name : names) {
    absl::StrAppend(&out, separator, StringAsJson(name));
    separator = ", ";
  }
  return out + "]}";
}

}  // namespace gradwire::cli

#endif  // GRADWIRE_CLIENT_CLI_NAMES_H_
