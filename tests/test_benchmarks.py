"""What the benchmarks share: loss curves of optimizers, and pages whose words stay when their figures change."""

import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "benchmarks"))
import optimizers
import reports
import robustness

from blackvip import SPSA

START = np.tile([-1.2, 1.0], 6)


def test_a_loss_curve_has_a_loss_for_each_step_and_ends_where_a_run_goes_astray():
    function = optimizers.rosenbrock
    assert function(np.ones(12)) == 0
    assert function(np.array([0.0, 2.0])) == (100 * 4 + 1) / 2
    losses = list(optimizers.loss_curve(SPSA(0.003, 0.05), function, START, 0.0, 1000, 0))
    assert len(losses) == 100  # ten evaluations a step
    assert losses[-1] < losses[0] < function(START)
    assert losses[-1] == optimizers.final_loss(SPSA(0.003, 0.05), function, START, 0.0, 1000, seed=0)
    astray = list(optimizers.loss_curve(SPSA(10.0, 0.05), function, START, 0.0, 1000, 0))
    assert astray[-1] == np.inf
    assert len(astray) < 100


def test_step_sizes_are_chosen_on_other_seeds_than_those_that_are_shown():
    rows = list(robustness.measure([0.0], 200, range(2)))
    assert min(robustness.TUNING_SEEDS) > 100
    grids = {name: [optimizer.a for optimizer in grid] for name, grid in robustness.OPTIMIZERS.items()}
    assert grids["SPSA"] == grids["SPSA-GC"]
    for row in robustness.rows_of(rows, kind="final"):
        optimizer = next(one for one in robustness.OPTIMIZERS[row["optimizer"]] if one.a == row["a"])
        problem = (robustness.rosenbrock, robustness.START, 0.0, 200)
        expected = [robustness.final_loss(optimizer, *problem, seed=seed) for seed in range(2)]
        np.testing.assert_allclose(row["losses"], expected, rtol=1e-4)


def test_words_above_the_marker_stay(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A page\n\nWords.\n")
    reports.write_below_marker(page, "script.py", ["old figures"])
    reports.write_below_marker(page, "script.py", reports.table(["a", "b"], [["1", reports.cell([0.5, 1.0])]]))
    text = page.read_text()
    assert text.startswith("# A page\n\nWords.\n\n<!--")
    assert "old figures" not in text
    assert text.endswith("| a | b |\n| --- | --- |\n| 1 | 0.750 (0.500-1.000) |\n")
