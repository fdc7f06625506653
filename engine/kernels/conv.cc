#include "engine/kernels/conv.h"

#include <algorithm>
#include <cstdint>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/checked.h"
#include "engine/base/team.h"
#include "engine/kernels/conv_loops.h"
#include "engine/kernels/matmul.h"

namespace gradwire {
namespace convolution {
namespace {

// Below this many multiplications a team costs more than it saves.
constexpr int64_t kMinTeamProducts = 1 << 17;
// A part of a column matrix stays in the second-level cache.
constexpr int64_t kPartBytes = 256 << 10;
constexpr int64_t kMaxPartRows = 1024;
// With fewer output channels than this, an element of a column matrix is used too rarely to pay for
// its making.
constexpr int64_t kMinGemmRows = 4;

// `total` in equal pieces of at most `most`, each but the last a multiple of `unit`.
struct Cut {
  int64_t total, size, count;
  Cut(int64_t extent, int64_t most, int64_t unit) : total(extent) {
    const int64_t pieces = (extent + most - 1) / most;
    size = std::min(extent, matmul::RoundUp((extent + pieces - 1) / pieces, unit));
    count = (extent + size - 1) / size;
  }
  Range operator[](int64_t i) const { return {i * size, std::min(total, (i + 1) * size)}; }
};

int64_t Length(Range r) { return r.end - r.begin; }

template <class T>
struct Operands {
  const T* first;
  const T* second;
  const T* bias;  // null: none
  T* out;
};

// What all have in common: the work is cut into tasks by the shapes alone. Tasks write different
// elements, and each adds in an order of its own, so bits do not depend on who runs them.
template <class T>
class ConvKernel : public Kernel {
 public:
  ConvKernel(const PrimitiveCall& call, const Convolution& c, absl::string_view name)
      : c_(c),
        taps_(c.taps()),
        rows_(c.in_channels * taps_),
        points_(c.out_points()),
        members_(c.batch * c.groups),
        x_size_(c.in_channels * c.in_points()),
        y_size_(c.out_channels * points_),
        w_size_(c.out_channels * rows_),
        loops_(BestLoops<T>()),
        post_(matmul::PostTile(call.post_op, kDTypeOf<T>)),
        has_bias_(call.has_bias),
        threads_(c.flops() / 2 < kMinTeamProducts ? 1 : std::max(call.threads, 1)),
        describe_(absl::StrCat("own ", name, has_bias_ ? "+bias" : "", PostOpName(call.post_op),
                               sizeof(T) == 4 ? " f32 " : " f64 ", c.ToString())) {}

  int64_t scratch_bytes() const {
    return SaturatingMul(threads_, room_elements_ * static_cast<int64_t>(sizeof(T)));
  }

  absl::Status Run(const void* const* in, void* const* out, void* scratch,
                   int threads) const override {
    const Operands<T> operands = {static_cast<const T*>(in[0]), static_cast<const T*>(in[1]),
                                  has_bias_ ? static_cast<const T*>(in[2]) : nullptr,
                                  static_cast<T*>(out[0])};
    const int team = std::clamp(threads, 1, threads_);
    ParallelFor(team, team, [&](int64_t member) {
      T* const room = static_cast<T*>(scratch) + member * room_elements_;
      const int64_t end = tasks_ * (member + 1) / team;
      for (int64_t task = tasks_ * member / team; task < end; ++task) {
        RunTask(task, operands, room);
      }
    });
    return absl::OkStatus();
  }

  std::string Describe() const override { return describe_; }

 protected:
  virtual void RunTask(int64_t task, const Operands<T>& o, T* room) const = 0;
  void SetTasks(int64_t tasks, int64_t room_elements) {
    tasks_ = tasks;
    room_elements_ = room_elements;
  }

  const Convolution c_;
  const int64_t taps_;
  const int64_t rows_;     // of a column matrix
  const int64_t points_;   // its columns
  const int64_t members_;  // groups of all members of the batch
  const int64_t x_size_;   // elements of x, y and w in one group of one member
  const int64_t y_size_;
  const int64_t w_size_;
  const Loops<T> loops_;
  const TileFn post_;

