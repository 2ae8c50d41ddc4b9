"""The example of a cluster, as its user runs it; only its workers are forks, since an import takes seconds."""

import pathlib
import re
from collections import Counter

import pytest

ROOT = pathlib.Path(__file__).parents[1]
WITH_FORKS = """
import runpy, sys
from servers.dask_workers import workers_are_forks
with workers_are_forks():
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_cluster_example(programs):
    pytest.importorskip("distributed")
    script = ROOT / "examples" / "cluster.py"
    run = programs.run(
        "-c", WITH_FORKS, script, "--milliseconds", 2, "--queries", 180, cwd=pathlib.Path(__file__).parent
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.endswith("the same prompt: True; the same search: True\n")
    loads = Counter(re.findall(r"loaded in process (\d+)", run.stdout))  # processes print into one another's lines
    assert len(loads) == 3  # this process, and two workers
    # A class of a script is changed on its way: once for fits, and once or twice for searches, but never for each task.
    assert max(loads.values()) <= 4
