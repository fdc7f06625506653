#include "server/core/gradient_checker.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "engine/base/checked.h"
#include "engine/base/status.h"
#include "server/core/gradient_core.h"
#include "server/core/pipeline.h"

namespace gradwire::server {
namespace {

constexpr double kTolerance = 1e-6;
constexpr double kDefaultStep = 1e-3;
constexpr int kDefaultDirections = 2;
constexpr int kMaxDirections = 1000;
// Values of at most so many elements are compared coordinate by coordinate as well.
constexpr size_t kMostCoordinates = 16;

std::vector<double> DoublesOf(const v1::Tensor& tensor) {
  std::vector<double> out(tensor.data().size() / sizeof(double));
  if (!out.empty()) std::memcpy(out.data(), tensor.data().data(), tensor.data().size());
  return out;
}

void SetDoubles(const std::vector<double>& values, v1::Tensor* tensor) {
  tensor->mutable_data()->assign(reinterpret_cast<const char*>(values.data()),
                                 values.size() * sizeof(double));
}

double Dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

double LargestOf(const std::vector<double>& values) {
  double largest = 0;
  for (const double v : values) largest = std::max(largest, std::abs(v));
  return largest;
}

double ErrorOf(double a, double b) {
  const double error = std::abs(a - b) / std::max({1.0, std::abs(a), std::abs(b)});
  return a == b ? 0 : (std::isnan(error) ? HUGE_VAL : error);
}

// +1 or -1 by turns that nobody can guess (SplitMix64), of length 1.
std::vector<double> RandomDirection(size_t size, uint64_t key) {
  std::vector<double> out(size);
  uint64_t state = key;
  for (double& v : out) {
    uint64_t z = (state += 0x9e3779b97f4a7c15ULL);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    v = ((z >> 31) & 1 ? 1 : -1) / std::sqrt(static_cast<double>(size));
  }
  return out;
}

// (4 D(h/2) - D(h)) / 3 of f at +h, -h, +h/2, -h/2.
double Richardson(double p, double m, double half_p, double half_m, double h) {
  return (4 * (half_p - half_m) / h - (p - m) / (2 * h)) / 3;
}

std::vector<int64_t> CoordinatesOf(int64_t index, const v1::Tensor& tensor) {
  std::vector<int64_t> out(static_cast<size_t>(tensor.shape_size()));
  for (int axis = tensor.shape_size() - 1; axis >= 0; --axis) {
    out[static_cast<size_t>(axis)] = index % tensor.shape(axis);
    index /= tensor.shape(axis);
  }
  return out;
}

}  // namespace

template <typename Request, typename Response>
absl::Status GradientChecker::Run(absl::Status (GradientCore::*method)(const Request&, Response*,
                                                                       Call&),
                                  const Request& request, Response* response) {
  Call part;
  part.cancel = call_.cancel;
  part.workspace = call_.workspace;
  part.gate = call_.gate;
  part.memory = call_.memory.Another();
  const absl::Status status = (core_.*method)(request, response, part);
  call_.compute_time += part.compute_time;
  return status;
}

absl::Status GradientChecker::CheckRequest() const {
  Problems problems;
  if (HasUnknownFields(request_)) {
    problems.Add(Reason::kInvalidSpec, "request", "has a field that this server does not know");
  }
  if (request_.directions() < 0 || request_.directions() > kMaxDirections) {
    problems.Add(Reason::kInvalidSpec, "directions",
                 absl::StrCat("got ", request_.directions(), ", expected 1 to ", kMaxDirections));
  }
  if (!std::isfinite(request_.step()) || request_.step() < 0 || request_.step() > 1) {
    problems.Add(Reason::kInvalidSpec, "step",
                 absl::StrCat("got ", request_.step(), ", expected a number above 0, up to 1"));
  }
  if (request_.options().batch_size() > 0) {
    problems.Add(Reason::kInvalidSpec, "options.batch", "is not taken: the points are one");
  }
  if (request_.options().precision() == v1::ComputeOptions::Precision::FLOAT) {
    problems.Add(Reason::kInvalidSpec, "options.precision", "differences need DOUBLE");
  }
  return problems.ToStatus();
}

template <typename Request>
void GradientChecker::SetCommon(Request* request) const {
  *request->mutable_model() = gradient_.model();
  *request->mutable_inputs() = gradient_.inputs();
  *request->mutable_options() = gradient_.options();
}

// The gradient at the point; afterwards `gradient_` has all values that differences change.
absl::Status GradientChecker::Start(v1::CheckGradientsResponse* response) {
  *gradient_.mutable_model() = request_.model();
  *gradient_.mutable_inputs() = request_.inputs();
  *gradient_.mutable_wrt() = request_.wrt();
  gradient_.set_output(request_.output());
  if (request_.has_loss()) *gradient_.mutable_loss() = request_.loss();
  *gradient_.mutable_options() = request_.options();
  gradient_.mutable_options()->set_precision(v1::ComputeOptions::Precision::DOUBLE);
  gradient_.mutable_options()->set_readable(false);

  v1::ComputeGradientResponse reply;
  GW_RETURN_IF_ERROR(Run(&GradientCore::ComputeGradient, gradient_, &reply));
  *response->mutable_value() = reply.value();
  *response->mutable_info() = reply.info();
  value_ = DoublesOf(reply.value()).at(0);
  wrt_.assign(request_.wrt().begin(), request_.wrt().end());
  if (wrt_.empty()) {
    for (const auto& [name, g] : reply.gradients()) wrt_.push_back(name);
    std::sort(wrt_.begin(), wrt_.end());
  }
  v1::EvaluateRequest evaluate;
  SetCommon(&evaluate);
  evaluate.mutable_outputs()->Assign(wrt_.begin(), wrt_.end());
  // What is only of the loss has the values of its inputs.
  v1::EvaluateResponse values;
  if (request_.has_loss()) {
    evaluate.clear_outputs();
    for (const std::string& w : wrt_) {
      if (!gradient_.inputs().contains(w)) evaluate.add_outputs(w);
    }
    for (const auto& [name, tensor] : reply.gradients()) {
      if (gradient_.inputs().contains(name)) {
        (*values.mutable_outputs())[name] = gradient_.inputs().at(name);
      }
    }
  }
  if (evaluate.outputs_size() > 0) {
    v1::EvaluateResponse evaluated;
    GW_RETURN_IF_ERROR(Run(&GradientCore::Evaluate, evaluate, &evaluated));
    for (auto& [name, tensor] : *evaluated.mutable_outputs()) {
      (*values.mutable_outputs())[name] = std::move(tensor);
    }
  }
  for (const std::string& w : wrt_) {
    gradients_[w] = DoublesOf(reply.gradients().at(w));
    v1::Tensor& value = (*values.mutable_outputs())[w];
    if (value.data_type() != v1::DOUBLE || value.data().size() != gradients_[w].size() * 8) {
      return Error(Reason::kInvalidSpec,
                   absl::StrCat("inputs.", w, ": send it as DOUBLE `data` to check a loss by it"));
    }
    (*gradient_.mutable_inputs())[w] = value;
  }
  return absl::OkStatus();
}

absl::StatusOr<GradientChecker::Samples> GradientChecker::SampleAlong(const std::string& w,
                                                                      const Values& direction) {
  v1::Tensor& tensor = gradient_.mutable_inputs()->at(w);
  const Values point = DoublesOf(tensor);
  Samples out;
  out.step =
      (request_.step() > 0 ? request_.step() : kDefaultStep) * std::max(1.0, LargestOf(point));
  gradient_.clear_wrt();
  gradient_.add_wrt(w);
  const double steps[] = {out.step, -out.step, out.step / 2, -out.step / 2};
  for (int i = 0; i < 4; ++i) {
    Values moved = point;
    for (size_t j = 0; j < moved.size(); ++j) moved[j] += steps[i] * direction[j];
    SetDoubles(moved, &tensor);
    v1::ComputeGradientResponse reply;
    GW_RETURN_IF_ERROR(Run(&GradientCore::ComputeGradient, gradient_, &reply));
    out.at[i] = {DoublesOf(reply.value()).at(0), DoublesOf(reply.gradients().at(w))};
  }
  SetDoubles(point, &tensor);
  return out;
}

// Keeps the entry where it is the worst so far. A coordinate of -1: a random direction.
absl::Status GradientChecker::CompareFirst(const std::string& w, const Values& direction,
                                           int64_t coordinate, v1::GradientCheck* check,
                                           Samples* samples) {
  GW_ASSIGN_OR_RETURN(*samples, SampleAlong(w, direction));
  const double h = samples->step;
  const auto f = [&](int i) { return samples->at[i].value; };
  const double analytic = Dot(gradients_[w], direction);
  const double numeric = Richardson(f(0), f(1), f(2), f(3), h);
  const double error = ErrorOf(analytic, numeric);
  check->set_compared(check->compared() + 1);
  if (check->compared() > 1 && error <= check->error()) return absl::OkStatus();
  check->set_is_direction(coordinate < 0);
  check->clear_coordinates();
  if (coordinate >= 0) {
    for (const int64_t i : CoordinatesOf(coordinate, gradient_.inputs().at(w))) {
      check->add_coordinates(i);
    }
  }
  check->set_analytic(analytic);
  check->set_numeric(numeric);
  check->set_error(error);
  check->set_step(h);
  check->set_verdict(v1::GradientCheck::Verdict::AGREES);
  if (error <= kTolerance) return absl::OkStatus();
  // The slopes to the right and to the left; where f is smooth they approach each other like h.
  const double gap = (f(0) - 2 * value_ + f(1)) / h;
  const double half_gap = (f(2) - 2 * value_ + f(3)) / (h / 2);
  const bool is_kink = std::abs(half_gap) > 0.75 * std::abs(gap) &&
                       std::abs(half_gap) > kTolerance * std::max(1.0, std::abs(numeric));
  check->set_verdict(is_kink ? v1::GradientCheck::Verdict::KINK
                             : v1::GradientCheck::Verdict::DISAGREES);
  return absl::OkStatus();
}

absl::Status GradientChecker::CompareAdjoint(const std::string& w, const Values& direction) {
  if (request_.has_loss()) return absl::OkStatus();
  v1::ComputeJvpRequest request;
  SetCommon(&request);
  if (!request_.output().empty()) request.add_outputs(request_.output());
  v1::Tensor& tangent = (*request.add_tangents()->mutable_tensors())[w];
  tangent = gradient_.inputs().at(w);
  SetDoubles(direction, &tangent);
  v1::ComputeJvpResponse reply;
  GW_RETURN_IF_ERROR(Run(&GradientCore::ComputeJvp, request, &reply));
  const double product = DoublesOf(reply.tangents(0).tensors().begin()->second).at(0);
  adjoint_error_ = std::max(adjoint_error_, ErrorOf(product, Dot(gradients_[w], direction)));
  return absl::OkStatus();
}

absl::Status GradientChecker::CompareSecond(const std::string& w, const Values& direction,
                                            const Samples& samples) {
  if (!has_second_order_) return absl::OkStatus();
  v1::ComputeHvpRequest request;
  SetCommon(&request);
  request.set_output(request_.output());
  if (request_.has_loss()) *request.mutable_loss() = request_.loss();
  request.add_wrt(w);
  v1::Tensor& vector = (*request.add_vectors()->mutable_tensors())[w];
  vector = gradient_.inputs().at(w);
  SetDoubles(direction, &vector);
  v1::ComputeHvpResponse reply;
  const absl::Status status = Run(&GradientCore::ComputeHvp, request, &reply);
  if (HasReason(status, Reason::kNotDifferentiable)) {
    has_second_order_ = false;
    return absl::OkStatus();
  }
  GW_RETURN_IF_ERROR(status);
  const Values product = DoublesOf(reply.products(0).tensors().at(w));
  const double scale = std::max(1.0, LargestOf(product));
  for (size_t i = 0; i < product.size(); ++i) {
    const auto g = [&](int k) { return samples.at[k].gradient[i]; };
    const double numeric = Richardson(g(0), g(1), g(2), g(3), samples.step);
    second_order_error_ =
        std::max(second_order_error_, ErrorOf(product[i] / scale, numeric / scale));
  }
  return absl::OkStatus();
}

absl::Status GradientChecker::CheckOne(const std::string& w, v1::GradientCheck* check) {
  check->set_wrt(w);
  const size_t size = gradients_[w].size();
  if (size == 0) return absl::OkStatus();
  Samples samples;
  const int directions = request_.directions() > 0 ? request_.directions() : kDefaultDirections;
  const uint64_t key = request_.options().seed() * 1000003;
  for (int d = 0; d < directions; ++d) {
    const Values direction = RandomDirection(size, key + static_cast<uint64_t>(d));
    GW_RETURN_IF_ERROR(CompareFirst(w, direction, -1, check, &samples));
    if (d > 0) continue;
    GW_RETURN_IF_ERROR(CompareAdjoint(w, direction));
    // At a kink differences of the gradient mean nothing.
    if (check->verdict() != v1::GradientCheck::Verdict::KINK) {
      GW_RETURN_IF_ERROR(CompareSecond(w, direction, samples));
    }
  }
  for (size_t i = 0; i < size && size <= kMostCoordinates; ++i) {
    Values direction(size, 0.0);
    direction[i] = 1;
    GW_RETURN_IF_ERROR(CompareFirst(w, direction, static_cast<int64_t>(i), check, &samples));
  }
  return absl::OkStatus();
}

absl::Status GradientChecker::Check(v1::CheckGradientsResponse* response) {
  GW_RETURN_IF_ERROR(CheckRequest());
  // The request with all values of w, and once more for what is compared with it.
  GW_RETURN_IF_ERROR(call_.memory.Grow(
      SaturatingMul(static_cast<int64_t>(request_.ByteSizeLong()), 2), "copies of the request"));
  GW_RETURN_IF_ERROR(Start(response));
  bool agrees = true;
  for (const std::string& w : wrt_) {
    v1::GradientCheck* check = response->add_checks();
    GW_RETURN_IF_ERROR(CheckOne(w, check));
    agrees = agrees && check->verdict() != v1::GradientCheck::Verdict::DISAGREES;
  }
  if (!request_.has_loss()) response->set_adjoint_error(adjoint_error_);
  if (has_second_order_) response->set_second_order_error(second_order_error_);
  response->set_passed(agrees && adjoint_error_ <= kTolerance && second_order_error_ <= kTolerance);
  return absl::OkStatus();
}

}  // namespace gradwire::server
