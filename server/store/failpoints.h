// File: failpoints.h
//
// Failpoints: named moments of writing at which a test makes the disk fail, or the process die. The
// code that writes names the moment; the environment, or a unit test, says what happens there:
//
//   if (const int error = HitFailpoint(Failpoint::kBlobFsync)) return SystemError(error, ...);
//
//   GRADWIRE_FAILPOINTS=blob.rename=kill@3             dies at the third rename
//   GRADWIRE_FAILPOINTS=blob.write=enospc@2+           the disk is full from the second write on
//   GRADWIRE_FAILPOINTS=db.commit=eio                  every commit fails
//   GRADWIRE_FAILPOINTS=count                          hits of every point, on stderr at exit
//
// Rules are separated by commas; the first that fits acts. Kinds: kill (SIGKILL, before the
// moment), eio, enospc. @N is the Nth hit only, @N+ the Nth and all after it; without either, every
// hit.
//
// For tests. A value that does not parse ends the process: no test may believe in a typing error.
// Cost: one relaxed load where nothing is set. Thread-safety: any thread.
#ifndef GRADWIRE_SERVER_STORE_FAILPOINTS_H_
#define GRADWIRE_SERVER_STORE_FAILPOINTS_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace gradwire::store {

enum class Failpoint {
  kBlobWrite,     // each piece of a file that is written whole, at most 1 MiB
  kBlobFsync,     // of that file, before it takes its place
  kBlobRename,    // to its place
  kBlobDirFsync,  // of the folder it came to lie in
  kFileRemove,
  kUploadWrite,  // each piece of a file that grows, at most 1 MiB
  kUploadFsync,
  kUploadDirFsync,  // of the folder where such a file is opened
  kDatabaseCommit,
};

struct FailpointInfo {
  Failpoint point;
  const char* name;  // "blob.write"
};
// The whole table, in enum order.
absl::Span<const FailpointInfo> AllFailpoints();

// 0, or the errno with which the system call that follows is to fail. Does not return from a kill.
int HitFailpoint(Failpoint point);

// Replaces all rules, those of the environment too, and counts from 0; "" for none.
// INVALID_ARGUMENT where `rules` does not parse: then nothing changes.
absl::Status SetFailpoints(absl::string_view rules);
// Since the rules were set. Hits are counted only where there are some ("count" is one).
int64_t FailpointHits(Failpoint point);
// Where the rules have "count": a line a point, "failpoint blob.write 12", on stderr. Runs at
// exit(); to be called before _exit().
void LogFailpointHits();

}  // namespace gradwire::store

#endif  // GRADWIRE_SERVER_STORE_FAILPOINTS_H_
