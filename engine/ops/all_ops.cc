#include "engine/ops/all_ops.h"

namespace gradwire {

const OpRegistry& AllOps() {
  static const OpRegistry* const registry = [] {
    std::vector<const OpDef*> rows;
    for (auto* family :
         {ElementwiseOps, LogicalOps, ActivationOps, ReductionOps,     SoftmaxOps,
          LinalgOps,      FactorOps,  GammaOps,      EinsumOps,        AttentionOps,
          ConvOps,        PoolOps,    SumPoolOps,    NormalizationOps, ShapeOps,
          IndexingOps,    RandomOps,  RecurrentOps,  ControlFlowOps,   SequenceOps}) {
      for (const OpDef* row : family()) rows.push_back(row);
    }
    return new OpRegistry(std::move(rows));
  }();
  return *registry;
}

}  // namespace gradwire
