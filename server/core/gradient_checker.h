// GradientChecker: compares derivatives with differences of the function, through the rpcs' own
// methods: CheckGradients in gradient_service.proto says what is compared. For one call, on one
// thread.
#ifndef GRADWIRE_SERVER_CORE_GRADIENT_CHECKER_H_
#define GRADWIRE_SERVER_CORE_GRADIENT_CHECKER_H_

#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gradwire/v1/gradient_service.pb.h"
#include "server/core/call.h"

namespace gradwire::server {

class GradientCore;

class GradientChecker {
 public:
  GradientChecker(GradientCore* core, const v1::CheckGradientsRequest& request, Call& call)
      : core_(*core), request_(request), call_(call) {}
  absl::Status Check(v1::CheckGradientsResponse* response);

 private:
  using Values = std::vector<double>;
  // The function and its gradient by one w, somewhere near the point.
  struct Sample {
    double value;
    Values gradient;
  };
  // Four of them along a direction: at +h, -h, +h/2, -h/2.
  struct Samples {
    Sample at[4];
    double step;
  };

  absl::Status CheckRequest() const;
  // Runs one of the core's methods as a part of this call.
  template <typename Request, typename Response>
  absl::Status Run(absl::Status (GradientCore::*method)(const Request&, Response*, Call&),
                   const Request& request, Response* response);
  template <typename Request>
  void SetCommon(Request* request) const;
  absl::Status Start(v1::CheckGradientsResponse* response);
  absl::StatusOr<Samples> SampleAlong(const std::string& w, const Values& direction);
  absl::Status CheckOne(const std::string& w, v1::GradientCheck* check);
  absl::Status CompareFirst(const std::string& w, const Values& direction, int64_t coordinate,
                            v1::GradientCheck* check, Samples* samples);
  absl::Status CompareAdjoint(const std::string& w, const Values& direction);
  absl::Status CompareSecond(const std::string& w, const Values& direction, const Samples& samples);

  GradientCore& core_;
  const v1::CheckGradientsRequest& request_;
  Call& call_;
  std::vector<std::string> wrt_;
  v1::ComputeGradientRequest
      gradient_;  // by one of them, with the values of all w among the inputs
  std::map<std::string, Values> gradients_;  // at the point
  double value_ = 0;
  double adjoint_error_ = 0;
  double second_order_error_ = 0;
  bool has_second_order_ = true;
};

}  // namespace gradwire::server

#endif  // GRADWIRE_SERVER_CORE_GRADIENT_CHECKER_H_
