#include "engine/loss/loss.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "absl/strings/str_join.h"
#include "engine/ops/builders.h"

namespace gradwire {
namespace {

// ---- Pieces

ValueId Number(LossContext& c, double value) { return c.b.ScalarLike(c.prediction, value); }
ValueId Setting(LossContext& c, const char* name) { return Number(c, c.settings.at(name)); }
bool Is(LossContext& c, const char* flag) { return c.settings.at(flag) != 0; }

ValueId Reduced(LossContext& c, ValueId terms) {
  return c.reduction == LossSpec::kMean ? ReduceMean(c.b, terms, {}) : ReduceSum(c.b, terms, {});
}
// Over the elements of `terms`, where mean divides by the sum of `weights`.
ValueId Reduced(LossContext& c, ValueId terms, ValueId weights) {
  const ValueId sum = ReduceSum(c.b, terms, {});
  return c.reduction == LossSpec::kMean ? Div(c.b, sum, ReduceSum(c.b, weights, {})) : sum;
}

ValueId Difference(LossContext& c) { return Sub(c.b, c.prediction, c.target); }
// max(x, 0) with a slope of 1 at 0, as PyTorch's clamp has it.
ValueId Clamped(LossContext& c, ValueId x) {
  const ValueId zero = Number(c, 0);
  return Where(c.b, GreaterOrEqual(c.b, x, zero), x, zero);
}
// x * log(x), 0 at 0.
ValueId XLogX(LossContext& c, ValueId x) {
  const ValueId zero = Number(c, 0), none = Equal(c.b, x, zero);
  return Where(c.b, none, zero, Mul(c.b, x, Log(c.b, Where(c.b, none, Number(c, 1), x))));
}

// ---- Rows of elements

const LossRow kMse = {
    .name = "mse",
    .doc = "`(x - t)^2` (MSELoss).",
    .build = [](LossContext& c) { return Reduced(c, Square(c.b, Difference(c))); },
};

const LossRow kL1 = {
    .name = "l1",
    .doc = "`|x - t|` (L1Loss).",
    .build = [](LossContext& c) { return Reduced(c, Abs(c.b, Difference(c))); },
};

const LossRow kHuber = {
    .name = "huber",
    .doc = "`(x - t)^2 / 2` nearer than delta, `delta (|x - t| - delta / 2)` beyond (HuberLoss).",
    .settings = {{"delta", 1, kPositive}},
    .build =
        [](LossContext& c) {
          const double delta = c.settings.at("delta");
          const ValueId d = Difference(c), size = Abs(c.b, d);
          const ValueId near = Mul(c.b, Number(c, 0.5), Square(c.b, d));
          const ValueId far = Mul(c.b, Number(c, delta), Sub(c.b, size, Number(c, 0.5 * delta)));
          return Reduced(c, Where(c.b, Less(c.b, size, Number(c, delta)), near, far));
        },
};

const LossRow kSmoothL1 = {
    .name = "smooth_l1",
    .doc = "`(x - t)^2 / (2 beta)` nearer than beta, `|x - t| - beta / 2` beyond (SmoothL1Loss).",
    .settings = {{"beta", 1, kNonNegative}},
    .build =
        [](LossContext& c) {
          const double beta = c.settings.at("beta");
          const ValueId d = Difference(c), size = Abs(c.b, d);
          if (beta == 0) return Reduced(c, size);
          const ValueId near = Div(c.b, Mul(c.b, Number(c, 0.5), Square(c.b, d)), Number(c, beta));
          const ValueId far = Sub(c.b, size, Number(c, 0.5 * beta));
          return Reduced(c, Where(c.b, Less(c.b, size, Number(c, beta)), near, far));
        },
};

const LossRow kBceWithLogits = {
    .name = "bce_with_logits",
    .doc =
        "Cross entropy of `sigmoid(x)` and t in [0, 1]; the weight is pos_weight, of any shape"
        " that broadcasts to x (BCEWithLogitsLoss).",
    .weight = LossWeight::kOfElements,
    .build =
        [](LossContext& c) {
          const ValueId one = Number(c, 1);
          ValueId positive = Softplus(c.b, Neg(c.b, c.prediction));
          if (c.weight != kNoValue) {
            const ValueId extra = Mul(c.b, Sub(c.b, c.weight, one), c.target);
            positive = Mul(c.b, Add(c.b, extra, one), positive);
          }
          const ValueId rest = Mul(c.b, Sub(c.b, one, c.target), c.prediction);
          return Reduced(c, Add(c.b, rest, positive));
        },
};

const LossRow kPoissonNll = {
    .name = "poisson_nll",
    .doc =
        "`exp(x) - t x`, or with log_input 0 `x - t log(x + eps)`; full adds Stirling's"
        " `t log(t) - t + log(2 pi t) / 2` where t is above 1 (PoissonNLLLoss).",
    .settings = {{"log_input", 1, kFlag}, {"full", 0, kFlag}, {"eps", 1e-8, kNonNegative}},
    .build =
        [](LossContext& c) {
          GraphBuilder& b = c.b;
          const ValueId x = c.prediction, t = c.target;
          ValueId terms = Is(c, "log_input")
                              ? Sub(b, Exp(b, x), Mul(b, t, x))
                              : Sub(b, x, Mul(b, t, Log(b, Add(b, x, Setting(c, "eps")))));
          if (Is(c, "full")) {
            const ValueId one = Number(c, 1), large = Greater(b, t, one);
            const ValueId safe = Where(b, large, t, one);
            const ValueId half_log =
                Mul(b, Number(c, 0.5), Log(b, Mul(b, Number(c, 2 * std::numbers::pi), safe)));
            const ValueId stirling = Add(b, Sub(b, Mul(b, safe, Log(b, safe)), safe), half_log);
            terms = Add(b, terms, Where(b, large, stirling, Number(c, 0)));
          }
          return Reduced(c, terms);
        },
};

const LossRow kGaussianNll = {
    .name = "gaussian_nll",
    .doc =
        "`(log(v) + (x - t)^2 / v) / 2`, full adds `log(2 pi) / 2` (GaussianNLLLoss). The"
        " variance v is the setting var, or with var 0 the second half of the prediction's last"
        " dimension; below eps it counts as eps, with the slope of v itself.",
    .settings = {{"var", 0, kNonNegative}, {"full", 0, kFlag}, {"eps", 1e-6, kPositive}},
    .target = LossTarget::kMoments,
    .build =
        [](LossContext& c) {
          GraphBuilder& b = c.b;
          ValueId mean = c.prediction, v = Setting(c, "var");
          if (c.settings.at("var") == 0) {
            const Shape half = b.shape(c.target);
            std::vector<int64_t> starts(static_cast<size_t>(half.rank()), 0);
            const std::vector<int64_t> steps(starts.size(), 1);
            mean = Slice(b, c.prediction, starts, steps, half);
            starts.back() = half[half.rank() - 1];
            v = Slice(b, c.prediction, starts, steps, half);
          }
          const ValueId lifted = Max(b, v, Setting(c, "eps"));
          v = Add(b, v, StopGradient(b, Sub(b, lifted, v)));
          const ValueId miss = Div(b, Square(b, Sub(b, mean, c.target)), v);
          ValueId terms = Mul(b, Number(c, 0.5), Add(b, Log(b, v), miss));
          if (Is(c, "full")) {
            terms = Add(b, terms, Number(c, 0.5 * std::log(2 * std::numbers::pi)));
          }
          return Reduced(c, terms);
        },
};

const LossRow kHinge = {
    .name = "hinge",
    .doc = "`max(0, margin - t x)` for t of -1 or 1 (MarginRankingLoss of x and 0).",
    .settings = {{"margin", 1, kAnyNumber}},
    .build =
        [](LossContext& c) {
          const ValueId product = Mul(c.b, c.target, c.prediction);
          return Reduced(c, Clamped(c, Sub(c.b, Setting(c, "margin"), product)));
        },
};

const LossRow kHingeEmbedding = {
    .name = "hinge_embedding",
    .doc = "`x` where t is 1, `max(0, margin - x)` where it is -1 (HingeEmbeddingLoss).",
    .settings = {{"margin", 1, kAnyNumber}},
    .build =
        [](LossContext& c) {
          GraphBuilder& b = c.b;
          const ValueId zero = Number(c, 0), x = c.prediction;
          const ValueId gap = Clamped(c, Sub(b, Setting(c, "margin"), x));
          const ValueId is_one = Equal(b, c.target, Number(c, 1));
          const ValueId is_minus = Equal(b, c.target, Number(c, -1));
          return Reduced(c, Add(b, Where(b, is_one, zero, gap), Where(b, is_minus, zero, x)));
        },
};

const LossRow kKl = {
    .name = "kl",
    .doc =
        "`t (log(t) - x)` of log probabilities x; with log_target t is a logarithm too."
        " batchmean divides by the first extent instead of the number of elements (KLDivLoss).",
    .settings = {{"log_target", 0, kFlag}, {"batchmean", 0, kFlag}},
    .build =
        [](LossContext& c) {
          GraphBuilder& b = c.b;
          const ValueId x = c.prediction, t = c.target;
          const ValueId terms = Is(c, "log_target") ? Mul(b, Exp(b, t), Sub(b, t, x))
                                                    : Sub(b, XLogX(c, t), Mul(b, t, x));
          const Shape& shape = b.shape(x);
          if (c.reduction == LossSpec::kSum || !Is(c, "batchmean") || shape.rank() == 0) {
            return Reduced(c, terms);
          }
          const auto batch = static_cast<double>(shape[0]);
          return Div(b, ReduceSum(b, terms, {}), Number(c, batch));
        },
};

// ---- Rows of classes: [N, C, ...]

ValueId NllTerms(LossContext& c, ValueId log_prob, ValueId* weights) {
  const auto ignored = static_cast<int64_t>(c.settings.at("ignore_index"));
  const LabelPick pick = PickLabels(c.b, log_prob, c.target, c.weight, ignored);
  *weights = pick.weight;
  return Neg(c.b, Mul(c.b, pick.weight, pick.log_prob));
}

const LossRow kNll = {
    .name = "nll",
    .doc =
        "Minus the log probabilities x `[N, C, ...]` at the labels `[N, ...]`, times the class"
        " weights, whose sum mean divides by; labels of ignore_index count for nothing"
        " (NLLLoss).",
    .settings = {{"ignore_index", -100, {.min = -1e15, .max = 1e15, .whole = true}}},
    .target = LossTarget::kLabels,
    .weight = LossWeight::kOfClasses,
    .build =
        [](LossContext& c) {
          ValueId weights = kNoValue;
          const ValueId terms = NllTerms(c, c.prediction, &weights);
          return Reduced(c, terms, weights);
        },
};

// Class weights as they stand beside [N, C, ...].
ValueId AlongClasses(LossContext& c) {
  Dims dims(static_cast<size_t>(c.b.shape(c.prediction).rank() - 1), 1);
  dims[0] = c.b.shape(c.prediction)[1];
  return Reshape(c.b, c.weight, Shape(std::move(dims)));
}

ValueId ProbabilityCrossEntropy(LossContext& c, ValueId log_prob) {
  const double smoothing = c.settings.at("label_smoothing");
  const Shape shape = c.b.shape(c.prediction);
  const auto classes = static_cast<double>(shape[1]);
  const ValueId t = smoothing == 0 ? c.target
                                   : Add(c.b, Mul(c.b, c.target, Number(c, 1 - smoothing)),
                                         Number(c, smoothing / classes));
  ValueId terms = Mul(c.b, log_prob, t);
  if (c.weight != kNoValue) terms = Mul(c.b, terms, AlongClasses(c));
  return Reduced(c, Neg(c.b, ReduceSum(c.b, terms, {1})));
}

ValueId LabelCrossEntropy(LossContext& c, ValueId log_prob) {
  ValueId weights = kNoValue;
  const ValueId hit = NllTerms(c, log_prob, &weights);
  const double smoothing = c.settings.at("label_smoothing");
  if (smoothing == 0) return Reduced(c, hit, weights);
  const ValueId weighed = c.weight == kNoValue ? log_prob : Mul(c.b, log_prob, AlongClasses(c));
  const ValueId all = Neg(c.b, ReduceSum(c.b, weighed, {1}));
  const ValueId ignored =
      c.b.Constant(Tensor::Scalar<int64_t>(static_cast<int64_t>(c.settings.at("ignore_index"))));
  const ValueId is_ignored = Equal(c.b, Cast(c.b, c.target, DType::kInt64), ignored);
  const ValueId spread = Where(c.b, is_ignored, Number(c, 0), all);
  const auto classes = static_cast<double>(c.b.shape(log_prob)[1]);
  const ValueId terms = Add(c.b, Mul(c.b, hit, Number(c, 1 - smoothing)),
                            Mul(c.b, spread, Number(c, smoothing / classes)));
  return Reduced(c, terms, weights);
}

const LossRow kSoftmaxCrossEntropy = {
    .name = "softmax_cross_entropy",
    .doc =
        "nll of `log_softmax(x)`, or of class probabilities t of x's shape"
        " `-sum(w t log_softmax(x))`, whose mean is over the N x ... places. label_smoothing"
        " mixes in as much of the uniform distribution (CrossEntropyLoss).",
    .settings = {{"ignore_index", -100, {.min = -1e15, .max = 1e15, .whole = true}},
                 {"label_smoothing", 0, kUpToOne}},
    .target = LossTarget::kLabelsOrProbabilities,
    .weight = LossWeight::kOfClasses,
    .build =
        [](LossContext& c) {
          const ValueId log_prob = LogSoftmax(c.b, c.prediction, {1});
          return IsFloating(c.b.dtype(c.target)) ? ProbabilityCrossEntropy(c, log_prob)
                                                 : LabelCrossEntropy(c, log_prob);
        },
};

// ---- What fits

const LossRow* FindRow(absl::string_view name) {
  const auto rows = AllLosses();
  const auto* row = std::find_if(rows.begin(), rows.end(), [&](auto& r) { return name == r.name; });
  return row == rows.end() ? nullptr : row;
}

bool HasClasses(const LossRow& row) {
  return row.target == LossTarget::kLabels || row.target == LossTarget::kLabelsOrProbabilities;
}
bool IsProbabilities(const LossRow& row, const TensorType& prediction, const TensorType& target) {
  return row.target == LossTarget::kLabelsOrProbabilities && prediction.shape == target.shape &&
         IsFloating(target.dtype);
}

// A shape without its class dimension.
Shape LabelShape(const Shape& prediction) {
  Dims dims = prediction.dims();
  dims.erase(dims.begin() + (dims.size() > 1 ? 1 : 0));
  return Shape(std::move(dims));
}

// Collects what is wrong with one call.
class Checker {
 public:
  Checker(const LossRow& row, const LossSpec& spec, const TensorType& prediction,
          const TensorType& target)
      : row_(row),
        spec_(spec),
        prediction_(prediction),
        target_(target),
        where_(absl::StrCat("loss.", row.name)) {}

