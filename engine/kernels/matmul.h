// File: matmul.h
//
// Gradwire's own matrix product, for DOUBLE (oneDNN has none on CPU) and FLOAT: packed panels and a
// register-blocked inner loop compiled for each instruction set.
//
//   std::unique_ptr<KernelProvider> own = MakeOwnProvider();
//   std::optional<Proposal> p = own->Propose(call);   // PrimitiveKind::kMatMul
//
// Accepts: in[0] [...,M,K] and in[1] [...,K,N], both FLOAT or both DOUBLE and of rank 2 or more,
// batch extents broadcast as NumPy does; any strides, also 0 and negative ones; a bias; every
// PostOp. Numerics: each element sums its K products in ascending order, in blocks of 256 that are
// then added in order. Its bits depend on K and the instruction set only, never on M, N, strides,
// threads or scratch. K = 0 gives zeros (then bias and PostOp). Cost: no allocation in Run; scratch
// is at most about 2.3 MiB per thread. Thread-safety: immutable.
#ifndef GRADWIRE_ENGINE_KERNELS_MATMUL_H_
#define GRADWIRE_ENGINE_KERNELS_MATMUL_H_

#include <memory>

#include "engine/exec/kernel.h"

namespace gradwire {

// The provider "own". Its version changes whenever its results may change in the last bit.
std::unique_ptr<KernelProvider> MakeOwnProvider();

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_KERNELS_MATMUL_H_
