#include "server/store/file_system.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/store/failpoints.h"
#include "tests/unit/store/store_testing.h"

namespace gradwire::store {
namespace {

using ::testing::AnyOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

using FileSystemTest = StoreTest;

constexpr Failpoint kMomentsOfAWrite[] = {Failpoint::kBlobWrite, Failpoint::kBlobFsync,
                                          Failpoint::kBlobRename, Failpoint::kBlobDirFsync};
const char* NameOf(Failpoint point) { return AllFailpoints()[static_cast<size_t>(point)].name; }

mode_t ModeOf(const std::string& path) {
  struct stat info = {};
  EXPECT_EQ(stat(path.c_str(), &info), 0);
  return info.st_mode & 0777;
}

TEST_F(FileSystemTest, WritesPiecesForTheOwnerOnly) {
  ASSERT_TRUE(MakeDirectories(Path("a/b/c")).ok());
  ASSERT_TRUE(MakeDirectories(Path("a/b/c/")).ok());
  const std::vector<absl::string_view> pieces = {"one ", "", "two"};
  ASSERT_TRUE(WriteFileDurably(Path("a/b/c/f"), pieces).ok());
  EXPECT_EQ(Read(Path("a/b/c/f")), "one two");
  EXPECT_EQ(ModeOf(Path("a")), 0700);
  EXPECT_EQ(ModeOf(Path("a/b/c/f")), 0600);
  ASSERT_TRUE(WriteFileDurably(Path("a/b/c/f"), "").ok());
  EXPECT_EQ(Read(Path("a/b/c/f")), "");
  EXPECT_THAT(Files(), ElementsAre("a/b/c/f"));
}

TEST_F(FileSystemTest, MakesNoFolderInPlaceOfAFile) {
  ASSERT_TRUE(WriteFileDurably(Path("f"), "x").ok());
  EXPECT_FALSE(MakeDirectories(Path("f")).ok());
  EXPECT_FALSE(MakeDirectories(Path("f/g")).ok());
  EXPECT_FALSE(MakeDirectories("").ok());
}

// What each moment leaves tells the order: nothing has moved before it is synced, and all is done
// but for the folder when that is synced.
TEST_F(FileSystemTest, AFailureAtAnyMomentIsToldAndLeavesNoSecondFile) {
  for (const Failpoint point : kMomentsOfAWrite) {
    for (const char* kind : {"eio", "enospc"}) {
      ASSERT_TRUE(SetFailpoints("").ok());
      ASSERT_TRUE(WriteFileDurably(Path("f"), "old").ok());
      ASSERT_TRUE(SetFailpoints(absl::StrCat(NameOf(point), "=", kind)).ok());
      const absl::Status status = WriteFileDurably(Path("f"), "new");
      const bool full = std::string(kind) == "enospc";
      EXPECT_EQ(HasReason(status, Reason::kDiskFull), full) << status;
      EXPECT_EQ(status.code(),
                full ? absl::StatusCode::kResourceExhausted : absl::StatusCode::kInternal);
      EXPECT_THAT(std::string(status.message()),
                  HasSubstr(full ? "No space left" : "Input/output"));
      EXPECT_EQ(Read(Path("f")), point == Failpoint::kBlobDirFsync ? "new" : "old");
      EXPECT_THAT(Files(), ElementsAre("f")) << NameOf(point);
      for (const Failpoint later : kMomentsOfAWrite) {
        EXPECT_EQ(FailpointHits(later), later <= point ? 1 : 0) << NameOf(point) << NameOf(later);
      }
    }
  }
}

TEST_F(FileSystemTest, AKillAtAnyMomentLeavesTheOldOrTheNewFile) {
  const std::string old_bytes(2'500'000, 'o'), new_bytes(3'500'000, 'n');
  int kills = 0;
  for (const Failpoint point : kMomentsOfAWrite) {
    for (int hit = 1;; ++hit) {
      ASSERT_TRUE(WriteFileDurably(Path("f"), old_bytes).ok());
      const bool survived = SurvivesInChild([&] {
        ASSERT_TRUE(SetFailpoints(absl::StrCat(NameOf(point), "=kill@", hit)).ok());
        ASSERT_TRUE(WriteFileDurably(Path("f"), new_bytes).ok());
      });
      if (survived) break;
      ++kills;
      const bool moved = point == Failpoint::kBlobDirFsync;
      EXPECT_TRUE(Read(Path("f")) == (moved ? new_bytes : old_bytes)) << NameOf(point) << hit;
      EXPECT_EQ(Files().size(), moved ? 1u : 2u);
      ASSERT_TRUE(RemoveUnfinishedWrites(dir()).ok());
      EXPECT_THAT(Files(), ElementsAre("f"));
    }
  }
  EXPECT_EQ(kills, 4 + 1 + 1 + 1);
}

// In a container every process of the server may have the same id.
TEST_F(FileSystemTest, NamesTakenByAKilledProcessOfTheSameIdDoNotMatter) {
  for (int i = 0; i < 1'000; ++i) Overwrite(Path(absl::StrCat("tmp-", getpid(), "-", i)), "left");
  ASSERT_TRUE(WriteFileDurably(Path("f"), "new").ok());
  ASSERT_TRUE(RemoveUnfinishedWrites(dir()).ok());
  EXPECT_THAT(Files(), ElementsAre("f"));
}

// A real limit, and so a real short write in the middle of the second MiB.
TEST_F(FileSystemTest, AFileSizeLimitIsAFullDisk) {
  EXPECT_TRUE(SurvivesInChild([&] {
    signal(SIGXFSZ, SIG_IGN);
    const rlimit limit = {1'500'000, 1'500'000};
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0) _exit(3);
    if (!HasReason(WriteFileDurably(Path("f"), std::string(3'000'000, 'x')), Reason::kDiskFull)) {
      _exit(4);
    }
    auto file = WritableFile::Open(Path("upload"));
    if (!file.ok()) _exit(5);
    if (!HasReason((*file)->WriteAt(0, std::string(3'000'000, 'x')), Reason::kDiskFull)) _exit(6);
    if (!(*file)->WriteAt(0, std::string(1'000'000, 'y')).ok() || !(*file)->Sync().ok()) _exit(7);
  }));
  EXPECT_THAT(Files(), ElementsAre("upload"));
}

TEST_F(FileSystemTest, LinksAndOtherThingsInPlaceOfAFileAreRefused) {
  ASSERT_TRUE(WriteFileDurably(Path("target"), "secret").ok());
  ASSERT_TRUE(MakeDirectories(Path("real")).ok());
  std::filesystem::create_symlink(Path("target"), Path("link"));
  std::filesystem::create_directory_symlink(Path("real"), Path("folder"));
  ASSERT_EQ(mkfifo(Path("pipe").c_str(), 0600), 0);
  for (const char* name : {"link", "pipe", "folder/f", "real"}) {
    EXPECT_FALSE(MappedFile::Open(Path(name)).ok()) << name;
    EXPECT_FALSE(ReadFile(Path(name), [](absl::string_view) {}).ok()) << name;
    EXPECT_FALSE(WritableFile::Open(Path(name)).ok()) << name;
  }
  EXPECT_FALSE(WriteFileDurably(Path("folder/f"), "x").ok());
  EXPECT_FALSE(ListDirectory(Path("folder")).ok());
  // The name is replaced, not what it points to.
  ASSERT_TRUE(WriteFileDurably(Path("link"), "new").ok());
  EXPECT_EQ(Read(Path("target")), "secret");
  EXPECT_FALSE(std::filesystem::is_symlink(Path("link")));
}

TEST_F(FileSystemTest, LinksGiveASecondNameOrNothing) {
  ASSERT_TRUE(MakeDirectories(Path("to")).ok());
  ASSERT_TRUE(WriteFileDurably(Path("from"), "bytes").ok());
  for (const char* rules : {"blob.fsync=eio", "blob.rename=eio"}) {
    ASSERT_TRUE(SetFailpoints(rules).ok());
    EXPECT_FALSE(LinkFileDurably(Path("from"), Path("to/f")).ok());
    EXPECT_THAT(Files(), ElementsAre("from"));
  }
  ASSERT_TRUE(SetFailpoints("").ok());
  ASSERT_TRUE(WriteFileDurably(Path("to/f"), "damaged").ok());
  ASSERT_TRUE(LinkFileDurably(Path("from"), Path("to/f")).ok());
  EXPECT_EQ(Read(Path("to/f")), "bytes");
  EXPECT_EQ(Read(Path("from")), "bytes");
  EXPECT_TRUE(HasReason(LinkFileDurably(Path("none"), Path("to/g")), Reason::kNotFound));
}

TEST_F(FileSystemTest, ListsSortedAndRemoves) {
  ASSERT_TRUE(WriteFileDurably(Path("b"), "1").ok());
  ASSERT_TRUE(WriteFileDurably(Path("a"), "2").ok());
  EXPECT_THAT(*ListDirectory(dir()), ElementsAre("a", "b"));
  EXPECT_TRUE(RemoveFile(Path("a")).ok());
  EXPECT_TRUE(RemoveFile(Path("a")).ok());
  EXPECT_TRUE(RemoveFile(Path("no/folder")).ok());
  EXPECT_THAT(*ListDirectory(dir()), ElementsAre("b"));
  EXPECT_TRUE(*FileExists(Path("b")));
  EXPECT_FALSE(*FileExists(Path("a")));
  EXPECT_TRUE(HasReason(ListDirectory(Path("no")).status(), Reason::kNotFound));
  ASSERT_TRUE(SetFailpoints("file.remove=eio").ok());
  EXPECT_FALSE(RemoveFile(Path("b")).ok());
  EXPECT_THAT(Files(), ElementsAre("b"));
}

TEST_F(FileSystemTest, AMappingOutlivesItsFile) {
  EXPECT_TRUE(HasReason(MappedFile::Open(Path("f")).status(), Reason::kNotFound));
  EXPECT_TRUE(HasReason(MappedFile::Open(Path("no/f")).status(), Reason::kNotFound));
  const std::string bytes(1'000'000, 'm');
  ASSERT_TRUE(WriteFileDurably(Path("f"), bytes).ok());
  const auto mapped = MappedFile::Open(Path("f"));
  ASSERT_TRUE(mapped.ok()) << mapped.status();
  ASSERT_TRUE(WriteFileDurably(Path("f"), "").ok());
  const auto empty = MappedFile::Open(Path("f"));
  ASSERT_TRUE(empty.ok()) << empty.status();
  EXPECT_EQ((*empty)->bytes(), "");
  ASSERT_TRUE(RemoveFile(Path("f")).ok());
  EXPECT_TRUE((*mapped)->bytes() == bytes);
}

TEST_F(FileSystemTest, AGrowingFileKeepsWhatItHas) {
  {
    const auto file = WritableFile::Open(Path("u"));
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_EQ(*(*file)->Size(), 0);
    ASSERT_TRUE((*file)->WriteAt(0, "hello ").ok());
    ASSERT_TRUE((*file)->WriteAt(6, "worlds").ok());
    ASSERT_TRUE((*file)->Truncate(11).ok());
    ASSERT_TRUE((*file)->Sync().ok());
  }
  const auto file = WritableFile::Open(Path("u"));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(*(*file)->Size(), 11);
  EXPECT_EQ(*(*file)->ReadAt(6, 5), "world");
  EXPECT_EQ(*(*file)->ReadAt(11, 0), "");
  for (const auto& [offset, length] : std::vector<std::pair<int64_t, int64_t>>{
           {6, 6}, {12, 0}, {-1, 1}, {0, -1}, {1, INT64_MAX}}) {
    EXPECT_FALSE((*file)->ReadAt(offset, length).ok()) << offset << " " << length;
  }
}

TEST_F(FileSystemTest, AfterAFailedSyncAGrowingFileIsNotTrusted) {
  auto file = *WritableFile::Open(Path("u"));
  ASSERT_TRUE(file->WriteAt(0, "acknowledged").ok());
  ASSERT_TRUE(file->Sync().ok());
  ASSERT_TRUE(file->WriteAt(12, " lost").ok());
  ASSERT_TRUE(SetFailpoints("upload.fsync=eio@1").ok());
  EXPECT_EQ(file->Sync().code(), absl::StatusCode::kInternal);
  EXPECT_FALSE(file->Sync().ok()) << "the system reports a lost page only once";
  EXPECT_FALSE(file->WriteAt(17, "more").ok());
  EXPECT_FALSE(file->ReadAt(0, 1).ok());
  file = *WritableFile::Open(Path("u"));
  ASSERT_TRUE(file->WriteAt(12, " again").ok());
  EXPECT_TRUE(file->Sync().ok());
  EXPECT_EQ(Read(Path("u")), "acknowledged again");
}

TEST_F(FileSystemTest, AFullDiskStopsAGrowingFileAtAnyWriteAndItGoesOn) {
  const std::string chunk(2'500'000, 'c');
  for (int n = 1; n <= 3; ++n) {
    const std::string path = Path(absl::StrCat("u", n));
    const auto file = *WritableFile::Open(path);
    ASSERT_TRUE(SetFailpoints(absl::StrCat("upload.write=enospc@", n)).ok());
    EXPECT_TRUE(HasReason(file->WriteAt(0, chunk), Reason::kDiskFull));
    EXPECT_TRUE(file->WriteAt(0, chunk).ok());
    EXPECT_TRUE(file->Sync().ok());
    EXPECT_TRUE(Read(path) == chunk);
  }
  ASSERT_TRUE(SetFailpoints("upload.dirfsync=enospc").ok());
  EXPECT_TRUE(HasReason(WritableFile::Open(Path("v")).status(), Reason::kDiskFull));
}

TEST_F(FileSystemTest, ALockKeepsASecondServerOut) {
  auto first = DirectoryLock::Take(dir());
  ASSERT_TRUE(first.ok()) << first.status();
  const absl::Status second = DirectoryLock::Take(dir()).status();
  EXPECT_EQ(second.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(second.message()), HasSubstr(dir()));
  EXPECT_THAT(std::string(second.message()), HasSubstr("another server"));
  EXPECT_TRUE(SurvivesInChild([&] {
    if (DirectoryLock::Take(dir()).ok()) _exit(1);
  }));
  first->reset();
  // Goes away with its process, however that ends.
  EXPECT_FALSE(SurvivesInChild([&] {
    const auto lock = DirectoryLock::Take(dir());
    if (!lock.ok()) _exit(1);
    kill(getpid(), SIGKILL);
  }));
  EXPECT_TRUE(DirectoryLock::Take(dir()).ok());
}

}  // namespace
}  // namespace gradwire::store
