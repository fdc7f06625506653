#include "server/rpc/service.h"

#include "absl/strings/str_cat.h"

namespace gradwire::rpc {

const std::string& Service::AddPath(const std::string& rpc,
                                    grpc::internal::RpcMethod::RpcType type) {
  const std::string& path = paths_.emplace_back(absl::StrCat("/", name_, "/", rpc));
  AddMethod(new grpc::internal::RpcServiceMethod(path.c_str(), type, nullptr));
  return path;
}

void Service::SetHandler(grpc::internal::MethodHandler* handler) {
  MarkMethodRawCallback(static_cast<int>(paths_.size()) - 1, handler);
}

}  // namespace gradwire::rpc
