#include "engine/onnx/export.h"

#include <algorithm>
#include <set>
#include <utility>
#include <variant>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "engine/base/overloaded.h"
#include "engine/graph/node_export.h"
#include "engine/onnx/onnx_text.h"
#include "engine/onnx/tensor_proto.h"

namespace gradwire {
namespace {

constexpr int kIrVersion = 8;
constexpr char kOwnDomain[] = "gradwire";

void SetAttribute(const Attrs::Entry& entry, onnx::AttributeProto* out) {
  out->set_name(entry.first);
  std::visit(Overloaded{
                 [&](int64_t value) {
                   out->set_type(onnx::AttributeProto::INT);
                   out->set_i(value);
                 },
                 [&](double value) {
                   out->set_type(onnx::AttributeProto::FLOAT);
                   out->set_f(static_cast<float>(value));
                 },
                 [&](const std::string& value) {
                   out->set_type(onnx::AttributeProto::STRING);
                   out->set_s(value);
                 },
                 [&](const std::vector<int64_t>& values) {
                   out->set_type(onnx::AttributeProto::INTS);
                   out->mutable_ints()->Assign(values.begin(), values.end());
                 },
                 [&](const std::vector<double>& values) {
                   out->set_type(onnx::AttributeProto::FLOATS);
                   out->mutable_floats()->Assign(values.begin(), values.end());
                 },
                 [&](const std::vector<std::string>& values) {
                   out->set_type(onnx::AttributeProto::STRINGS);
                   out->mutable_strings()->Assign(values.begin(), values.end());
                 },
                 [&](const Tensor& value) {
                   out->set_type(onnx::AttributeProto::TENSOR);
                   *out->mutable_t() = TensorToProto(value);
                 },
                 // No row that is exported has a body.
                 [](const std::shared_ptr<const Graph>&) {},
                 [](const std::shared_ptr<const Model>&) {},
             },
             entry.second);
}

void SetType(const std::string& name, const TensorType& type, onnx::ValueInfoProto* out) {
  out->set_name(name);
  onnx::TypeProto_Tensor* tensor = out->mutable_type()->mutable_tensor_type();
  tensor->set_elem_type(static_cast<int32_t>(type.dtype));
  tensor->mutable_shape();
  for (int64_t extent : type.shape.dims())
    tensor->mutable_shape()->add_dim()->set_dim_value(extent);
}

// "tangent.gradient.x" for "gradwire.tangent.gradwire.gradient.x": derivatives name what they add
// so, and the name of the model in it, which has no prefix, stays as it is.
std::string WithoutPrefix(absl::string_view name) {
  std::string kinds;
  while (absl::ConsumePrefix(&name, "gradwire.")) {
    const size_t kind = name.find('.') + 1;  // 0 where no name follows: "gradwire.seed"
    absl::StrAppend(&kinds, name.substr(0, kind));
    name.remove_prefix(kind);
  }
  return absl::StrCat(kinds, name);
}

// Equal graphs give equal files.
struct ByName {
  bool operator()(const OpDef* a, const OpDef* b) const { return a->name < b->name; }
};

class Exporter {
 public:
  Exporter(const Graph& graph, const ExportOptions& options)
      : graph_(graph), options_(options), names_(static_cast<size_t>(graph.num_values())) {}

  absl::StatusOr<std::string> Run() {
    if (!graph_.updates().empty()) {
      return Error(Reason::kInvalidSpec, "a graph that updates state has no ONNX form");
    }
    model_.set_ir_version(kIrVersion);
    model_.set_producer_name("gradwire");
    onnx_->set_name("graph");
    SetOpset("", kExportOpset);
    // Border names first: inner ones get out of their way.
    for (const GraphInput& input : graph_.inputs()) AddInput(input);
    for (const GraphOutput& mark : graph_.marks()) NameInner(mark);
    std::vector<std::string> outputs;
    for (const GraphOutput& output : graph_.outputs()) outputs.push_back(NameOutput(output));
    for (const Node& node : graph_.nodes()) AddNode(node);
    for (size_t i = 0; i < outputs.size(); ++i) AddOutput(graph_.outputs()[i].value, outputs[i]);
    for (const OpDef* op : own_ops_) AddFunction(op);
    GW_RETURN_IF_ERROR(problems_.ToStatus());
    std::string bytes;
    if (model_.ByteSizeLong() > INT32_MAX || !model_.SerializeToString(&bytes)) {
      return Error(Reason::kGraphTooLarge, "the graph does not fit an ONNX file of 2 GiB");
    }
    return bytes;
  }

