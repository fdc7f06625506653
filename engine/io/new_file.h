// File: new_file.h
//
// NewFile: a file that appears under its name only when it is whole.
//
//   GW_ASSIGN_OR_RETURN(NewFile file, NewFile::Create("model.onnx"));
//   GW_RETURN_IF_ERROR(file.Write(bytes));
//   GW_RETURN_IF_ERROR(file.Commit());
//
// Until Commit() the bytes lie in PATH.XXXXXXXX.part in the same folder, and an older file under
// the name stays as it is. A NewFile that goes away uncommitted takes its bytes with it; a process
// that is killed leaves the .part behind.
//
// Thread-safety: belongs to one thread.
#ifndef GRADWIRE_ENGINE_IO_NEW_FILE_H_
#define GRADWIRE_ENGINE_IO_NEW_FILE_H_

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace gradwire {

class NewFile {
 public:
  // Errors: after errno, naming the path.
  static absl::StatusOr<NewFile> Create(const std::string& path);

  NewFile(NewFile&& other) noexcept { *this = std::move(other); }
  NewFile& operator=(NewFile&& other) noexcept;
  ~NewFile();

  absl::Status Write(absl::string_view bytes);
  // Begins again with an empty file.
  absl::Status Clear();
  // Makes the bytes durable and gives the file its name.
  absl::Status Commit();

 private:
  NewFile(std::string path, std::string temporary, int fd);
  absl::Status Failed() const;

  std::string path_;
  std::string temporary_;
  int fd_ = -1;
};

// A whole file at once.
absl::Status WriteNewFile(const std::string& path, absl::string_view bytes);

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_IO_NEW_FILE_H_
