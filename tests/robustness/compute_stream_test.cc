// The library's stream of computations against a real server.
#include "client/compute_stream.h"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "engine/base/status.h"
#include "server/rpc/server.h"

namespace gradwire {
namespace {

class ComputeStreamTest : public ::testing::Test {
 protected:
  void SetUp() override {
    rpc::ServerOptions options;
    options.listen = {"127.0.0.1:0"};
    auto server = rpc::Server::Start(options);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    client_ = std::make_unique<Client>(Client::Connect(server_->addresses()[0]));
  }

  const ModelSource model_ = ModelSource::Formula("x^2*y + y^3");
  std::unique_ptr<rpc::Server> server_;
  std::unique_ptr<Client> client_;
};

TEST_F(ComputeStreamTest, GivesWhatSingleCallsGive) {
  ComputeStream stream(*client_);
  std::vector<ComputeStream::Future<GradientResult>> gradients;
  for (int i = 0; i < 300; ++i) {
    gradients.push_back(stream.Gradient(model_, {{"x", i}, {"y", 3}}));
  }
  auto hessian = stream.Hessian(model_, {{"x", 2}, {"y", 3}});
  auto jacobian = stream.Jacobian(ModelSource::Formula("x^2"), {{"x", {1, 2}}});
  auto product = stream.Hvp(model_, {{"x", 2}, {"y", 3}}, {{{"x", 1}}});
  auto vjp = stream.Vjp(model_, {{"x", 2}, {"y", 3}}, {{{"f", 2}}});
  auto jvp = stream.Jvp(model_, {{"x", 2}, {"y", 3}}, {{{"y", 1}}});
  auto value = stream.Evaluate(model_, {{"x", 2}, {"y", 3}});
  for (int i = 0; i < 300; ++i) {
    const auto result = gradients[static_cast<size_t>(i)].get();
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->value.data<double>()[0], i * i * 3 + 27);
  }
  const auto all = hessian.get();
  ASSERT_TRUE(all.ok()) << all.status();
  ASSERT_EQ(all->hessians.size(), 4u);
  EXPECT_EQ(all->hessians[3].values.data<double>()[0], 18);
  EXPECT_EQ(jacobian.get()->jacobians[0].values.data<double>()[3], 4);
  EXPECT_EQ(product.get()->products[0].at("y").data<double>()[0], 4);
  EXPECT_EQ(vjp.get()->gradients[0].at("y").data<double>()[0], 62);
  EXPECT_EQ(jvp.get()->tangents[0].at("f").data<double>()[0], 31);
  EXPECT_EQ(value.get()->outputs.at("f").data<double>()[0], 39);
  EXPECT_EQ(stream.Close(), absl::OkStatus());
  EXPECT_FALSE(stream.Gradient(model_, {{"x", 1}, {"y", 3}}).get().ok()) << "it is closed";
}

TEST_F(ComputeStreamTest, AComputationFailsAlone) {
  ComputeStream stream(*client_);
  auto bad = stream.Gradient(model_, {{"x", 1}});
  auto good = stream.Gradient(model_, {{"x", 1}, {"y", 3}});
  const auto refused = bad.get();
  EXPECT_EQ(ReasonNameOf(refused.status()), "MISSING_INPUT");
  EXPECT_EQ(ViolationsOf(refused.status()).at(0).where, "inputs.y");
  EXPECT_TRUE(good.get().ok());
  EXPECT_EQ(stream.Close(), absl::OkStatus());
}

TEST_F(ComputeStreamTest, WhatHasNoAnswerFailsWithTheStream) {
  ComputeStream stream(*client_);
  ASSERT_TRUE(stream.Gradient(model_, {{"x", 1}, {"y", 3}}).get().ok());
  server_.reset();
  const auto late = stream.Gradient(model_, {{"x", 1}, {"y", 3}}).get();
  EXPECT_EQ(late.status().code(), absl::StatusCode::kUnavailable) << late.status();
  EXPECT_EQ(stream.Close().code(), absl::StatusCode::kUnavailable);
}

TEST_F(ComputeStreamTest, ItMayBeDroppedWithComputationsUnderWay) {
  std::vector<ComputeStream::Future<HessianResult>> dropped;
  {
    ComputeStream stream(*client_);
    const Tensor x(TensorType{DType::kDouble, Shape({300})});
    for (int i = 0; i < 20; ++i) {
      dropped.push_back(stream.Hessian(ModelSource::Formula("sum(exp(x)*sum(x^3))"), {{"x", x}}));
    }
  }
  for (auto& future : dropped) future.get();  // answered, or cancelled
}

}  // namespace
}  // namespace gradwire
