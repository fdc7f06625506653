// File: simd_targets.h
//
// The instruction sets that vectorised kernels are compiled for. Include before Highway, in every
// file that uses it: the set must be the same everywhere. On x86: AVX-512, AVX2 with FMA, SSE4 and
// the compiler's baseline; the sets between them would cost compile time and gain nothing.
#ifndef GRADWIRE_ENGINE_KERNELS_SIMD_TARGETS_H_
#define GRADWIRE_ENGINE_KERNELS_SIMD_TARGETS_H_

#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_AVX3_DL)

#endif  // GRADWIRE_ENGINE_KERNELS_SIMD_TARGETS_H_
