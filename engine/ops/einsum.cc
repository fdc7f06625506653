// ONNX's Einsum, said with diagonals, sums, transposes and matrix products.
//
// Every operand becomes a value with distinct labels; extents of 1 that broadcast are dropped from
// it. Then the first operand is multiplied with the others, one at a time, summing over the labels
// that neither the output nor a later operand has.
#include <algorithm>
#include <array>
#include <map>

#include "absl/strings/ascii.h"
#include "absl/strings/str_split.h"
#include "engine/ops/all_ops.h"
#include "engine/ops/builders.h"
#include "engine/ops/matrix_rows.h"
#include "engine/ops/structural.h"

namespace gradwire {
namespace {

// A label is a letter, or one of the dimensions that an ellipsis stands for, counted from the last.
using Label = int;
constexpr Label kFirstEllipsisLabel = 256;
using Labels = std::vector<Label>;

bool Contains(const Labels& labels, Label label) {
  return std::find(labels.begin(), labels.end(), label) != labels.end();
}

// A term of the equation: letters before and behind an ellipsis.
struct Term {
  Labels before, behind;
  bool ellipsis = false;
  size_t letters() const { return before.size() + behind.size(); }
  // With the ellipsis standing for `dims` dimensions.
  Labels Expanded(int dims) const {
    Labels out = before;
    for (int d = dims; d-- > 0;) out.push_back(kFirstEllipsisLabel + d);
    out.insert(out.end(), behind.begin(), behind.end());
    return out;
  }
};

// False where it is not letters with at most one "...".
bool ParseTerm(absl::string_view text, Term* out) {
  for (size_t i = 0; i < text.size(); ++i) {
    if (absl::ascii_isalpha(static_cast<unsigned char>(text[i]))) {
      (out->ellipsis ? out->behind : out->before).push_back(text[i]);
    } else if (!out->ellipsis && text.substr(i, 3) == "...") {
      out->ellipsis = true;
      i += 2;
    } else if (text[i] != ' ') {
      return false;
    }
  }
  return true;
}

struct Factor {
  ValueId value = kNoValue;
  Labels labels;
};

class EinsumImport {
 public:
  explicit EinsumImport(NodeImport& n) : n_(n), b_(n.b) {}

  std::vector<ValueId> Run() {
    if (!Parse() || !ReadOperands()) return {};
    for (Factor& factor : factors_) SumUnneeded(factor);
    for (size_t next = 1; next < factors_.size() && b_.ok(); ++next) MultiplyFirst(next);
    if (!b_.ok()) return {};
    return {Arranged(factors_[0])};
  }

 private:
  bool Fail(Reason reason, absl::string_view what) {
    n_.Fail(reason,
            absl::StrCat("equation \"", absl::string_view(equation_).substr(0, 200), "\": ", what));
    return false;
  }

  bool Parse() {
    equation_ = StringAttr(n_, "equation", "");
    if (!b_.ok()) return false;
    const size_t arrow = equation_.find("->");
    const absl::string_view text = equation_;
    for (absl::string_view term : absl::StrSplit(text.substr(0, arrow), ',')) {
      if (!ParseTerm(term, &terms_.emplace_back())) {
        return Fail(Reason::kInvalidModel, "expected terms of letters and \"...\"");
      }
    }
    if (terms_.size() != static_cast<size_t>(n_.num_inputs())) {
      return Fail(Reason::kInvalidModel,
                  absl::StrCat("has ", terms_.size(), " terms for ", n_.num_inputs(), " inputs"));
    }
    if (arrow == std::string::npos) return ImplyResult();
    if (!ParseTerm(text.substr(arrow + 2), &result_)) {
      return Fail(Reason::kInvalidModel, "expected a result of letters and \"...\"");
    }
    Labels seen;
    for (Label label : result_.Expanded(0)) {
      if (Contains(seen, label))
        return Fail(Reason::kInvalidModel, "a label of the result repeats");
      seen.push_back(label);
    }
    return true;
  }

