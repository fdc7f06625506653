// File: values.h
//
// The VALUE of NAME=VALUE: a number, a nested list, or @FILE.
//
//   ParseValue("[[1,2],[3,4]]", DType::kFloat, "x")     // FLOAT[2,2]
//   ReadValue({"x", "@x.npy"}, DType::kFloat, /*keep_bool=*/false)
#ifndef GRADWIRE_CLIENT_CLI_VALUES_H_
#define GRADWIRE_CLIENT_CLI_VALUES_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "client/cli/arguments.h"
#include "engine/tensor/tensor.h"

namespace gradwire::cli {

// A number, true, false, or lists of them nested to at most the largest rank, all of one shape.
// Integers of 64 bits are exact. Errors: INVALID_ARGUMENT, with the column within VALUE.
absl::StatusOr<Tensor> ParseValue(absl::string_view text, DType dtype, absl::string_view name);

// The array in a file, by the end of its name: .npy, .npz, .safetensors, .csv. Of several arrays,
// the one called `array` or, where that is empty, `name`, or the only one.
absl::StatusOr<Tensor> ReadTensorFile(const std::string& path, const std::string& array,
                                      absl::string_view name);

// The tensor of an assignment as `dtype`. With keep_bool, a file's BOOL stays BOOL.
absl::StatusOr<Tensor> ReadValue(const Assignment& assignment, DType dtype, bool keep_bool);

}  // namespace gradwire::cli

#endif  // GRADWIRE_CLIENT_CLI_VALUES_H_
