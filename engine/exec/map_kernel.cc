#include <algorithm>
#include <cstring>

#include "engine/base/checked.h"
#include "engine/base/team.h"
#include "engine/exec/step_kernels.h"
#include "engine/kernels/reduce.h"
#include "engine/kernels/tiles.h"

namespace gradwire {
namespace {

constexpr int64_t kTileBytes = 24 << 10;     // of all registers that live at once: most of L1
constexpr int64_t kMaxTile = 2048;           // elements
constexpr int64_t kParallelWork = 64 << 10;  // element-instructions worth a fork

// An input that is not laid out like the iteration space: copied into a register tile by tile.
struct StridedLoad {
  int32_t input;
  int32_t reg;
  int64_t element_bytes;
  bool uniform;  // every stride is 0: filled once
  Dims extents;  // collapsed
  Dims strides;  // in elements
};
// A register that is memory: it moves along with the tile.
struct MovingPointer {
  int32_t slot;  // index of the input or output
  int32_t reg;
  int64_t element_bytes;
};
struct Instruction {
  TileFn fn;
  int32_t in[3];
  int32_t out;
};

// Sums (or maxima) of a register over rows of `reduce_inner_` elements.
struct Reduction {
  ReduceFn fn;
  int32_t reg;
  int32_t out;  // index of the output
  int64_t element_bytes;
  int64_t partials;  // offset in the scratch; used where a row takes several tiles
};

template <int kBytes>
void CopyStrided(const char* from, int64_t stride, int64_t n, char* to) {
  for (int64_t i = 0; i < n; ++i) std::memcpy(to + i * kBytes, from + i * stride * kBytes, kBytes);
}

void CopyRun(const char* from, int64_t stride, int64_t n, int64_t bytes, char* to) {
  if (stride == 1) {
    std::memcpy(to, from, static_cast<size_t>(n * bytes));
  } else if (stride == 0) {
    tiles::Splat(from, to, n, bytes);
  } else if (bytes == 4) {
    CopyStrided<4>(from, stride, n, to);
  } else if (bytes == 8) {
    CopyStrided<8>(from, stride, n, to);
  } else if (bytes == 1) {
    CopyStrided<1>(from, stride, n, to);
  } else {
    CopyStrided<2>(from, stride, n, to);
  }
}

// Elements [begin, begin + n) of the iteration space, in row-major order.
void Load(const StridedLoad& load, const char* base, int64_t begin, int64_t n, char* to) {
  const size_t rank = load.extents.size();
  int64_t index[Shape::kMaxRank];
  int64_t rest = begin, offset = 0;
  for (size_t d = rank; d-- > 0;) {
    index[d] = rest % load.extents[d];
    rest /= load.extents[d];
    offset += index[d] * load.strides[d];
  }
  const int64_t inner = load.strides[rank - 1];
  while (n > 0) {
    const int64_t run = std::min(n, load.extents[rank - 1] - index[rank - 1]);
    CopyRun(base + offset * load.element_bytes, inner, run, load.element_bytes, to);
    to += run * load.element_bytes;
    n -= run;
    offset += run * inner;
    index[rank - 1] += run;
    for (size_t d = rank - 1; d > 0 && index[d] == load.extents[d]; --d) {
      offset += load.strides[d - 1] - index[d] * load.strides[d];
      index[d] = 0;
      ++index[d - 1];
    }
  }
}

// Merges dimensions that one stride can walk; drops extents of 1.
void Collapse(const Shape& shape, const Layout& layout, Dims* extents, Dims* strides) {
  for (int i = 0; i < shape.rank(); ++i) {
    if (shape[i] == 1) continue;
    const int64_t stride = layout.strides[static_cast<size_t>(i)];
    if (!extents->empty() && strides->back() == stride * shape[i]) {
      extents->back() *= shape[i];
      strides->back() = stride;
    } else {
      extents->push_back(shape[i]);
      strides->push_back(stride);
    }
  }
  if (extents->empty()) {
    extents->push_back(1);
    strides->push_back(0);
  }
}

// The layout of an operand broadcast to the iteration space.
Layout BroadcastLayout(const Operand& o, const Shape& space) {
  Layout out;
  out.strides.assign(static_cast<size_t>(space.rank()), 0);
  const int lead = space.rank() - o.type.shape.rank();
  for (int i = 0; i < o.type.shape.rank(); ++i) {
    if (o.type.shape[i] != 1) {
      out.strides[static_cast<size_t>(i + lead)] = o.layout.strides[static_cast<size_t>(i)];
    }
  }
  return out;
}

class MapKernel : public Kernel {
 public:
  absl::Status Run(const void* const* in, void* const* out, void* scratch,
                   int threads) const override {
    if (elements_ == 0) return absl::OkStatus();
    const int64_t work = SaturatingMul(elements_, static_cast<int64_t>(instructions_.size()));
    const auto chunks =
        static_cast<int>(std::min<int64_t>(work < kParallelWork ? 1 : threads, units_));
    char* const bytes = static_cast<char*>(scratch);
    if (chunks <= 1) {
      RunUnits(in, out, bytes, bytes, 0, units_);
    } else {
      ParallelFor(threads, chunks, [&](int64_t c) {
        RunUnits(in, out, bytes, bytes + c * chunk_scratch_, units_ * c / chunks,
                 units_ * (c + 1) / chunks);
      });
    }
    if (tiles_per_row_ > 1) {
      for (const Reduction& r : reductions_) {
        r.fn(bytes + r.partials, out[r.out], units_ / tiles_per_row_, tiles_per_row_, 1, 1);
      }
    }
    return absl::OkStatus();
  }