 private:
  const bool has_bias_;
  const int threads_;
  const std::string describe_;
  int64_t tasks_ = 0;
  int64_t room_elements_ = 0;  // for one thread
};

// ---- With column matrices

template <class T>
class ColumnsKernel : public ConvKernel<T> {
 protected:
  // Task rows come in pieces of at most `most_rows`.
  ColumnsKernel(const PrimitiveCall& call, const Convolution& c, absl::string_view name,
                int64_t rows, int64_t most_rows)
      : ConvKernel<T>(call, c, name),
        gemm_(matmul::BestKernels<T>()),
        row_cut_(rows, most_rows, 1),
        point_cut_(this->points_, PartColumns(row_cut_.size, gemm_.columns), gemm_.columns),
        in_place_(std::all_of(c.window.begin(), c.window.end(), [](const WindowDim& d) {
          return d.kernel == 1 && d.stride == 1 && d.before == 0 && d.after == 0;
        })) {}

  void SetTasks(int64_t tasks, int64_t m, int64_t n, int64_t k) {
    constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(T));
    part_elements_ = in_place_ ? 0 : matmul::RoundUp(row_cut_.size * point_cut_.size, kLine);
    ConvKernel<T>::SetTasks(tasks, part_elements_ + gemm_.ScratchElements(m, n, k));
  }

  // Where a part of x's column matrix lies, and the stride of its rows: a copy in `room`, or x.
  std::pair<const T*, int64_t> ColumnsOf(const T* x, const Part& part, T* room) const {
    if (in_place_) return {x + part.rows.begin * this->points_ + part.points.begin, this->points_};
    this->loops_.columns(this->c_, part, x, Length(part.points), room);
    return {room, Length(part.points)};
  }

  void Multiply(const matmul::Gemm<T>& gemm, T* room) const {
    gemm_.run(gemm, {0, gemm.m, 0, gemm.n}, room + part_elements_);
  }

  static int64_t PartColumns(int64_t rows, int64_t unit) {
    const int64_t fit = kPartBytes / static_cast<int64_t>(sizeof(T)) / rows;
    return std::max(fit / unit * unit, unit);
  }

  const matmul::Kernels<T> gemm_;
  const Cut row_cut_;
  const Cut point_cut_;
  const bool in_place_;  // the column matrix is x itself

 private:
  int64_t part_elements_ = 0;
};

// y = w columns(x): a task makes some points of one group's output.
template <class T>
class ForwardKernel : public ColumnsKernel<T> {
 public:
  ForwardKernel(const PrimitiveCall& call, const Convolution& c)
      : ColumnsKernel<T>(call, c, "conv", c.in_channels * c.taps(), kMaxPartRows) {
    this->SetTasks(this->members_ * this->point_cut_.count, c.out_channels, this->point_cut_.size,
                   this->row_cut_.size);
  }

 protected:
  void RunTask(int64_t task, const Operands<T>& o, T* room) const override {
    const int64_t member = task / this->point_cut_.count, group = member % this->c_.groups;
    const Range points = this->point_cut_[task % this->point_cut_.count];
    const int64_t channels = this->c_.out_channels;
    T* const y = o.out + member * this->y_size_ + points.begin;
    for (int64_t i = 0; o.bias != nullptr && i < channels; ++i) {
      std::fill_n(y + i * this->points_, Length(points), o.bias[group * channels + i]);
    }
    for (int64_t r = 0; r < this->row_cut_.count; ++r) {
      const Range rows = this->row_cut_[r];
      const auto [columns, columns_row] =
          this->ColumnsOf(o.first + member * this->x_size_, {rows, points}, room);
      this->Multiply({.m = channels,
                      .n = Length(points),
                      .k = Length(rows),
                      .a = o.second + group * this->w_size_ + rows.begin,
                      .a_row = this->rows_,
                      .a_col = 1,
                      .b = columns,
                      .b_row = columns_row,
                      .b_col = 1,
                      .c = y,
                      .c_row = this->points_,
                      .accumulate = o.bias != nullptr || r > 0,
                      .post = r + 1 == this->row_cut_.count ? this->post_ : nullptr},
                     room);
    }
  }
};

// columns(x) = w^T y, added up where the columns came from: a task makes some channels of one
// group's input.
template <class T>
class InputGradKernel : public ColumnsKernel<T> {
 public:
  InputGradKernel(const PrimitiveCall& call, const Convolution& c)
      : ColumnsKernel<T>(call, c, "conv input grad", ChannelCut(c).size * c.taps(), kMaxPartRows),
        channel_cut_(ChannelCut(c)) {
    this->SetTasks(this->members_ * channel_cut_.count, this->row_cut_.size, this->point_cut_.size,
                   c.out_channels);
  }

