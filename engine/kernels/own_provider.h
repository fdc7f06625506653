// File: own_provider.h
//
// Gradwire's own kernels for primitives, in FLOAT and DOUBLE, compiled for each instruction set.
//
//   std::unique_ptr<KernelProvider> own = MakeOwnProvider();
//   std::optional<Proposal> p = own->Propose(call);
//
// MatMul: in[0] [...,M,K] and in[1] [...,K,N] of rank 2 or more, batch extents broadcast as NumPy
//   does; any strides, also 0 and negative ones; a bias [N]; every PostOp. Each element sums its K
//   products in ascending order, in blocks of 256 that are then added in order: its bits never
//   depend on M, N, strides, threads or scratch. K = 0 gives zeros (then bias and PostOp). Scratch
//   is at most about 2.3 MiB a thread.
// Conv, ConvInputGrad, ConvWeightGrad: one to three spatial dimensions, every stride, padding,
//   dilation and group; Conv with a bias [M] and every PostOp. Inputs that are not dense are asked
//   for in dense form. Windows are laid out as the columns of a matrix, block by block, and
//   multiplied as above; groups of fewer than four output channels (depthwise ones) are summed in
//   place. Bits depend on the shapes and the instruction set only, never on threads. A product of
//   padding and an infinite weight is NaN. Empty operands are declined. Scratch is at most about
//   2.6 MiB a thread.
//
// Run allocates nothing. Thread-safety: immutable.
#ifndef GRADWIRE_ENGINE_KERNELS_OWN_PROVIDER_H_
#define GRADWIRE_ENGINE_KERNELS_OWN_PROVIDER_H_

#include <memory>

#include "engine/exec/kernel.h"

namespace gradwire {

// The provider "own". Its version changes whenever its results may change in the last bit.
std::unique_ptr<KernelProvider> MakeOwnProvider();

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_KERNELS_OWN_PROVIDER_H_
