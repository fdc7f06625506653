// File: analysis_core.h
//
// AnalysisCore: AnalyzeGraph without its transport. graph_service.proto says what it means.
// Nothing is run. Thread-safety: every method may be called from any thread.
#ifndef GRADWIRE_SERVER_CORE_ANALYSIS_CORE_H_
#define GRADWIRE_SERVER_CORE_ANALYSIS_CORE_H_

#include "engine/engine.h"
#include "gradwire/v1/graph_service.pb.h"
#include "server/core/call.h"
#include "server/core/graph_store.h"

namespace gradwire::server {

class AnalysisCore {
 public:
  AnalysisCore(Engine* engine, GraphStore* graphs) : engine_(*engine), graphs_(graphs) {}

  absl::Status AnalyzeGraph(const v1::AnalyzeGraphRequest& request,
                            v1::AnalyzeGraphResponse* response, Call& call);
  bool IsQuick(const v1::AnalyzeGraphRequest&, Call&) const { return false; }  // it compiles

 private:
  Engine& engine_;
  GraphStore* const graphs_;
};

}  // namespace gradwire::server

#endif  // GRADWIRE_SERVER_CORE_ANALYSIS_CORE_H_
