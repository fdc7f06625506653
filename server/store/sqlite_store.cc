#include <sqlite3.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "engine/base/status.h"
#include "server/store/failpoints.h"
#include "server/store/store.h"

namespace gradwire::store {
namespace {

constexpr int kSchemaVersion = 1;

constexpr char kSchema[] = R"(
CREATE TABLE IF NOT EXISTS resources(
  serial INTEGER PRIMARY KEY AUTOINCREMENT, kind INTEGER NOT NULL, id TEXT NOT NULL,
  state INTEGER NOT NULL, expires INTEGER NOT NULL, bytes BLOB NOT NULL, blobs TEXT NOT NULL,
  UNIQUE(kind, id));
CREATE INDEX IF NOT EXISTS resources_by_state ON resources(kind, state, serial);
CREATE INDEX IF NOT EXISTS resources_by_expiry ON resources(expires) WHERE expires>0;
CREATE TABLE IF NOT EXISTS events(
  job TEXT NOT NULL, number INTEGER NOT NULL, step INTEGER NOT NULL, type INTEGER NOT NULL,
  bytes BLOB NOT NULL, PRIMARY KEY(job, number)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS events_by_type ON events(job, type, step);
CREATE TABLE IF NOT EXISTS checkpoints(
  job TEXT NOT NULL, step INTEGER NOT NULL, bytes BLOB NOT NULL, blob TEXT NOT NULL,
  PRIMARY KEY(job, step)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS checkpoints_by_blob ON checkpoints(blob);
CREATE TABLE IF NOT EXISTS requests(
  id TEXT PRIMARY KEY, method TEXT NOT NULL, request BLOB NOT NULL, response BLOB NOT NULL,
  answered INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS requests_by_time ON requests(answered);
)";

absl::Status ToStatus(sqlite3* db, int code, absl::string_view what) {
  const std::string message = absl::StrCat(
      "store: ", what, ": ", db != nullptr ? sqlite3_errmsg(db) : sqlite3_errstr(code));
  switch (code & 0xff) {
    case SQLITE_FULL:
      return Error(Reason::kDiskFull, message);
    case SQLITE_NOMEM:
      return Error(Reason::kMemoryLimit, message);
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return Error(Reason::kCorruptData, message);
    default:
      return absl::InternalError(message);
  }
}

// A prepared statement, for one use: bind in order, then Step() or Run().
class Statement {
 public:
  Statement(sqlite3* db, absl::string_view sql) : db_(db), sql_(sql) {
    code_ = sqlite3_prepare_v2(db, sql.data(), static_cast<int>(sql.size()), &statement_, nullptr);
  }
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;
  ~Statement() { sqlite3_finalize(statement_); }

  Statement& Bind(int64_t value) {
    if (code_ == SQLITE_OK) code_ = sqlite3_bind_int64(statement_, ++bound_, value);
    return *this;
  }
  Statement& Bind(const std::string& text) {
    if (code_ == SQLITE_OK) {
      code_ = sqlite3_bind_text64(statement_, ++bound_, text.data(), text.size(), SQLITE_STATIC,
                                  SQLITE_UTF8);
    }
    return *this;
  }
  Statement& BindBytes(const std::string& bytes) {
    if (code_ == SQLITE_OK) {
      code_ = sqlite3_bind_blob64(statement_, ++bound_, bytes.data(), bytes.size(), SQLITE_STATIC);
      if (bytes.empty()) code_ = sqlite3_bind_zeroblob(statement_, bound_, 0);
    }
    return *this;
  }

  // True while there is a row.
  bool Step() {
    if (code_ != SQLITE_OK && code_ != SQLITE_ROW) return false;
    code_ = sqlite3_step(statement_);
    return code_ == SQLITE_ROW;
  }
  absl::Status Run() {
    while (Step()) {
    }
    return status();
  }
  absl::Status status() const {
    if (code_ == SQLITE_OK || code_ == SQLITE_ROW || code_ == SQLITE_DONE) return absl::OkStatus();
    return ToStatus(db_, code_, sql_);
  }

  int64_t Int(int column) const { return sqlite3_column_int64(statement_, column); }
  std::string Bytes(int column) const {
    const void* data = sqlite3_column_blob(statement_, column);
    const int size = sqlite3_column_bytes(statement_, column);
    return data == nullptr ? "" : std::string(static_cast<const char*>(data), size);
  }

 private:
  sqlite3* const db_;
  const absl::string_view sql_;
  sqlite3_stmt* statement_ = nullptr;
  int code_ = SQLITE_OK;
  int bound_ = 0;
};

constexpr char kResourceColumns[] = "kind, id, state, expires, bytes, blobs, serial";

Resource ResourceOf(const Statement& row) {
  return {.kind = static_cast<Kind>(row.Int(0)),
          .id = row.Bytes(1),
          .state = static_cast<int>(row.Int(2)),
          .expires = row.Int(3),
          .bytes = row.Bytes(4),
          .blobs = absl::StrSplit(row.Bytes(5), ' ', absl::SkipEmpty()),
          .serial = row.Int(6)};
}

Event EventOf(const Statement& row) {
  return {row.Int(0), row.Int(1), static_cast<int>(row.Int(2)), row.Bytes(3)};
}

template <typename T, typename Fn>
absl::StatusOr<std::vector<T>> Rows(Statement& statement, const Fn& read) {
  std::vector<T> out;
  while (statement.Step()) out.push_back(read(statement));
  GW_RETURN_IF_ERROR(statement.status());
  return out;
}

template <typename T, typename Fn>
absl::StatusOr<std::optional<T>> FirstRow(Statement& statement, const Fn& read) {
  std::optional<T> out;
  if (statement.Step()) out = read(statement);
  GW_RETURN_IF_ERROR(statement.status());
  return out;
}

class SqliteTransaction final : public Store::Transaction {
 public:
  explicit SqliteTransaction(sqlite3* db) : db_(db) {}

  absl::StatusOr<std::optional<Resource>> Get(Kind kind, const std::string& id) override {
    const std::string sql =
        absl::StrCat("SELECT ", kResourceColumns, " FROM resources WHERE kind=? AND id=?");
    Statement s(db_, sql);
    s.Bind(static_cast<int64_t>(kind)).Bind(id);
    return FirstRow<Resource>(s, ResourceOf);
  }

  absl::StatusOr<std::vector<Resource>> List(Kind kind, int64_t before, int limit,
                                             absl::Span<const int> states) override {
    std::string sql =
        absl::StrCat("SELECT ", kResourceColumns, " FROM resources WHERE kind=? AND serial<?");
    if (!states.empty()) absl::StrAppend(&sql, " AND state IN (", absl::StrJoin(states, ","), ")");
    absl::StrAppend(&sql, " ORDER BY serial DESC LIMIT ?");
    Statement s(db_, sql);
    s.Bind(static_cast<int64_t>(kind)).Bind(before == 0 ? INT64_MAX : before).Bind(limit);
    return Rows<Resource>(s, ResourceOf);
  }

  absl::StatusOr<std::vector<Resource>> Expired(Kind kind, int64_t now) override {
    const std::string sql = absl::StrCat(
        "SELECT ", kResourceColumns, " FROM resources WHERE expires>0 AND expires<=? AND kind=?");
    Statement s(db_, sql);
    s.Bind(now).Bind(static_cast<int64_t>(kind));
    return Rows<Resource>(s, ResourceOf);
  }

  absl::StatusOr<std::vector<Event>> Events(const std::string& job, int64_t after,
                                            int limit) override {
    Statement s(db_,
                "SELECT number, step, type, bytes FROM events WHERE job=? AND number>? "
                "ORDER BY number LIMIT ?");
    s.Bind(job).Bind(after).Bind(limit);
    return Rows<Event>(s, EventOf);
  }

  absl::StatusOr<std::vector<Event>> ThinnedEvents(const std::string& job, int type,
                                                   int64_t first_step, int64_t last_step, int limit,
                                                   int64_t* total) override {
    Statement count(db_,
                    "SELECT COUNT(*) FROM events WHERE job=? AND type=? AND step BETWEEN ? AND ?");
    count.Bind(job).Bind(type).Bind(first_step).Bind(last_step);
    count.Step();
    GW_RETURN_IF_ERROR(count.status());
    *total = count.Int(0);
    const int64_t stride = (*total + limit - 1) / std::max(limit, 1);
    Statement s(db_,
                "SELECT number, step, type, bytes FROM (SELECT *, ROW_NUMBER() OVER (ORDER BY "
                "number) AS place FROM events WHERE job=? AND type=? AND step BETWEEN ? AND ?) "
                "WHERE (?-place) % ? = 0 ORDER BY number");
    s.Bind(job).Bind(type).Bind(first_step).Bind(last_step).Bind(*total);
    s.Bind(std::max<int64_t>(stride, 1));
    return Rows<Event>(s, EventOf);
  }

  absl::StatusOr<std::optional<Event>> LastEvent(const std::string& job, int type) override {
    Statement s(db_, type < 0 ? "SELECT number, step, type, bytes FROM events WHERE job=? "
                                "ORDER BY number DESC LIMIT 1"
                              : "SELECT number, step, type, bytes FROM events WHERE job=? AND "
                                "type=? ORDER BY step DESC, number DESC LIMIT 1");
    s.Bind(job);
    if (type >= 0) s.Bind(type);
    return FirstRow<Event>(s, EventOf);
  }

  absl::StatusOr<std::vector<CheckpointRow>> Checkpoints(const std::string& job) override {
    Statement s(db_, "SELECT step, bytes, blob FROM checkpoints WHERE job=? ORDER BY step DESC");
    s.Bind(job);
    return Rows<CheckpointRow>(s, [](const Statement& row) {
      return CheckpointRow{row.Int(0), row.Bytes(1), row.Bytes(2)};
    });
  }

  absl::StatusOr<std::optional<AnsweredRequest>> FindRequest(const std::string& id) override {
    Statement s(db_, "SELECT method, request, response FROM requests WHERE id=?");
    s.Bind(id);
    return FirstRow<AnsweredRequest>(s, [](const Statement& row) {
      return AnsweredRequest{row.Bytes(0), row.Bytes(1), row.Bytes(2)};
    });
  }

  absl::StatusOr<bool> UsesBlob(const std::string& digest) override {
    Statement s(db_,
                "SELECT 1 FROM checkpoints WHERE blob=?1 UNION ALL SELECT 1 FROM resources WHERE "
                "instr(blobs, ?1) > 0 LIMIT 1");
    s.Bind(digest);
    const bool found = s.Step();
    GW_RETURN_IF_ERROR(s.status());
    return found;
  }

  absl::StatusOr<std::set<std::string>> UsedBlobs() override {
    std::set<std::string> out;
    Statement s(db_, "SELECT blob FROM checkpoints UNION ALL SELECT blobs FROM resources");
    while (s.Step()) {
      const std::string blobs = s.Bytes(0);
      for (absl::string_view digest : absl::StrSplit(blobs, ' ', absl::SkipEmpty())) {
        out.emplace(digest);
      }
    }
    GW_RETURN_IF_ERROR(s.status());
    return out;
  }

  absl::Status Put(const Resource& r) override {
    Statement s(db_,
                "INSERT INTO resources(kind, id, state, expires, bytes, blobs) VALUES(?,?,?,?,?,?) "
                "ON CONFLICT(kind, id) DO UPDATE SET state=excluded.state, "
                "expires=excluded.expires, bytes=excluded.bytes, blobs=excluded.blobs");
    const std::string blobs = absl::StrJoin(r.blobs, " ");
    s.Bind(static_cast<int64_t>(r.kind)).Bind(r.id).Bind(r.state).Bind(r.expires);
    return s.BindBytes(r.bytes).Bind(blobs).Run();
  }

  absl::Status Delete(Kind kind, const std::string& id) override {
    if (kind == Kind::kJob) {
      GW_RETURN_IF_ERROR(Statement(db_, "DELETE FROM events WHERE job=?").Bind(id).Run());
      GW_RETURN_IF_ERROR(Statement(db_, "DELETE FROM checkpoints WHERE job=?").Bind(id).Run());
    }
    Statement s(db_, "DELETE FROM resources WHERE kind=? AND id=?");
    return s.Bind(static_cast<int64_t>(kind)).Bind(id).Run();
  }

  absl::Status AppendEvent(const std::string& job, const Event& event) override {
    Statement s(db_, "INSERT INTO events(job, number, step, type, bytes) VALUES(?,?,?,?,?)");
    return s.Bind(job)
        .Bind(event.number)
        .Bind(event.step)
        .Bind(event.type)
        .BindBytes(event.bytes)
        .Run();
  }

  absl::Status PutCheckpoint(const std::string& job, const CheckpointRow& row) override {
    Statement s(db_, "INSERT OR REPLACE INTO checkpoints(job, step, bytes, blob) VALUES(?,?,?,?)");
    return s.Bind(job).Bind(row.step).BindBytes(row.bytes).Bind(row.blob).Run();
  }

  absl::Status DeleteCheckpoint(const std::string& job, int64_t step) override {
    return Statement(db_, "DELETE FROM checkpoints WHERE job=? AND step=?")
        .Bind(job)
        .Bind(step)
        .Run();
  }

  absl::Status PutRequest(const std::string& id, const AnsweredRequest& answered) override {
    Statement s(db_,
                "INSERT INTO requests(id, method, request, response, answered) VALUES(?,?,?,?,?)");
    s.Bind(id).Bind(answered.method).BindBytes(answered.request).BindBytes(answered.response);
    return s.Bind(absl::ToUnixSeconds(absl::Now())).Run();
  }

  absl::Status ForgetRequests(int64_t since, int64_t count) override {
    GW_RETURN_IF_ERROR(Statement(db_, "DELETE FROM requests WHERE answered<=?").Bind(since).Run());
    Statement s(db_,
                "DELETE FROM requests WHERE id IN (SELECT id FROM requests ORDER BY answered DESC, "
                "id LIMIT -1 OFFSET ?)");
    return s.Bind(count).Run();
  }

 private:
  sqlite3* const db_;
};

class SqliteStore final : public Store {
 public:
  explicit SqliteStore(sqlite3* db) : db_(db) {}
  ~SqliteStore() override { sqlite3_close_v2(db_); }

  absl::Status Initialize() {
    for (const char* sql : {"PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL",
                            "PRAGMA foreign_keys=ON", "PRAGMA busy_timeout=5000"}) {
      GW_RETURN_IF_ERROR(Execute(sql));
    }
    Statement version(db_, "PRAGMA user_version");
    version.Step();
    GW_RETURN_IF_ERROR(version.status());
    if (version.Int(0) > kSchemaVersion) {
      return absl::FailedPreconditionError(
          absl::StrCat("store: the database has version ", version.Int(0), ", this server knows ",
                       kSchemaVersion, ": it was written by a newer server"));
    }
    GW_RETURN_IF_ERROR(Execute(kSchema));
    return Execute(absl::StrCat("PRAGMA user_version=", kSchemaVersion).c_str());
  }

  absl::Status Write(absl::FunctionRef<absl::Status(Transaction&)> fn) override {
    absl::MutexLock lock(&mutex_);
    GW_RETURN_IF_ERROR(Execute("BEGIN IMMEDIATE"));
    SqliteTransaction transaction(db_);
    absl::Status status = fn(transaction);
    if (status.ok()) status = Commit();
    // A commit that failed for want of space leaves the transaction open.
    if (!status.ok() && sqlite3_get_autocommit(db_) == 0) Execute("ROLLBACK").IgnoreError();
    return status;
  }

  absl::Status Read(absl::FunctionRef<absl::Status(Snapshot&)> fn) override {
    absl::MutexLock lock(&mutex_);
    SqliteTransaction snapshot(db_);
    return fn(snapshot);
  }

 private:
  absl::Status Commit() {
    if (const int error = HitFailpoint(Failpoint::kDatabaseCommit)) {
      return error == ENOSPC ? Error(Reason::kDiskFull, "store: the disk is full")
                             : absl::InternalError("store: the disk fails");
    }
    return Execute("COMMIT");
  }
  absl::Status Execute(const char* sql) {
    const int code = sqlite3_exec(db_, sql, nullptr, nullptr, nullptr);
    return code == SQLITE_OK ? absl::OkStatus() : ToStatus(db_, code, sql);
  }

  absl::Mutex mutex_;
  sqlite3* const db_;
};

}  // namespace

absl::Status DeleteUnused(Store& store, BlobStore& blobs, const std::string& digest) {
  return blobs.DeleteUnused(digest, [&]() -> absl::StatusOr<bool> {
    bool used = true;
    GW_RETURN_IF_ERROR(store.Read([&](Store::Snapshot& snapshot) -> absl::Status {
      GW_ASSIGN_OR_RETURN(used, snapshot.UsesBlob(digest));
      return absl::OkStatus();
    }));
    return used;
  });
}

absl::Status DeleteOrphans(Store& store, BlobStore& blobs) {
  GW_ASSIGN_OR_RETURN(const std::vector<std::string> all, blobs.List());
  std::set<std::string> used;
  GW_RETURN_IF_ERROR(store.Read([&](Store::Snapshot& snapshot) -> absl::Status {
    GW_ASSIGN_OR_RETURN(used, snapshot.UsedBlobs());
    return absl::OkStatus();
  }));
  for (const std::string& digest : all) {
    // What was put meanwhile is looked up again.
    if (used.count(digest) == 0) GW_RETURN_IF_ERROR(DeleteUnused(store, blobs, digest));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Store>> OpenSqliteStore(const std::string& path) {
  sqlite3* db = nullptr;
  const int code = sqlite3_open_v2(path.empty() ? ":memory:" : path.c_str(), &db,
                                   SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, nullptr);
  auto store = std::make_unique<SqliteStore>(db);
  if (code != SQLITE_OK) return ToStatus(db, code, absl::StrCat("cannot open ", path));
  GW_RETURN_IF_ERROR(store->Initialize());
  return std::unique_ptr<Store>(std::move(store));
}

}  // namespace gradwire::store
