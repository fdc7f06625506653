#include "server/store/page.h"

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status.h"

namespace gradwire::store {

absl::StatusOr<Page> PageOf(int page_size, const std::string& page_token) {
  constexpr int kMaxPageSize = 1000;
  Page page;
  if (page_size < 0) return Error(Reason::kInvalidSpec, "page_size: expected 0 or more");
  if (page_size > 0) page.size = std::min(page_size, kMaxPageSize);
  if (!page_token.empty() && (!absl::SimpleAtoi(page_token, &page.before) || page.before <= 0)) {
    return Error(Reason::kInvalidSpec, "page_token: is not one that this server gave");
  }
  return page;
}

std::string NextPageToken(const Page& page, const std::vector<Resource>& rows) {
  return static_cast<int>(rows.size()) == page.size ? absl::StrCat(rows.back().serial) : "";
}

}  // namespace gradwire::store
