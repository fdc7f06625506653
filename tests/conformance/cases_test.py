#!/usr/bin/python3
"""The committed cases are what they are said to be, and a wrong answer to any of them is found out."""
import argparse
import collections
import contextlib
import io
import os
import sys
import unittest

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.dont_write_bytecode = True
import cases
import run_cases

ROOT = os.path.join(HERE, "cases")
ALL = [cases.Case(folder) for folder in cases.find(ROOT)]


def spoilt(array):
    """The array with its largest element 5 % off, and not by next to nothing; of what is exact, with one that differs."""
    flat = np.array(array).reshape(-1)
    if flat.dtype.kind == "b":
        flat[0] = not flat[0]
    elif flat.dtype.kind in "iu":
        flat[0] ^= 1
    else:
        k = int(np.argmax(np.abs(np.nan_to_num(flat))))
        flat[k] += 0.05 * flat[k] if abs(flat[k]) > 1e-6 else 1
    return flat.reshape(np.shape(array))


class CommittedCasesTest(unittest.TestCase):
    def test_they_are_many_and_small(self):
        size = sum(os.path.getsize(os.path.join(folder, f)) for folder, _, files in os.walk(ROOT) for f in files)
        self.assertGreaterEqual(len(ALL), 80)
        self.assertLess(size, 3_000_000)

    def test_they_reach_wide(self):
        ops = {op for case in ALL for op in case.meta["ops"]}
        dtypes = collections.Counter(case.meta["dtype"] for case in ALL)
        self.assertGreaterEqual(len(ops), 100)
        self.assertGreaterEqual(min(dtypes["float32"], dtypes["float64"]), 25, dtypes)
        for kind in ("grads", "jvp", "hvp"):
            with self.subTest(kind):
                self.assertGreaterEqual(sum(bool(case.meta.get(kind)) for case in ALL), 60)

    def test_the_right_answer_is_right(self):
        for case in ALL:
            for kind, expected in case.expected.items():
                self.assertEqual(case.judge(kind, expected), [], case.folder)

    def test_a_spoilt_answer_is_found(self):
        tried = 0
        for case in ALL:
            for kind, expected in case.expected.items():
                for name, array in expected.items():
                    if not array.size or not np.isfinite(np.asarray(array, np.float64)).any():
                        continue
                    tried += 1
                    self.assertTrue(case.judge(kind, {**expected, name: spoilt(array)}),
                                    f"{case.folder}: {kind} {name}")
        self.assertGreaterEqual(tried, 500)

    def test_an_answer_that_lacks_is_found(self):
        for case in ALL:
            for kind in ("outputs", "grads"):
                for name, info in case.meta.get(kind, {}).items():
                    if not info.get("optional"):
                        self.assertTrue(case.judge(kind, {**case.expected[kind], name: None}), case.folder)


class Says:
    """A runner that gives every case one verdict."""

    roads = {}

    def __init__(self, verdict):
        self.verdict = verdict

    def run(self, case):
        return self.verdict, "so be it"


class VerdictTest(unittest.TestCase):
    def failures(self, verdict, strict):
        args = argparse.Namespace(dir=ROOT, only="gaussian", strict=strict, verbose=False)
        with contextlib.redirect_stdout(io.StringIO()):
            return run_cases.run(args, Says(verdict))

    def test_what_fails(self):
        self.assertEqual(self.failures("passed", True), 0)
        self.assertEqual(self.failures("wrong", False), 2)
        self.assertEqual(self.failures("unsupported", False), 0)
        self.assertEqual(self.failures("unsupported", True), 2)


if __name__ == "__main__":
    unittest.main()