 protected:
  void RunTask(int64_t task, const Operands<T>& o, T* room) const override {
    const int64_t member = task / channel_cut_.count, group = member % this->c_.groups;
    const Range channels = channel_cut_[task % channel_cut_.count];
    const int64_t first_row = channels.begin * this->taps_, end_row = channels.end * this->taps_;
    T* const x = o.out + member * this->x_size_;
    const int64_t in_points = this->c_.in_points();
    std::fill(x + channels.begin * in_points, x + channels.end * in_points, T{0});
    for (int64_t r = 0; r < this->row_cut_.count; ++r) {
      const Range rows = {first_row + this->row_cut_[r].begin,
                          std::min(first_row + this->row_cut_[r].end, end_row)};
      if (rows.begin >= rows.end) break;
      for (int64_t p = 0; p < this->point_cut_.count; ++p) {
        const Range points = this->point_cut_[p];
        const bool direct = this->in_place_;
        this->Multiply({.m = Length(rows),
                        .n = Length(points),
                        .k = this->c_.out_channels,
                        .a = o.second + group * this->w_size_ + rows.begin,
                        .a_row = 1,
                        .a_col = this->rows_,
                        .b = o.first + member * this->y_size_ + points.begin,
                        .b_row = this->points_,
                        .b_col = 1,
                        .c = direct ? x + rows.begin * this->points_ + points.begin : room,
                        .c_row = direct ? this->points_ : Length(points)},
                       room);
        if (!direct) this->loops_.add_columns(this->c_, {rows, points}, room, x);
      }
    }
  }

 private:
  static Cut ChannelCut(const Convolution& c) {
    return Cut(c.in_channels, std::max<int64_t>(kMaxPartRows / c.taps(), 1), 1);
  }
  const Cut channel_cut_;
};

// w = sum over the batch of y columns(x)^T: a task makes some columns of one group's kernels. Where
// outputs have few points, those of several members make one product: as many as kMostDepth holds.
template <class T>
class WeightGradKernel : public ColumnsKernel<T> {
 public:
  WeightGradKernel(const PrimitiveCall& call, const Convolution& c)
      : ColumnsKernel<T>(call, c, "conv weight grad", c.in_channels * c.taps(), kTaskRows),
        together_(std::clamp<int64_t>(kMostDepth / this->points_, 1, c.batch)) {
    if (together_ == 1) {
      this->SetTasks(Tasks(), c.out_channels, this->row_cut_.size, this->point_cut_.size);
      return;
    }
    const int64_t depth = together_ * this->points_;
    y_room_ = this->row_cut_.size * depth;
    product_room_ = y_room_ + c.out_channels * depth;
    ConvKernel<T>::SetTasks(
        Tasks(),
        product_room_ + this->gemm_.ScratchElements(c.out_channels, this->row_cut_.size, depth));
  }

 protected:
  void RunTask(int64_t task, const Operands<T>& o, T* room) const override {
    const int64_t group = task / this->row_cut_.count;
    const Range rows = this->row_cut_[task % this->row_cut_.count];
    for (int64_t n = 0; n < this->c_.batch; n += together_) {
      const int64_t members = std::min(together_, this->c_.batch - n);
      together_ == 1 ? AddMember(group, rows, n, o, room)
                     : AddMembers(group, rows, n, members, o, room);
    }
  }

