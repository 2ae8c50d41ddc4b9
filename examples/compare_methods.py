"""
Comparing methods
=================

`compare` runs this package's methods, the paper's and its rivals' on the same images, seeds and budgets, counts what
each of them sends, and keeps every run in a file, with which an interrupted comparison goes on.
"""

import pathlib
import tempfile

import matplotlib.pyplot as plt
import pandas as pd

from blackvip import Comparison, compare
from blackvip.demo import load_forms, text_reader

# %%
# The demo's task: a text reader, and handwritten digits in form boxes.

X, y, X_test, y_test = load_forms("box")
X_test, y_test = X_test[:200], y_test[:200]

# %%
# Methods have names; a dict adds settings of one's own, or any estimator. The paper's methods refuse budgets as small
# as these: then there is a row that says why.

results = pathlib.Path(tempfile.mkdtemp()) / "runs.jsonl"
found = compare(
    ["zero-shot", "calibrated", "local-probe", "fused", "basis", "vp-spsa-gc"],
    text_reader(),
    X,
    y,
    X_test,
    y_test,
    class_prompts="{}",
    max_queries=[400, 1000],
    seeds=(0, 1),
    results=results,
    verbose=0,
)
print(found)

# %%
# Accuracy against billed images, from the least to the greatest over the seeds; lines are what bills nothing.

ax = found.plot()
ax.set_title("Digits in form boxes: two seeds, 200 test images")
plt.show()

# %%
# All runs are in the file, as rows for pandas.

runs = pd.DataFrame(Comparison.load(results).rows)
print(runs["refused"].dropna().iloc[0])