  absl::Status Check() {
    Complete(row_.settings, spec_.settings, where_, &problems_);
    if (!IsFloating(prediction_.dtype)) {
      Refuse(Reason::kDtypeUnsupported, "prediction",
             absl::StrCat("is ", prediction_.ToString(), ", expected FLOAT or DOUBLE"));
    }
    if (HasClasses(row_)) {
      CheckClasses();
    } else {
      CheckElements();
    }
    if (!spec_.weight.empty()) CheckWeight();
    return problems_.ToStatus();
  }

 private:
  void Refuse(Reason reason, absl::string_view part, std::string what) {
    problems_.Add(reason, absl::StrCat(where_, ".", part), std::move(what));
  }

  void CheckElements() {
    Shape expected = prediction_.shape;
    const auto var = spec_.settings.find("var");
    if (row_.target == LossTarget::kMoments && (var == spec_.settings.end() || var->second == 0)) {
      Dims dims = prediction_.shape.dims();
      if (dims.empty() || dims.back() % 2 != 0) {
        return Refuse(Reason::kShapeMismatch, "prediction",
                      absl::StrCat("is ", prediction_.ToString(),
                                   ", expected means and variances side by side in the last"
                                   " dimension, or the setting var"));
      }
      dims.back() /= 2;
      expected = Shape(std::move(dims));
    }
    if (target_.shape != expected) {
      Refuse(Reason::kShapeMismatch, "target",
             absl::StrCat("is ", target_.ToString(), ", expected the shape ", expected.ToString()));
    }
    if (!IsFloating(target_.dtype) && !IsInteger(target_.dtype) && target_.dtype != DType::kBool) {
      Refuse(Reason::kDtypeUnsupported, "target",
             absl::StrCat("is ", target_.ToString(), ", expected numbers or BOOL"));
    }
  }

