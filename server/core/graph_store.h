// File: graph_store.h
//
// GraphStore: graphs that are kept by name, "graphs/{sha256}", so that calls need not send them
// again. The name is the digest of the content: a graph never changes, and keeping one twice keeps
// it once.
//
//   GW_RETURN_IF_ERROR(graphs.Create(request, &graph, call));
//   GW_ASSIGN_OR_RETURN(KeptGraph kept, graphs.Find("graphs/3f2c..."));
//   engine.LoadModel(kept.format, kept.bytes->bytes(), inputs);
//
// proto/gradwire/v1/graph_service.proto says what each rpc means. Thread-safety: every method may
// be called from any thread.
#ifndef GRADWIRE_SERVER_CORE_GRAPH_STORE_H_
#define GRADWIRE_SERVER_CORE_GRAPH_STORE_H_

#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "engine/engine.h"
#include "google/protobuf/empty.pb.h"
#include "gradwire/v1/graph_service.pb.h"
#include "server/core/call.h"
#include "server/store/blob_store.h"
#include "server/store/store.h"

namespace gradwire::server {

struct KeptGraph {
  ModelFormat format = ModelFormat::kOnnx;
  std::shared_ptr<const store::Blob> bytes;
};

class GraphStore {
 public:
  // All outlive the object.
  GraphStore(Engine* engine, store::Store* store, store::BlobStore* blobs)
      : engine_(*engine), store_(*store), blobs_(*blobs) {}

  absl::Status CreateGraph(const v1::CreateGraphRequest& request, v1::Graph* response, Call& call);
  absl::Status GetGraph(const v1::GetGraphRequest& request, v1::Graph* response, Call& call);
  absl::Status ListGraphs(const v1::ListGraphsRequest& request, v1::ListGraphsResponse* response,
                          Call& call);
  absl::Status DeleteGraph(const v1::DeleteGraphRequest& request, google::protobuf::Empty* response,
                           Call& call);
  template <typename Request>
  bool IsQuick(const Request&, Call&) const {
    return false;  // they touch the disk
  }

  // Errors: NOT_FOUND, also where its time has passed; CORRUPT_DATA.
  absl::StatusOr<KeptGraph> Find(const std::string& name);

 private:
  struct Found {
    KeptGraph graph;
    int64_t expires;
  };
  void Forget(const std::string& digest);
  // The derivative as the bytes of an ONNX model.
  absl::StatusOr<std::string> Derive(const v1::DerivativeOf& of, Call& call);

  Engine& engine_;
  store::Store& store_;
  store::BlobStore& blobs_;
  absl::Mutex mutex_;
  // What was found lately: small calls do not wait for the disk.
  absl::flat_hash_map<std::string, Found> found_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace gradwire::server

#endif  // GRADWIRE_SERVER_CORE_GRAPH_STORE_H_
