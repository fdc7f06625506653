// The op table: the concatenation of the family tables. Everything that lists ops computes it here.
#ifndef GRADWIRE_ENGINE_OPS_ALL_OPS_H_
#define GRADWIRE_ENGINE_OPS_ALL_OPS_H_

#include "engine/graph/op_def.h"

namespace gradwire {

const OpRegistry& AllOps();

// One function a family file: its rows.
std::vector<const OpDef*> ElementwiseOps();
std::vector<const OpDef*> LogicalOps();
std::vector<const OpDef*> ActivationOps();
std::vector<const OpDef*> ReductionOps();
std::vector<const OpDef*> SoftmaxOps();
std::vector<const OpDef*> LinalgOps();
std::vector<const OpDef*> FactorOps();
std::vector<const OpDef*> GammaOps();
std::vector<const OpDef*> EinsumOps();
std::vector<const OpDef*> AttentionOps();
std::vector<const OpDef*> ConvOps();
std::vector<const OpDef*> PoolOps();
std::vector<const OpDef*> SumPoolOps();
std::vector<const OpDef*> NormalizationOps();
std::vector<const OpDef*> ShapeOps();
std::vector<const OpDef*> IndexingOps();
std::vector<const OpDef*> RandomOps();
std::vector<const OpDef*> RecurrentOps();
std::vector<const OpDef*> ControlFlowOps();
std::vector<const OpDef*> SequenceOps();

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_OPS_ALL_OPS_H_
