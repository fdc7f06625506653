// Phase 4 of Compile: every root gets a place. Values that a step of a higher stage reads are kept
// to the end, because a Run that begins at that stage reads them again. Offsets by best fit over a
// sweep in time: n log n.
#include <algorithm>
#include <map>
#include <set>

#include "absl/container/flat_hash_map.h"
#include "engine/base/checked.h"
#include "engine/exec/lowering.h"
#include "engine/graph/builder.h"

namespace gradwire {
namespace {

constexpr int64_t kAlign = 64;
constexpr int64_t kMaxArenaBytes = int64_t{1} << 46;

int64_t Aligned(int64_t bytes) {
  return bytes > kMaxArenaBytes ? bytes : (bytes + kAlign - 1) / kAlign * kAlign;
}

// Free blocks of a growing line of bytes, by offset and by size.
class FreeList {
 public:
  int64_t Take(int64_t bytes) {
    auto fit = by_size_.lower_bound({bytes, 0});
    if (fit == by_size_.end()) {
      // Grow, from the last block if it touches the end.
      int64_t offset = end_;
      if (!by_offset_.empty()) {
        auto last = std::prev(by_offset_.end());
        if (last->first + last->second == end_) {
          offset = last->first;
          Erase(last);
        }
      }
      end_ = SaturatingAdd(offset, bytes);
      return offset;
    }
    const auto [size, offset] = *fit;
    Erase(by_offset_.find(offset));
    if (size > bytes) Insert(offset + bytes, size - bytes);
    return offset;
  }

  void Give(int64_t offset, int64_t bytes) {
    auto next = by_offset_.lower_bound(offset);
    if (next != by_offset_.begin()) {
      auto prev = std::prev(next);
      if (prev->first + prev->second == offset) {
        offset = prev->first;
        bytes += prev->second;
        Erase(prev);
      }
    }
    next = by_offset_.lower_bound(offset);
    if (next != by_offset_.end() && offset + bytes == next->first) {
      bytes += next->second;
      Erase(next);
    }
    Insert(offset, bytes);
  }

  int64_t end() const { return end_; }

 private:
  void Insert(int64_t offset, int64_t bytes) {
    by_offset_[offset] = bytes;
    by_size_.emplace(bytes, offset);
  }
  void Erase(std::map<int64_t, int64_t>::iterator it) {
    by_size_.erase({it->second, it->first});
    by_offset_.erase(it);
  }
  std::map<int64_t, int64_t> by_offset_;
  std::set<std::pair<int64_t, int64_t>> by_size_;  // bytes, offset
  int64_t end_ = 0;
};

class Assigner {
 public:
  Assigner(const Lowered& lowered, absl::Span<const int64_t> scratch_bytes)
      : lowered_(lowered), graph_(*lowered.graph), scratch_bytes_(scratch_bytes) {
    out_.places.resize(lowered.types.size());
    out_.scratch.assign(lowered.steps.size(), 0);
  }

  absl::StatusOr<Buffers> Run() {
    PlaceGivenRoots();
    FindLastReads();
    for (size_t i = 0; i < lowered_.steps.size(); ++i) {
      const LoweredStep& step = lowered_.steps[i];
      for (ValueId v : step.out) {
        Place& place = out_.places[static_cast<size_t>(v)];
        if (place.where != Place::kNowhere) continue;
        place = {Place::kArena, 0, free_.Take(BytesOf(v))};
      }
      if (scratch_bytes_[i] > 0) {
        out_.scratch[i] = free_.Take(Aligned(scratch_bytes_[i]));
        free_.Give(out_.scratch[i], Aligned(scratch_bytes_[i]));
      }
      for (ValueId v : dying_[i]) {
        if (out_.places[static_cast<size_t>(v)].where == Place::kArena) {
          free_.Give(out_.places[static_cast<size_t>(v)].offset, BytesOf(v));
        }
      }
      if (free_.end() > kMaxArenaBytes) {
        return Error(Reason::kMemoryLimit,
                     absl::StrCat("the computation needs more than ", kMaxArenaBytes,
                                  " bytes of working memory"));
      }
    }
    out_.arena_bytes = free_.end();
    return std::move(out_);
  }

 private:
  int64_t BytesOf(ValueId v) const {
    return Aligned(std::max<int64_t>(lowered_.types[static_cast<size_t>(v)].bytes(), 1));
  }

  void PlaceGivenRoots() {
    for (size_t i = 0; i < graph_.inputs().size(); ++i) {
      out_.places[static_cast<size_t>(graph_.inputs()[i].value)] = {Place::kInput,
                                                                    static_cast<int32_t>(i), 0};
    }
    int32_t constants = 0;
    for (const Node& node : graph_.nodes()) {
      if (node.op != &kConstantOp) continue;
      out_.places[static_cast<size_t>(node.first_output)] = {Place::kConstant, constants++, 0};
    }
    for (size_t i = 0; i < lowered_.outputs.size(); ++i) {
      out_.places[static_cast<size_t>(lowered_.outputs[i].root)] = {Place::kOutput,
                                                                    static_cast<int32_t>(i), 0};
    }
    // An update that is an output too, a constant or another update is copied at the end.
    for (size_t i = 0; i < lowered_.update_roots.size(); ++i) {
      Place& place = out_.places[static_cast<size_t>(lowered_.update_roots[i])];
      if (place.where == Place::kNowhere) place = {Place::kUpdate, static_cast<int32_t>(i), 0};
    }
  }

  void FindLastReads() {
    const auto end = static_cast<int32_t>(lowered_.steps.size()) - 1;
    std::vector<int32_t> last(lowered_.types.size(), -1);
    for (int32_t i = 0; i <= end; ++i) {
      const LoweredStep& step = lowered_.steps[static_cast<size_t>(i)];
      for (ValueId v : step.out)
        last[static_cast<size_t>(v)] = std::max(last[static_cast<size_t>(v)], i);
      for (const Operand& o : step.in) {
        const auto root = static_cast<size_t>(o.root);
        last[root] = step.stage > lowered_.stages[root] ? end : std::max(last[root], i);
      }
    }
    for (ValueId v : lowered_.update_roots) last[static_cast<size_t>(v)] = end;
    dying_.resize(lowered_.steps.size());
    for (size_t v = 0; v < last.size(); ++v) {
      if (last[v] >= 0) dying_[static_cast<size_t>(last[v])].push_back(static_cast<ValueId>(v));
    }
  }

  const Lowered& lowered_;
  const Graph& graph_;
  absl::Span<const int64_t> scratch_bytes_;
  std::vector<std::vector<ValueId>> dying_;  // by step: roots that nothing reads after it
  FreeList free_;
  Buffers out_;
};

}  // namespace

absl::StatusOr<Buffers> AssignBuffers(const Lowered& lowered,
                                      absl::Span<const int64_t> scratch_bytes) {
  return Assigner(lowered, scratch_bytes).Run();
}

}  // namespace gradwire
