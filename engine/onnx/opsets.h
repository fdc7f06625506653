// The opsets of ONNX that a model may import: one place for import, capabilities and docs.
#ifndef GRADWIRE_ENGINE_ONNX_OPSETS_H_
#define GRADWIRE_ENGINE_ONNX_OPSETS_H_

namespace gradwire {

inline constexpr int kMinOpset = 6;
inline constexpr int kMaxOpset = 23;

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_ONNX_OPSETS_H_
