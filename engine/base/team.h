// File: team.h
//
// The one way to use several threads inside a step: a fixed team of the calling worker's OpenMP
// threads. Work is cut into blocks by size alone, never by load, so results have the same bits
// whatever else the machine does.
#ifndef GRADWIRE_ENGINE_BASE_TEAM_H_
#define GRADWIRE_ENGINE_BASE_TEAM_H_

#include <omp.h>

#include <cstdint>

namespace gradwire {

// Calls fn(block) for every block in [0, blocks), spread over `threads` threads. `fn` must not
// throw. With one thread (or one block) it runs on the caller with no fork.
template <typename Fn>
void ParallelFor(int threads, int64_t blocks, const Fn& fn) {
  if (threads <= 1 || blocks <= 1) {
    for (int64_t i = 0; i < blocks; ++i) fn(i);
    return;
  }
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t i = 0; i < blocks; ++i) fn(i);
}

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_BASE_TEAM_H_
