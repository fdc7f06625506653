"""A checkpoint that was damaged on disk is told, left out, and changes nothing of what the job ends
with. Every position of every damage is in damaged_checkpoint_test.cc; here a sample goes through a
restarted server."""
import random
import shutil
import sys
import unittest

import harness
import job_home
from job_home import Job, t

SEED = 6
SAMPLES = 16


class DamageTest(job_home.JobHomeTestCase):
    def paused_job(self):
        """A data directory with a paused job of two checkpoints, and what it should end with."""
        server, caller = self.start()
        job = caller.job(caller.upload(t.rows(100)))
        job.stop.steps, job.checkpoints.every_steps = 6000, 500
        whole = caller.create(job).name
        caller.watch(whole)
        expected = self.result(caller, whole)
        name = caller.create(job).name
        harness.wait_until(lambda: caller.get(name).progress.step > 1000)
        caller.jobs.PauseTrainingJob(t.training.PauseTrainingJobRequest(name=name), timeout=30)
        self.assertEqual(caller.wait(name, Job.PAUSED, Job.SUCCEEDED).state, Job.PAUSED)
        checkpoint = job_home.newest_checkpoint(caller, name)
        self.stop(server, caller)
        return name, checkpoint, expected

    def check(self, label, name, checkpoint, expected, damage):
        home = self.home / label
        shutil.copytree(self.home / "data", home)
        blob, = home.glob(f"blobs/??/{checkpoint.sha256}")
        good = blob.read_bytes()
        self.assertLess(len(good), 8192)
        blob.write_bytes(damage(good))
        server, caller = self.start(home)
        for call, request in ((caller.jobs.DownloadCheckpoint, t.training.DownloadCheckpointRequest),
                              (caller.jobs.ExportModel, t.training.ExportModelRequest)):
            for which in (checkpoint.name, name):
                with self.assertRaises(t.grpc.RpcError) as raised:
                    list(call(request(name=which), timeout=30))
                self.assertEqual(harness.reason_of(raised.exception), "CORRUPT_DATA")
        events = self.take_to_its_end(caller, name)
        notices = [e.notice for e in events if e.HasField("notice")]
        self.assertEqual([n.reason for n in notices], ["CORRUPT_DATA"])
        self.assertIn(f"checkpoint {checkpoint.step}", notices[0].message)
        self.assertEqual(self.result(caller, name), expected)
        self.stop(server, caller)
        server, caller = self.start(home)
        self.assert_nothing_is_left_over(home, caller)
        self.stop(server, caller)
        shutil.rmtree(home)

    def test_the_job_falls_back_and_ends_with_the_same_bytes(self):
        print(f"seed {SEED} ", end="", file=sys.stderr, flush=True)
        name, checkpoint, expected = self.paused_job()
        dice = random.Random(SEED)
        size = checkpoint.bytes
        flips = [0, 7, 8, size - 1] + [dice.randrange(size) for _ in range(SAMPLES)]
        cuts = [0, 1, 8, size - 1] + [dice.randrange(size) for _ in range(SAMPLES // 2)]
        for at in flips:
            bit = dice.randrange(8)
            with self.subTest(flip=at, bit=bit):
                self.check(f"flip{at}-{bit}", name, checkpoint, expected,
                           lambda b: b[:at] + bytes([b[at] ^ 1 << bit]) + b[at + 1:])
        for length in cuts:
            with self.subTest(length=length):
                self.check(f"cut{length}", name, checkpoint, expected, lambda b: b[:length])
        with self.subTest("gone"):
            shutil.copytree(self.home / "data", self.home / "gone")
            next((self.home / "gone").glob(f"blobs/??/{checkpoint.sha256}")).unlink()
            server, caller = self.start(self.home / "gone")
            events = self.take_to_its_end(caller, name)
            self.assertEqual([e.notice.reason for e in events if e.HasField("notice")], ["NOT_FOUND"])
            self.assertEqual(self.result(caller, name), expected)
            self.stop(server, caller)

    def test_damage_while_the_server_runs_is_found(self):
        server, caller = self.start()
        dataset = caller.upload(t.rows(40))
        job = caller.job(dataset)
        name = caller.create(job).name
        caller.watch(name)
        digest = caller.data.GetDataset(t.data.GetDatasetRequest(name=dataset), timeout=30).columns[0].sha256
        for sha in (job_home.newest_checkpoint(caller, name).sha256, digest):
            blob, = (self.home / "data").glob(f"blobs/??/{sha}")
            content = bytearray(blob.read_bytes())
            content[len(content) // 2] ^= 4
            blob.chmod(0o600)
            blob.write_bytes(content)
        with self.assertRaises(t.grpc.RpcError) as raised:
            caller.download(name)
        self.assertEqual(harness.reason_of(raised.exception), "CORRUPT_DATA")
        for validate_only in (True, False):
            with self.assertRaises(t.grpc.RpcError) as raised:
                caller.create(job, validate_only=validate_only)
            self.assertEqual(harness.reason_of(raised.exception), "CORRUPT_DATA")
        self.stop(server, caller)


if __name__ == "__main__":
    unittest.main()
