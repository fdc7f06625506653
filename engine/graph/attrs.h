// File: attrs.h
//
// Attrs: the named, typed constants of one node (an axis, a permutation, a dtype). Immutable;
// copies share. An attribute that a row declares is always present on a node, because GraphBuilder
// fills in the row's defaults; so the accessors need no default of their own.
//
//   Attrs a = {{"axis", int64_t{1}}, {"keepdims", int64_t{0}}};
//   a.Int("axis") == 1
#ifndef GRADWIRE_ENGINE_GRAPH_ATTRS_H_
#define GRADWIRE_ENGINE_GRAPH_ATTRS_H_

#include <initializer_list>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "engine/base/digest.h"
#include "engine/tensor/tensor.h"

namespace gradwire {

class Graph;
class Model;

// A Graph is the body of a structured op in a Graph; a Model the same in a Model.
using AttrValue = std::variant<int64_t, double, std::string, std::vector<int64_t>,
                               std::vector<double>, std::vector<std::string>, Tensor,
                               std::shared_ptr<const Graph>, std::shared_ptr<const Model>>;

class Attrs {
 public:
  using Entry = std::pair<std::string, AttrValue>;
  Attrs() = default;
  Attrs(std::initializer_list<Entry> entries);
  explicit Attrs(std::vector<Entry> entries);

  // Null where there is no such attribute.
  const AttrValue* Find(absl::string_view name) const;
  bool Has(absl::string_view name) const { return Find(name) != nullptr; }
  // The value, or `otherwise` where it is absent or of another type.
  int64_t Int(absl::string_view name, int64_t otherwise = 0) const;
  double Float(absl::string_view name, double otherwise = 0) const;
  std::string String(absl::string_view name, absl::string_view otherwise = "") const;
  // Empty where it is absent or of another type.
  const std::vector<int64_t>& Ints(absl::string_view name) const;
  const std::vector<double>& Floats(absl::string_view name) const;
  const Tensor& tensor(absl::string_view name) const;

  absl::Span<const Entry> entries() const;
  bool empty() const { return data_ == nullptr; }
  // Of names, types and values; 0 for no attributes.
  const Digest& digest() const;
  bool operator==(const Attrs& o) const { return data_ == o.data_ || digest() == o.digest(); }
  std::string ToString() const;  // "axis=1, keepdims=0"

 private:
  struct Data {
    std::vector<Entry> entries;  // sorted by name
    Digest digest;
  };
  std::shared_ptr<const Data> data_;
};

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_GRAPH_ATTRS_H_
