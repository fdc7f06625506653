// Overflow-checked arithmetic on sizes that come from outside. Each returns false on overflow and
// leaves *out unspecified.
#ifndef GRADWIRE_ENGINE_BASE_CHECKED_H_
#define GRADWIRE_ENGINE_BASE_CHECKED_H_

#include <cstdint>

namespace gradwire {

[[nodiscard]] inline bool CheckedMul(int64_t a, int64_t b, int64_t* out) {
  return !__builtin_mul_overflow(a, b, out);
}
[[nodiscard]] inline bool CheckedAdd(int64_t a, int64_t b, int64_t* out) {
  return !__builtin_add_overflow(a, b, out);
}
// a + b where too large sums stay at the largest value: right for "how many bytes would it take".
inline int64_t SaturatingAdd(int64_t a, int64_t b) {
  int64_t r;
  return CheckedAdd(a, b, &r) ? r : INT64_MAX;
}
inline int64_t SaturatingMul(int64_t a, int64_t b) {
  int64_t r;
  return CheckedMul(a, b, &r) ? r : INT64_MAX;
}

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_BASE_CHECKED_H_
