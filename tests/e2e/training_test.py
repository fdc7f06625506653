"""Training jobs: they end with the same bytes whatever happens to the server, and say how they go."""
import importlib
import itertools
import json
import pathlib
import tempfile
import time
import unittest
import zlib

import grpc
import harness
import numpy as np

STUBS = harness.generate_stubs()
from gradwire.v1 import dataset_service_pb2 as data
from gradwire.v1 import dataset_service_pb2_grpc as data_grpc
from gradwire.v1 import graph_service_pb2, graph_service_pb2_grpc, model_pb2, tensor_pb2
from gradwire.v1 import training_service_pb2 as training
from gradwire.v1 import training_service_pb2_grpc as training_grpc
from gradwire.v1.loss_pb2 import Loss

Job = training.TrainingJob
MODEL = """
<ir_version: 8, opset_import: ["" : 17]>
line (float[N,3] x, float[N] t) => (float loss)
<float[3] w = {0.5, -0.25, 0.125}, float b = {0.0}>
{
  xw = MatMul (x, w)
  y = Add (xw, b)
  d = Sub (y, t)
  dd = Mul (d, d)
  loss = ReduceMean <keepdims = 0> (dd)
}
"""


def rows(count, seed=1):
    random = np.random.default_rng(seed)
    x = random.standard_normal((count, 3)).astype(np.float32)
    return {"x": x, "t": (x @ np.array([1, -2, 3], np.float32) + 0.5).astype(np.float32)}


def tensor(array):
    return tensor_pb2.Tensor(data_type={"float32": 1, "float64": 11}[str(array.dtype)], shape=array.shape,
                             data=array.tobytes())


class Caller:
    def __init__(self, address):
        self.channel = grpc.insecure_channel(address)
        self.data = data_grpc.DatasetServiceStub(self.channel)
        self.jobs = training_grpc.TrainingServiceStub(self.channel)

    def chunk(self, name, column, offset, piece, crc=None):
        return data.AppendDatasetRequest(name=name, column=column, offset=offset, data=piece,
                                         crc32=zlib.crc32(piece) if crc is None else crc)

    def create_dataset(self, columns):
        types = {"float32": 1, "float64": 11, "int64": 7}
        dataset = data.Dataset(columns=[data.Column(name=n, data_type=types[str(a.dtype)], shape=a.shape[1:])
                                        for n, a in columns.items()])
        return self.data.CreateDataset(data.CreateDatasetRequest(dataset=dataset), timeout=30).name

    def upload(self, columns, seal=True):
        name = self.create_dataset(columns)
        self.data.AppendDataset((self.chunk(name, n, 0, a.tobytes()) for n, a in columns.items()), timeout=30)
        if seal:
            self.data.SealDataset(data.SealDatasetRequest(name=name), timeout=30)
        return name

    def job(self, dataset, **fields):
        job = Job(dataset=dataset, **{"batch_size": 16, "shuffle": True, "seed": 7, **fields})
        job.model.text = MODEL
        if not job.optimizer.WhichOneof("kind"):
            job.optimizer.adam.lr = 0.05
        if not job.stop.ByteSize():
            job.stop.steps = 400
        return job

    def create(self, job, **fields):
        return self.jobs.CreateTrainingJob(training.CreateTrainingJobRequest(job=job, **fields), timeout=60)

    def get(self, name):
        return self.jobs.GetTrainingJob(training.GetTrainingJobRequest(name=name), timeout=30)

    def get_dataset(self, name):
        return self.data.GetDataset(data.GetDatasetRequest(name=name), timeout=30)

    def wait(self, name, *states, seconds=60):
        harness.wait_until(lambda: self.get(name).state in states, seconds)
        return self.get(name)

    def watch(self, name, after=0, seconds=60):
        return list(self.jobs.WatchTrainingJob(
            training.WatchTrainingJobRequest(name=name, after_event=after), timeout=seconds))

    def metrics(self, name, **fields):
        return self.jobs.QueryMetrics(training.QueryMetricsRequest(name=name, max_points=100000, **fields), timeout=30)

    def download(self, name):
        return b"".join(c.data for c in self.jobs.DownloadCheckpoint(
            training.DownloadCheckpointRequest(name=name), timeout=30))

    def checkpoints(self, name):
        return self.jobs.ListCheckpoints(training.ListCheckpointsRequest(name=name), timeout=30).checkpoints


