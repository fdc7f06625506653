"""A disk that is really full: a small tmpfs with less and less room. Jobs pause with DISK_FULL, calls
answer RESOURCE_EXHAUSTED, and with room again everything goes on to the same bytes. Needs root."""
import errno
import os
import subprocess
import sys
import tempfile
import unittest

import grpc
import harness
import job_home
from job_home import Job, t

DISK_BYTES = 6 << 20
FREE_KIB = (4, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512)


class SmallDisk:
    def __init__(self, case):
        self.path = tempfile.mkdtemp()
        case.addCleanup(os.rmdir, self.path)
        made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", self.path],
                              capture_output=True, text=True)
        if made.returncode != 0:
            case.skipTest(f"no tmpfs: {made.stderr.strip()}")
        case.addCleanup(subprocess.run, ["umount", "-l", self.path], check=True)
        self.filler = os.path.join(self.path, "filler")

    def leave(self, free_bytes):
        # Page by page: a job writes meanwhile.
        with open(self.filler, "wb", buffering=0) as file:
            while (room := os.statvfs(self.path)).f_bavail * room.f_frsize > free_bytes:
                try:
                    file.write(bytes(room.f_frsize))
                except OSError as error:
                    assert error.errno == errno.ENOSPC, error

    def make_room(self):
        os.remove(self.filler)


class DiskFullTest(job_home.JobHomeTestCase):
    def expected(self):
        server, caller = self.start()
        name = caller.create(self.job(caller, caller.upload(t.rows(100)))).name
        caller.watch(name)
        result = self.result(caller, name)
        self.stop(server, caller)
        return result

    def job(self, caller, dataset):
        job = caller.job(dataset)
        job.stop.steps, job.checkpoints.every_steps = 6000, 50
        return job

    def test_jobs_pause_and_go_on_when_there_is_room_again(self):
        expected = self.expected()
        paused = 0
        for free in FREE_KIB:
            with self.subTest(free_kib=free):
                disk = SmallDisk(self)
                server, caller = self.start(f"{disk.path}/data")
                job = self.job(caller, caller.upload(t.rows(100)))
                made = caller.create(job)
                harness.wait_until(lambda: caller.get(made.name).progress.step > 0)
                disk.leave(free << 10)
                state = caller.wait(made.name, Job.PAUSED, Job.SUCCEEDED, Job.FAILED, seconds=120)
                self.assertIn(state.state, (Job.PAUSED, Job.SUCCEEDED), state.state_reason)
                if state.state == Job.PAUSED:
                    paused += 1
                    self.assertIn("DISK_FULL", state.state_reason)
                told = caller.metrics(made.name).total_points
                disk.make_room()
                self.take_to_its_end(caller, made.name)
                self.assertGreaterEqual(caller.metrics(made.name).total_points, told)
                self.assertEqual(self.result(caller, made.name), expected)
                self.stop(server, caller)
        print(f"{paused} of {len(FREE_KIB)} paused ", end="", file=sys.stderr, flush=True)
        self.assertGreater(paused, len(FREE_KIB) // 2)

    def test_calls_are_refused_and_may_be_sent_again(self):
        disk = SmallDisk(self)
        server, caller = self.start(f"{disk.path}/data")
        dataset = caller.upload(t.rows(100))
        job = caller.job(dataset)
        big = caller.create_dataset(t.rows(1))
        disk.leave(0)
        calls = [
            lambda: caller.create(job, request_id="1"),
            lambda: caller.data.AppendDataset(iter([caller.chunk(big, "x", 0, bytes(1 << 20))]), timeout=30),
            lambda: caller.data.CreateDataset(t.data.CreateDatasetRequest(
                dataset=t.data.Dataset(columns=[t.data.Column(name="x" * 200, data_type=1)] )), timeout=30),
        ]
        refused = 0
        for call in calls:
            try:
                for _ in range(50):  # what the database's log has room for is accepted
                    call()
            except grpc.RpcError as error:
                self.assertEqual(error.code(), grpc.StatusCode.RESOURCE_EXHAUSTED, error.details())
                self.assertEqual(harness.reason_of(error), "DISK_FULL")
                refused += 1
        self.assertEqual(refused, len(calls))
        self.assertEqual(caller.get_dataset(dataset).state, t.data.Dataset.SEALED)
        disk.make_room()
        made = caller.create(job, request_id="1")
        self.take_to_its_end(caller, made.name)
        caller.data.AppendDataset(iter([caller.chunk(big, "x", 0, bytes(1 << 20))]), timeout=30)
        self.stop(server, caller)


class DiskFullCallsTest(job_home.JobHomeTestCase):
    """The same without root, by failpoints."""

    def refused(self, call):
        with self.assertRaises(grpc.RpcError) as raised:
            call()
        self.assertEqual(raised.exception.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
        self.assertEqual(harness.reason_of(raised.exception), "DISK_FULL")

    def test_an_upload_is_refused_and_goes_on(self):
        server, caller = self.start(GRADWIRE_FAILPOINTS="upload.write=enospc@2")
        columns = t.rows(8)
        name = caller.create_dataset(columns)
        x, target = columns["x"].tobytes(), columns["t"].tobytes()
        append = lambda *chunks: caller.data.AppendDataset(iter(chunks), timeout=30)
        append(caller.chunk(name, "x", 0, x[:40]))
        self.refused(lambda: append(caller.chunk(name, "x", 40, x[40:])))
        self.assertEqual(caller.get_dataset(name).columns[0].received_bytes, 40)
        append(caller.chunk(name, "x", 40, x[40:]), caller.chunk(name, "t", 0, target))
        caller.data.SealDataset(t.data.SealDatasetRequest(name=name), timeout=30)
        self.stop(server, caller)

    def test_an_upload_whose_sync_failed_is_received_again(self):
        server, caller = self.start(GRADWIRE_FAILPOINTS="upload.fsync=eio@2")
        columns = t.rows(8)
        name = caller.create_dataset(columns)
        x = columns["x"].tobytes()
        append = lambda *chunks: caller.data.AppendDataset(iter(chunks), timeout=30)
        append(caller.chunk(name, "x", 0, x[:40]))
        with self.assertRaises(grpc.RpcError):
            append(caller.chunk(name, "x", 40, x[40:]))
        self.assertEqual(caller.get_dataset(name).columns[0].received_bytes, 40)
        append(caller.chunk(name, "x", 40, x[40:]), caller.chunk(name, "t", 0, columns["t"].tobytes()))
        sealed = caller.data.SealDataset(t.data.SealDatasetRequest(name=name), timeout=30)
        self.assertEqual(sealed.rows, 8)
        self.stop(server, caller)

    def test_a_job_is_refused_and_made_later(self):
        server, caller = self.start(GRADWIRE_FAILPOINTS="blob.write=enospc@1")
        job = caller.job(caller.upload(t.rows(20)))
        self.refused(lambda: caller.create(job, request_id="1"))
        self.take_to_its_end(caller, caller.create(job, request_id="1").name)
        self.stop(server, caller)


if __name__ == "__main__":
    unittest.main()
