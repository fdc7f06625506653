// File: digest.h
//
// 128-bit XXH3 digests of structured data: equal content gives equal digests on every machine.
// For identity and caching inside one trust domain, not for security.
//
//   Digest d = DigestBuilder().Add("Add").Add(int64_t{3}).Finish();
#ifndef GRADWIRE_ENGINE_BASE_DIGEST_H_
#define GRADWIRE_ENGINE_BASE_DIGEST_H_

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace gradwire {

struct Digest {
  uint64_t high = 0;
  uint64_t low = 0;
  bool operator==(const Digest&) const = default;
  std::string Hex() const;  // 32 lower-case digits
  template <typename H>
  friend H AbslHashValue(H h, const Digest& d) {
    return H::combine(std::move(h), d.high, d.low);
  }
};

Digest DigestOf(absl::string_view bytes);

// Appends length-prefixed parts to one buffer and digests it.
class DigestBuilder {
 public:
  DigestBuilder& Add(absl::string_view bytes);
  DigestBuilder& Add(int64_t value);
  DigestBuilder& Add(const Digest& digest);
  Digest Finish() const { return DigestOf(buffer_); }

 private:
  std::string buffer_;
};

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_BASE_DIGEST_H_
