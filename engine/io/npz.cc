#include "engine/io/npz.h"

#include <set>

#include "absl/strings/strip.h"
#include "engine/base/status.h"
#include "engine/io/npy.h"
#include "engine/io/zip.h"

namespace gradwire {

absl::StatusOr<std::vector<std::pair<std::string, Tensor>>> ReadNpz(absl::string_view bytes,
                                                                    int64_t max_bytes) {
  GW_ASSIGN_OR_RETURN(std::vector<ZipMember> members, ReadZip(bytes, max_bytes));
  std::vector<std::pair<std::string, Tensor>> arrays;
  std::set<std::string> names;
  for (ZipMember& member : members) {
    absl::string_view name = member.name;
    if (!absl::ConsumeSuffix(&name, ".npy")) {
      return Error(Reason::kInvalidTensor, absl::StrCat("npz: ", name, " is no .npy file"));
    }
    if (!names.insert(std::string(name)).second) {
      return Error(Reason::kInvalidTensor, absl::StrCat("npz: ", name, " comes twice"));
    }
    absl::StatusOr<Tensor> array = ReadNpy(member.bytes);
    if (!array.ok()) {
      return Error(HasReason(array.status(), Reason::kDtypeUnsupported) ? Reason::kDtypeUnsupported
                                                                        : Reason::kInvalidTensor,
                   absl::StrCat("npz: ", name, ": ", array.status().message()));
    }
    arrays.emplace_back(std::string(name), *std::move(array));
    member.bytes = std::string();  // so that no member is held twice for long
  }
  return arrays;
}

}  // namespace gradwire