# Two layers with a batch normalisation between them, exported for inference.
NORMALISED = """
<ir_version: 8, opset_import: ["" : 15]>
normalised (float[N,3] x, float[N] t) => (float loss)
<float[3] scale = {1.0, 1.0, 1.0}, float[3] bias = {0.0, 0.0, 0.0}, float[3] mean = {0.0, 0.0, 0.0},
 float[3] var = {1.0, 1.0, 1.0}, float[3] w = {0.5, -0.25, 0.125}>
{
  n = BatchNormalization <momentum = 0.75> (x, scale, bias, mean, var)
  y = MatMul (n, w)
  d = Sub (y, t)
  dd = Mul (d, d)
  loss = ReduceMean <keepdims = 0> (dd)
}
"""


class JobsTest(harness.ServerTestCase):
    flags = ("--self-check=never",)

    def setUp(self):
        self.caller = Caller(self.server.address)
        self.addCleanup(self.caller.channel.close)

    def test_a_line_is_learnt(self):
        job = self.caller.create(self.caller.job(self.caller.upload(rows(64))))
        events = self.caller.watch(job.name)
        done = self.caller.get(job.name)
        self.assertEqual(done.state, Job.SUCCEEDED, done.state_reason)
        self.assertEqual([e.number for e in events], list(range(1, len(events) + 1)))
        self.assertEqual([e.state.state for e in events if e.HasField("state")],
                         [Job.QUEUED, Job.RUNNING, Job.SUCCEEDED])
        points = self.caller.metrics(job.name).points
        self.assertEqual([p.step for p in points], list(range(1, 401)))
        self.assertLess(points[-1].values["loss"], 1e-4)
        w = np.frombuffer(harness.read_safetensors(self.caller.download(job.name))["w"][2], np.float32)
        np.testing.assert_allclose(w, [1, -2, 3], atol=0.02)

    def test_equal_jobs_end_with_equal_bytes(self):
        dataset = self.caller.upload(rows(50))
        names = [self.caller.create(self.caller.job(dataset)).name for _ in range(2)]
        files = []
        for name in names:
            self.caller.watch(name)
            files.append(harness.read_safetensors(self.caller.download(name)))
        self.assertEqual(files[0], files[1])
        self.assertIn("gradwire.slot.exp_avg.w", files[0])

    def test_pauses_change_nothing(self):
        dataset = self.caller.upload(rows(50))
        job = self.caller.job(dataset)
        job.stop.steps = 20000
        whole = self.caller.create(job).name
        self.caller.watch(whole)
        paused = self.caller.create(job).name
        pauses = 0
        for _ in range(3):
            try:
                self.caller.jobs.PauseTrainingJob(training.PauseTrainingJobRequest(name=paused), timeout=30)
            except grpc.RpcError as error:  # on a busy machine the job may end before
                self.assertEqual(harness.reason_of(error), "WRONG_STATE")
                break
            if self.caller.wait(paused, Job.PAUSED, Job.SUCCEEDED).state == Job.SUCCEEDED:
                break
            pauses += 1
            self.caller.jobs.ResumeTrainingJob(training.ResumeTrainingJobRequest(name=paused), timeout=30)
        self.assertGreater(pauses, 0)
        self.caller.wait(paused, Job.SUCCEEDED)
        self.assertEqual(harness.read_safetensors(self.caller.download(whole)), harness.read_safetensors(self.caller.download(paused)))
        logs = [[(p.step, dict(p.values), p.parameter_digest) for p in self.caller.metrics(n).points]
                for n in (whole, paused)]
        self.assertEqual(logs[0], logs[1])

    def test_accumulation_averages_batches(self):
        dataset = self.caller.upload(rows(64))
        job = self.caller.job(dataset, shuffle=False, batch_size=32)
        job.optimizer.sgd.lr = 0.1
        job.stop.steps = 10
        whole = self.caller.create(job).name
        job.batch_size, job.accumulation = 16, 2
        halves = self.caller.create(job).name
        got = []
        for name in (whole, halves):
            self.caller.watch(name)
            got.append(np.frombuffer(harness.read_safetensors(self.caller.download(name))["w"][2], np.float32))
        np.testing.assert_allclose(got[0], got[1], rtol=1e-5)

    def test_a_step_never_crosses_an_epoch(self):
        """Five batches an epoch, two a step: steps of 2, 2 and 1 batches, each the mean of its own."""
        columns = rows(36)  # the last batch has 4 rows
        job = self.caller.job(self.caller.upload(columns), shuffle=False, batch_size=8, accumulation=2)
        job.optimizer.sgd.lr = 0.1
        job.stop.epochs = 3
        estimate = self.caller.jobs.EstimateTrainingJob(training.EstimateTrainingJobRequest(job=job), timeout=60)
        self.assertEqual(estimate.total_steps, 9)
        name = self.caller.create(job).name
        self.caller.watch(name)
        done = self.caller.get(name)
        self.assertEqual((done.state, done.progress.step, done.progress.total_steps), (Job.SUCCEEDED, 9, 9))
        w, b = np.array([0.5, -0.25, 0.125]), 0.0
        for _ in range(3):
            for step in ((0, 1), (2, 3), (4,)):
                gradient_w, gradient_b = np.zeros(3), 0.0
                for batch in step:
                    x, t = (columns[n][8 * batch:8 * batch + 8].astype(np.float64) for n in ("x", "t"))
                    error = x @ w + b - t
                    gradient_w += 2 * error @ x / len(x) / len(step)
                    gradient_b += 2 * error.mean() / len(step)
                w, b = w - 0.1 * gradient_w, b - 0.1 * gradient_b
        got = harness.read_safetensors(self.caller.download(name))
        np.testing.assert_allclose(np.frombuffer(got["w"][2], np.float32), w, rtol=1e-5)
        np.testing.assert_allclose(np.frombuffer(got["b"][2], np.float32)[0], b, rtol=1e-5)
        self.assertEqual([p.epoch for p in self.caller.metrics(name).points], [0, 0, 1, 1, 1, 2, 2, 2, 3])

    def test_a_nan_in_any_batch_of_a_step_is_named(self):
        for row, batch in ((3, 0), (19, 2), (27, 3)):
            with self.subTest(row=row):
                columns = rows(32)
                columns["x"][row, 1] = np.nan
                job = self.caller.job(self.caller.upload(columns), shuffle=False, batch_size=8, accumulation=4)
                name = self.caller.create(job).name
                self.caller.watch(name)
                failed = self.caller.get(name)
                self.assertEqual(failed.state, Job.FAILED)
                self.assertIn(f"step 1, epoch 0, batch {batch}, first at", failed.state_reason)
                self.assertIn("MatMul", failed.state_reason)

    def test_evaluation_patience_and_the_best_checkpoint(self):
        dataset, held_out = self.caller.upload(rows(64)), self.caller.upload(rows(16, seed=2))
        job = self.caller.job(dataset)
        job.stop.steps, job.stop.patience = 5000, 3
        job.evaluation.dataset, job.evaluation.every_steps = held_out, 50
        job.checkpoints.best = True
        name = self.caller.create(job).name
        self.caller.watch(name)
        done = self.caller.get(name)
        self.assertEqual(done.state, Job.SUCCEEDED, done.state_reason)
        self.assertIn("no gain in 3 evaluations", done.state_reason)
        values = [(p.step, p.values["loss"]) for p in self.caller.metrics(name, evaluations=True).points]
        best = min(values, key=lambda v: v[1])
        self.assertEqual((done.progress.best_step, done.progress.best_value), best)
        kept = self.caller.checkpoints(name)
        self.assertEqual([c.step for c in kept if c.best], [best[0]])
        self.assertEqual(kept[0].step, done.progress.step)

    def normalised(self, columns, **fields):
        job = self.caller.job(self.caller.upload(columns), shuffle=False, **fields)
        job.model.text = NORMALISED
        return job

    def state_after(self, job):
        name = self.caller.create(job).name
        self.caller.watch(name)
        done = self.caller.get(name)
        self.assertEqual(done.state, Job.SUCCEEDED, done.state_reason)
        tensors = harness.read_safetensors(self.caller.download(name))
        return name, {n: np.frombuffer(t[2], np.float32) for n, t in tensors.items() if n[:9] != "gradwire."}

    def test_running_statistics_follow_the_batches_and_serve_evaluations(self):
        columns = rows(32)
        columns["x"] = 3 * columns["x"] + 5
        for accumulation in (1, 2):
            job = self.normalised(columns, accumulation=accumulation)
            job.stop.steps = 4 // accumulation
            job.evaluation.dataset, job.evaluation.every_steps = job.dataset, job.stop.steps
            name, state = self.state_after(job)
            self.assertEqual(sorted(state), ["bias", "mean", "scale", "var", "w"])
            mean, var = np.zeros(3), np.ones(3)
            for batch in (columns["x"][:16], columns["x"][16:]) * 2:
                mean, var = 0.75 * mean + 0.25 * batch.mean(0), 0.75 * var + 0.25 * batch.var(0)
            np.testing.assert_allclose(state["mean"], mean, rtol=1e-5)
            np.testing.assert_allclose(state["var"], var, rtol=1e-5)
            y = ((columns["x"] - mean) / np.sqrt(var + 1e-5) * state["scale"] + state["bias"]) @ state["w"]
            points = self.caller.metrics(name, evaluations=True).points
            np.testing.assert_allclose(points[-1].values["loss"], np.mean((y - columns["t"]) ** 2), rtol=1e-4)

    def test_running_statistics_stay_in_mode_eval_and_are_not_for_lbfgs(self):
        job = self.normalised(rows(32))
        job.options.mode = model_pb2.ComputeOptions.Mode.EVAL
        _, state = self.state_after(job)
        self.assertEqual(sorted(state), ["bias", "scale", "w"])
        job = self.normalised(rows(32))
        job.optimizer.lbfgs.lr = 1
        error = self.refused("INVALID_SPEC", self.caller.create, job)
        self.assertIn("mean", error)

    def test_a_nan_fails_the_job_and_names_the_node(self):
        columns = rows(32)
        columns["x"][20, 1] = np.nan
        job = self.caller.job(self.caller.upload(columns), shuffle=False)
        name = self.caller.create(job).name
        self.caller.watch(name)
        failed = self.caller.get(name)
        self.assertEqual(failed.state, Job.FAILED)
        self.assertIn("NON_FINITE_VALUE", failed.state_reason)
        self.assertIn("step 2", failed.state_reason)
        self.assertIn("MatMul", failed.state_reason)
        self.assertEqual(failed.progress.step, 1)

    def test_a_nan_is_skipped_where_the_job_says_so(self):
        columns = rows(32)
        columns["x"][20, 1] = np.nan
        job = self.caller.job(self.caller.upload(columns), shuffle=False, non_finite=training.SKIP_STEP)
        job.stop.steps = 10
        name = self.caller.create(job).name
        events = self.caller.watch(name)
        self.assertEqual(self.caller.get(name).state, Job.SUCCEEDED)
        notices = [e.notice.reason for e in events if e.HasField("notice")]
        self.assertTrue(notices and set(notices) == {"NON_FINITE_VALUE"}, notices)

    def test_a_watch_taken_up_again_loses_and_repeats_nothing(self):
        name = self.caller.create(self.caller.job(self.caller.upload(rows(64)))).name
        events = self.caller.watch(name)
        for after in (0, 1, 57, len(events) - 1, len(events)):
            self.assertEqual(self.caller.watch(name, after), events[after:])

    def test_cancel_and_delete(self):
        job = self.caller.job(self.caller.upload(rows(64)))
        job.stop.steps = 10 ** 9
        name = self.caller.create(job).name
        self.caller.wait(name, Job.RUNNING)
        self.refused("WRONG_STATE", self.caller.jobs.DeleteTrainingJob, training.DeleteTrainingJobRequest(name=name))
        self.refused("WRONG_STATE", self.caller.data.DeleteDataset, data.DeleteDatasetRequest(name=job.dataset))
        self.caller.jobs.CancelTrainingJob(training.CancelTrainingJobRequest(name=name), timeout=30)
        self.caller.wait(name, Job.CANCELLED)
        self.caller.jobs.DeleteTrainingJob(training.DeleteTrainingJobRequest(name=name), timeout=30)
        self.refused("NOT_FOUND", self.caller.get, name)
        self.caller.data.DeleteDataset(data.DeleteDatasetRequest(name=job.dataset), timeout=30)

    def test_every_problem_of_a_job_is_told_before_it_runs(self):
        dataset = self.caller.upload(rows(10))
        job = self.caller.job(dataset, batch_size=16, drop_last=True, trainable=["nothing*"])
        job.optimizer.adam.lr = float("nan")
        job.clip.value = -1
        with self.assertRaises(grpc.RpcError) as raised:
            self.caller.create(job, validate_only=True)
        details = dict(raised.exception.trailing_metadata())["grpc-status-details-bin"]
        for part in (b"batch_size", b"lr", b"clip.value"):
            self.assertIn(part, details)
        self.refused("WRONG_STATE", self.caller.create, self.caller.job(self.caller.upload(rows(4), seal=False)))
        self.refused("NOT_FOUND", self.caller.create, self.caller.job("datasets/0123456789abcdef"))
        self.refused("MISSING_INPUT", self.caller.create, self.caller.job(self.caller.upload({"x": rows(4)["x"]})))
        self.refused("INVALID_SPEC", self.caller.create, self.caller.job(dataset, trainable=["nothing*"]))
        bare = self.caller.job(dataset)
        bare.ClearField("stop")
        self.refused("INVALID_SPEC", self.caller.create, bare)
        bare.ClearField("optimizer")
        self.refused("INVALID_SPEC", self.caller.create, bare)
        wide = {n: a.astype(np.float64) for n, a in rows(20).items()}
        self.refused("DTYPE_UNSUPPORTED", self.caller.create, self.caller.job(self.caller.upload(wide)))
        vector = self.caller.job(dataset)
        vector.model.text = MODEL.replace("(float loss)", "(float[N] dd)").replace(
            "  loss = ReduceMean <keepdims = 0> (dd)\n", "")
        self.refused("NOT_SCALAR", self.caller.create, vector)

    def test_uploads_are_checked_and_go_on_where_they_broke_off(self):
        columns = rows(8)
        name = self.caller.create_dataset(columns)
        raw = columns["x"].tobytes()
        append = self.caller.data.AppendDataset
        append(iter([self.caller.chunk(name, "x", 0, raw[:50])]), timeout=30)
        self.refused("CHUNK_OUT_OF_RANGE", append, iter([self.caller.chunk(name, "x", 51, raw[51:])]))
        self.refused("DIGEST_MISMATCH", append, iter([self.caller.chunk(name, "x", 50, raw[50:], crc=1)]))
        self.refused("DIGEST_MISMATCH", append, iter([self.caller.chunk(name, "x", 0, b"other bytes")]))
        self.refused("SHAPE_MISMATCH", self.caller.data.SealDataset, data.SealDatasetRequest(name=name))
        dataset = append(iter([self.caller.chunk(name, "x", 40, raw[40:])]), timeout=30)
        self.assertEqual(dataset.columns[0].received_bytes, len(raw))
        append(iter([self.caller.chunk(name, "t", 0, columns["t"].tobytes())]), timeout=30)
        sealed = self.caller.data.SealDataset(data.SealDatasetRequest(name=name), timeout=30)
        self.assertEqual((sealed.state, sealed.rows), (data.Dataset.SEALED, 8))
        self.refused("WRONG_STATE", append, iter([self.caller.chunk(name, "x", len(raw), b"more")]))
        again = self.caller.data.GetDataset(data.GetDatasetRequest(name=self.caller.upload(columns)), timeout=30)
        self.assertEqual(again.content_hash, sealed.content_hash)

    def test_minimisation_needs_no_data(self):
        reply = self.gradwire_json("minimize", "(1-x)^2 + 100*(y-x^2)^2", "x=-1.2", "y=1")
        text = json.dumps(reply)
        self.assertIn("SUCCEEDED", text)
        result = self.gradwire("minimize", "(1-x)^2 + 100*(y-x^2)^2", "x=-1.2", "y=1")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("x = 1\n", result.stdout)

    def test_the_trained_model_leaves_as_onnx(self):
        name = self.caller.create(self.caller.job(self.caller.upload(rows(64)))).name
        self.caller.watch(name)
        with tempfile.TemporaryDirectory() as folder:
            model = pathlib.Path(folder, "trained.onnx")
            result = self.gradwire("export", name, "-o", model)
            self.assertEqual(result.returncode, 0, result.stderr)
            reply = self.gradwire_json("eval", "--model", model, "x=[[1,0,0]]", "t=[1.5]")
        self.assertLess(reply["outputs"]["loss"]["data"][0], 1e-2)


