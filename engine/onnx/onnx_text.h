// File: onnx_text.h
//
// Reads a model written in ONNX's textual syntax (onnx.parser's language, ONNX docs/Syntax.md):
//
//   absl::StatusOr<onnx::ModelProto> model = ParseOnnxText(R"(
//     <ir_version: 8, opset_import: ["" : 17]>
//     seed (double x, double y) => (double f) {
//       two = Constant <value = double {2}> ()
//       x2 = Pow(x, two)
//       f = Mul(x2, y)       # a comment ends with its line
//     })");
//
// A type without brackets is a scalar (`double x` has rank 0), `double[]` has an unknown rank, and
// `double[N, ?, 3]` has the dimensions named, unknown and 3. `""` in a list of inputs leaves that
// input out. Attributes stand before or after the inputs, with or without a type
// (`alpha: float = 1`). After the graph follow the model's local functions.
//
// The result is what onnx.parser makes of the same text, with these differences:
//   - A text that starts with its graph, without a `<...>` header, gets ir_version 8 and opset 17.
//   - Lists of tensors, graphs and types, which onnx.parser drops, are kept; a list that mixes
//     integers and floats is a list of floats.
//   - Values are checked where onnx.parser trusts them: an integer must fit its element type, a
//     tensor must have as many values as its shape says, braces must follow a tensor's type.
//   - Type annotations of a function's inputs and values are read and left out; default values of
//     function attributes, overloads and opaque types are refused: onnx.proto, as installed, has no
//     place for them.
// Only the syntax is read here: whether operators, names and types make sense is the import's task.
//
// Errors: INVALID_MODEL, as in
//
//   line 4, column 6: got ':', expected '='
//     x2 : Pow(x, two)
//        ^
//
// GRAPH_TOO_LARGE where there are more than `max_nodes` nodes, or far more names, attributes and
// values than so many nodes have: text grows many times over when it becomes messages.
//
// Cost: linear in the text. Graphs inside attributes and types inside types nest at most
// kMaxTextNesting deep. Any bytes may be passed in.
//
// Thread-safety: pure functions.
#ifndef GRADWIRE_ENGINE_ONNX_ONNX_TEXT_H_
#define GRADWIRE_ENGINE_ONNX_ONNX_TEXT_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/onnx/text_scanner.h"
#include "onnx/onnx.pb.h"

namespace gradwire {

inline constexpr int kMaxTextNesting = 16;

// Reads one model; see above. `max_nodes` counts all nodes, those of functions and of graphs in
// attributes too.
absl::StatusOr<onnx::ModelProto> ParseOnnxText(absl::string_view text,
                                               int64_t max_nodes = kDefaultMaxNodes);

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_ONNX_ONNX_TEXT_H_