 private:
  static constexpr int64_t kTaskRows = 128;  // few enough for several tasks
  static constexpr int64_t kMostDepth = 128;

  int64_t Tasks() const { return this->c_.groups * this->row_cut_.count; }

  void AddMember(int64_t group, Range rows, int64_t n, const Operands<T>& o, T* room) const {
    const int64_t member = n * this->c_.groups + group;
    for (int64_t p = 0; p < this->point_cut_.count; ++p) {
      const Range points = this->point_cut_[p];
      const auto [columns, columns_row] =
          this->ColumnsOf(o.first + member * this->x_size_, {rows, points}, room);
      this->Multiply({.m = this->c_.out_channels,
                      .n = Length(rows),
                      .k = Length(points),
                      .a = o.second + member * this->y_size_ + points.begin,
                      .a_row = this->points_,
                      .a_col = 1,
                      .b = columns,
                      .b_row = 1,
                      .b_col = columns_row,
                      .c = o.out + group * this->w_size_ + rows.begin,
                      .c_row = this->rows_,
                      .accumulate = n > 0 || p > 0},
                     room);
    }
  }

  // With the columns of `members` members side by side, and their outputs likewise.
  void AddMembers(int64_t group, Range rows, int64_t n, int64_t members, const Operands<T>& o,
                  T* room) const {
    const int64_t depth = members * this->points_, channels = this->c_.out_channels;
    T* const y = room + y_room_;
    for (int64_t i = 0; i < members; ++i) {
      const int64_t member = (n + i) * this->c_.groups + group, at = i * this->points_;
      this->loops_.columns(this->c_, {rows, {0, this->points_}}, o.first + member * this->x_size_,
                           depth, room + at);
      const T* const from = o.second + member * this->y_size_;
      for (int64_t m = 0; m < channels; ++m) {
        std::copy_n(from + m * this->points_, this->points_, y + m * depth + at);
      }
    }
    const matmul::Gemm<T> gemm = {.m = channels,
                                  .n = Length(rows),
                                  .k = depth,
                                  .a = y,
                                  .a_row = depth,
                                  .a_col = 1,
                                  .b = room,
                                  .b_row = 1,
                                  .b_col = depth,
                                  .c = o.out + group * this->w_size_ + rows.begin,
                                  .c_row = this->rows_,
                                  .accumulate = n > 0};
    this->gemm_.run(gemm, {0, gemm.m, 0, gemm.n}, room + product_room_);
  }

  const int64_t together_;  // members of a product
  int64_t y_room_ = 0;      // elements before the outputs' copy, and before the product's own room
  int64_t product_room_ = 0;
};

// ---- In place, row by row of a column matrix that is never made

template <class T>
class DirectKernel : public ConvKernel<T> {
 public:
  DirectKernel(const PrimitiveCall& call, const Convolution& c)
      : ConvKernel<T>(call, c,
                      call.kind == PrimitiveKind::kConv            ? "direct conv"
                      : call.kind == PrimitiveKind::kConvInputGrad ? "direct conv input grad"
                                                                   : "direct conv weight grad"),
        kind_(call.kind) {
    this->SetTasks(kind_ == PrimitiveKind::kConv            ? this->members_ * c.out_channels
                   : kind_ == PrimitiveKind::kConvInputGrad ? this->members_ * c.in_channels
                                                            : c.groups * c.in_channels,
                   0);
  }

 protected:
  void RunTask(int64_t task, const Operands<T>& o, T*) const override {
    switch (kind_) {
      case PrimitiveKind::kConv:
        return Forward(task / this->c_.out_channels, task % this->c_.out_channels, o);
      case PrimitiveKind::kConvInputGrad:
        return InputGrad(task / this->c_.in_channels, task % this->c_.in_channels, o);
      default:
        return WeightGrad(task / this->c_.in_channels, task % this->c_.in_channels, o);
    }
  }

