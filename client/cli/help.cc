#include "client/cli/help.h"

namespace gradwire::cli {

const char kProgramHelp[] = "Derivatives of computation graphs, computed by a Gradwire server.";

const char kProgramExamples[] = R"(
Values: a number (2, -1.5, 1e-3, nan), a nested list ([[1,2],[3,4]]), or @FILE: .npy, .npz,
.safetensors or .csv. Of a file with several arrays the one called NAME is taken, or the one named
by @FILE:ARRAY. Element types are the model's; inputs of a formula are DOUBLE.

Exit codes: 0 ok; 1 a check failed; 2 usage or a local file; 3 refused by the server;
4 unavailable; 5 deadline; 130 interrupted.

Examples:
  gradwire grad 'x^2*y + y^3' x=2 y=3
  gradwire eval --model mlp.onnx images=@digits.npz
  gradwire COMMAND --help
)";

namespace {

constexpr CommandHelp kCommands[] = {
    {Command::kEval, "eval", "Compute values: y = f(x)",
     R"(
Examples:
  gradwire eval 'a @ b' 'a=[[1,2],[3,4]]' 'b=[1,1]'
  gradwire eval 'u = x^2; v = u + 1; return u, v' x=3
  gradwire eval --model mlp.onnx images=@digits.npz --outputs logits --output=json
)",
     nullptr},
    {Command::kGrad, "grad", "Compute a scalar and its gradient",
     R"(
Examples:
  gradwire grad 'x^2*y + y^3' x=2 y=3
  gradwire grad 'sum(w * x^2)' 'x=[1,2,3]' w=@w.npy --wrt w
  gradwire grad --model loss.onnx images=@x.npy labels=@y.npy --output-name loss --precision double
)",
     nullptr},
    {Command::kVjp, "vjp", "Compute K vector-Jacobian products (reverse mode)",
     R"(
Prints the outputs and, for each cotangent v, (J'v) at every value differentiated by.

Examples:
  gradwire vjp 'x^2' 'x=[1,2]' --cotangent 'f=[1,0]' --cotangent 'f=[0,1]'
  gradwire vjp 'u = x*y; v = x+y; return u, v' x=2 y=3 --cotangent u=1 --cotangent v=1
)",
     "--cotangent"},
    {Command::kJvp, "jvp", "Compute K Jacobian-vector products (forward mode)",
     R"(
Prints the outputs and, for each tangent v, (Jv) at every output.

Examples:
  gradwire jvp 'x^2*y' x=2 y=3 --tangent x=1 --tangent y=0.5
  gradwire jvp 'x^2*y' x=2 y=3 --tangent x=1 --tangent x=0 --tangent y=1
)",
     "--tangent"},
    {Command::kHvp, "hvp", "Compute a scalar, its gradient and K Hessian-vector products",
     R"(
Examples:
  gradwire hvp '(1-x)^2 + 100*(y-x^2)^2' x=1 y=2 --vector x=1 --vector y=0
  gradwire hvp 'sum(x^3)' 'x=[1,2]' --vector 'x=[1,0]' --vector 'x=[0,1]' --output=json
)",
     "--vector"},
    {Command::kAnalyze, "analyze",
     "Say what a graph consists of, needs and costs, without running it",
     R"(
Lists every node that the server cannot compute or differentiate, with the way from the output that
needs it. Inputs may be left out; then there are no costs. Exit code 0: the graph can be
differentiated, or its inputs are not all given; 1: something is in its way.

Examples:
  gradwire analyze 'x^2*y + y^3' x=2 y=3
  gradwire analyze --model mlp.onnx
  gradwire analyze --model mlp.onnx images=@digits.npz labels=@digits.npz --output=json
)",
     nullptr},
    {Command::kHealth, "health", "Ask whether the server is serving (exit code 0: it is)",
     R"(
Examples:
  gradwire health
  gradwire health --server 127.0.0.1:50051 --deadline 1
  gradwire health --service gradwire.v1.GradientService
)",
     nullptr},
    {Command::kServerStatus, "status", "Show the server's versions, limits, ops and self-check",
     R"(
Examples:
  gradwire server status
  gradwire server status --output=json
)",
     nullptr},
};

}  // namespace

const CommandHelp& HelpOf(Command command) { return kCommands[static_cast<size_t>(command)]; }

}  // namespace gradwire::cli
