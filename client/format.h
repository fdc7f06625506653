// File: format.h
//
// Tensors as text for people.
//
//   std::cout << r->value;                                     // 39
//   FormatTensor(Tensor::FromVector<double>({2, 2}, {1, 2, 3, 4.5}))
//   // [[  1,   2],
//   //  [  3, 4.5]]
//
// Thread-safety: pure functions.
#ifndef GRADWIRE_CLIENT_FORMAT_H_
#define GRADWIRE_CLIENT_FORMAT_H_

#include <cstdint>
#include <ostream>
#include <string>

#include "engine/tensor/tensor.h"

namespace gradwire {

struct TensorFormat {
  // Columns already used in the line; further lines are indented by them.
  int indent = 0;
  // Longest line, as far as single elements allow.
  int width = 100;
  // Tensors of more elements are summarised: three at each end of an axis.
  int64_t summarise_above = 1000;
};

// A scalar is written with the fewest digits that give it back exactly; in arrays, columns are
// aligned and DOUBLE numbers have up to 8 significant digits, as in NumPy.
std::string FormatTensor(const TensorView& tensor, const TensorFormat& format = {});

std::ostream& operator<<(std::ostream& out, const TensorView& tensor);

// The fewest digits that give the number back exactly: 39, 0.1, 1e+30, nan, inf, -inf.
std::string FormatNumber(double number);

}  // namespace gradwire

#endif  // GRADWIRE_CLIENT_FORMAT_H_
