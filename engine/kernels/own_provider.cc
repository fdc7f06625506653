#include "engine/kernels/own_provider.h"

#include "engine/kernels/conv.h"
#include "engine/kernels/matmul.h"

namespace gradwire {
namespace {

class OwnProvider : public KernelProvider {
 public:
  absl::string_view name() const override { return "own"; }
  std::string version() const override { return "2"; }
  std::optional<Proposal> Propose(const PrimitiveCall& call) const override {
    return call.kind == PrimitiveKind::kMatMul ? ProposeMatMul(call) : ProposeConvolution(call);
  }
};

}  // namespace

std::unique_ptr<KernelProvider> MakeOwnProvider() { return std::make_unique<OwnProvider>(); }

}  // namespace gradwire
