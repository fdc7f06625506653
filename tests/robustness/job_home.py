"""What the tests of interrupted jobs share: servers one after another on one data directory, a job, and
all that it ends with."""
import hashlib
import pathlib
import tempfile
import threading
import time
import unittest

import grpc
import harness
import training_test as t

Job = t.Job
ENDED = (Job.SUCCEEDED, Job.FAILED, Job.CANCELLED)


class JobHomeTestCase(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.home = pathlib.Path(folder.name)

    def start(self, home=None, **environment):
        # Kernels are checked at the starts of other tests.
        server = harness.Server(f"--data-dir={home or self.home / 'data'}", "--self-check=never", **environment)
        self.addCleanup(server.process.kill)
        caller = t.Caller(server.address)
        self.addCleanup(caller.channel.close)
        return server, caller

    def stop(self, server, caller):
        caller.channel.close()  # a server waits for its callers to hang up
        self.assertEqual(server.stop(), 0)

    def result(self, caller, name):
        """Parameter bytes, optimiser bytes and the metric log, in which parameter digests are."""
        log = [(p.step, p.epoch, sorted(p.values.items()), p.parameter_digest) for p in caller.metrics(name).points]
        return harness.read_safetensors(caller.download(name)), log

    def take_to_its_end(self, caller, name):
        """Resumes the job where it has stopped; its events."""
        for _ in range(5):
            harness.wait_until(lambda: caller.get(name).state in ENDED + (Job.PAUSED,), 120)
            state = caller.get(name).state
            if state not in (Job.PAUSED, Job.FAILED):
                break
            caller.jobs.ResumeTrainingJob(t.training.ResumeTrainingJobRequest(name=name), timeout=60)
        job = caller.get(name)
        self.assertEqual(job.state, Job.SUCCEEDED, job.state_reason)
        events = caller.watch(name)
        self.assertEqual([e.number for e in events], list(range(1, len(events) + 1)))
        return events

    def assert_nothing_is_left_over(self, home, caller):
        """Every file of the data directory belongs to something, and every blob has its digest."""
        jobs = caller.jobs.ListTrainingJobs(t.training.ListTrainingJobsRequest(), timeout=30).jobs
        datasets = caller.data.ListDatasets(t.data.ListDatasetsRequest(), timeout=30).datasets
        owned = {c.sha256 for d in datasets for c in d.columns if d.state == t.data.Dataset.SEALED}
        for job in jobs:
            checkpoints = caller.jobs.ListCheckpoints(t.training.ListCheckpointsRequest(name=job.name), timeout=30)
            owned |= {c.sha256 for c in checkpoints.checkpoints}
        blobs = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in blob_files(home)}
        self.assertEqual(list(blobs), list(blobs.values()))
        self.assertEqual(owned - set(blobs), set(), "a blob is missing")
        # The specifications of jobs are not named in answers.
        self.assertLessEqual(len(set(blobs) - owned), len(jobs), "orphans are left")
        uploading = sum(len(d.columns) for d in datasets if d.state == t.data.Dataset.UPLOADING)
        uploads = home / "uploads"
        self.assertLessEqual(len(list(uploads.iterdir())) if uploads.exists() else 0, uploading)


def blob_files(home):
    return sorted(p for p in (home / "blobs").glob("??/*"))


def newest_checkpoint(caller, name):
    reply = caller.jobs.ListCheckpoints(t.training.ListCheckpointsRequest(name=name), timeout=30)
    return reply.checkpoints[0]


def watch_while_it_lasts(caller, name, seen):
    """Appends events to `seen` until the job stands still, or the server is gone."""
    stream = caller.jobs.WatchTrainingJob(
        t.training.WatchTrainingJobRequest(name=name, after_event=len(seen)), timeout=120)

    def cancel_when_it_stands_still():
        queued_since = time.monotonic()
        try:
            while (job := caller.get(name)).state not in ENDED + (Job.PAUSED,):
                if job.state != Job.QUEUED and "stored" not in job.state_reason:
                    queued_since = time.monotonic()
                if time.monotonic() > queued_since + 3:
                    break
                time.sleep(0.02)
            time.sleep(0.2)
        except grpc.RpcError:
            pass
        stream.cancel()

    thread = threading.Thread(target=cancel_when_it_stands_still)
    thread.start()
    try:
        for event in stream:
            seen.append(event)
    except grpc.RpcError:
        pass
    thread.join()
