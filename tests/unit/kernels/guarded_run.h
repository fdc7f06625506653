// RunGuarded: a kernel of our own provider on one call. Scratch and result hold NaN bytes before,
// and guards around them hold after.
#ifndef GRADWIRE_TESTS_UNIT_KERNELS_GUARDED_RUN_H_
#define GRADWIRE_TESTS_UNIT_KERNELS_GUARDED_RUN_H_

#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "engine/exec/kernel.h"
#include "gtest/gtest.h"

namespace gradwire {

template <typename T>
std::vector<T> RunGuarded(const Proposal& proposal, const PrimitiveCall& call,
                          const std::vector<const void*>& in, int threads) {
  EXPECT_EQ(proposal.wants_dense, 0u);
  constexpr size_t kGuard = 64;
  const auto scratch_bytes = static_cast<size_t>(proposal.scratch_bytes);
  const size_t allocated = (scratch_bytes + 63) / 64 * 64 + kGuard;
  std::unique_ptr<char, decltype(&std::free)> scratch(
      static_cast<char*>(std::aligned_alloc(64, allocated)), &std::free);
  std::memset(scratch.get(), 0xff, allocated);
  const auto n = static_cast<size_t>(call.out.shape.num_elements());
  std::vector<T> out(n + kGuard);
  std::memset(out.data(), 0xff, out.size() * sizeof(T));
  const std::vector<T> untouched = out;
  void* outs[] = {out.data()};
  EXPECT_TRUE(proposal.kernel->Run(in.data(), outs, scratch.get(), threads).ok());
  for (size_t i = scratch_bytes; i < scratch_bytes + kGuard; ++i) {
    EXPECT_EQ(scratch.get()[i], '\xff') << proposal.kernel->Describe() << ": scratch overrun";
  }
  EXPECT_EQ(std::memcmp(out.data() + n, untouched.data() + n, kGuard * sizeof(T)), 0);
  out.resize(n);
  return out;
}

}  // namespace gradwire

#endif  // GRADWIRE_TESTS_UNIT_KERNELS_GUARDED_RUN_H_