  // The ellipsis, then the letters that occur once, in order.
  bool ImplyResult() {
    std::array<int, 128> count = {};
    for (const Term& term : terms_) {
      result_.ellipsis = result_.ellipsis || term.ellipsis;
      for (Label label : term.Expanded(0)) ++count[static_cast<size_t>(label)];
    }
    for (Label label = 0; label < 128; ++label) {
      if (count[static_cast<size_t>(label)] == 1) result_.behind.push_back(label);
    }
    return true;
  }

  // The extent of every label: extents of 1 broadcast.
  bool ReadOperands() {
    std::vector<Labels> labels;
    int ellipsis_dims = 0;
    for (size_t i = 0; i < terms_.size(); ++i) {
      if (!n_.has(static_cast<int>(i))) {
        return Fail(Reason::kInvalidModel, absl::StrCat("input ", i, " is left out"));
      }
      const TensorType type = n_.type(static_cast<int>(i));
      if (type.dtype != n_.type(0).dtype || type.dtype == DType::kBool) {
        return Fail(Reason::kDtypeUnsupported,
                    absl::StrCat("input ", i, " is ", DTypeName(type.dtype), ", input 0 ",
                                 DTypeName(n_.type(0).dtype), "; expected one numeric type"));
      }
      const int dims = type.shape.rank() - static_cast<int>(terms_[i].letters());
      if (dims < 0 || (dims > 0 && !terms_[i].ellipsis)) {
        return Fail(Reason::kShapeMismatch,
                    absl::StrCat("input ", i, " is ", type.shape.ToString(), ", its term has ",
                                 terms_[i].letters(), " letters"));
      }
      ellipsis_dims = std::max(ellipsis_dims, dims);
      labels.push_back(terms_[i].Expanded(dims));
      if (!ReadExtents(i, type.shape, labels.back())) return false;
    }
    result_labels_ = result_.Expanded(result_.ellipsis ? ellipsis_dims : 0);
    for (Label label : result_labels_) {
      if (!extents_.contains(label)) {
        return Fail(Reason::kInvalidModel, "a label of the result occurs in no input");
      }
    }
    for (size_t i = 0; i < labels.size(); ++i) {
      factors_.push_back(Distinct({n_.in(static_cast<int>(i)), labels[i]}));
      Count(factors_.back(), 1);
    }
    return b_.ok();
  }

  bool ReadExtents(size_t input, const Shape& shape, const Labels& labels) {
    std::map<Label, int64_t> own;
    for (size_t d = 0; d < labels.size(); ++d) {
      const int64_t extent = shape[static_cast<int>(d)];
      const auto [at, fresh] = own.emplace(labels[d], extent);
      int64_t& known = extents_.emplace(labels[d], extent).first->second;
      if (known == 1) known = extent;
      if (at->second == extent && (extent == 1 || extent == known)) continue;
      return Fail(Reason::kShapeMismatch,
                  absl::StrCat("input ", input, " is ", shape.ToString(), ": dimension ", d,
                               " does not fit the others of its label, ", known));
    }
    return true;
  }

  // Without extents of 1, and with the diagonal over dimensions of the same label.
  Factor Distinct(Factor f) {
    Dims dims;
    Labels labels;
    for (size_t d = 0; d < f.labels.size() && b_.ok(); ++d) {
      const int64_t extent = b_.shape(f.value)[static_cast<int>(d)];
      if (extent == 1) continue;
      dims.push_back(extent);
      labels.push_back(f.labels[d]);
    }
    f = {Reshape(b_, f.value, Shape(dims)), labels};
    for (size_t d = 0; d < f.labels.size() && b_.ok();) {
      const auto twin = std::find(f.labels.begin() + static_cast<std::ptrdiff_t>(d) + 1,
                                  f.labels.end(), f.labels[d]);
      if (twin == f.labels.end()) {
        ++d;
        continue;
      }
      // Both to the end, then their diagonal.
      const Label label = f.labels[d];
      Labels order = f.labels;
      std::vector<int64_t> perm = Iota(0, static_cast<int64_t>(order.size()));
      for (size_t at : {static_cast<size_t>(twin - f.labels.begin()), d}) {
        perm.erase(perm.begin() + static_cast<std::ptrdiff_t>(at));
        order.erase(order.begin() + static_cast<std::ptrdiff_t>(at));
      }
      perm.push_back(static_cast<int64_t>(d));
      perm.push_back(twin - f.labels.begin());
      order.push_back(label);
      f = {Diagonal(b_, Transpose(b_, f.value, perm)), order};
      d = 0;
    }
    return f;
  }

