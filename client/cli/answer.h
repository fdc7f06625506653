// File: answer.h
//
// Answer: what a command found out, before it is rendered as text or as JSON.
#ifndef GRADWIRE_CLIENT_CLI_ANSWER_H_
#define GRADWIRE_CLIENT_CLI_ANSWER_H_

#include <optional>
#include <string>
#include <vector>

#include "client/client.h"
#include "client/named_tensors.h"

namespace gradwire::cli {

// What the parts of a block are called.
struct BlockNames {
  const char* symbol;                       // in text: "J", "H"
  const char *list, *row, *column, *block;  // in JSON
};
inline constexpr BlockNames kJacobianNames = {"J", "jacobians", "output", "wrt", "jacobian"};
inline constexpr BlockNames kHessianNames = {"H", "hessians", "row", "column", "hessian"};

struct Answer {
  // Name of the differentiated output in text: f in df/dx.
  std::string value_name;
  std::optional<Tensor> value;
  std::optional<NamedTensors> outputs;
  std::optional<NamedTensors> gradients;
  // The K results of vjp, jvp and hvp.
  std::vector<NamedTensors> vectors;
  const char* vectors_key = "";     // in JSON: "gradients", "tangents", "products"
  const char* vectors_symbol = "";  // in text: "J'", "J", "H"
  // Of jacobian and hessian: by rows, each with the same columns.
  std::vector<Block> blocks;
  const BlockNames* block_names = nullptr;
  CallInfo info;
};

}  // namespace gradwire::cli

#endif  // GRADWIRE_CLIENT_CLI_ANSWER_H_
