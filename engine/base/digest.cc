#include "engine/base/digest.h"

#include <xxhash.h>

#include "absl/strings/str_format.h"

namespace gradwire {

std::string Digest::Hex() const { return absl::StrFormat("%016x%016x", high, low); }

Digest DigestOf(absl::string_view bytes) {
  const XXH128_hash_t h = XXH3_128bits(bytes.data(), bytes.size());
  return {h.high64, h.low64};
}

DigestBuilder& DigestBuilder::Add(absl::string_view bytes) {
  Add(static_cast<int64_t>(bytes.size()));
  buffer_.append(bytes.data(), bytes.size());
  return *this;
}

DigestBuilder& DigestBuilder::Add(int64_t value) {
  for (int i = 0; i < 8; ++i) buffer_ += static_cast<char>(static_cast<uint64_t>(value) >> (8 * i));
  return *this;
}

DigestBuilder& DigestBuilder::Add(const Digest& digest) {
  return Add(static_cast<int64_t>(digest.high)).Add(static_cast<int64_t>(digest.low));
}

}  // namespace gradwire
