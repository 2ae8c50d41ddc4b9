"""The example of a cluster, as its user runs it."""

import pathlib
import re
from collections import Counter

import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.slow
def test_cluster_example(programs):
    pytest.importorskip("distributed")
    run = programs.run(ROOT / "examples" / "cluster.py", "--milliseconds", 2, "--queries", 250)
    assert run.returncode == 0, run.stderr
    assert run.stdout.endswith("the same prompt: True; the same search: True\n")
    loads = Counter(re.findall(r"loaded in process (\d+)", run.stdout))  # processes print into one another's lines
    assert len(loads) == 3  # this process, and two workers
    # A class of a script is changed on its way: once for fits, and once or twice for searches, but never for each task.
    assert max(loads.values()) <= 4