class LossTest(harness.ServerTestCase):
    """Losses on top of a graph that computes a prediction only."""

    def setUp(self):
        self.caller = Caller(self.server.address)
        self.addCleanup(self.caller.channel.close)
        self.dataset = self.caller.upload(rows(48))

    def job(self, **loss):
        job = self.caller.job(self.dataset, loss=Loss(**loss))
        job.stop.steps = 40
        return job

    def trained(self, job):
        name = self.caller.create(job).name
        self.caller.watch(name)
        done = self.caller.get(name)
        self.assertEqual(done.state, Job.SUCCEEDED, done.state_reason)
        return harness.read_safetensors(self.caller.download(name))["w"][2]

    def refused(self, job, *parts):
        with self.assertRaises(grpc.RpcError) as caught:
            self.caller.create(job)
        for part in parts:
            self.assertIn(part, caught.exception.details())
        return harness.reason_of(caught.exception)

    def test_a_loss_by_name_trains_as_the_same_loss_in_the_model(self):
        own = self.caller.job(self.dataset, output="loss")
        own.stop.steps = 40
        named = self.job(named="mse")
        named.output = "y"
        named.columns["target"] = "t"
        self.assertEqual(self.trained(own), self.trained(named))

    def test_a_loss_given_as_a_graph_reads_values_of_the_model_and_columns(self):
        model = "y = x @ w + b"
        jobs = [self.job(graph=model_pb2.Model(expression=e)) for e in ("mean((y - t)^2)", "mean((t - y)^2)*1")]
        for job in jobs:
            job.model.expression = model
            job.inputs["w"].CopyFrom(tensor(np.array([0.5, -0.25, 0.125], np.float32)))
            job.inputs["b"].CopyFrom(tensor(np.float32(0)))
        own = self.caller.job(self.dataset)
        own.stop.steps = 40
        expected = np.frombuffer(self.trained(own), np.float32)
        for job in jobs:
            np.testing.assert_allclose(np.frombuffer(self.trained(job), np.float32), expected, rtol=1e-5)

    def test_an_evaluation_looks_at_what_the_loss_is_of(self):
        job = self.job(named="huber", parameters={"delta": 0.5})
        job.output = "y"
        job.columns["target"] = "t"
        job.evaluation.dataset = self.dataset
        job.evaluation.metrics.extend(["r2", "mae"])
        job.stop.steps = 400
        name = self.caller.create(job).name
        self.caller.watch(name)
        points = self.caller.metrics(name, evaluations=True).points
        self.assertGreater(points[-1].values["r2"], 0.99)

    def test_a_loss_that_does_not_fit_is_refused_with_its_reason(self):
        job = self.job(named="msee")
        job.output = "y"
        self.assertEqual(self.refused(job, "msee", "softmax_cross_entropy"), "INVALID_SPEC")
        job.loss.named = "mse"
        self.assertEqual(self.refused(job, "target"), "MISSING_INPUT")
        job.columns["target"] = "t"
        job.loss.named = "huber"
        job.loss.parameters["delta"] = -1
        job.loss.parameters["beta"] = 1
        self.assertEqual(self.refused(job, "2 problems"), "INVALID_SPEC")
        job.loss.named = "nll"
        job.loss.parameters.clear()
        self.assertEqual(self.refused(job, "loss.nll"), "DTYPE_UNSUPPORTED")
        job.output = "nothing"
        self.assertEqual(self.refused(job, "nothing"), "UNKNOWN_OUTPUT")
        job.output = ""
        job.loss.Clear()
        job.loss.SetInParent()
        self.assertEqual(self.refused(job, "loss"), "INVALID_SPEC")
        job.loss.graph.expression = "y - t"
        del job.columns["target"]
        self.assertEqual(self.refused(job, "gradwire.loss"), "NOT_SCALAR")
        job.loss.graph.expression = "sin("
        self.assertEqual(self.refused(job, "loss.graph"), "INVALID_MODEL")
        job.loss.reduction = Loss.SUM
        job.loss.graph.expression = "mean(y)"
        self.assertEqual(self.refused(job, "reduction"), "INVALID_SPEC")


