"""A job from its upload to its end, with the server dying, or its disk failing, at every single write,
fsync, rename, folder fsync, removal and commit on the way (server/store/failpoints.h): what was
acknowledged stays, the job ends with the same bytes, and no file is left over."""
import subprocess
import sys
import unittest

import grpc
import harness
import job_home
from job_home import Job, t

COLUMNS = t.rows(64)
SPEC = dict(batch_size=16)


class Journey:
    """The calls of a caller who tries again with the same request ids until everything is done."""

    def __init__(self):
        self.seen = []  # events
        self.name = ""

    def call(self, method, request):
        """Tries again where the disk has failed; a server that is gone is an error."""
        for _ in range(4):
            try:
                return method(request, timeout=60)
            except grpc.RpcError as error:
                if error.code() not in (grpc.StatusCode.INTERNAL, grpc.StatusCode.RESOURCE_EXHAUSTED):
                    raise
                last = error
        raise last

    def chunks(self, caller, name):
        return [caller.chunk(name, n, 0, a.tobytes()) for n, a in COLUMNS.items()]

    def go(self, caller):
        columns = [t.data.Column(name=n, data_type=1, shape=a.shape[1:]) for n, a in COLUMNS.items()]
        dataset = self.call(caller.data.CreateDataset, t.data.CreateDatasetRequest(
            dataset=t.data.Dataset(columns=columns), request_id="data"))
        if self.call(caller.data.GetDataset, t.data.GetDatasetRequest(name=dataset.name)).state != t.data.Dataset.SEALED:
            self.call(lambda r, timeout: caller.data.AppendDataset(iter(r), timeout=timeout),
                      self.chunks(caller, dataset.name))
            self.call(caller.data.SealDataset, t.data.SealDatasetRequest(name=dataset.name, request_id="seal"))
        job = caller.job(dataset.name, **SPEC)
        job.stop.steps, job.checkpoints.every_steps = 60, 20
        made = self.call(caller.jobs.CreateTrainingJob, t.training.CreateTrainingJobRequest(job=job, request_id="job"))
        assert self.name in ("", made.name), "a second job was made"
        self.name = made.name
        job_home.watch_while_it_lasts(caller, self.name, self.seen)


class FailpointsTest(job_home.JobHomeTestCase):
    def count_hits(self):
        """Hits of each point on an undisturbed journey, and what it ends with."""
        server, caller = self.start(stderr=subprocess.PIPE, GRADWIRE_FAILPOINTS="count")
        journey = Journey()
        journey.go(caller)
        expected = self.result(caller, journey.name)
        server.terminate()
        lines = server.process.stderr.read().splitlines()
        self.assertEqual(server.wait(), 0)
        server.process.stderr.close()
        hits = {words[1]: int(words[2]) for words in map(str.split, lines) if words and words[0] == "failpoint"}
        self.assertGreaterEqual(len(hits), 9)
        self.assertEqual([point for point, count in hits.items() if count == 0], [], "never reached")
        return hits, expected

    def travel(self, rule, expected):
        """With the rule in force first, then on a sound server. True where the first one died."""
        home = self.home / rule
        died, journey = False, Journey()
        try:
            server, caller = self.start(home, stderr=subprocess.DEVNULL, GRADWIRE_FAILPOINTS=rule)
        except AssertionError:  # at its start
            server = None
        if server is not None:
            try:
                journey.go(caller)
            except grpc.RpcError as error:
                if "kill" not in rule and "+" not in rule:
                    raise AssertionError(f"{rule}: {error.code()} {error.details()}") from error
            if "kill" in rule:
                caller.channel.close()
                server.terminate()
                died = server.wait() != 0
            else:
                if journey.name:
                    state = caller.get(journey.name)
                    if "cannot be stored" not in state.state_reason:
                        self.assertIn(state.state, (Job.SUCCEEDED, Job.FAILED, Job.PAUSED, Job.QUEUED), state)
                    if state.state in (Job.PAUSED, Job.FAILED):
                        self.assertIn("DISK_FULL" if "enospc" in rule else "INTERNAL", state.state_reason)
                self.stop(server, caller)
        server, caller = self.start(home)
        if journey.name:
            events = caller.jobs.WatchTrainingJob(t.training.WatchTrainingJobRequest(name=journey.name), timeout=120)
            kept = [next(events) for _ in journey.seen]
            events.cancel()
            self.assertEqual(kept, journey.seen, "an event that was seen is lost")
        journey.go(caller)
        self.take_to_its_end(caller, journey.name)
        self.assertEqual(self.result(caller, journey.name), expected)
        self.stop(server, caller)
        server, caller = self.start(home)
        self.assertEqual(self.result(caller, journey.name), expected)
        self.assert_nothing_is_left_over(home, caller)
        self.stop(server, caller)
        return died

    def test_a_kill_at_every_point_loses_nothing(self):
        hits, expected = self.count_hits()
        rules = [f"{point}=kill@{n}" for point, count in hits.items() for n in range(1, count + 1)]
        died = 0
        for rule in rules:
            with self.subTest(rule):
                died += self.travel(rule, expected)
        print(f"{died} of {len(rules)} died ", end="", file=sys.stderr, flush=True)
        self.assertGreater(died, len(rules) * 0.8)

    def test_an_error_at_every_point_loses_nothing(self):
        hits, expected = self.count_hits()
        rules = [f"{point}=eio@{n}" for point, count in hits.items() for n in range(1, count + 1)]
        for rule in rules:
            with self.subTest(rule):
                self.travel(rule, expected)
        print(f"{len(rules)} errors ", end="", file=sys.stderr, flush=True)

    def test_a_disk_that_is_full_from_any_write_on_loses_nothing(self):
        hits, expected = self.count_hits()
        rules = [f"{point}=enospc@{n}+" for point in ("blob.write", "upload.write", "db.commit")
                 for n in range(1, hits[point] + 1)]
        for rule in rules:
            with self.subTest(rule):
                self.travel(rule, expected)
        print(f"{len(rules)} full disks ", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    unittest.main()
