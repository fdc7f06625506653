// File: pointwise_row.h
//
// What the rows of pointwise ops have in common: type rules, and reference loops made from a
// functor with a templated operator().
//
//   struct SquareFn { template <typename T> T operator()(T x) const { return x * x; } };
//   .infer = InferSameType<kFloating>, .reference = PointwiseReference<SquareFn, 1>,
//   .lowering = Pointwise{ScalarTile<SquareFn, 1>},
#ifndef GRADWIRE_ENGINE_OPS_POINTWISE_ROW_H_
#define GRADWIRE_ENGINE_OPS_POINTWISE_ROW_H_

#include <array>
#include <type_traits>
#include <utility>

#include "engine/graph/op_def.h"

namespace gradwire {

// Which element types a type rule lets through.
enum TypeClass { kFloating, kNumeric, kBoolean, kAnyType, kInteger };
bool InClass(DType dtype, TypeClass type_class);

// All inputs of one dtype of the class; the output has it too, and the broadcast shape.
template <TypeClass kClass>
absl::StatusOr<std::vector<TensorType>> InferSameType(const InferArgs& args);
// The same with a BOOL output.
template <TypeClass kClass>
absl::StatusOr<std::vector<TensorType>> InferCompare(const InferArgs& args);
absl::StatusOr<TensorType> InferBroadcast(absl::Span<const TensorType> in, TypeClass type_class);

template <TypeClass kClass>
absl::StatusOr<std::vector<TensorType>> InferSameType(const InferArgs& args) {
  GW_ASSIGN_OR_RETURN(TensorType type, InferBroadcast(args.in, kClass));
  return std::vector<TensorType>{std::move(type)};
}
template <TypeClass kClass>
absl::StatusOr<std::vector<TensorType>> InferCompare(const InferArgs& args) {
  GW_ASSIGN_OR_RETURN(TensorType type, InferBroadcast(args.in, kClass));
  type.dtype = DType::kBool;
  return std::vector<TensorType>{std::move(type)};
}

// Walks a broadcast iteration space: for each output element in row-major order, the element offset
// of every input.
class BroadcastWalk {
 public:
  BroadcastWalk(absl::Span<const TensorView> in, const Shape& out);
  int64_t offset(int input) const { return offsets_[static_cast<size_t>(input)]; }
  void Next();

 private:
  Dims extents_, index_;
  std::vector<Dims> strides_;
  std::vector<int64_t> offsets_;
};

// Calls fn(TypeTag<T>) for the numeric types that pointwise functors are instantiated with.
template <typename Fn>
bool VisitNumeric(DType dtype, Fn&& fn) {
  if (dtype == DType::kBool) return false;
  return VisitDType(dtype, [&](auto tag) {
    if constexpr (!std::is_same_v<typename decltype(tag)::type, bool>) fn(tag);
  });
}
template <typename Fn>
bool VisitInteger(DType dtype, Fn&& fn) {
  return IsInteger(dtype) && VisitDType(dtype, [&](auto tag) {
           using T = typename decltype(tag)::type;
           if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool>) fn(tag);
         });
}
template <typename Fn>
bool VisitFloating(DType dtype, Fn&& fn) {
  if (dtype == DType::kFloat) {
    fn(TypeTag<float>{});
    return true;
  }
  if (dtype == DType::kDouble) {
    fn(TypeTag<double>{});
    return true;
  }
  return false;
}

// A reference from a functor of kInputs values of one type T; Out is T unless the functor returns
// bool. kClass says which types it is instantiated for.
template <typename Fn, int kInputs, TypeClass kClass = kFloating>
absl::Status PointwiseReference(const ReferenceArgs& args) {
  auto run = [&](auto tag) {
    using T = typename decltype(tag)::type;
    BroadcastWalk walk(args.in, args.out_types[0].shape);
    const int64_t n = args.out_types[0].shape.num_elements();
    [&]<size_t... I>(std::index_sequence<I...>) {
      using Out = std::decay_t<decltype(Fn{}((static_cast<void>(I), T{})...))>;
      Out* out = static_cast<Out*>(args.out[0]);
      for (int64_t i = 0; i < n; ++i, walk.Next()) {
        out[i] = Fn{}(args.in[I].template data<T>()[walk.offset(static_cast<int>(I))]...);
      }
    }
    (std::make_index_sequence<kInputs>{});
  };
  const DType dtype = args.in[0].dtype();
  bool done = false;
  if constexpr (kClass == kFloating) done = VisitFloating(dtype, run);
  if constexpr (kClass == kNumeric) done = VisitNumeric(dtype, run);
  if constexpr (kClass == kInteger) done = VisitInteger(dtype, run);
  if constexpr (kClass == kAnyType) done = VisitDType(dtype, run);
  if constexpr (kClass == kBoolean) {
    if (dtype == DType::kBool) {
      run(TypeTag<bool>{});
      done = true;
    }
  }
  return done ? absl::OkStatus()
              : Error(Reason::kDtypeUnsupported, absl::StrCat(DTypeName(dtype), " has no kernel"));
}

// A tile from the same functor, for rows without a vectorised one (FLOAT and DOUBLE).
template <typename Fn, int kInputs>
TileFn ScalarTile(absl::Span<const DType> in, DType out) {
  auto make = []<typename T>(TypeTag<T>) -> TileFn {
    return [](const void* const* src, void* dst, int64_t n) {
      [&]<size_t... I>(std::index_sequence<I...>) {
        for (int64_t i = 0; i < n; ++i) {
          static_cast<T*>(dst)[i] = Fn{}(static_cast<const T*>(src[I])[i]...);
        }
      }
      (std::make_index_sequence<kInputs>{});
    };
  };
  for (DType d : in) {
    if (d != out) return nullptr;
  }
  if (out == DType::kFloat) return make(TypeTag<float>{});
  if (out == DType::kDouble) return make(TypeTag<double>{});
  return nullptr;
}

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_OPS_POINTWISE_ROW_H_