  void CheckClasses() {
    if (prediction_.shape.rank() < 1) {
      return Refuse(Reason::kShapeMismatch, "prediction",
                    absl::StrCat("is ", prediction_.ToString(), ", expected [N,C,...] or [C]"));
    }
    if (IsProbabilities(row_, prediction_, target_)) {
      if (spec_.settings.count("ignore_index") > 0) {
        Refuse(Reason::kInvalidSpec, "ignore_index", "has no meaning for class probabilities");
      }
      return;
    }
    const Shape expected = LabelShape(prediction_.shape);
    const bool probabilities = row_.target == LossTarget::kLabelsOrProbabilities;
    if (!IsInteger(target_.dtype)) {
      Refuse(Reason::kDtypeUnsupported, "target",
             absl::StrCat("is ", target_.ToString(), ", expected integer labels",
                          probabilities ? " or probabilities of the prediction's shape" : ""));
    }
    if (target_.shape != expected) {
      Refuse(Reason::kShapeMismatch, "target",
             absl::StrCat("is ", target_.ToString(), ", expected labels of the shape ",
                          expected.ToString()));
    }
  }

  void CheckWeight() {
    const TensorType& type = spec_.weight.type();
    if (row_.weight == LossWeight::kNone) {
      return Refuse(Reason::kInvalidSpec, "weight", "this loss takes none");
    }
    if (!IsFloating(type.dtype)) {
      Refuse(Reason::kDtypeUnsupported, "weight",
             absl::StrCat("is ", type.ToString(), ", expected FLOAT or DOUBLE"));
    }
    const Shape& shape = prediction_.shape;
    if (row_.weight == LossWeight::kOfElements) {
      if (BroadcastsTo(type.shape, shape)) return;
      Refuse(
          Reason::kShapeMismatch, "weight",
          absl::StrCat("is ", type.ToString(), ", which does not broadcast to ", shape.ToString()));
    } else if (shape.rank() > 0 && type.shape != Shape{shape[shape.rank() > 1 ? 1 : 0]}) {
      Refuse(Reason::kShapeMismatch, "weight",
             absl::StrCat("is ", type.ToString(), ", expected one number for each class of ",
                          shape.ToString()));
    }
  }

