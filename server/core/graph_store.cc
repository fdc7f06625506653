#include "server/core/graph_store.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "engine/base/status.h"
#include "proto/codec/time_codec.h"
#include "server/core/pipeline.h"
#include "server/jobs/model_source.h"
#include "server/store/once.h"
#include "server/store/page.h"

namespace gradwire::server {
namespace {

using store::Kind;
using store::Resource;
using store::Store;

constexpr char kPrefix[] = "graphs/";
constexpr size_t kMaxDisplayNameBytes = 256;
constexpr size_t kMaxFound = 1024;

absl::Status NotFound(const std::string& name) {
  return Error(Reason::kNotFound, absl::StrCat("there is no ", name.substr(0, 128),
                                               "; CreateGraph and ListGraphs say which there are"));
}

// Names are not secret, and one that is not well-formed names nothing.
absl::StatusOr<std::string> DigestIn(const std::string& name) {
  absl::string_view digest = name;
  if (!absl::ConsumePrefix(&digest, kPrefix) || !store::IsBlobDigest(digest)) return NotFound(name);
  return std::string(digest);
}

absl::StatusOr<v1::Graph> GraphOf(const Resource& resource) {
  v1::Graph graph;
  if (graph.ParseFromString(resource.bytes)) return graph;
  return Error(Reason::kCorruptData,
               absl::StrCat("the record of ", kPrefix, resource.id, " does not parse"));
}

bool HasPassed(int64_t expires) {
  return expires != 0 && expires <= absl::ToUnixSeconds(absl::Now());
}
bool Expired(const Resource& resource) { return HasPassed(resource.expires); }

absl::Status CheckRequest(const v1::CreateGraphRequest& request) {
  Problems problems;
  if (HasUnknownFields(request)) {
    problems.Add(Reason::kInvalidSpec, "request", "has a field that this server does not know");
  }
  if (request.display_name().size() > kMaxDisplayNameBytes) {
    problems.Add(Reason::kInvalidSpec, "display_name",
                 absl::StrCat("got ", request.display_name().size(), " bytes, expected at most ",
                              kMaxDisplayNameBytes));
  }
  if (request.has_ttl() && codec::DurationOf(request.ttl()) <= absl::ZeroDuration()) {
    problems.Add(Reason::kInvalidSpec, "ttl", "expected a positive duration");
  }
  return problems.ToStatus();
}

}  // namespace

absl::StatusOr<std::string> GraphStore::Derive(const v1::DerivativeOf& of, Call& call) {
  static constexpr std::pair<v1::DerivativeOf::Kind, Computation::Kind> kKinds[] = {
      {v1::DerivativeOf::GRADIENT, Computation::kGradient},
      {v1::DerivativeOf::VJP, Computation::kVjp},
      {v1::DerivativeOf::JVP, Computation::kJvp},
      {v1::DerivativeOf::HVP, Computation::kHvp}};
  const auto* kind = std::find_if(std::begin(kKinds), std::end(kKinds),
                                  [&](const auto& k) { return k.first == of.kind(); });
  if (kind == std::end(kKinds)) {
    return Error(Reason::kInvalidSpec,
                 absl::StrCat("derivative_of.kind: got ", static_cast<int>(of.kind()),
                              ", expected GRADIENT, VJP, JVP or HVP"));
  }
  Pipeline p(engine_, this, /*max_message_bytes=*/0, call, PartsOf(of));
  GW_RETURN_IF_ERROR(p.Load());
  Computation computation{.kind = kind->second, .outputs = {}, .wrt = {}};
  if (!of.output().empty()) computation.outputs = {of.output()};
  computation.wrt.assign(of.wrt().begin(), of.wrt().end());
  if (computation.wrt.empty() && computation.kind == Computation::kJvp) {
    computation.wrt = DefaultWrt(p.model(), p.inputs());
  }
  return p.Export(std::move(computation));
}

absl::Status GraphStore::CreateGraph(const v1::CreateGraphRequest& request, v1::Graph* response,
                                     Call& call) {
  GW_RETURN_IF_ERROR(CheckRequest(request));
  bool answered = false;
  GW_RETURN_IF_ERROR(store_.Read([&](Store::Snapshot& s) -> absl::Status {
    GW_ASSIGN_OR_RETURN(answered, store::FindAnswer(s, "CreateGraph", request, response));
    return absl::OkStatus();
  }));
  if (answered) return absl::OkStatus();
  ModelFormat format = ModelFormat::kOnnx;
  std::string derivative;
  const std::string* bytes = &derivative;
  if (request.has_derivative_of()) {
    GW_ASSIGN_OR_RETURN(derivative, Derive(request.derivative_of(), call));
  } else {
    GW_ASSIGN_OR_RETURN(const jobs::ModelSource source,
                        jobs::SourceOf(request.model(), "onnx, text and expression"));
    format = source.format;
    bytes = source.bytes;
    GW_RETURN_IF_ERROR(engine_.LoadModel(format, *bytes, {}).status());
  }
  const std::string digest = store::BlobDigest(*bytes);
  v1::Graph graph;
  graph.set_name(kPrefix + digest);
  graph.set_display_name(request.display_name());
  graph.set_bytes(static_cast<int64_t>(bytes->size()));
  *graph.mutable_create_time() = codec::ToProto(absl::Now());
  if (request.has_ttl()) {
    *graph.mutable_expire_time() = codec::ToProto(absl::Now() + codec::DurationOf(request.ttl()));
  }
  if (request.validate_only()) {
    *response = std::move(graph);
    return absl::OkStatus();
  }
  // Nobody may delete the blob between its being put and its being named.
  const store::BlobStore::Hold hold(&blobs_);
  Forget(digest);
  GW_RETURN_IF_ERROR(blobs_.Put(*bytes).status());
  return store::Once(
      store_, "CreateGraph", request, response, [&](Store::Transaction& t) -> absl::Status {
        GW_ASSIGN_OR_RETURN(const auto known, t.Get(Kind::kGraph, digest));
        if (known && !Expired(*known)) {
          GW_ASSIGN_OR_RETURN(v1::Graph before, GraphOf(*known));
          const bool for_ever = !before.has_expire_time() || !graph.has_expire_time();
          if (for_ever) before.clear_expire_time();
          if (!for_ever &&
              codec::TimeOf(before.expire_time()) < codec::TimeOf(graph.expire_time())) {
            *before.mutable_expire_time() = graph.expire_time();
          }
          graph = std::move(before);
        }
        int64_t expires = 0;
        if (graph.has_expire_time()) {
          expires = std::max<int64_t>(absl::ToUnixSeconds(codec::TimeOf(graph.expire_time())), 1);
        }
        *response = graph;
        return t.Put({.kind = Kind::kGraph,
                      .id = digest,
                      .state = static_cast<int>(format),
                      .expires = expires,
                      .bytes = graph.SerializeAsString(),
                      .blobs = {digest}});
      });
}

absl::StatusOr<KeptGraph> GraphStore::Find(const std::string& name) {
  GW_ASSIGN_OR_RETURN(const std::string digest, DigestIn(name));
  {
    absl::MutexLock lock(&mutex_);
    const auto known = found_.find(digest);
    if (known != found_.end() && !HasPassed(known->second.expires)) return known->second.graph;
  }
  std::optional<Resource> resource;
  GW_RETURN_IF_ERROR(store_.Read([&](Store::Snapshot& snapshot) -> absl::Status {
    GW_ASSIGN_OR_RETURN(resource, snapshot.Get(Kind::kGraph, digest));
    return absl::OkStatus();
  }));
  if (!resource || Expired(*resource)) return NotFound(name);
  GW_ASSIGN_OR_RETURN(auto blob, blobs_.Get(digest));
  KeptGraph graph{static_cast<ModelFormat>(resource->state), std::move(blob)};
  absl::MutexLock lock(&mutex_);
  if (found_.size() >= kMaxFound) found_.clear();
  found_[digest] = {graph, resource->expires};
  return graph;
}

void GraphStore::Forget(const std::string& digest) {
  absl::MutexLock lock(&mutex_);
  found_.erase(digest);
}

absl::Status GraphStore::GetGraph(const v1::GetGraphRequest& request, v1::Graph* response, Call&) {
  GW_ASSIGN_OR_RETURN(const std::string digest, DigestIn(request.name()));
  GW_RETURN_IF_ERROR(store_.Read([&](Store::Snapshot& snapshot) -> absl::Status {
    GW_ASSIGN_OR_RETURN(const auto resource, snapshot.Get(Kind::kGraph, digest));
    if (!resource || Expired(*resource)) return NotFound(request.name());
    GW_ASSIGN_OR_RETURN(*response, GraphOf(*resource));
    return absl::OkStatus();
  }));
  if (request.view() != v1::FULL) return absl::OkStatus();
  GW_ASSIGN_OR_RETURN(const KeptGraph kept, Find(request.name()));
  jobs::SetSource(kept.format, std::string(kept.bytes->bytes()), response->mutable_model());
  return absl::OkStatus();
}

absl::Status GraphStore::ListGraphs(const v1::ListGraphsRequest& request,
                                    v1::ListGraphsResponse* response, Call&) {
  GW_ASSIGN_OR_RETURN(const store::Page page,
                      store::PageOf(request.page_size(), request.page_token()));
  return store_.Read([&](Store::Snapshot& snapshot) -> absl::Status {
    GW_ASSIGN_OR_RETURN(const auto rows, snapshot.List(Kind::kGraph, page.before, page.size, {}));
    for (const Resource& row : rows) {
      if (Expired(row)) continue;
      GW_ASSIGN_OR_RETURN(*response->add_graphs(), GraphOf(row));
    }
    response->set_next_page_token(store::NextPageToken(page, rows));
    return absl::OkStatus();
  });
}

absl::Status GraphStore::DeleteGraph(const v1::DeleteGraphRequest& request,
                                     google::protobuf::Empty* response, Call&) {
  GW_ASSIGN_OR_RETURN(const std::string digest, DigestIn(request.name()));
  GW_RETURN_IF_ERROR(store::Once(
      store_, "DeleteGraph", request, response, [&](Store::Transaction& t) -> absl::Status {
        GW_ASSIGN_OR_RETURN(const auto known, t.Get(Kind::kGraph, digest));
        if (!known) return NotFound(request.name());
        return t.Delete(Kind::kGraph, digest);
      }));
  Forget(digest);
  store::DeleteUnused(store_, blobs_, digest).IgnoreError();  // else at the next start
  return absl::OkStatus();
}

}  // namespace gradwire::server