  void Count(const Factor& f, int by) {
    for (Label label : f.labels) uses_[label] += by;
  }

  // Whether the result has it, or more than `uses` of the factors that are left.
  bool Needed(Label label, int uses) const {
    return uses_.at(label) > uses || Contains(result_labels_, label);
  }

  // Sums over labels that nothing but this factor has.
  void SumUnneeded(Factor& f) {
    Axes axes;
    Labels kept;
    for (size_t d = 0; d < f.labels.size(); ++d) {
      if (Needed(f.labels[d], 1)) {
        kept.push_back(f.labels[d]);
      } else {
        axes.push_back(static_cast<int64_t>(d));
      }
    }
    if (axes.empty()) return;
    f.value = ReduceSum(b_, f.value, axes);
    f.labels = std::move(kept);
  }

  // Elements of the product of two factors.
  double ProductSize(const Factor& x, const Factor& y) const {
    double size = 1;
    for (Label label : x.labels) {
      if (!Contains(y.labels, label) || Needed(label, 2)) {
        size *= static_cast<double>(extents_.at(label));
      }
    }
    for (Label label : y.labels) {
      if (!Contains(x.labels, label)) size *= static_cast<double>(extents_.at(label));
    }
    return size;
  }

  // Multiplies factor 0 with one from `next` on, the one of the nearest that leaves the smallest
  // product; factor `next` takes its place.
  void MultiplyFirst(size_t next) {
    constexpr size_t kLookAhead = 32;
    size_t best = next;
    for (size_t i = next; i < std::min(factors_.size(), next + kLookAhead); ++i) {
      if (ProductSize(factors_[0], factors_[i]) < ProductSize(factors_[0], factors_[best])) {
        best = i;
      }
    }
    std::swap(factors_[next], factors_[best]);
    Factor product = Product(factors_[0], factors_[next]);
    Count(factors_[0], -1);
    Count(factors_[next], -1);
    Count(product, 1);
    factors_[0] = std::move(product);
    if (b_.ok()) SumUnneeded(factors_[0]);
  }

  // The factor's dimensions in the order of `groups`, each group one dimension.
  ValueId Grouped(const Factor& f, const std::vector<Labels>& groups) {
    std::vector<int64_t> perm;
    Dims dims;
    for (const Labels& group : groups) {
      int64_t extent = 1;
      for (Label label : group) {
        perm.push_back(std::find(f.labels.begin(), f.labels.end(), label) - f.labels.begin());
        extent *= extents_.at(label);
      }
      dims.push_back(extent);
    }
    return Reshape(b_, Transpose(b_, f.value, perm), Shape(dims));
  }

  Factor Product(const Factor& x, const Factor& y) {
    Labels stack, summed, left, right;
    for (Label label : x.labels) {
      if (!Contains(y.labels, label)) {
        left.push_back(label);
      } else {
        (Needed(label, 2) ? stack : summed).push_back(label);
      }
    }
    for (Label label : y.labels) {
      if (!Contains(x.labels, label)) right.push_back(label);
    }
    Factor out;
    Dims dims;
    for (const Labels* group : {&stack, &left, &right}) {
      for (Label label : *group) {
        out.labels.push_back(label);
        dims.push_back(extents_.at(label));
      }
    }
    const std::optional<Shape> shape = ResultShape(b_, dims);
    if (!shape) return out;
    const ValueId lhs = Grouped(x, {stack, left, summed}), rhs = Grouped(y, {stack, summed, right});
    const ValueId product = summed.empty() ? Mul(b_, lhs, rhs) : MatMul(b_, lhs, rhs);
    out.value = Reshape(b_, product, *shape);
    return out;
  }

