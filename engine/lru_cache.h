// File: lru_cache.h
//
// LruCache: a map bounded in bytes; the least recently used entries go first. What is larger than
// the bound is not kept. Thread-safe.
#ifndef GRADWIRE_ENGINE_LRU_CACHE_H_
#define GRADWIRE_ENGINE_LRU_CACHE_H_

#include <list>
#include <optional>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"

namespace gradwire {

template <typename Key, typename Value>
class LruCache {
 public:
  explicit LruCache(int64_t max_bytes) : max_bytes_(max_bytes) {}

  std::optional<Value> Find(const Key& key) {
    absl::MutexLock lock(&mutex_);
    auto it = index_.find(key);
    if (it == index_.end()) return std::nullopt;
    entries_.splice(entries_.begin(), entries_, it->second);
    return it->second->value;
  }

  // Replaces an entry of the same key.
  void Insert(const Key& key, Value value, int64_t bytes) {
    std::list<Entry> dropped;  // destroyed after the lock is gone
    absl::MutexLock lock(&mutex_);
    if (auto it = index_.find(key); it != index_.end()) Drop(it->second, &dropped);
    if (bytes > max_bytes_) return;
    entries_.push_front({key, std::move(value), bytes});
    index_[key] = entries_.begin();
    bytes_ += bytes;
    while (bytes_ > max_bytes_) Drop(std::prev(entries_.end()), &dropped);
  }

  int64_t bytes() const {
    absl::MutexLock lock(&mutex_);
    return bytes_;
  }

 private:
  struct Entry {
    Key key;
    Value value;
    int64_t bytes;
  };
  void Drop(typename std::list<Entry>::iterator it, std::list<Entry>* dropped) {
    bytes_ -= it->bytes;
    index_.erase(it->key);
    dropped->splice(dropped->begin(), entries_, it);
  }

  mutable absl::Mutex mutex_;
  const int64_t max_bytes_;
  int64_t bytes_ = 0;
  std::list<Entry> entries_;  // most recently used first
  absl::flat_hash_map<Key, typename std::list<Entry>::iterator> index_;
};

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_LRU_CACHE_H_
