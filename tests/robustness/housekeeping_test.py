"""What nobody needs any more goes: orphans, expired graphs, data sets and jobs, old checkpoints."""
import hashlib
import time
import unittest

import harness
import job_home
from job_home import Job, t
from gradwire.v1 import graph_service_pb2 as graph
from gradwire.v1 import graph_service_pb2_grpc, tensor_pb2

GONE_SECONDS = 30  # the server looks once a second


class HousekeepingTest(job_home.JobHomeTestCase):
    def blobs(self):
        return {p.name for p in job_home.blob_files(self.home / "data")}

    def refused(self, reason, call, request):
        with self.assertRaises(t.grpc.RpcError) as raised:
            call(request, timeout=30)
        self.assertEqual(harness.reason_of(raised.exception), reason, raised.exception.details())

    def test_what_a_dead_server_has_left_is_swept_at_start(self):
        server, caller = self.start()
        name = caller.upload(t.rows(8))
        half = caller.upload(t.rows(8, seed=2), seal=False)
        kept = self.blobs()
        self.stop(server, caller)
        data = self.home / "data"
        orphan = hashlib.sha256(b"orphan").hexdigest()
        (data / "blobs" / orphan[:2]).mkdir(exist_ok=True)
        (data / "blobs" / orphan[:2] / orphan).write_bytes(b"orphan")
        (data / "blobs" / orphan[:2] / "tmp-1-1").write_bytes(b"half a bl")
        (data / "uploads" / f"{name.split('/')[1]}-0").write_bytes(b"of a sealed one")
        (data / "uploads" / "0123456789abcdef-3").write_bytes(b"of a deleted one")
        server, caller = self.start()
        self.assertEqual(self.blobs(), kept)
        self.assertEqual({p.name for p in (data / "uploads").iterdir()}, {f"{half.split('/')[1]}-{i}" for i in (0, 1)})
        caller.data.SealDataset(t.data.SealDatasetRequest(name=half), timeout=30)
        self.stop(server, caller)

    def test_expired_graphs_go_with_their_files(self):
        server, caller = self.start()
        graphs = graph_service_pb2_grpc.GraphServiceStub(caller.channel)
        request = graph.CreateGraphRequest()
        request.model.expression = "x^7"
        request.ttl.nanos = 200_000_000
        made = graphs.CreateGraph(request, timeout=30)
        self.assertIn(made.name.split("/")[1], self.blobs())
        harness.wait_until(lambda: not self.blobs(), GONE_SECONDS)
        self.refused("NOT_FOUND", graphs.GetGraph, graph.GetGraphRequest(name=made.name))
        self.assertEqual(len(graphs.ListGraphs(graph.ListGraphsRequest(), timeout=30).graphs), 0)
        self.stop(server, caller)

    def create_dataset(self, caller, ttl_nanos):
        request = t.data.CreateDatasetRequest(dataset=t.data.Dataset(columns=[
            t.data.Column(name="x", data_type=1, shape=[3]), t.data.Column(name="t", data_type=1)]))
        request.ttl.nanos = ttl_nanos
        return caller.data.CreateDataset(request, timeout=30)

    def test_an_expired_data_set_goes_when_no_unfinished_job_needs_it(self):
        server, caller = self.start()
        half = self.create_dataset(caller, 200_000_000)
        self.assertEqual(half.expire_time.ToNanoseconds() - half.create_time.ToNanoseconds(), 200_000_000)
        caller.data.AppendDataset(iter([caller.chunk(half.name, "x", 0, bytes(24))]), timeout=30)
        read = self.create_dataset(caller, 500_000_000).name
        for n, a in t.rows(32).items():
            caller.data.AppendDataset(iter([caller.chunk(read, n, 0, a.tobytes())]), timeout=30)
        caller.data.SealDataset(t.data.SealDatasetRequest(name=read), timeout=30)
        job = caller.job(caller.upload(t.rows(32)))
        job.evaluation.dataset, job.evaluation.every_steps = read, 1000  # it reads this one as well
        job.stop.steps = 10 ** 9
        name = caller.create(job).name
        harness.wait_until(lambda: not any((self.home / "data/uploads").iterdir()), GONE_SECONDS)
        self.refused("NOT_FOUND", caller.data.GetDataset, t.data.GetDatasetRequest(name=half.name))
        time.sleep(2)  # long after its time
        self.assertEqual(caller.get_dataset(read).state, t.data.Dataset.SEALED)
        self.refused("WRONG_STATE", caller.data.DeleteDataset, t.data.DeleteDatasetRequest(name=read))
        self.refused("WRONG_STATE", caller.data.DeleteDataset, t.data.DeleteDatasetRequest(name=job.dataset))
        caller.jobs.PauseTrainingJob(t.training.PauseTrainingJobRequest(name=name), timeout=30)
        caller.wait(name, Job.PAUSED)
        self.stop(server, caller)
        server, caller = self.start()
        time.sleep(1.5)
        self.assertEqual(caller.get_dataset(read).rows, 32)
        caller.jobs.CancelTrainingJob(t.training.CancelTrainingJobRequest(name=name), timeout=30)
        caller.wait(name, Job.CANCELLED)

        def is_gone():
            try:
                caller.get_dataset(read)
            except t.grpc.RpcError as error:
                return harness.reason_of(error) == "NOT_FOUND"

        harness.wait_until(is_gone, GONE_SECONDS)
        self.assert_nothing_is_left_over(self.home / "data", caller)
        self.stop(server, caller)

    def test_a_ttl_must_be_positive(self):
        server, caller = self.start()
        request = t.data.CreateDatasetRequest(dataset=t.data.Dataset(columns=[t.data.Column(name="x", data_type=1)]))
        request.ttl.seconds = -1
        self.refused("INVALID_SPEC", caller.data.CreateDataset, request)
        self.stop(server, caller)

    def test_as_many_checkpoints_are_kept_as_asked_for_and_their_files(self):
        server, caller = self.start()
        dataset = caller.upload(t.rows(64))
        others = self.blobs()
        for keep, expected in ((0, [400, 350]), (1, [400]), (3, [400, 350, 300]), (-1, list(range(400, 0, -50)))):
            with self.subTest(keep=keep):
                job = caller.job(dataset)
                job.checkpoints.every_steps, job.checkpoints.keep = 50, keep
                name = caller.create(job).name
                caller.watch(name)
                listed = caller.jobs.ListCheckpoints(t.training.ListCheckpointsRequest(name=name), timeout=30)
                self.assertEqual([c.step for c in listed.checkpoints], expected)
                files = self.blobs() - others
                self.assertLessEqual({c.sha256 for c in listed.checkpoints}, files)
                self.assertEqual(len(files), len(expected) + 1)  # and the specification
                caller.jobs.DeleteTrainingJob(t.training.DeleteTrainingJobRequest(name=name), timeout=30)
                self.assertEqual(self.blobs(), others)
        self.stop(server, caller)

    def test_the_best_checkpoint_outlives_newer_ones(self):
        server, caller = self.start()
        job = caller.job(caller.upload(t.rows(64)))
        job.optimizer.sgd.lr = 0.05
        job.schedule.multi_step.milestones.append(100)
        job.schedule.multi_step.gamma = 30  # too long steps: uphill from there on
        job.stop.steps = 140
        job.evaluation.dataset, job.evaluation.every_steps = job.dataset, 20
        job.checkpoints.every_steps, job.checkpoints.keep, job.checkpoints.best = 20, 1, True
        name = caller.create(job).name
        caller.watch(name)
        done = caller.get(name)
        listed = caller.jobs.ListCheckpoints(t.training.ListCheckpointsRequest(name=name), timeout=30).checkpoints
        self.assertLess(done.progress.best_step, 140)
        self.assertEqual([c.step for c in listed], [140, done.progress.best_step])
        self.stop(server, caller)

    def test_a_job_that_starts_from_a_checkpoint_holds_it(self):
        server, caller = self.start()
        dataset = caller.upload(t.rows(64))
        first = caller.create(caller.job(dataset)).name
        caller.watch(first)
        trained = harness.read_safetensors(caller.download(first))["w"]
        job = caller.job(dataset)
        job.start.job = first
        job.optimizer.sgd.lr = 0
        job.stop.steps = 5
        blocker = caller.job(dataset)
        blocker.stop.steps = 10 ** 9
        running = caller.create(blocker).name
        caller.wait(running, Job.RUNNING)
        second = caller.create(job).name  # waits
        caller.jobs.DeleteTrainingJob(t.training.DeleteTrainingJobRequest(name=first), timeout=30)
        server.kill()
        server, caller = self.start()
        caller.jobs.CancelTrainingJob(t.training.CancelTrainingJobRequest(name=running), timeout=30)
        self.take_to_its_end(caller, second)
        self.assertEqual(harness.read_safetensors(caller.download(second))["w"], trained)
        self.stop(server, caller)

    def test_an_answer_outlives_a_restart_and_what_the_call_named(self):
        server, caller = self.start()
        graphs = graph_service_pb2_grpc.GraphServiceStub(caller.channel)
        request = graph.CreateGraphRequest()
        request.model.expression = "(x-1)^2"
        made = graphs.CreateGraph(request, timeout=30)
        job = t.Job()
        job.model.graph = made.name
        job.inputs["x"].CopyFrom(tensor_pb2.Tensor(data_type=11, values=[3]))
        job.optimizer.sgd.lr = 0.1
        job.stop.steps = 20
        first = caller.create(job, request_id="once")
        graphs.DeleteGraph(graph.DeleteGraphRequest(name=made.name), timeout=30)
        self.assertEqual(caller.create(job, request_id="once"), first)
        self.take_to_its_end(caller, first.name)
        server.kill()
        server, caller = self.start()
        self.assertEqual(caller.create(job, request_id="once"), first)
        self.assertEqual(len(caller.jobs.ListTrainingJobs(t.training.ListTrainingJobsRequest(), timeout=30).jobs), 1)
        self.stop(server, caller)


if __name__ == "__main__":
    unittest.main()
