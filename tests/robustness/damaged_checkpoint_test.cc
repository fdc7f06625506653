// Every bit flip position and every truncation of a checkpoint of some 4 KB, through the functions
// that the server reads checkpoints with: always found, never a crash, never other numbers.
#include <cstring>
#include <map>

#include "absl/strings/str_cat.h"
#include "engine/base/status.h"
#include "engine/io/safetensors.h"
#include "gtest/gtest.h"
#include "server/jobs/checkpoints.h"
#include "server/store/blob_store.h"
#include "tests/unit/store/store_testing.h"

namespace gradwire::jobs {
namespace {

// What a checkpoint is of: three parameters and their slots.
class FixedStepper final : public Stepper {
 public:
  explicit FixedStepper(float value) {
    for (const char* name : {"w", "b", "gradwire.slot.exp_avg.w"}) {
      Tensor& tensor =
          tensors_.emplace(name, Tensor(TensorType{DType::kFloat, Shape({256})})).first->second;
      for (int i = 0; i < 256; ++i) tensor.mutable_data<float>()[i] = value + i;
    }
  }
  std::vector<StateTensor> state() override {
    std::vector<StateTensor> out;
    for (auto& [name, tensor] : tensors_) out.push_back({name, &tensor, name.size() == 1});
    return out;
  }
  int64_t bytes() const override { return 0; }
  nlohmann::json SaveMemory() const override { return {{"t", 3}}; }
  absl::Status LoadMemory(const nlohmann::json& memory) override {
    return memory.value("t", 0) == 3 ? absl::OkStatus() : absl::DataLossError("no memory");
  }
  void Observe(double) override {}
  absl::StatusOr<StepResult> Step(const StepSettings&, absl::Span<const Batch* const>,
                                  RunContext&) override {
    return StepResult();
  }
  std::string FirstBadNode(const StepSettings&, absl::Span<const Batch* const>) override {
    return "";
  }
  const Cost& cost() const override { return cost_; }
  Digest plan_digest() const override { return {}; }
  int threads() const override { return 1; }

 private:
  std::map<std::string, Tensor> tensors_;
  Cost cost_;
};

std::string CheckpointFile() {
  FixedStepper stepper(0.5f);
  v1::TrainingJob job;
  job.mutable_optimizer()->mutable_adam();
  Snapshot snapshot =
      TakeSnapshot(job, stepper, Position{.step = 7, .place = {1, 2}}, ParameterDigest(stepper));
  std::vector<std::pair<std::string, TensorView>> views(snapshot.tensors.begin(),
                                                        snapshot.tensors.end());
  return WriteSafetensors(views, {{"gradwire.manifest", snapshot.manifest.dump()}});
}

class DamagedCheckpointTest : public store::StoreTest {
 protected:
  void SetUp() override {
    StoreTest::SetUp();
    good_ = CheckpointFile();
    ASSERT_GT(good_.size(), 3500u);
    ASSERT_LT(good_.size(), 5000u);
    auto blobs = store::BlobStore::Open(Path("blobs"));
    ASSERT_TRUE(blobs.ok());
    blobs_ = *std::move(blobs);
    row_.blob = *blobs_->Put(good_);
    path_ = Path(absl::StrCat("blobs/", row_.blob.substr(0, 2), "/", row_.blob));
  }

  void ExpectFound(const std::string& damaged, const std::string& what) {
    Overwrite(path_, damaged);
    const auto file = OpenCheckpoint(row_, *blobs_);
    EXPECT_TRUE(HasReason(file.status(), Reason::kCorruptData)) << what << file.status();
    // Behind the digest there is a second wall: nothing that is no checkpoint brings it down.
    FixedStepper stepper(-1);
    Position position;
    std::string plan;
    const absl::Status status = Restore(damaged, stepper, &position, &plan);
    if (!status.ok()) {
      EXPECT_EQ(stepper.state()[0].tensor->data<float>()[0], -1) << what << ": loaded in part";
    }
    StartFrom(damaged, stepper).IgnoreError();
  }

  std::string good_;
  std::string path_;
  std::unique_ptr<store::BlobStore> blobs_;
  store::CheckpointRow row_;
};

TEST_F(DamagedCheckpointTest, AFlippedBitAtEveryByteIsFound) {
  for (size_t i = 0; i < good_.size(); ++i) {
    std::string damaged = good_;
    damaged[i] = static_cast<char>(damaged[i] ^ (1 << (i % 8)));
    ExpectFound(damaged, absl::StrCat("byte ", i, ": "));
  }
  Overwrite(path_, good_);
  EXPECT_TRUE(OpenCheckpoint(row_, *blobs_).ok());
}

TEST_F(DamagedCheckpointTest, ATruncationAtEveryLengthIsFound) {
  for (size_t length = 0; length < good_.size(); ++length) {
    ExpectFound(good_.substr(0, length), absl::StrCat(length, " bytes: "));
  }
  ExpectFound(good_ + '\0', "a byte more: ");
}

TEST_F(DamagedCheckpointTest, AGoodOneIsRestoredInFull) {
  const auto file = OpenCheckpoint(row_, *blobs_);
  ASSERT_TRUE(file.ok()) << file.status();
  FixedStepper stepper(-1);
  Position position;
  std::string plan;
  ASSERT_TRUE(Restore((*file)->bytes(), stepper, &position, &plan).ok());
  EXPECT_EQ(position.step, 7);
  EXPECT_EQ(position.place, (BatchPlace{1, 2}));
  FixedStepper expected(0.5f);
  EXPECT_EQ(ParameterDigest(stepper), ParameterDigest(expected));
}

TEST_F(DamagedCheckpointTest, ADamagedBlobIsWrittenAnewByWhoeverPutsItsBytes) {
  Overwrite(path_, good_.substr(1));
  EXPECT_EQ(*blobs_->Put(good_), row_.blob);
  EXPECT_TRUE(OpenCheckpoint(row_, *blobs_).ok());
}

}  // namespace
}  // namespace gradwire::jobs