  const LossRow& row_;
  const LossSpec& spec_;
  const TensorType& prediction_;
  const TensorType& target_;
  const std::string where_;
  Problems problems_;
};

ValueId WithBatch(GraphBuilder& b, ValueId x) { return Unsqueeze(b, x, {0}); }

}  // namespace

absl::Span<const LossRow> AllLosses() {
  static const auto& rows = *new std::vector<LossRow>{
      kMse, kL1,         kHuber,       kSmoothL1, kBceWithLogits,  kSoftmaxCrossEntropy,
      kNll, kPoissonNll, kGaussianNll, kHinge,    kHingeEmbedding, kKl};
  return rows;
}

absl::Status CheckLossSpec(const LossSpec& spec) {
  const LossRow* row = FindRow(spec.name);
  if (row == nullptr) {
    const auto add_name = [](std::string* text, const auto& r) { text->append(r.name); };
    return Error(Reason::kInvalidSpec, absl::StrCat("loss: there is no \"", spec.name, "\", only ",
                                                    absl::StrJoin(AllLosses(), ", ", add_name)));
  }
  Problems problems;
  Complete(row->settings, spec.settings, absl::StrCat("loss.", spec.name), &problems);
  return problems.ToStatus();
}

absl::Status CheckLoss(const LossSpec& spec, const TensorType& prediction,
                       const TensorType& target) {
  const LossRow* row = FindRow(spec.name);
  return row == nullptr ? CheckLossSpec(spec) : Checker(*row, spec, prediction, target).Check();
}

ValueId AddLoss(GraphBuilder& b, const LossSpec& spec, ValueId prediction, ValueId target) {
  if (!b.ok()) return kNoValue;
  const TensorType scores = b.type(prediction), given = b.type(target);
  if (const absl::Status status = CheckLoss(spec, scores, given); !status.ok()) {
    b.Fail(status);
    return kNoValue;
  }
  const LossRow& row = *FindRow(spec.name);
  const bool labels = HasClasses(row) && !IsProbabilities(row, scores, given);
  if (!labels) {
    target = Cast(b, target, scores.dtype);
  } else if (given.dtype != DType::kInt32) {
    target = Cast(b, target, DType::kInt64);
  }
  if (HasClasses(row) && scores.shape.rank() == 1) {
    prediction = WithBatch(b, prediction);
    target = WithBatch(b, target);
  }
  const ValueId weight =
      spec.weight.empty() ? kNoValue : b.Constant(Converted(spec.weight, scores.dtype));
  Problems none;  // CheckLoss has found no problem
  const Settings settings = Complete(row.settings, spec.settings, row.name, &none);
  LossContext c{b, settings, spec.reduction, prediction, target, weight};
  return row.build(c);
}

}  // namespace gradwire
