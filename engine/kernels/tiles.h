// File: tiles.h
//
// The loops of pointwise ops, each over a run of consecutive elements, vectorised for the CPU found
// at run time (Highway's and SLEEF's functions; f32 and f64) with plain loops for integers and
// booleans. A row of the op table names its tile: `.lowering = Pointwise{tiles::Exp}`.
//
// Every function here picks the loop for given element types: null where there is none. A loop may
// run in place (out == in[k]), reads and writes exactly n elements, needs no more than the element
// type's own alignment, and gives an element the same bits wherever it lies in the run.
// Booleans are bytes 0 or 1. Comparisons, Not, And, Or give booleans.
// Accuracy: 1 ULP or better for transcendental functions; NaN, infinities and denormals as in libm.
// Thread-safety: pure functions.
#ifndef GRADWIRE_ENGINE_KERNELS_TILES_H_
#define GRADWIRE_ENGINE_KERNELS_TILES_H_

#include "engine/graph/op_def.h"

namespace gradwire::tiles {

using Types = absl::Span<const DType>;

// Arithmetic; integers wrap, integer division by zero gives 0.
TileFn Add(Types in, DType out);
TileFn Sub(Types in, DType out);
TileFn Mul(Types in, DType out);
TileFn Div(Types in, DType out);
TileFn Min(Types in, DType out);  // NaN if either is
TileFn Max(Types in, DType out);
TileFn Pow(Types in, DType out);
TileFn Neg(Types in, DType out);
TileFn Abs(Types in, DType out);
TileFn Sign(Types in, DType out);  // NaN at NaN, 0 at 0
TileFn Sqrt(Types in, DType out);
TileFn Reciprocal(Types in, DType out);
// Transcendental: FLOAT and DOUBLE.
TileFn Exp(Types in, DType out);
TileFn Expm1(Types in, DType out);
TileFn Log(Types in, DType out);
TileFn Log1p(Types in, DType out);
TileFn Sin(Types in, DType out);
TileFn Cos(Types in, DType out);
TileFn Tan(Types in, DType out);
TileFn Asin(Types in, DType out);
TileFn Acos(Types in, DType out);
TileFn Atan(Types in, DType out);
TileFn Sinh(Types in, DType out);
TileFn Cosh(Types in, DType out);
TileFn Asinh(Types in, DType out);
TileFn Acosh(Types in, DType out);
TileFn Atanh(Types in, DType out);
TileFn Tanh(Types in, DType out);
TileFn Erf(Types in, DType out);
TileFn Sigmoid(Types in, DType out);   // 1/(1+exp(-x)), no overflow for any x
TileFn Softplus(Types in, DType out);  // log(1+exp(x)) as max(x,0) + log1p(exp(-|x|))
TileFn Relu(Types in, DType out);      // NaN stays NaN; Relu(-0) = 0
// Comparisons: two equal numeric types (Equal: booleans too) -> BOOL.
TileFn Equal(Types in, DType out);
TileFn Less(Types in, DType out);
TileFn LessOrEqual(Types in, DType out);
TileFn Greater(Types in, DType out);
TileFn GreaterOrEqual(Types in, DType out);
TileFn Not(Types in, DType out);
TileFn And(Types in, DType out);
TileFn Or(Types in, DType out);
// in = {BOOL, T, T} -> T, every dtype.
TileFn Where(Types in, DType out);
// Any numeric or boolean type to any other; floating to integer truncates and saturates (NaN: 0);
// to boolean is `!= 0` (NaN: true).
TileFn Cast(Types in, DType out);
// A copy, every dtype.
TileFn Identity(Types in, DType out);

// Fills `out` with n copies of the element at `in`.
void Splat(const void* in, void* out, int64_t n, int64_t element_bytes);

}  // namespace gradwire::tiles

#endif  // GRADWIRE_ENGINE_KERNELS_TILES_H_