  std::string Describe() const override {
    return absl::StrCat("map of ", instructions_.size(), " over ", elements_, " elements, ",
                        loads_.size(), " loads, tile ", tile_,
                        reductions_.empty() ? ""
                                            : absl::StrCat(", ", reductions_.size(),
                                                           " reductions over ", reduce_inner_));
  }

 private:
  friend class MapKernelBuilder;

  // A unit is a tile; where rows are reduced, it is whole rows or a part of one.
  void RunUnits(const void* const* in, void* const* out, char* shared, char* scratch,
                int64_t first_unit, int64_t last_unit) const {
    char** regs = reinterpret_cast<char**>(scratch);
    for (size_t r = 0; r < tile_offsets_.size(); ++r) {
      regs[r] = tile_offsets_[r] >= 0 ? scratch + tile_offsets_[r] : nullptr;
    }
    for (const StridedLoad& load : loads_) {
      if (load.uniform) {
        tiles::Splat(in[load.input], regs[load.reg], std::min(tile_, elements_),
                     load.element_bytes);
      }
    }
    for (int64_t unit = first_unit; unit < last_unit; ++unit) {
      int64_t at = unit * tile_, n = std::min(tile_, elements_ - at);
      if (tiles_per_row_ > 1) {
        const int64_t within = unit % tiles_per_row_ * tile_;
        at = unit / tiles_per_row_ * reduce_inner_ + within;
        n = std::min(tile_, reduce_inner_ - within);
      }
      RunTile(in, out, regs, at, n);
      for (const Reduction& r : reductions_) {
        if (tiles_per_row_ > 1) {
          r.fn(regs[r.reg], shared + r.partials + unit * r.element_bytes, 1, n, 1, 1);
        } else {
          r.fn(regs[r.reg], static_cast<char*>(out[r.out]) + at / reduce_inner_ * r.element_bytes,
               n / reduce_inner_, reduce_inner_, 1, 1);
        }
      }
    }
  }