# Rpcs that change nothing; of an upload, a chunk that is sent again is compared with what there is.
READS = r"^(Get|List|Query|Watch|Download|Export|Estimate|Analyze|Evaluate|Compute|Check|StreamCompute)|^AppendDataset$"


def services():
    """Of every file in proto/gradwire/v1."""
    for proto in sorted((harness.SOURCE / "proto/gradwire/v1").glob("*.proto")):
        file = importlib.import_module(f"gradwire.v1.{proto.stem}_pb2").DESCRIPTOR
        yield from file.services_by_name.values()


class IdempotencyTest(harness.ServerTestCase):
    """Over the service descriptors: a new rpc with a request_id is covered by itself."""

    def requests(self, caller):
        """A request by name, made when it is needed; a new mutating rpc must be added, or the test fails."""
        columns = rows(32)

        def job_in(state):
            job = caller.job(caller.upload(columns))
            if state != "over":
                job.stop.steps = 10 ** 9
            name = caller.create(job).name
            if state == "over":
                caller.watch(name)
            else:
                caller.wait(name, Job.RUNNING)
            if state == "paused":
                caller.jobs.PauseTrainingJob(training.PauseTrainingJobRequest(name=name), timeout=30)
                caller.wait(name, Job.PAUSED)
            return name

        exponents = itertools.count(9)

        def formula():
            request = graph_service_pb2.CreateGraphRequest()
            request.model.expression = f"x^{next(exponents)}"
            return request

        graphs = graph_service_pb2_grpc.GraphServiceStub(caller.channel)
        return {
            "CreateGraph": formula,
            "DeleteGraph": lambda: graph_service_pb2.DeleteGraphRequest(name=graphs.CreateGraph(formula()).name),
            "CreateDataset": lambda: data.CreateDatasetRequest(
                dataset=data.Dataset(columns=[data.Column(name="x", data_type=1)])),
            "SealDataset": lambda: data.SealDatasetRequest(name=caller.upload(columns, seal=False)),
            "DeleteDataset": lambda: data.DeleteDatasetRequest(name=caller.upload(columns)),
            "CreateTrainingJob": lambda: training.CreateTrainingJobRequest(job=caller.job(caller.upload(columns))),
            "DeleteTrainingJob": lambda: training.DeleteTrainingJobRequest(name=job_in("over")),
            "CancelTrainingJob": lambda: training.CancelTrainingJobRequest(name=job_in("running")),
            "PauseTrainingJob": lambda: training.PauseTrainingJobRequest(name=job_in("running")),
            "ResumeTrainingJob": lambda: training.ResumeTrainingJobRequest(name=job_in("paused")),
        }

    flags = ("--max-running-jobs=8", "--self-check=never")

    def test_a_mutating_call_sent_twice_has_one_effect_and_one_answer(self):
        caller = Caller(self.server.address)
        self.addCleanup(caller.channel.close)
        requests = self.requests(caller)
        seen = 0
        for service in services():
            for method in service.methods:
                if "request_id" not in method.input_type.fields_by_name:
                    self.assertRegex(method.name, READS, "changes something, and has no request_id")
                    continue
                self.assertNotRegex(method.name, READS)
                with self.subTest(method.name):
                    request = requests[method.name]()
                    request.request_id = f"id of {method.name}"
                    call = caller.channel.unary_unary(
                        f"/{service.full_name}/{method.name}", request_serializer=lambda r: r.SerializeToString(),
                        response_deserializer=lambda b: b)
                    resources = self.resources(caller)
                    first = call(request, timeout=60)
                    made = self.resources(caller) - resources
                    second = call(request, timeout=60)
                    answer = method.output_type._concrete_class
                    self.assertEqual(answer.FromString(first), answer.FromString(second))
                    self.assertEqual(self.resources(caller) - resources, made)
                    self.assertEqual(len(made), method.name.startswith("Create"))
                    # The same rpc and id for something else.
                    other = requests[method.name]()
                    if "display_name" in other.DESCRIPTOR.fields_by_name:
                        other.display_name = "another"
                    elif hasattr(other, "dataset"):
                        other.dataset.display_name = "another"
                    elif hasattr(other, "job"):
                        other.job.display_name = "another"
                    other.request_id = request.request_id
                    with self.assertRaises(grpc.RpcError) as raised:
                        call(other, timeout=60)
                    self.assertEqual(raised.exception.code(), grpc.StatusCode.ALREADY_EXISTS)
                    self.assertEqual(harness.reason_of(raised.exception), "REQUEST_ID_REUSED")
                    seen += 1
        self.assertEqual(seen, len(requests))


    def resources(self, caller):
        graphs = graph_service_pb2_grpc.GraphServiceStub(caller.channel)
        jobs = caller.jobs.ListTrainingJobs(training.ListTrainingJobsRequest(page_size=1000), timeout=30).jobs
        datasets = caller.data.ListDatasets(data.ListDatasetsRequest(page_size=1000), timeout=30).datasets
        listed = graphs.ListGraphs(graph_service_pb2.ListGraphsRequest(page_size=1000), timeout=30).graphs
        return {r.name for resources in (jobs, datasets, listed) for r in resources}

    def test_a_hundred_calls_at_once_with_one_id_make_one_job(self):
        caller = Caller(self.server.address)
        self.addCleanup(caller.channel.close)
        job = caller.job(caller.upload(rows(16)))
        before = self.resources(caller)
        request = training.CreateTrainingJobRequest(job=job, request_id="storm")
        calls = [caller.jobs.CreateTrainingJob.future(request, timeout=120) for _ in range(100)]
        names = {call.result().name for call in calls}
        self.assertEqual(len(names), 1)
        self.assertEqual(self.resources(caller) - before, names)


class RestartTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def start(self, **environment):
        server = harness.Server(f"--data-dir={self.folder}/data", "--self-check=never")
        self.addCleanup(server.process.kill)
        caller = Caller(server.address)
        self.addCleanup(caller.channel.close)
        return server, caller

    def result(self, caller, name):
        log = [(p.step, dict(p.values), p.parameter_digest) for p in caller.metrics(name).points]
        return harness.read_safetensors(caller.download(name)), log

    def test_kills_and_restarts_end_with_the_same_bytes_and_the_same_log(self):
        server, caller = self.start()
        job = caller.job(caller.upload(rows(200)))
        job.stop.steps = 12000
        job.checkpoints.every_steps = 500
        whole = caller.create(job).name
        caller.watch(whole)
        expected = self.result(caller, whole)
        name = caller.create(job).name
        random = np.random.default_rng(3)
        kills = 0
        for _ in range(20):
            time.sleep(float(random.uniform(0.02, 0.4)))
            if caller.get(name).state == Job.SUCCEEDED:
                break
            server.kill()
            kills += 1
            server, caller = self.start()
        self.assertGreater(kills, 1)
        events = caller.watch(name)
        self.assertEqual([e.number for e in events], list(range(1, len(events) + 1)))
        self.assertEqual(caller.get(name).state, Job.SUCCEEDED)
        self.assertEqual(self.result(caller, name), expected)
        self.assertEqual(server.stop(), 0)

    def test_sigterm_leaves_a_checkpoint_and_the_next_server_goes_on(self):
        server, caller = self.start()
        job = caller.job(caller.upload(rows(200)))
        job.stop.steps = 20000
        name = caller.create(job).name
        harness.wait_until(lambda: caller.get(name).progress.step > 100)
        self.assertEqual(server.stop(), 0)
        server, caller = self.start()
        self.assertGreater(caller.get(name).progress.step, 100)
        caller.watch(name)
        self.assertEqual(caller.get(name).state, Job.SUCCEEDED)
        self.assertEqual(len(caller.metrics(name).points), 20000)
        self.assertEqual(server.stop(), 0)


if __name__ == "__main__":
    unittest.main()
