// File: convolution.h
//
// Convolutions and their gradients by oneDNN. Private to engine/onednn; provider.h says what is
// accepted.
#ifndef GRADWIRE_ENGINE_ONEDNN_CONVOLUTION_H_
#define GRADWIRE_ENGINE_ONEDNN_CONVOLUTION_H_

#include <dnnl.hpp>
#include <optional>

#include "engine/exec/kernel.h"

namespace gradwire::onednn {

// `slots` calls may run side by side without allocations.
std::optional<Proposal> ProposeConvolution(const dnnl::engine& engine, int slots,
                                           const PrimitiveCall& call);

}  // namespace gradwire::onednn

#endif  // GRADWIRE_ENGINE_ONEDNN_CONVOLUTION_H_