  void RunTile(const void* const* in, void* const* out, char** regs, int64_t at, int64_t n) const {
    for (const MovingPointer& p : direct_in_) {
      regs[p.reg] = const_cast<char*>(static_cast<const char*>(in[p.slot])) + at * p.element_bytes;
    }
    for (const MovingPointer& p : direct_out_) {
      regs[p.reg] = static_cast<char*>(out[p.slot]) + at * p.element_bytes;
    }
    for (const StridedLoad& load : loads_) {
      if (!load.uniform) {
        Load(load, static_cast<const char*>(in[load.input]), at, n, regs[load.reg]);
      }
    }
    for (const Instruction& i : instructions_) {
      const void* operands[3] = {regs[i.in[0]], regs[i.in[1]], regs[i.in[2]]};
      i.fn(operands, regs[i.out], n);
    }
  }

  int64_t elements_ = 0;
  int64_t tile_ = 0;
  int64_t units_ = 0;
  int64_t reduce_inner_ = 1;
  int64_t tiles_per_row_ = 1;          // above 1: rows of reductions are longer than a tile
  int64_t chunk_scratch_ = 0;          // bytes of one thread's registers
  std::vector<int64_t> tile_offsets_;  // by register; -1: the register is memory
  std::vector<StridedLoad> loads_;
  std::vector<MovingPointer> direct_in_, direct_out_;
  std::vector<Instruction> instructions_;
  std::vector<Reduction> reductions_;
};

// Registers: one for each input, one for each stored result, and as few tiles as possible for
// results that only later instructions read.
class MapKernelBuilder {
 public:
  MapKernelBuilder(const LoweredStep& step, int threads) : step_(step), threads_(threads) {}

  BoundKernel Build() {
    kernel_ = std::make_unique<MapKernel>();
    kernel_->elements_ = step_.space.num_elements();
    for (size_t i = 0; i < step_.in.size(); ++i) AddInput(static_cast<int32_t>(i));
    AssignResults();
    return Finish();
  }

 private:
  int32_t NewRegister(bool tile) {
    is_tile_.push_back(tile);
    return static_cast<int32_t>(is_tile_.size()) - 1;
  }

  void AddInput(int32_t index) {
    const Operand& o = step_.in[static_cast<size_t>(index)];
    const Layout layout = BroadcastLayout(o, step_.space);
    const int64_t bytes = DTypeBytes(o.type.dtype);
    const bool direct = layout.IsDense(step_.space);
    const int32_t reg = NewRegister(!direct);
    input_reg_.push_back(reg);
    if (direct) {
      kernel_->direct_in_.push_back({index, reg, bytes});
      return;
    }
    StridedLoad load{index, reg, bytes, false, {}, {}};
    Collapse(step_.space, layout, &load.extents, &load.strides);
    load.uniform =
        std::all_of(load.strides.begin(), load.strides.end(), [](int64_t s) { return s == 0; });
    kernel_->loads_.push_back(std::move(load));
  }

