// File: provider.h
//
// Kernels from oneDNN (libdnnl), for the CPU found at run time. This is all that the rest of the
// engine sees of the library.
//
// MatMul, FLOAT only (oneDNN has no f64 on CPU):
//   in[0] [..., M, K] x in[1] [..., K, N] (+ in[2] [N], the bias) -> [..., M, N]
// - Ranks are at least 2; batch dimensions broadcast as in NumPy. Batch dimensions that the layouts
//   allow are merged, and folded into M where the right side has none: [B,T,K] x [K,N] is one
//   product of B*T rows.
// - A matrix is taken as it lies if its rows or its columns are contiguous and do not overlap (so
//   transposed operands cost nothing). Any other one is asked for in dense form through
//   Proposal::wants_dense.
// - Bias, Relu, Tanh and Sigmoid are applied in the same call. Tanh and Sigmoid are oneDNN's: 3e-7
//   from the true value, relative to it (Sigmoid on CPUs without FMA 4e-6; 0 where the true value
//   is below 2^-126). Relu is ours, because oneDNN's makes NaN a 0: NaN stays NaN, Relu(-0) = 0.
// - NaN and infinities propagate as in the plain sum of products (0 * Inf is NaN); the order of the
//   sum is oneDNN's. Equal calls with equal inputs give equal bits, on any thread.
// - Declined: other types, an extent of 0, whatever oneDNN would compute with its reference code,
//   and products of M*K*N <= 512 (of one batch entry), which a plain loop finishes before oneDNN
//   has started.
//
// Up to AVX2, products with a short side copy an operand whose lines lie a multiple of 2 KiB apart
// (N = 512 or 1024, say) into scratch memory first: oneDNN alone runs them at half to two thirds of
// its speed. The copy is part of Proposal::scratch_bytes.
//
// Conv, ConvInputGrad, ConvWeightGrad, FLOAT only, one to three dimensions, groups:
// - Operands are dense (Proposal::wants_dense). The library chooses the formats it computes in;
//   operands are brought into them, and the result out of them, in scratch memory, within the step.
// - Conv takes a bias [M] and every PostOp along, with the accuracy said above.
// - Products with padding are left out, so that an infinite weight there makes no NaN.
// - Declined: whatever oneDNN would compute through a matrix product or with its reference code,
//   kernels of one point, a single input channel, padding as wide as the kernel, empty operands.
//
// Cost: Propose builds the primitive, up to 2 ms when its code is new to the process, 10 us once
// the library has cached it. Run adds 0.6 us to the product itself. It allocates nothing of ours in
// the steady state, that is when no more calls run side by side than did before (or than twice the
// machine's threads); libdnnl allocates a little by itself.
//
// Thread-safety: all of it. A primitive is built for call.threads threads; Run takes as many of the
// calling thread's OpenMP team, and leaves the thread's team size as it was.
//
//   std::unique_ptr<KernelProvider> onednn = MakeOneDnnProvider();
//   std::optional<Proposal> p = onednn->Propose(call);
//   if (p.has_value()) absl::Status s = p->kernel->Run(in, out, scratch, call.threads);
#ifndef GRADWIRE_ENGINE_ONEDNN_PROVIDER_H_
#define GRADWIRE_ENGINE_ONEDNN_PROVIDER_H_

#include <memory>
#include <string>

#include "engine/exec/kernel.h"

namespace gradwire {

std::unique_ptr<KernelProvider> MakeOneDnnProvider();

// Of the library that runs, which may be newer than the one compiled against: "2.6.3".
std::string OneDnnVersion();
// The instruction set that oneDNN generates code for: "avx2", "avx512_core". Kernels built for
// another one may round differently.
std::string OneDnnIsa();

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_ONEDNN_PROVIDER_H_
