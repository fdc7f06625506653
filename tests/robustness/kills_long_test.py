"""Twenty kills at random moments of running jobs change nothing of what the jobs end with."""
import random
import sys
import time
import unittest

import job_home
import wire
from job_home import Job, t

KILLS = 20
SECONDS = 180 * wire.SLOWDOWN
SEED = 4


class KillsTest(job_home.JobHomeTestCase):
    def test_twenty_kills_change_no_byte_of_parameters_optimiser_and_metrics(self):
        print(f"seed {SEED} ", end="", file=sys.stderr, flush=True)
        moments = random.Random(SEED)
        begin = time.monotonic()
        server, caller = self.start()
        job = caller.job(caller.upload(t.rows(500)))
        job.stop.steps, job.checkpoints.every_steps = 12000, 300
        job.evaluation.dataset, job.evaluation.every_steps = caller.upload(t.rows(40, seed=2)), 400
        whole = caller.create(job).name
        caller.watch(whole)
        expected = self.result(caller, whole)
        kills = jobs = 0
        while kills < KILLS:
            name = caller.create(job).name
            jobs += 1
            seen = []
            while kills < KILLS and caller.wait(name, Job.RUNNING, *job_home.ENDED).state == Job.RUNNING:
                time.sleep(moments.uniform(0, 0.5))
                told = caller.jobs.QueryMetrics(t.training.QueryMetricsRequest(name=name, max_points=1), timeout=30)
                seen.append(told.total_points)
                server.kill()
                kills += 1
                server, caller = self.start()
                after = caller.jobs.QueryMetrics(t.training.QueryMetricsRequest(name=name, max_points=1), timeout=30)
                self.assertGreaterEqual(after.total_points, seen[-1], "what was told is lost")
            events = self.take_to_its_end(caller, name)
            self.assertEqual(self.result(caller, name), expected)
            evaluations = [e.evaluation.step for e in events if e.HasField("evaluation")]
            self.assertEqual(evaluations, list(range(400, 12001, 400)))
        self.stop(server, caller)
        seconds = time.monotonic() - begin
        print(f"{kills} kills of {jobs} jobs in {seconds:.0f} s ", end="", file=sys.stderr, flush=True)
        self.assertLess(seconds, SECONDS)


if __name__ == "__main__":
    unittest.main()
