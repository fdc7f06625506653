// File: philox.h
//
// Counter-based random numbers: pure functions of a key and a counter, so that a run that was
// interrupted draws what it would have drawn.
//
//   Philox({0, 0, 7, 0}, Mix(seed))   // four words: block 0 of stream 7
//
// Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011 (Philox4x32-10);
// Mix is SplitMix64's output function. Thread-safety: pure functions.
#ifndef GRADWIRE_ENGINE_BASE_PHILOX_H_
#define GRADWIRE_ENGINE_BASE_PHILOX_H_

#include <array>
#include <cstdint>

namespace gradwire {

using PhiloxBlock = std::array<uint32_t, 4>;

inline PhiloxBlock Philox(PhiloxBlock c, uint64_t key) {
  auto k0 = static_cast<uint32_t>(key);
  auto k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53} * c[0];
    const uint64_t p1 = uint64_t{0xCD9E8D57} * c[2];
    c = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<uint32_t>(p1),
         static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k1, static_cast<uint32_t>(p0)};
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  return c;
}

// A bijection that spreads neighbouring numbers.
inline uint64_t Mix(uint64_t x) {
  x += 0x9E3779B97F4A7C15;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
  return x ^ (x >> 31);
}

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_BASE_PHILOX_H_
