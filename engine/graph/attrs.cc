#include "engine/graph/attrs.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/graph/graph.h"

namespace gradwire {
namespace {

void AddValue(const AttrValue& value, DigestBuilder* d) {
  d->Add(static_cast<int64_t>(value.index()));
  auto bits = [](double x) {
    int64_t u;
    std::memcpy(&u, &x, sizeof u);
    return u;
  };
  std::visit(
      [&](const auto& v) {
        using T = std::decay_t<decltype(v)>;
        if constexpr (std::is_same_v<T, int64_t>) {
          d->Add(v);
        } else if constexpr (std::is_same_v<T, double>) {
          d->Add(bits(v));
        } else if constexpr (std::is_same_v<T, std::string>) {
          d->Add(v);
        } else if constexpr (std::is_same_v<T, std::vector<int64_t>>) {
          d->Add(static_cast<int64_t>(v.size()));
          for (int64_t x : v) d->Add(x);
        } else if constexpr (std::is_same_v<T, std::vector<double>>) {
          d->Add(static_cast<int64_t>(v.size()));
          for (double x : v) d->Add(bits(x));
        } else if constexpr (std::is_same_v<T, std::vector<std::string>>) {
          d->Add(static_cast<int64_t>(v.size()));
          for (const std::string& x : v) d->Add(x);
        } else if constexpr (std::is_same_v<T, Tensor>) {
          d->Add(static_cast<int64_t>(v.dtype()));
          for (int64_t e : v.shape().dims()) d->Add(e);
          d->Add(v.empty() ? Digest{}
                           : DigestOf(absl::string_view(static_cast<const char*>(v.raw()),
                                                        static_cast<size_t>(v.bytes()))));
        } else if constexpr (std::is_same_v<T, std::shared_ptr<const Graph>>) {
          d->Add(v->digest());
        } else {  // a Model in an attribute is never hash-consed: identity will do
          d->Add(static_cast<int64_t>(reinterpret_cast<uintptr_t>(v.get())));
        }
      },
      value);
}

std::string ValueToString(const AttrValue& value) {
  return std::visit(
      [](const auto& v) -> std::string {
        using T = std::decay_t<decltype(v)>;
        if constexpr (std::is_same_v<T, int64_t> || std::is_same_v<T, double>) {
          return absl::StrCat(v);
        } else if constexpr (std::is_same_v<T, std::string>) {
          return absl::StrCat("\"", v, "\"");
        } else if constexpr (std::is_same_v<T, std::vector<int64_t>> ||
                             std::is_same_v<T, std::vector<double>> ||
                             std::is_same_v<T, std::vector<std::string>>) {
          return absl::StrCat("[", absl::StrJoin(v, ","), "]");
        } else if constexpr (std::is_same_v<T, Tensor>) {
          return v.num_elements() == 1 && v.shape().rank() == 0
                     ? absl::StrCat(ElementAsDouble(v, 0))
                     : v.type().ToString();
        } else {
          return "{graph}";
        }
      },
      value);
}

}  // namespace

Attrs::Attrs(std::initializer_list<Entry> entries) : Attrs(std::vector<Entry>(entries)) {}

Attrs::Attrs(std::vector<Entry> entries) {
  if (entries.empty()) return;
  std::sort(entries.begin(), entries.end(),
            [](const Entry& a, const Entry& b) { return a.first < b.first; });
  DigestBuilder digest;
  for (const Entry& e : entries) {
    digest.Add(e.first);
    AddValue(e.second, &digest);
  }
  data_ = std::make_shared<Data>(Data{std::move(entries), digest.Finish()});
}

const AttrValue* Attrs::Find(absl::string_view name) const {
  for (const Entry& e : entries()) {
    if (e.first == name) return &e.second;
  }
  return nullptr;
}

int64_t Attrs::Int(absl::string_view name, int64_t otherwise) const {
  const AttrValue* v = Find(name);
  const int64_t* i = v ? std::get_if<int64_t>(v) : nullptr;
  return i ? *i : otherwise;
}

double Attrs::Float(absl::string_view name, double otherwise) const {
  const AttrValue* v = Find(name);
  const double* f = v ? std::get_if<double>(v) : nullptr;
  return f ? *f : otherwise;
}

std::string Attrs::String(absl::string_view name, absl::string_view otherwise) const {
  const AttrValue* v = Find(name);
  const std::string* s = v ? std::get_if<std::string>(v) : nullptr;
  return s ? *s : std::string(otherwise);
}

const std::vector<int64_t>& Attrs::Ints(absl::string_view name) const {
  static const std::vector<int64_t> kNone;
  const AttrValue* v = Find(name);
  const auto* ints = v ? std::get_if<std::vector<int64_t>>(v) : nullptr;
  return ints ? *ints : kNone;
}

const std::vector<double>& Attrs::Floats(absl::string_view name) const {
  static const std::vector<double> kNone;
  const AttrValue* v = Find(name);
  const auto* floats = v ? std::get_if<std::vector<double>>(v) : nullptr;
  return floats ? *floats : kNone;
}

const Tensor& Attrs::tensor(absl::string_view name) const {
  static const Tensor kNone;
  const AttrValue* v = Find(name);
  const Tensor* t = v ? std::get_if<Tensor>(v) : nullptr;
  return t ? *t : kNone;
}

absl::Span<const Attrs::Entry> Attrs::entries() const {
  return data_ ? absl::MakeConstSpan(data_->entries) : absl::Span<const Entry>();
}

const Digest& Attrs::digest() const {
  static const Digest kEmpty;
  return data_ ? data_->digest : kEmpty;
}

std::string Attrs::ToString() const {
  return absl::StrJoin(entries(), ", ", [](std::string* out, const Entry& e) {
    absl::StrAppend(out, e.first, "=", ValueToString(e.second));
  });
}

}  // namespace gradwire
