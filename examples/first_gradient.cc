// The gradient of f(x, y) = x^2*y + y^3 at (2, 3).
#include <iostream>

#include "client/client.h"
int main() {
  gradwire::Client client = gradwire::Client::Connect();  // GRADWIRE_SERVER, or 127.0.0.1:50051
  gradwire::ModelBuilder g;
  auto x = g.Input("x"), y = g.Input("y");
  auto [f, df, info] = client.Gradient(x * x * y + y * y * y, {{"x", 2}, {"y", 3}}).value();
  std::cout << "f = " << f << ", df/dx = " << df["x"] << ", df/dy = " << df["y"] << "\n";
}
