"""What is wrong with a training job is told when it is created, all at once, with and without
validate_only and by EstimateTrainingJob alike, and nothing is kept of it."""
import sys
import unittest

import grpc
import harness
import numpy as np
import wire
from wire import tensor, tensor_pb2
import training_test as t

Job = t.Job
INF, NAN = float("inf"), float("nan")
INT_MAX = 2 ** 63 - 1


def with_field(message_bytes, number, value=1):
    """The serialized message with a field that nobody knows."""
    tag = number << 3
    return message_bytes + bytes([tag & 0x7F | 0x80, tag >> 7, value])


class BadJobTest(harness.ServerTestCase):
    flags = ("--self-check=never",)

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.caller = t.Caller(cls.server.address)
        cls.dataset = cls.caller.upload(t.rows(10))

    @classmethod
    def tearDownClass(cls):
        cls.caller.channel.close()
        super().tearDownClass()

    def count(self):
        return len(self.caller.jobs.ListTrainingJobs(t.training.ListTrainingJobsRequest(), timeout=30).jobs)

    def job(self, dataset=None, change=None, **fields):
        job = self.caller.job(dataset or self.dataset, **fields)
        if change is not None:
            change(job)
        return job

    def check(self, job, code, reason, *places):
        """Every way of asking refuses the job alike."""
        before = self.count()
        failures = []
        for ask in (lambda: self.caller.create(job, validate_only=True), lambda: self.caller.create(job),
                    lambda: self.caller.jobs.EstimateTrainingJob(
                        t.training.EstimateTrainingJobRequest(job=job), timeout=60)):
            with self.assertRaises(grpc.RpcError) as raised:
                ask()
            failures.append(wire.Failure(raised.exception))
        for failure in failures:
            self.assertEqual((failure.code, failure.reason), (code, reason), failure)
            for place in places:
                self.assertTrue(any(place in f"{k}: {v}" for k, v in failure.violations.items()) or
                                place in failure.message, f"{place} not in {failure}")
        self.assertEqual(len({repr(f) for f in failures}), 1, failures)
        self.assertEqual(self.count(), before, "something is kept")

    def change(self, reason, change, *places, code="INVALID_ARGUMENT", **fields):
        self.check(self.job(change=change, **fields), code, reason, *places)

    def test_columns_types_and_shapes_that_do_not_match_the_model(self):
        columns = t.rows(10)
        upload = self.caller.upload
        wrong = {
            "no column": (({"x": columns["x"]}), "MISSING_INPUT", "inputs.t"),
            "no column at all": (({"z": columns["t"]}), "MISSING_INPUT", "inputs.t", "inputs.x"),
            "element type": ({"x": columns["x"].astype(np.float64), "t": columns["t"]}, "DTYPE_UNSUPPORTED", "x"),
            "integers": ({"x": columns["x"].astype(np.int64), "t": columns["t"]}, "DTYPE_UNSUPPORTED", "x"),
            "extent": ({"x": np.zeros((10, 4), np.float32), "t": columns["t"]}, "SHAPE_MISMATCH", "x"),
            "rank": ({"x": np.zeros((10, 3, 1), np.float32), "t": columns["t"]}, "SHAPE_MISMATCH", "x"),
        }
        for label, (data, reason, *places) in wrong.items():
            with self.subTest(label):
                code = "INVALID_ARGUMENT"
                self.check(self.job(upload(data)), code, reason, *places)
        self.change("UNKNOWN_INPUT", lambda j: j.columns.update({"nothing": "x"}), "columns.nothing")
        self.change("MISSING_INPUT", lambda j: j.columns.update({"x": "nothing"}), "nothing")

    def test_a_data_set_that_is_not_there_not_sealed_or_empty(self):
        self.check(self.job(self.caller.upload(t.rows(4), seal=False)), "FAILED_PRECONDITION", "WRONG_STATE")
        self.check(self.job("datasets/0123456789abcdef"), "NOT_FOUND", "NOT_FOUND")
        self.check(self.job("datasets/../../etc/passwd"), "INVALID_ARGUMENT", "INVALID_SPEC")
        self.check(self.job(self.caller.upload(t.rows(0))), "INVALID_ARGUMENT", "INVALID_SPEC", "dataset")
        for held_out, reason, code in ((self.caller.upload(t.rows(4), seal=False), "WRONG_STATE", "FAILED_PRECONDITION"),
                                       ("datasets/0123456789abcdef", "NOT_FOUND", "NOT_FOUND"),
                                       (self.caller.upload({"x": t.rows(4)["x"]}), "MISSING_INPUT", "INVALID_ARGUMENT")):
            self.change(reason, lambda j: setattr(j.evaluation, "dataset", held_out), code=code)

    def test_a_loss_that_is_no_scalar_or_not_there(self):
        vector = t.MODEL.replace("(float loss)", "(float[N] dd)").replace(
            "  loss = ReduceMean <keepdims = 0> (dd)\n", "")
        self.change("NOT_SCALAR", lambda j: setattr(j.model, "text", vector), "dd")
        self.change("UNKNOWN_OUTPUT", lambda j: setattr(j, "output", "nothing"), "nothing")
        two = t.MODEL.replace("(float loss)", "(float loss, float[N] y)")
        self.change("UNKNOWN_OUTPUT", lambda j: setattr(j.model, "text", two), "output")
        self.change("INVALID_MODEL", lambda j: setattr(j.model, "expression", "x*("))
        self.change("INVALID_MODEL", lambda j: j.ClearField("model"))
        self.change("NOT_FOUND", lambda j: setattr(j.model, "graph", "graphs/" + "0" * 64), code="NOT_FOUND")

    def test_patterns_that_match_nothing(self):
        self.change("INVALID_SPEC", lambda j: j.trainable.append("nothing*"), "trainable[0]", "w")
        self.change("INVALID_SPEC", lambda j: j.trainable.extend(["w", ""]), "trainable[1]")
        self.change("INVALID_SPEC", lambda j: j.parameter_groups.add(pattern="v"), "parameter_groups[0]")
        self.change("INVALID_SPEC", lambda j: j.parameter_groups.add(pattern="*", frozen=True), "trainable")

    def test_numbers_that_are_none(self):
        for value in (NAN, INF, -INF, -1):
            for change in (lambda j: setattr(j.optimizer.adam, "lr", value),
                           lambda j: setattr(j.optimizer.sgd, "lr", value),
                           lambda j: setattr(j.optimizer.lbfgs, "lr", value),
                           lambda j: j.parameter_groups.add(pattern="w", learning_rate=value),
                           lambda j: j.parameter_groups.add(pattern="w", weight_decay=value),
                           lambda j: setattr(j.clip, "value", value),
                           lambda j: setattr(j.clip, "norm", value),
                           lambda j: setattr(j.clip, "global_norm", value),
                           lambda j: setattr(j.optimizer.adam, "beta1", value)):
                with self.subTest(value=value, job=str(self.job(change=change).optimizer)):
                    self.change("INVALID_SPEC", change)
        for change in (lambda j: setattr(j.stop, "steps", -1), lambda j: setattr(j.stop, "epochs", -1),
                       lambda j: setattr(j.stop, "target_loss", NAN), lambda j: setattr(j.stop, "gradient_norm", NAN),
                       lambda j: setattr(j.stop, "function_tolerance", NAN),
                       lambda j: setattr(j.stop.wall_time, "seconds", -1),
                       lambda j: setattr(j.checkpoints, "every_steps", -1),
                       lambda j: setattr(j.checkpoints, "keep", -2),
                       lambda j: setattr(j.ttl, "seconds", -1),
                       lambda j: setattr(j, "accumulation", -1), lambda j: setattr(j, "accumulation", 10 ** 6),
                       lambda j: setattr(j.schedule.step, "step_size", 0),
                       lambda j: setattr(j.schedule.exponential, "gamma", NAN),
                       lambda j: setattr(j, "display_name", "x" * 257)):
            with self.subTest(str(self.job(change=change))[-200:]):
                self.change("INVALID_SPEC", change)

    def test_batches_that_do_not_fit_the_data(self):
        self.change("INVALID_SPEC", lambda j: setattr(j, "drop_last", True), "batch_size", batch_size=11)
        for size in (0, -1, -INT_MAX):
            self.change("INVALID_SPEC", None, "batch_size", batch_size=size)
        with_room = self.job(batch_size=INT_MAX)
        with_room.stop.steps, with_room.stop.epochs = 0, INT_MAX
        self.caller.create(with_room, validate_only=True)  # a large batch is the whole data

    def test_rules_that_contradict_or_are_missing(self):
        self.change("INVALID_SPEC", lambda j: j.ClearField("stop"), "stop")
        self.change("INVALID_SPEC", lambda j: setattr(j.stop, "patience", 3), "stop.patience")
        self.change("INVALID_SPEC", lambda j: setattr(j.checkpoints, "best", True), "checkpoints.best")
        self.change("INVALID_SPEC", lambda j: setattr(j.evaluation, "every_steps", 3), "evaluation.dataset")
        self.change("INVALID_SPEC", lambda j: j.ClearField("optimizer"), "optimizer")
        no_data = self.job()
        no_data.ClearField("dataset")
        no_data.stop.epochs = 2
        self.check(no_data, "INVALID_ARGUMENT", "INVALID_SPEC", "stop.epochs")

    def test_what_a_newer_caller_says_and_the_server_does_not_know(self):
        def job(change):
            made = self.job()
            change(made)
            return made

        adam = self.job().optimizer.adam.SerializeToString()
        unknown = {
            "job": job(lambda j: j.MergeFromString(with_field(b"", 400))),
            "job.optimizer": job(lambda j: (j.optimizer.Clear(), j.optimizer.MergeFromString(with_field(b"", 100)))),
            "job.optimizer.adam": job(lambda j: j.optimizer.adam.ParseFromString(with_field(adam, 100))),
            "job.schedule": job(lambda j: j.schedule.MergeFromString(with_field(b"", 100))),
            "job.stop": job(lambda j: j.stop.MergeFromString(with_field(b"", 100))),
            "job.model": job(lambda j: j.model.MergeFromString(with_field(b"", 100))),
            "job.inputs.b": job(lambda j: j.inputs["b"].MergeFromString(with_field(b"", 100))),
            "job.parameter_groups[0]": job(lambda j: j.parameter_groups.add(pattern="w").MergeFromString(
                with_field(b"", 100))),
            "job.non_finite": job(lambda j: setattr(j, "non_finite", 77)),
            "job.options.mode": job(lambda j: setattr(j.options, "mode", 77)),
        }
        for place, made in unknown.items():
            with self.subTest(place):
                self.check(made, "INVALID_ARGUMENT", "INVALID_SPEC", place)

    def test_a_checkpoint_of_another_model(self):
        other = self.job()
        other.model.text = t.MODEL.replace("float[3] w = {0.5, -0.25, 0.125}", "float[3] v = {0.5, -0.25, 0.125}").replace(
            "(x, w)", "(x, v)")
        other.stop.steps = 5
        name = self.caller.create(other).name
        self.caller.watch(name)
        self.change("INVALID_SPEC", lambda j: setattr(j.start, "job", name), "start", "w")
        self.change("INVALID_SPEC", lambda j: setattr(j.start, "checkpoint", name + "/checkpoints/5"), "start", "w")
        self.change("NOT_FOUND", lambda j: setattr(j.start, "checkpoint", name + "/checkpoints/4"), code="NOT_FOUND")
        self.change("NOT_FOUND", lambda j: setattr(j.start, "job", "jobs/0123456789abcdef"), code="NOT_FOUND")
        self.change("INVALID_SPEC", lambda j: setattr(j.start, "checkpoint", name + "/checkpoints/x"))

    def test_all_problems_come_at_once(self):
        job = self.job(batch_size=16, drop_last=True, trainable=["nothing*"])
        job.optimizer.adam.lr = NAN
        job.clip.value = -1
        job.stop.steps = -3
        job.columns["nobody"] = "x"
        job.output = ""
        job.schedule.step.gamma = NAN
        self.check(job, "INVALID_ARGUMENT", "INVALID_SPEC", "batch_size", "lr", "clip.value", "stop", "trainable[0]",
                   "columns.nobody", "schedule")

    def test_a_resumption_is_checked_as_a_creation(self):
        job = self.job()
        job.stop.steps = 10 ** 9
        name = self.caller.create(job).name
        self.caller.wait(name, Job.RUNNING)
        self.caller.jobs.PauseTrainingJob(t.training.PauseTrainingJobRequest(name=name), timeout=30)
        self.caller.wait(name, Job.PAUSED)
        resume = self.caller.jobs.ResumeTrainingJob
        for request in (dict(learning_rate_factor=NAN), dict(learning_rate_factor=INF), dict(learning_rate_factor=0),
                        dict(stop=t.training.Stop()), dict(stop=t.training.Stop(steps=-1)),
                        dict(stop=t.training.Stop(patience=2))):
            with self.subTest(request=request):
                self.refused("INVALID_SPEC", resume, t.training.ResumeTrainingJobRequest(name=name, **request))
        self.assertEqual(self.caller.get(name).state, Job.PAUSED)
        resume(t.training.ResumeTrainingJobRequest(name=name, stop=t.training.Stop(steps=1)), timeout=30)
        self.assertEqual(self.caller.wait(name, *(Job.SUCCEEDED, Job.FAILED)).state, Job.SUCCEEDED)

    def test_names_and_tokens_that_are_none(self):
        jobs, data = self.caller.jobs, self.caller.data
        for name in ("", "jobs/", "jobs/x", "jobs/../state.db", "datasets/00", "jobs/" + "0" * 65, "jobs/00/"):
            with self.subTest(name):
                self.refused("INVALID_SPEC", jobs.GetTrainingJob, t.training.GetTrainingJobRequest(name=name))
        for request in (dict(page_size=-1), dict(page_token="x"), dict(page_token="-4")):
            self.refused("INVALID_SPEC", jobs.ListTrainingJobs, t.training.ListTrainingJobsRequest(**request))
            self.refused("INVALID_SPEC", data.ListDatasets, t.data.ListDatasetsRequest(**request))
        self.refused("INVALID_SPEC", jobs.DeleteTrainingJob,
                     t.training.DeleteTrainingJobRequest(name="jobs/00", request_id="x" * 129))
        self.refused("INVALID_SPEC", lambda chunks: data.AppendDataset(chunks, timeout=30), iter([]))


if __name__ == "__main__":
    unittest.main()