 private:
  class ExportedNode final : public NodeExport {
   public:
    ExportedNode(Exporter* exporter, const Node& node)
        : NodeExport(exporter->graph_, node), exporter_(*exporter), node_(node) {}
    std::string in(int i) const override {
      return exporter_.NameOf(exporter_.graph_.operands(node_)[static_cast<size_t>(i)]);
    }
    std::string out(int k) const override { return exporter_.NameOf(node_.first_output + k); }
    std::string NewName() override { return exporter_.NewName(); }
    std::string Ints(const std::vector<int64_t>& values) override {
      std::string& name = exporter_.ints_[values];
      if (name.empty()) {
        // Not an initialiser: those are parameters, which a call may replace.
        name = exporter_.NewName();
        Add("Constant", {}, name,
            {{"value",
              Tensor::FromVector<int64_t>({static_cast<int64_t>(values.size())}, values)}});
      }
      return name;
    }
    void AddMulti(absl::string_view op, const std::vector<std::string>& inputs,
                  const std::vector<std::string>& outputs, const Attrs& node_attrs) override {
      onnx::NodeProto* proto = exporter_.onnx_->add_node();
      proto->set_op_type(std::string(op));
      for (const std::string& name : inputs) proto->add_input(name);
      for (const std::string& name : outputs) proto->add_output(name);
      for (const Attrs::Entry& entry : node_attrs.entries()) {
        SetAttribute(entry, proto->add_attribute());
      }
    }
    void Fail(absl::string_view why) override {
      exporter_.problems_.Add(Reason::kUnsupportedOp, exporter_.graph_.Label(node_),
                              std::string(why));
    }

   private:
    Exporter& exporter_;
    const Node& node_;
  };

  void SetOpset(const std::string& domain, int version) {
    onnx::OperatorSetIdProto* opset = model_.add_opset_import();
    opset->set_domain(domain);
    opset->set_version(version);
  }

  // A name that no other value has. However many names differ in a tail of "_" alone, the cost is
  // linear.
  std::string Reserve(absl::string_view wanted) {
    std::string name = WithoutPrefix(wanted);
    const size_t stem = name.find_last_not_of('_') + 1;
    size_t& longest_tail = tails_[name.substr(0, stem)];
    if (name.empty() || !taken_.insert(name).second) {
      name.resize(stem);
      name.append(longest_tail + 1, '_');
      taken_.insert(name);
    }
    longest_tail = std::max(longest_tail, name.size() - stem);
    return name;
  }
  std::string NewName() {
    std::string name;
    do {
      name = absl::StrCat("v", next_++);
    } while (!taken_.insert(name).second);
    return name;
  }
  std::string& NameOf(ValueId v) {
    std::string& name = names_[static_cast<size_t>(v)];
    if (name.empty()) name = NewName();
    return name;
  }

  void AddInput(const GraphInput& input) {
    std::string& name = names_[static_cast<size_t>(input.value)];
    name = Reserve(input.name);
    const auto value = options_.initializers.find(input.name);
    if (value == options_.initializers.end()) {
      SetType(name, graph_.type(input.value), onnx_->add_input());
      return;
    }
    onnx::TensorProto* tensor = onnx_->add_initializer();
    *tensor = TensorToProto(value->second);
    tensor->set_name(name);
  }

  void NameInner(const GraphOutput& mark) {
    std::string& name = names_[static_cast<size_t>(mark.value)];
    if (name.empty()) name = Reserve(mark.name);
  }