  void AssignResults() {
    const size_t n = step_.instructions.size();
    std::vector<int32_t> last_read(n, -1);
    for (size_t i = 0; i < n; ++i) {
      for (int32_t operand : step_.instructions[i].in) {
        if (operand >= 0) last_read[static_cast<size_t>(operand)] = static_cast<int32_t>(i);
      }
    }
    for (const MapReduction& r : step_.reductions) {
      last_read[static_cast<size_t>(r.instruction)] = static_cast<int32_t>(n);
    }
    std::vector<int32_t> reg(n, -1);
    std::vector<int32_t> free;
    size_t next_out = 0;  // step.out lists stored results in instruction order
    for (size_t i = 0; i < n; ++i) {
      const MapInstruction& from = step_.instructions[i];
      Instruction instruction{from.fn, {0, 0, 0}, 0};
      for (size_t k = 0; k < from.in.size(); ++k) {
        const int32_t operand = from.in[k];
        instruction.in[k] = operand >= 0 ? reg[static_cast<size_t>(operand)]
                                         : input_reg_[static_cast<size_t>(-1 - operand)];
      }
      // Tiles whose last reader this is can take its result, for loops may run in place; but not
      // a wider result, which would overtake what is still to be read.
      absl::InlinedVector<int32_t, 3> narrower;
      for (size_t k = 0; k < from.in.size(); ++k) {
        const int32_t operand = from.in[k];
        if (operand < 0 || last_read[static_cast<size_t>(operand)] != static_cast<int32_t>(i))
          continue;
        const int32_t r = reg[static_cast<size_t>(operand)];
        const bool again = std::find(from.in.begin(), from.in.begin() + static_cast<int64_t>(k),
                                     operand) != from.in.begin() + static_cast<int64_t>(k);
        if (again || !is_tile_[static_cast<size_t>(r)]) continue;
        const DType dtype = step_.instructions[static_cast<size_t>(operand)].dtype;
        if (DTypeBytes(dtype) >= DTypeBytes(from.dtype)) {
          free.push_back(r);
        } else {
          narrower.push_back(r);
        }
      }
      if (next_out < step_.out.size() && step_.out[next_out] == from.result) {
        reg[i] = NewRegister(false);
        kernel_->direct_out_.push_back(
            {static_cast<int32_t>(next_out), reg[i], DTypeBytes(from.dtype)});
        ++next_out;
      } else if (!free.empty()) {
        reg[i] = free.back();
        free.pop_back();
      } else {
        reg[i] = NewRegister(true);
      }
      instruction.out = reg[i];
      kernel_->instructions_.push_back(instruction);
      free.insert(free.end(), narrower.begin(), narrower.end());
    }
    for (const MapReduction& r : step_.reductions) {
      kernel_->reductions_.push_back({FindReduce(r.kind, r.dtype),
                                      reg[static_cast<size_t>(r.instruction)],
                                      static_cast<int32_t>(next_out++), DTypeBytes(r.dtype), 0});
    }
  }

  BoundKernel Finish() {
    const auto tiles = static_cast<int64_t>(std::count(is_tile_.begin(), is_tile_.end(), true));
    int64_t widest = 1;
    for (const MapInstruction& m : step_.instructions) {
      widest = std::max(widest, DTypeBytes(m.dtype));
    }
    const int64_t fit = kTileBytes / (widest * std::max<int64_t>(tiles, 1)) / 16 * 16;
    kernel_->tile_ = std::clamp<int64_t>(fit, 64, kMaxTile);
    CutIntoUnits();
    const int64_t tile_bytes =
        std::max<int64_t>(64, std::min(kernel_->tile_, kernel_->elements_) * 8 + 63) / 64 * 64;
    int64_t offset = (static_cast<int64_t>(is_tile_.size()) * 8 + 63) / 64 * 64;
    for (bool tile : is_tile_) {
      kernel_->tile_offsets_.push_back(tile ? offset : -1);
      if (tile) offset += tile_bytes;
    }
    kernel_->chunk_scratch_ = offset;
    int64_t scratch = offset * threads_;
    if (kernel_->tiles_per_row_ > 1) {
      for (Reduction& r : kernel_->reductions_) {
        r.partials = scratch;
        scratch += (kernel_->units_ * r.element_bytes + 63) / 64 * 64;
      }
    }
    return {std::move(kernel_), scratch};
  }

  void CutIntoUnits() {
    MapKernel& k = *kernel_;
    if (!k.reductions_.empty()) {
      k.reduce_inner_ = step_.reduce_inner;
      if (k.reduce_inner_ > k.tile_) {
        k.tiles_per_row_ = (k.reduce_inner_ + k.tile_ - 1) / k.tile_;
        k.units_ = k.elements_ / k.reduce_inner_ * k.tiles_per_row_;
        return;
      }
      k.tile_ = k.tile_ / k.reduce_inner_ * k.reduce_inner_;
    }
    k.units_ = (k.elements_ + k.tile_ - 1) / k.tile_;
  }

  const LoweredStep& step_;
  const int threads_;
  std::unique_ptr<MapKernel> kernel_;
  std::vector<bool> is_tile_;  // by register
  std::vector<int32_t> input_reg_;
};

}  // namespace

BoundKernel MakeMapKernel(const LoweredStep& step, int threads) {
  return MapKernelBuilder(step, threads).Build();
}

}  // namespace gradwire
