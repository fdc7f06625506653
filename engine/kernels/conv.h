// File: conv.h
//
// Convolutions and their gradients on the matrix product of matmul.h. Private to engine/kernels;
// own_provider.h says what it accepts.
#ifndef GRADWIRE_ENGINE_KERNELS_CONV_H_
#define GRADWIRE_ENGINE_KERNELS_CONV_H_

#include <optional>

#include "engine/exec/kernel.h"

namespace gradwire {

// A kernel for any convolution (IsConvolution) of FLOAT or DOUBLE without an empty operand; nullopt
// for other calls.
std::optional<Proposal> ProposeConvolution(const PrimitiveCall& call);

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_KERNELS_CONV_H_
