#include "client/load_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "engine/base/status.h"
#include "onnx/onnx.pb.h"

namespace gradwire {
namespace {

using ::testing::HasSubstr;
namespace fs = std::filesystem;

class LoadModelTest : public testing::Test {
 protected:
  LoadModelTest() : root_(fs::path(testing::TempDir()) / absl::StrCat("load_model_", getpid())) {
    fs::create_directories(root_ / "models" / "weights");
    Write("secret.bin", "12345678");
    Write("models/w.bin", "abcdefgh");
    Write("models/weights/w.bin", "__ABCDEFGH__");
  }
  ~LoadModelTest() override { fs::remove_all(root_); }

  void Write(const std::string& name, const std::string& bytes) {
    std::ofstream(root_ / name, std::ios::binary) << bytes;
  }

  // Loads a model with one FLOAT[2] initialiser at this place.
  absl::StatusOr<onnx::TensorProto> Load(const std::string& location,
                                         const std::string& offset = "",
                                         const std::string& length = "") {
    onnx::ModelProto model;
    onnx::TensorProto* tensor = model.mutable_graph()->add_initializer();
    tensor->set_name("w");
    tensor->set_data_type(onnx::TensorProto::FLOAT);
    tensor->add_dims(2);
    tensor->set_data_location(onnx::TensorProto::EXTERNAL);
    auto add = [&](const char* key, const std::string& value) {
      if (value.empty()) return;
      onnx::StringStringEntryProto* entry = tensor->add_external_data();
      entry->set_key(key);
      entry->set_value(value);
    };
    add("location", location);
    add("offset", offset);
    add("length", length);
    Write("models/m.onnx", model.SerializeAsString());
    absl::StatusOr<ModelSource> source = LoadModel((root_ / "models/m.onnx").string());
    if (!source.ok()) return source.status();
    EXPECT_TRUE(model.ParseFromString(source->content()));
    return model.graph().initializer(0);
  }

  std::string Refusal(const std::string& location, const std::string& offset = "",
                      const std::string& length = "") {
    const absl::Status status = Load(location, offset, length).status();
    EXPECT_EQ(ReasonNameOf(status), "INVALID_MODEL") << location;
    return std::string(status.message());
  }

  const fs::path root_;
};

TEST_F(LoadModelTest, InlinesDataBesideTheModel) {
  absl::StatusOr<onnx::TensorProto> tensor = Load("w.bin");
  ASSERT_TRUE(tensor.ok()) << tensor.status();
  EXPECT_EQ(tensor->raw_data(), "abcdefgh");
  EXPECT_EQ(tensor->data_location(), onnx::TensorProto::DEFAULT);
  EXPECT_EQ(tensor->external_data_size(), 0);
  EXPECT_EQ(Load("weights/w.bin", "2", "8")->raw_data(), "ABCDEFGH");
  EXPECT_EQ(Load("./weights/w.bin", "2")->raw_data(), "ABCDEFGH");
}

TEST_F(LoadModelTest, RefusesPlacesOutsideOfTheFolder) {
  EXPECT_THAT(Refusal("../secret.bin"), HasSubstr("'..'"));
  EXPECT_THAT(Refusal("weights/../../secret.bin"), HasSubstr("'..'"));
  EXPECT_THAT(Refusal((root_ / "secret.bin").string()), HasSubstr("not relative"));
  EXPECT_THAT(Refusal("/etc/hostname"), HasSubstr("not relative"));
  fs::create_symlink(root_ / "secret.bin", root_ / "models" / "link.bin");
  EXPECT_THAT(Refusal("link.bin"), HasSubstr("out of the model's folder"));
  fs::create_directory_symlink(root_, root_ / "models" / "up");
  EXPECT_THAT(Refusal("up/secret.bin"), HasSubstr("out of the model's folder"));
  fs::create_symlink("w.bin", root_ / "models" / "inner.bin");
  EXPECT_TRUE(Load("inner.bin").ok()) << "a link that stays inside is fine";
}

TEST_F(LoadModelTest, RefusesWrongSizes) {
  EXPECT_THAT(Refusal("w.bin", "1"), HasSubstr("outside of its 8 bytes"));
  EXPECT_THAT(Refusal("w.bin", "9223372036854775807", "8"), HasSubstr("outside"));
  EXPECT_THAT(Refusal("w.bin", "-1"), HasSubstr("offset"));
  EXPECT_THAT(Refusal("w.bin", "x"), HasSubstr("offset"));
  EXPECT_THAT(Refusal("w.bin", "0", "4"), HasSubstr("wrong length"));
  EXPECT_THAT(Refusal("w.bin", "0", "-8"), HasSubstr("length"));
  EXPECT_THAT(Refusal("missing.bin"), HasSubstr("No such file"));
  EXPECT_THAT(Refusal("weights"), HasSubstr("regular file"));
  EXPECT_THAT(Refusal(""), HasSubstr("no location"));
}

TEST_F(LoadModelTest, FindsTensorsInsideNodes) {
  onnx::ModelProto model;
  onnx::AttributeProto* branch = model.mutable_graph()->add_node()->add_attribute();
  onnx::TensorProto* tensor = branch->mutable_g()->add_node()->add_attribute()->mutable_t();
  tensor->set_data_type(onnx::TensorProto::DOUBLE);
  tensor->set_data_location(onnx::TensorProto::EXTERNAL);
  onnx::StringStringEntryProto* entry = tensor->add_external_data();
  entry->set_key("location");
  entry->set_value("w.bin");
  Write("models/m.onnx", model.SerializeAsString());
  absl::StatusOr<ModelSource> source = LoadModel((root_ / "models/m.onnx").string());
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_THAT(source->content(), HasSubstr("abcdefgh"));
}

TEST_F(LoadModelTest, PassesOnModelsWithoutExternalData) {
  onnx::ModelProto model;
  model.mutable_graph()->set_name("g");
  const std::string bytes = model.SerializeAsString();
  Write("models/m.onnx", bytes);
  Write("models/m.onnxtxt", "agraph (double x) => (double y) { y = Exp(x) }");
  Write("models/garbage.onnx", "\xFF\xFF\xFF");
  EXPECT_EQ(LoadModel((root_ / "models/m.onnx").string())->content(), bytes);
  EXPECT_EQ(LoadModel((root_ / "models/m.onnxtxt").string())->form(), ModelSource::Form::kText);
  EXPECT_EQ(ReasonNameOf(LoadModel((root_ / "models/garbage.onnx").string()).status()),
            "INVALID_MODEL");
  EXPECT_FALSE(LoadModel((root_ / "models/w.bin").string()).ok());
  EXPECT_EQ(LoadModel((root_ / "models/none.onnx").string()).status().code(),
            absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace gradwire
