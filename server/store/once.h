// Once: a mutating rpc has one effect and one answer for each request_id.
//
//   return store::Once(store, "CreateDataset", request, response,
//                      [&](store::Store::Transaction& t) { ...; return absl::OkStatus(); });
//
// The effect and the answer are written together, so a server that dies in between has done
// neither. Of a request its digest is kept, of fields and maps in a fixed order. Errors are not
// kept: the call may be tried again. Without a request_id every call is a new one.
#ifndef GRADWIRE_SERVER_STORE_ONCE_H_
#define GRADWIRE_SERVER_STORE_ONCE_H_

#include <string>

#include "absl/strings/str_cat.h"
#include "engine/base/status.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"
#include "server/store/store.h"

namespace gradwire::store {

inline constexpr size_t kMaxRequestIdBytes = 128;

inline std::string RequestDigest(const google::protobuf::Message& request) {
  std::string bytes;
  {
    google::protobuf::io::StringOutputStream stream(&bytes);
    google::protobuf::io::CodedOutputStream out(&stream);
    out.SetSerializationDeterministic(true);
    request.SerializeToCodedStream(&out);
  }
  return BlobDigest(bytes);
}

// True where the request was answered before; `response` then has the answer. REQUEST_ID_REUSED
// where another request had the id.
template <typename Request, typename Response>
absl::StatusOr<bool> FindAnswer(Store::Snapshot& snapshot, const std::string& method,
                                const Request& request, Response* response) {
  const std::string& id = request.request_id();
  if (id.empty()) return false;
  if (id.size() > kMaxRequestIdBytes) {
    return Error(Reason::kInvalidSpec,
                 absl::StrCat("request_id: got ", id.size(), " bytes, expected at most ",
                              kMaxRequestIdBytes));
  }
  GW_ASSIGN_OR_RETURN(const std::optional<AnsweredRequest> known, snapshot.FindRequest(id));
  if (!known) return false;
  if (known->method != method || known->request != RequestDigest(request)) {
    return Error(Reason::kRequestIdReused,
                 absl::StrCat("request_id ", id, ": was used for another ", known->method,
                              " call; use a new one for each call that is not a repetition"));
  }
  if (!response->ParseFromString(known->response)) {
    return absl::InternalError("the stored answer does not parse");
  }
  return true;
}

template <typename Request, typename Response, typename Fn>
absl::Status Once(Store& store, const std::string& method, const Request& request,
                  Response* response, const Fn& effect) {
  return store.Write([&](Store::Transaction& t) -> absl::Status {
    GW_ASSIGN_OR_RETURN(const bool answered, FindAnswer(t, method, request, response));
    if (answered) return absl::OkStatus();
    GW_RETURN_IF_ERROR(effect(t));
    if (request.request_id().empty()) return absl::OkStatus();
    return t.PutRequest(request.request_id(),
                        {method, RequestDigest(request), response->SerializeAsString()});
  });
}

}  // namespace gradwire::store

#endif  // GRADWIRE_SERVER_STORE_ONCE_H_