  // A value that has a name already (an input, a second output) is copied to the output's.
  std::string NameOutput(const GraphOutput& output) {
    std::string& name = names_[static_cast<size_t>(output.value)];
    if (name.empty() && graph_.producer(output.value) >= 0) return name = Reserve(output.name);
    if (name == output.name && outputs_.insert(name).second && graph_.producer(output.value) >= 0) {
      return name;
    }
    return Reserve(output.name);
  }

  void AddNode(const Node& node) {
    ExportedNode n(this, node);
    if (node.op->export_onnx != nullptr) {
      node.op->export_onnx(n);
      return;
    }
    if (!node.op->no_onnx_form.empty() || node.op->onnx.empty()) {
      n.Fail(node.op->no_onnx_form.empty() ? "the op has no ONNX form" : node.op->no_onnx_form);
      return;
    }
    const OnnxBinding& binding = node.op->onnx.back();
    std::vector<std::string> inputs;
    for (int i = 0; i < node.num_operands; ++i) inputs.push_back(n.in(i));
    n.Add(binding.name, inputs, n.out(0), node.attrs);
    if (binding.domain.empty()) return;
    onnx_->mutable_node(onnx_->node_size() - 1)->set_domain(std::string(binding.domain));
    own_ops_.insert(node.op);
  }

  void AddOutput(ValueId value, const std::string& name) {
    if (NameOf(value) != name) {
      onnx::NodeProto* copy = onnx_->add_node();
      copy->set_op_type("Identity");
      copy->add_input(NameOf(value));
      copy->add_output(name);
    }
    SetType(name, graph_.type(value), onnx_->add_output());
  }

  void AddFunction(const OpDef* op) {
    if (model_.opset_import_size() == 1) SetOpset(kOwnDomain, 1);
    absl::StatusOr<onnx::ModelProto> text = ParseOnnxText(
        absl::StrCat("g () => () {} <domain: \"gradwire\", opset_import: [\"\" : ", kExportOpset,
                     "]> ", op->onnx_function));
    if (!text.ok() || text->functions_size() != 1) {
      problems_.Add(Reason::kUnsupportedOp, std::string(op->name), "the op has no ONNX form");
      return;
    }
    *model_.add_functions() = text->functions(0);
  }

  const Graph& graph_;
  const ExportOptions& options_;
  Problems problems_;
  onnx::ModelProto model_;
  onnx::GraphProto* const onnx_ = model_.mutable_graph();
  std::vector<std::string> names_;  // by value
  absl::flat_hash_set<std::string> taken_;
  absl::flat_hash_map<std::string, size_t> tails_;  // stem -> the most "_" behind it
  absl::flat_hash_set<std::string> outputs_;
  absl::flat_hash_map<std::vector<int64_t>, std::string> ints_;
  std::set<const OpDef*, ByName> own_ops_;
  int64_t next_ = 0;
};

}  // namespace

absl::StatusOr<std::string> WithInitializers(
    onnx::ModelProto model, const absl::flat_hash_map<std::string, TensorView>& values) {
  onnx::GraphProto& graph = *model.mutable_graph();
  absl::flat_hash_set<std::string> set;
  const auto assign = [&](const std::string& name, onnx::TensorProto* to) {
    *to = TensorToProto(values.at(name));
    to->set_name(name);
    set.insert(name);
  };
  for (onnx::TensorProto& init : *graph.mutable_initializer()) {
    const std::string name = init.name();
    if (values.contains(name)) assign(name, &init);
  }
  google::protobuf::RepeatedPtrField<onnx::ValueInfoProto> inputs;
  for (const onnx::ValueInfoProto& input : graph.input()) {
    if (!values.contains(input.name())) {
      *inputs.Add() = input;
    } else if (!set.contains(input.name())) {
      assign(input.name(), graph.add_initializer());
    }
  }
  graph.mutable_input()->Swap(&inputs);
  std::string bytes;
  if (model.ByteSizeLong() > INT32_MAX || !model.SerializeToString(&bytes)) {
    return Error(Reason::kGraphTooLarge, "the model does not fit an ONNX file of 2 GiB");
  }
  return bytes;
}

absl::StatusOr<std::string> ExportOnnx(const Graph& graph, const ExportOptions& options) {
  return Exporter(graph, options).Run();
}

}  // namespace gradwire