  // The dimensions in the order of the result, with extents of 1 back in their places.
  ValueId Arranged(const Factor& f) {
    std::vector<int64_t> perm;
    Dims dims;
    for (Label label : result_labels_) {
      const auto at = std::find(f.labels.begin(), f.labels.end(), label);
      dims.push_back(extents_.at(label));
      if (at != f.labels.end()) perm.push_back(at - f.labels.begin());
    }
    return Reshape(b_, Transpose(b_, f.value, perm), Shape(dims));
  }

  NodeImport& n_;
  GraphBuilder& b_;
  std::string equation_;
  std::vector<Term> terms_;
  Term result_;
  Labels result_labels_;
  std::map<Label, int64_t> extents_;
  std::map<Label, int> uses_;  // by the factors that are left
  std::vector<Factor> factors_;
};

std::vector<Sample> EinsumSamples() {
  std::vector<Sample> out;
  const auto add = [&](const char* equation, std::vector<Dims> shapes) {
    Sample sample{.inputs = {}, .attrs = {{"equation", std::string(equation)}}};
    for (Dims& shape : shapes) sample.inputs.push_back(Drawn(std::move(shape)));
    out.push_back(std::move(sample));
  };
  add("ij,jk->ik", {{2, 3}, {3, 4}});
  add("bij,bjk->bik", {{2, 2, 3}, {2, 3, 2}});
  add("ij->ji", {{2, 3}});
  add("ij->", {{2, 3}});
  add("i,i", {{5}, {5}});
  add("ii->i", {{3, 3}});
  add("ii", {{3, 3}});
  add("iij->j", {{3, 3, 2}});
  add("aabb->ba", {{2, 2, 3, 3}});
  add("iii->i", {{3, 3, 3}});
  add("i,j->ij", {{3}, {4}});
  add("abc,cd,de->abe", {{2, 3, 4}, {4, 3}, {3, 2}});
  add("ab,cd,bc->ad", {{2, 3}, {4, 2}, {3, 4}});
  add("i,ij,j->", {{2}, {2, 3}, {3}});
  add("...ij,...jk->...ik", {{2, 1, 2, 3}, {3, 3, 2}});
  add("...ii->...i", {{2, 3, 3}});
  add("i...->...i", {{2, 3, 4}});
  add("...i,...i", {{2, 3}, {1, 3}});
  add(" ...ik, ...j -> ij", {{1, 2, 3}, {3}});
  add("bA,Ab->bA", {{1, 3}, {3, 2}});
  add("ij,ij->ij", {{2, 3}, {2, 3}});
  add("bhwc,hkc->bhwk", {{2, 2, 3, 2}, {2, 3, 2}});
  add(",i->i", {{}, {3}});
  add("->", {{}});
  add("ij,jk", {{2, 0}, {0, 3}});
  return out;
}

const OpDef kEinsumOp = {
    .name = "Einsum",
    .doc =
        "Einstein's sums: products of the inputs over the labels of `equation`, summed over those"
        " that the result lacks. Repeated labels take diagonals, \"...\" broadcasts, extents of 1"
        " broadcast too. Without \"->\" the result has the ellipsis and the labels that occur once,"
        " in alphabetical order; dimensions of an ellipsis that the result leaves out are summed.",
    .max_inputs = kVariadic,
    .onnx = {{.name = "Einsum",
              .since = 12,
              .import = [](NodeImport& n) { return EinsumImport(n).Run(); }}},
    .domain = {.samples = EinsumSamples()},
};

}  // namespace

std::vector<const OpDef*> EinsumOps() { return {&kEinsumOp}; }

}  // namespace gradwire
