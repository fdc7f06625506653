// Page: a page of a list of resources, as page_size and page_token of a request ask for it.
//
//   GW_ASSIGN_OR_RETURN(const Page page, PageOf(request.page_size(), request.page_token()));
//   GW_ASSIGN_OR_RETURN(const auto rows, snapshot.List(kind, page.before, page.size, {}));
//   response->set_next_page_token(NextPageToken(page, rows));
#ifndef GRADWIRE_SERVER_STORE_PAGE_H_
#define GRADWIRE_SERVER_STORE_PAGE_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/store/store.h"

namespace gradwire::store {

struct Page {
  int64_t before = 0;  // of serial numbers; 0: from the newest on
  int size = 100;
};
// INVALID_SPEC for a negative size, or a token that is none.
absl::StatusOr<Page> PageOf(int page_size, const std::string& page_token);
// Empty on the last page.
std::string NextPageToken(const Page& page, const std::vector<Resource>& rows);

}  // namespace gradwire::store

#endif  // GRADWIRE_SERVER_STORE_PAGE_H_
