#include "server/store/blob_store.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "engine/base/status.h"
#include "gtest/gtest.h"
#include "server/store/file_system.h"
#include "server/store/store.h"

namespace gradwire::store {
namespace {

namespace fs = std::filesystem;

class BlobStoreTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = testing::TempDir() + "/blobs-XXXXXX";
    dir_ = mkdtemp(name.data());
  }
  void TearDown() override {
    ASSERT_TRUE(SetFailpoints("").ok());
    fs::remove_all(dir_);
  }
  std::unique_ptr<BlobStore> Open() {
    auto blobs = BlobStore::Open(dir_ + "/blobs");
    EXPECT_TRUE(blobs.ok()) << blobs.status();
    return *std::move(blobs);
  }
  std::string PathOf(const std::string& digest) {
    return absl::StrCat(dir_, "/blobs/", digest.substr(0, 2), "/", digest);
  }
  int FilesBelow() {
    int count = 0;
    for (const auto& entry : fs::recursive_directory_iterator(dir_))
      count += entry.is_regular_file();
    return count;
  }
  std::string dir_;
};

void Overwrite(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

TEST_F(BlobStoreTest, WhatIsPutIsThereForTheNextProcess) {
  const std::string digest = *Open()->Put("some bytes");
  EXPECT_EQ((*Open()->Get(digest))->bytes(), "some bytes");
  EXPECT_EQ((*Open()->List()), std::vector<std::string>{digest});
}

TEST_F(BlobStoreTest, NamesAreSha256) {
  EXPECT_EQ(BlobDigest("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST_F(BlobStoreTest, EveryFlippedBitAndEveryTruncationIsFound) {
  const std::string bytes = "a checkpoint of few bytes";
  const std::string digest = *Open()->Put(bytes);
  for (size_t i = 0; i < bytes.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string damaged = bytes;
      damaged[i] = static_cast<char>(damaged[i] ^ (1 << bit));
      Overwrite(PathOf(digest), damaged);
      EXPECT_TRUE(HasReason(Open()->Get(digest).status(), Reason::kCorruptData));
    }
    Overwrite(PathOf(digest), bytes.substr(0, i));
    EXPECT_TRUE(HasReason(Open()->Get(digest).status(), Reason::kCorruptData));
  }
  EXPECT_EQ(*Open()->Put(bytes), digest) << "a damaged blob is written again";
  EXPECT_EQ((*Open()->Get(digest))->bytes(), bytes);
}

TEST_F(BlobStoreTest, AKillAtAnyMomentLeavesTheWholeBlobOrNone) {
  const std::string bytes(100'000, 'b');
  const std::string digest = BlobDigest(bytes);
  Open();
  for (const char* point : Failpoints()) {
    for (int hit = 1; hit <= 3; ++hit) {
      const pid_t child = fork();
      if (child == 0) {
        SetFailpoints(absl::StrCat(point, "=kill@", hit)).IgnoreError();
        auto blobs = BlobStore::Open(dir_ + "/blobs");
        _exit(blobs.ok() && (*blobs)->Put(bytes).ok() ? 0 : 1);
      }
      int status = 0;
      waitpid(child, &status, 0);
      const bool killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
      EXPECT_TRUE(killed || (WIFEXITED(status) && WEXITSTATUS(status) == 0)) << point << hit;
      auto blobs = Open();
      auto blob = blobs->Get(digest);
      if (blob.ok()) EXPECT_EQ((*blob)->bytes(), bytes) << point << hit;
      if (!killed) EXPECT_TRUE(blob.ok()) << point << hit;
      EXPECT_LE(FilesBelow(), blob.ok() ? 1 : 0) << "nothing half-written stays: " << point << hit;
      ASSERT_TRUE(blobs->Delete(digest).ok());
    }
  }
}

TEST_F(BlobStoreTest, AFullDiskLeavesNoFileAndSpaceThatComesBackIsUsed) {
  auto blobs = Open();
  for (const char* point : Failpoints()) {
    ASSERT_TRUE(SetFailpoints(absl::StrCat(point, "=enospc@1")).ok());
    const absl::Status full = blobs->Put(absl::StrCat("bytes for ", point)).status();
    EXPECT_TRUE(HasReason(full, Reason::kDiskFull)) << point << full;
    ASSERT_TRUE(SetFailpoints("").ok());
    EXPECT_TRUE(blobs->Put(absl::StrCat("bytes for ", point)).ok());
  }
  EXPECT_EQ(FilesBelow(), static_cast<int>(Failpoints().size()));
}

TEST_F(BlobStoreTest, AFailingDiskIsNotTakenForAFullOne) {
  auto blobs = Open();
  ASSERT_TRUE(SetFailpoints("fsync=eio@1").ok());
  EXPECT_EQ(blobs->Put("bytes").status().code(), absl::StatusCode::kInternal);
  EXPECT_EQ(FilesBelow(), 0);
}

TEST_F(BlobStoreTest, AdoptsAFileByMovingIt) {
  const std::string upload = dir_ + "/upload";
  Overwrite(upload, "uploaded bytes");
  auto blobs = Open();
  const std::string digest = *blobs->Adopt(upload);
  EXPECT_FALSE(fs::exists(upload));
  EXPECT_EQ((*blobs->Get(digest))->bytes(), "uploaded bytes");
}

TEST_F(BlobStoreTest, ABlobThatIsReadOutlivesItsDeletion) {
  for (const std::string& dir : {dir_ + "/blobs", std::string()}) {
    auto blobs = *BlobStore::Open(dir);
    const std::string digest = *blobs->Put("bytes");
    const auto blob = *blobs->Get(digest);
    ASSERT_TRUE(blobs->Delete(digest).ok());
    EXPECT_EQ(blob->bytes(), "bytes");
    EXPECT_TRUE(HasReason(blobs->Get(digest).status(), Reason::kNotFound));
  }
}

TEST_F(BlobStoreTest, OnlyDigestsBecomePaths) {
  auto blobs = Open();
  for (const char* name : {"", "..", "../../etc/passwd", "/etc/passwd", "ab", "zz"}) {
    EXPECT_TRUE(HasReason(blobs->Get(name).status(), Reason::kNotFound)) << name;
    EXPECT_TRUE(blobs->Delete(name).ok()) << name;
  }
}

TEST_F(BlobStoreTest, DeletesOnlyWhatNobodyHas) {
  auto store = *OpenSqliteStore("");
  auto blobs = Open();
  const std::string digest = *blobs->Put("bytes");
  ASSERT_TRUE(store
                  ->Write([&](Store::Transaction& t) {
                    return t.Put({.kind = Kind::kGraph, .id = "g", .blobs = {"other", digest}});
                  })
                  .ok());
  ASSERT_TRUE(DeleteUnused(*store, *blobs, digest).ok());
  EXPECT_TRUE(blobs->Get(digest).ok());
  ASSERT_TRUE(
      store->Write([&](Store::Transaction& t) { return t.Delete(Kind::kGraph, "g"); }).ok());
  ASSERT_TRUE(DeleteUnused(*store, *blobs, digest).ok());
  EXPECT_FALSE(blobs->Get(digest).ok());
}

TEST_F(BlobStoreTest, ADirectoryHasOneOwner) {
  auto lock = DirectoryLock::Take(dir_);
  ASSERT_TRUE(lock.ok());
  EXPECT_EQ(DirectoryLock::Take(dir_).status().code(), absl::StatusCode::kFailedPrecondition);
  lock->reset();
  EXPECT_TRUE(DirectoryLock::Take(dir_).ok());
}

}  // namespace
}  // namespace gradwire::store
