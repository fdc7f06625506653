"""The scripts that guard the tree find what they are there to find."""
import pathlib
import tempfile
import unittest

import harness


class ScriptsTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name)

    def write(self, path, text=""):
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def test_check_layers_prints_each_include_against_an_arrow(self):
        self.write("engine/ops/op.h")
        self.write("engine/graph/graph.h", '#include "engine/ops/op.h"\n\n#include <grpcpp/grpcpp.h>\n')
        self.write("engine/exec/run.cc", '#include "engine/ops/op.h"\n#include <dnnl.hpp>\n')
        result = harness.run(harness.SOURCE / "scripts/check_layers", self.root)
        self.assertEqual(result.returncode, 1, result.stderr)
        places = [line.split(": ")[0] for line in result.stdout.splitlines()[:-1]]
        self.assertEqual(places, ["engine/exec/run.cc:2", "engine/graph/graph.h:1",
                                  "engine/graph/graph.h:3"])

    def test_format_check_changes_nothing(self):
        file = self.write("a.cc", "int  x;\n")
        result = harness.run(harness.SOURCE / "scripts/format", "--check", file)
        self.assertEqual(file.read_text(), "int  x;\n")
        if "nothing checked" not in result.stdout:
            self.assertEqual(result.returncode, 1)
            self.assertIn("a.cc:1", result.stdout)


if __name__ == "__main__":
    unittest.main()