 private:
  void Forward(int64_t member, int64_t channel, const Operands<T>& o) const {
    const int64_t at = member % this->c_.groups * this->c_.out_channels + channel;
    T* const y = o.out + member * this->y_size_ + channel * this->points_;
    std::fill_n(y, this->points_, o.bias == nullptr ? T{0} : o.bias[at]);
    this->loops_.add_output(this->c_, {0, this->rows_}, o.second + at * this->rows_,
                            o.first + member * this->x_size_, y);
    const void* in[] = {y};
    if (this->post_ != nullptr) this->post_(in, y, this->points_);
  }

  void InputGrad(int64_t member, int64_t channel, const Operands<T>& o) const {
    const T* const w = o.second + member % this->c_.groups * this->w_size_;
    const T* const y = o.first + member * this->y_size_;
    T* const x = o.out + member * this->x_size_;
    std::fill_n(x + channel * this->c_.in_points(), this->c_.in_points(), T{0});
    for (int64_t m = 0; m < this->c_.out_channels; ++m) {
      this->loops_.add_input(this->c_, TapsOf(channel), w + m * this->rows_, y + m * this->points_,
                             x);
    }
  }

  void WeightGrad(int64_t group, int64_t channel, const Operands<T>& o) const {
    const Range taps = TapsOf(channel);
    for (int64_t m = 0; m < this->c_.out_channels; ++m) {
      T* const w = o.out + group * this->w_size_ + m * this->rows_;
      std::fill(w + taps.begin, w + taps.end, T{0});
      for (int64_t n = 0; n < this->c_.batch; ++n) {
        const int64_t member = n * this->c_.groups + group;
        this->loops_.add_weights(this->c_, taps, o.first + member * this->x_size_,
                                 o.second + member * this->y_size_ + m * this->points_, w);
      }
    }
  }

  Range TapsOf(int64_t channel) const {
    return {channel * this->taps_, (channel + 1) * this->taps_};
  }

  const PrimitiveKind kind_;
};

template <class T>
std::unique_ptr<ConvKernel<T>> MakeKernel(const PrimitiveCall& call, const Convolution& c) {
  if (c.out_channels < kMinGemmRows) return std::make_unique<DirectKernel<T>>(call, c);
  switch (call.kind) {
    case PrimitiveKind::kConv:
      return std::make_unique<ForwardKernel<T>>(call, c);
    case PrimitiveKind::kConvInputGrad:
      return std::make_unique<InputGradKernel<T>>(call, c);
    default:
      return std::make_unique<WeightGradKernel<T>>(call, c);
  }
}

template <class T>
Proposal ProposeFor(const PrimitiveCall& call, const Convolution& c) {
  Proposal proposal;
  std::unique_ptr<ConvKernel<T>> kernel = MakeKernel<T>(call, c);
  proposal.scratch_bytes = kernel->scratch_bytes();
  proposal.kernel = std::move(kernel);
  for (size_t i = 0; i < call.in.size(); ++i) {
    if (!call.layouts[i].IsDense(call.in[i].shape)) proposal.wants_dense |= 1u << i;
  }
  return proposal;
}

}  // namespace
}  // namespace convolution

std::optional<Proposal> ProposeConvolution(const PrimitiveCall& call) {
  if (!IsConvolution(call.kind) || call.in.size() != 2 || call.layouts.size() != 2) {
    return std::nullopt;
  }
  for (const TensorType& type : call.in) {
    if (type.dtype != call.out.dtype || type.shape.num_elements() == 0) return std::nullopt;
  }
  const absl::StatusOr<Convolution> c = Convolution::Of(call.kind, call.in, call.out, *call.attrs);
  if (!c.ok() || call.out.shape.num_elements() == 0) return std::nullopt;
  if (call.out.dtype == DType::kFloat) return convolution::ProposeFor<float>(call, *c);
  if (call.out.dtype == DType::kDouble) return convolution::ProposeFor<double>(call, *c);
  return std::nullopt;
}

}  // namespace gradwire
