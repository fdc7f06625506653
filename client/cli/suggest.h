// File: suggest.h
//
// What a misspelt word may have been meant to be.
//
//   ClosestTo("vetor", {"vector", "wrt"})   // "vector"
#ifndef GRADWIRE_CLIENT_CLI_SUGGEST_H_
#define GRADWIRE_CLIENT_CLI_SUGGEST_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace gradwire::cli {

// The candidate with the fewest differing letters, or "" where none comes near.
std::string ClosestTo(absl::string_view word, const std::vector<std::string>& candidates);

}  // namespace gradwire::cli

#endif  // GRADWIRE_CLIENT_CLI_SUGGEST_H_
