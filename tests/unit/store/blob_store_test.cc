#include "server/store/blob_store.h"

#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "engine/base/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/store/failpoints.h"
#include "server/store/file_system.h"
#include "tests/unit/store/store_testing.h"

namespace gradwire::store {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Verify = BlobStore::Verify;

// Of the standard.
constexpr char kAbcDigest[] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

class BlobStoreTest : public StoreTest {
 protected:
  std::unique_ptr<BlobStore> Open() const {
    auto blobs = BlobStore::Open(Path("blobs"));
    EXPECT_TRUE(blobs.ok()) << blobs.status();
    return *std::move(blobs);
  }
  std::string PathOf(const std::string& digest) const {
    return Path(absl::StrCat("blobs/", digest.substr(0, 2), "/", digest));
  }
};

std::string BytesOf(const absl::StatusOr<std::shared_ptr<const Blob>>& blob) {
  EXPECT_TRUE(blob.ok()) << blob.status();
  return blob.ok() ? std::string((*blob)->bytes()) : "";
}

TEST(Sha256Test, IsThatOfTheStandardInAnyPieces) {
  EXPECT_EQ(BlobDigest("abc"), kAbcDigest);
  EXPECT_EQ(BlobDigest(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  Sha256 sha;
  for (const char* piece : {"a", "", "bc"}) sha.Update(piece);
  EXPECT_EQ(sha.Finish(), kAbcDigest);
}

TEST_F(BlobStoreTest, KeepsWhatItGetsThroughARestart) {
  const std::vector<absl::string_view> pieces = {"a", "bc"};
  EXPECT_EQ(*Open()->Put(pieces), kAbcDigest);
  EXPECT_THAT(Files(), ElementsAre(absl::StrCat("blobs/ba/", kAbcDigest)));
  const auto blobs = Open();
  EXPECT_EQ(BytesOf(blobs->Get(kAbcDigest)), "abc");
  EXPECT_TRUE(*blobs->Has(kAbcDigest));
  const std::string empty = *blobs->Put("");
  EXPECT_EQ(BytesOf(blobs->Get(empty)), "");
  EXPECT_THAT(*blobs->List(), ElementsAre(kAbcDigest, empty));

  const auto blob = *blobs->Get(kAbcDigest);
  EXPECT_TRUE(blobs->Delete(kAbcDigest).ok());
  EXPECT_TRUE(blobs->Delete(kAbcDigest).ok());
  EXPECT_EQ(blob->bytes(), "abc");
  EXPECT_FALSE(*blobs->Has(kAbcDigest));
  EXPECT_TRUE(HasReason(blobs->Get(kAbcDigest).status(), Reason::kNotFound));
  EXPECT_THAT(*blobs->List(), ElementsAre(empty));
}

TEST_F(BlobStoreTest, WritesAGoodBlobOnceAndADamagedOneAgain) {
  const auto blobs = Open();
  ASSERT_TRUE(blobs->Put("abc").ok());
  ASSERT_TRUE(SetFailpoints("count").ok());
  EXPECT_EQ(*blobs->Put("abc"), kAbcDigest);
  EXPECT_EQ(*Open()->Put("abc"), kAbcDigest);
  EXPECT_EQ(FailpointHits(Failpoint::kBlobWrite), 0);
  Overwrite(PathOf(kAbcDigest), "abd");
  EXPECT_EQ(*Open()->Put("abc"), kAbcDigest);
  EXPECT_EQ(FailpointHits(Failpoint::kBlobWrite), 1);
  EXPECT_EQ(Read(PathOf(kAbcDigest)), "abc");
}

TEST_F(BlobStoreTest, DetectsAFlipOfAnyBitAndAnyLength) {
  const std::string bytes = "a small checkpoint: \x00\xff\x80 and what else there is";
  const auto blobs = Open();
  const std::string digest = *blobs->Put(bytes);
  const auto expect_damaged = [&](const std::string& damaged) {
    Overwrite(PathOf(digest), damaged);
    const absl::Status status = blobs->Get(digest, Verify::kAlways).status();
    ASSERT_TRUE(HasReason(status, Reason::kCorruptData)) << status;
    ASSERT_EQ(status.code(), absl::StatusCode::kDataLoss);
    ASSERT_THAT(std::string(status.message()), HasSubstr(PathOf(digest)));
    ASSERT_FALSE(Open()->Get(digest).ok());
  };
  for (size_t i = 0; i < bytes.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string flipped = bytes;
      flipped[i] ^= static_cast<char>(1 << bit);
      expect_damaged(flipped);
    }
    expect_damaged(bytes.substr(0, i));
    expect_damaged(bytes + std::string(i + 1, '\0'));
  }
  Overwrite(PathOf(digest), bytes);
  EXPECT_EQ(BytesOf(blobs->Get(digest)), bytes);
}

TEST_F(BlobStoreTest, LooksAtABlobOnceUnlessAsked) {
  const auto blobs = Open();
  const std::string digest = *blobs->Put("abc");
  const auto written = std::filesystem::last_write_time(PathOf(digest));
  Overwrite(PathOf(digest), "abd");
  std::filesystem::last_write_time(PathOf(digest), written);  // as by a disk that forgets
  EXPECT_EQ(BytesOf(blobs->Get(digest)), "abd") << "was good when this process wrote it";
  EXPECT_TRUE(HasReason(blobs->Get(digest, Verify::kAlways).status(), Reason::kCorruptData));
  EXPECT_TRUE(HasReason(blobs->Get(digest).status(), Reason::kCorruptData))
      << "known to be damaged";
}

TEST_F(BlobStoreTest, AKillAtAnyMomentLeavesTheWholeBlobOrNone) {
  const std::string bytes(2'500'000, 'b');
  const std::string digest = BlobDigest(bytes);
  int kills = 0;
  for (const bool adopt : {false, true}) {
    for (const FailpointInfo& info : AllFailpoints()) {
      for (int hit = 1;; ++hit) {
        std::filesystem::remove_all(Path("blobs"));
        if (adopt) Overwrite(Path("upload"), bytes);
        const bool survived = SurvivesInChild([&] {
          const auto blobs = Open();
          ASSERT_TRUE(SetFailpoints(absl::StrCat(info.name, "=kill@", hit)).ok());
          const auto put = adopt ? blobs->Adopt(Path("upload")) : blobs->Put(bytes);
          if (!put.ok()) _exit(1);
        });
        if (survived) break;
        ++kills;
        const auto blobs = Open();
        const bool there = *blobs->Has(digest);
        EXPECT_EQ(there, info.point == Failpoint::kBlobDirFsync) << info.name;
        EXPECT_TRUE(!there || BytesOf(blobs->Get(digest)) == bytes) << info.name;
        EXPECT_EQ(Files().size(), (there ? 1u : 0u) + (adopt ? 1u : 0u)) << "leftovers go";
        // And it works the next time.
        ASSERT_EQ(*(adopt ? blobs->Adopt(Path("upload")) : blobs->Put(bytes)), digest);
        EXPECT_TRUE(BytesOf(blobs->Get(digest, Verify::kAlways)) == bytes);
      }
    }
  }
  EXPECT_EQ(kills, (3 + 1 + 1 + 1) + (1 + 1 + 1));
}

TEST_F(BlobStoreTest, AFullOrBrokenDiskAtAnyMomentLeavesNothingAndItGoesOn) {
  const auto blobs = Open();
  int n = 0;
  for (const char* kind : {"enospc", "eio"}) {
    for (const char* moment : {"blob.write", "blob.fsync", "blob.rename", "blob.dirfsync"}) {
      for (int hit = 1; hit <= (std::string(moment) == "blob.write" ? 3 : 1); ++hit) {
        const std::string bytes = absl::StrCat(std::string(2'500'000, 'b'), ++n);
        ASSERT_TRUE(SetFailpoints(absl::StrCat(moment, "=", kind, "@", hit)).ok());
        const absl::Status status = blobs->Put(bytes).status();
        EXPECT_EQ(HasReason(status, Reason::kDiskFull), std::string(kind) == "enospc") << status;
        EXPECT_FALSE(status.ok());
        const bool moved = std::string(moment) == "blob.dirfsync";
        EXPECT_EQ(*blobs->Has(BlobDigest(bytes)), moved);
        EXPECT_EQ(Files().size(), n - 1 + moved) << "no half file";
        EXPECT_EQ(*blobs->Put(bytes), BlobDigest(bytes));
        EXPECT_TRUE(BytesOf(blobs->Get(BlobDigest(bytes))) == bytes);
      }
    }
  }
}

TEST_F(BlobStoreTest, AdoptsAFileWithoutMovingAByte) {
  const auto blobs = Open();
  Overwrite(Path("upload"), "abc");
  EXPECT_EQ(*blobs->Adopt(Path("upload")), kAbcDigest);
  EXPECT_TRUE(std::filesystem::equivalent(Path("upload"), PathOf(kAbcDigest)));
  EXPECT_EQ(*blobs->Adopt(Path("upload")), kAbcDigest) << "as after a crash before it is noted";
  ASSERT_TRUE(RemoveFile(Path("upload")).ok());
  EXPECT_EQ(BytesOf(blobs->Get(kAbcDigest)), "abc");
  EXPECT_TRUE(HasReason(blobs->Adopt(Path("upload")).status(), Reason::kNotFound));
}

TEST_F(BlobStoreTest, OnlyDigestsNameBlobs) {
  ASSERT_TRUE(WriteFileDurably(Path("secret"), "secret").ok());
  for (const std::string& dir : {Path("blobs"), std::string()}) {
    const auto blobs = *BlobStore::Open(dir);
    for (const std::string& name :
         {std::string("../secret"), std::string("/etc/passwd"), std::string(), std::string(64, '/'),
          std::string(64, 'A'), std::string(64, '\0'), std::string(63, 'a'), std::string(65, 'a'),
          std::string("../../") + std::string(58, 'a'), std::string(5'000, 'a')}) {
      EXPECT_FALSE(IsBlobDigest(name));
      EXPECT_TRUE(HasReason(blobs->Get(name).status(), Reason::kNotFound)) << name;
      EXPECT_FALSE(*blobs->Has(name)) << name;
      EXPECT_TRUE(blobs->Delete(name).ok()) << name;
    }
  }
  EXPECT_EQ(Read(Path("secret")), "secret");
}

TEST_F(BlobStoreTest, DoesNotFollowLinks) {
  auto blobs = Open();
  ASSERT_TRUE(blobs->Put("abc").ok());
  ASSERT_TRUE(WriteFileDurably(Path("elsewhere"), "abc").ok());
  std::filesystem::remove(PathOf(kAbcDigest));
  std::filesystem::create_symlink(Path("elsewhere"), PathOf(kAbcDigest));
  EXPECT_FALSE(blobs->Get(kAbcDigest).ok());
  std::filesystem::remove_all(Path("blobs/ba"));
  std::filesystem::create_directory(Path("other"));
  std::filesystem::create_directory_symlink(Path("other"), Path("blobs/ba"));
  EXPECT_FALSE(blobs->Put("abc").ok());
  EXPECT_FALSE(BlobStore::Open(Path("blobs")).ok());
  EXPECT_THAT(Files(), ElementsAre("elsewhere"));
}

TEST_F(BlobStoreTest, WithoutAFolderKeepsBlobsInMemory) {
  const auto blobs = *BlobStore::Open("");
  EXPECT_TRUE(blobs->in_memory());
  EXPECT_EQ(*blobs->Put("abc"), kAbcDigest);
  const auto blob = *blobs->Get(kAbcDigest);
  EXPECT_EQ(*blobs->Put("abc"), kAbcDigest);
  EXPECT_EQ(*blobs->Get(kAbcDigest, Verify::kAlways), blob);
  Overwrite(Path("upload"), "an upload");
  const std::string upload = *blobs->Adopt(Path("upload"));
  EXPECT_EQ(BytesOf(blobs->Get(upload)), "an upload");
  EXPECT_EQ(blobs->List()->size(), 2u);
  EXPECT_TRUE(blobs->Delete(kAbcDigest).ok());
  EXPECT_FALSE(*blobs->Has(kAbcDigest));
  EXPECT_EQ(blob->bytes(), "abc");
  EXPECT_TRUE(HasReason(blobs->Get(kAbcDigest).status(), Reason::kNotFound));
  EXPECT_THAT(Files(), ElementsAre("upload"));
}

TEST_F(BlobStoreTest, ManyThreadsPutTheSameBlobs) {
  const auto blobs = Open();
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 20; ++i) {
        const std::string bytes = absl::StrCat("blob ", i);
        EXPECT_EQ(*blobs->Put(bytes), BlobDigest(bytes));
        EXPECT_EQ(BytesOf(blobs->Get(BlobDigest(bytes))), bytes);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(blobs->List()->size(), 20u);
  EXPECT_EQ(Files().size(), 20u);
}

TEST_F(BlobStoreTest, ABlobThatIsHeldOrUsedIsNotDeletedAsUnused) {
  const auto blobs = Open();
  ASSERT_TRUE(blobs->Put("abc").ok());
  ASSERT_TRUE(blobs->DeleteUnused(kAbcDigest, [] { return true; }).ok());
  EXPECT_TRUE(*blobs->Has(kAbcDigest));
  EXPECT_EQ(blobs->DeleteUnused(kAbcDigest, [] { return absl::InternalError("db"); }).code(),
            absl::StatusCode::kInternal);
  EXPECT_TRUE(*blobs->Has(kAbcDigest));
  absl::Notification asked;
  auto hold = std::make_unique<BlobStore::Hold>(blobs.get());
  std::thread collector([&] {
    EXPECT_TRUE(blobs
                    ->DeleteUnused(kAbcDigest,
                                   [&]() -> absl::StatusOr<bool> {
                                     asked.Notify();
                                     return false;
                                   })
                    .ok());
  });
  EXPECT_FALSE(asked.WaitForNotificationWithTimeout(absl::Milliseconds(50)));
  EXPECT_TRUE(*blobs->Has(kAbcDigest));
  hold.reset();
  collector.join();
  EXPECT_FALSE(*blobs->Has(kAbcDigest));
}

// A file that was written to after this process had verified it was taken for good.
TEST_F(BlobStoreTest, AFileThatWasWrittenToIsVerifiedAgain) {
  const auto blobs = BlobStore::Open(Path("blobs"));
  ASSERT_TRUE(blobs.ok());
  const std::string digest = *(*blobs)->Put("some bytes");
  ASSERT_TRUE((*blobs)->Get(digest, Verify::kOnce).ok());
  Overwrite(Path("blobs/" + digest.substr(0, 2) + "/" + digest), "same bytes");
  EXPECT_TRUE(HasReason((*blobs)->Get(digest, Verify::kOnce).status(), Reason::kCorruptData));
}

}  // namespace
}  // namespace gradwire::store
