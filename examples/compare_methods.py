"""
Comparing methods
=================

`compare` runs the methods of this package, of the paper and of its rivals on the same images, seeds and budgets. It
counts the images that each one bills, and stores every run in a file from which an interrupted comparison resumes.
"""

import pathlib
import tempfile

import matplotlib.pyplot as plt
import pandas as pd

from blackvip import Comparison, compare
from blackvip.demo import load_forms, text_reader

# %%
# The task of the demo: a text reader, and handwritten digits in form boxes.

X, y, X_test, y_test = load_forms("box")
X_test, y_test = X_test[:200], y_test[:200]

# %%
# Each method has a name; with a dict, you can add your own settings or any estimator. The paper's methods refuse such
# small budgets, and their rows say why.

results = pathlib.Path(tempfile.mkdtemp()) / "runs.jsonl"
found = compare(
    ["zero-shot", "calibrated", "local-probe", "fused", "basis", "vp-spsa-gc"],
    text_reader(),
    X,
    y,
    X_test,
    y_test,
    class_prompts=list("0123456789"),
    max_queries=[400, 1000],
    seeds=(0, 1),
    results=results,
    verbose=0,
)
print(found)

# %%
# Plot accuracy against billed images. Bars span the seeds; horizontal lines are methods that bill nothing.

ax = found.plot()
ax.set_title("Digits in form boxes: two seeds, 200 test images")
plt.show()

# %%
# The file holds all runs, as rows for pandas.

runs = pd.DataFrame(Comparison.load(results).rows)
print(runs["refused"].dropna().iloc[0])
