"""
A pipeline from a DataFrame of paths
====================================

Images can stay on disk: a table with a column of paths is enough. Here a table that lists a folder of PNG files goes
through a scikit-learn pipeline. Cross-validation keeps the pictures of each camera together.
"""

import pathlib
import tempfile

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from PIL import Image
from sklearn.model_selection import StratifiedGroupKFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from blackvip import BlackVIPClassifier, QueryCurveDisplay, search_cost

# %%
# The folder and the table: four cameras that underexpose all pictures.

folder = pathlib.Path(tempfile.mkdtemp())
rng = np.random.default_rng(0)
rows = []
for number in range(80):
    label = ["night", "day"][number % 2]
    pixels = rng.uniform(0, 0.3, (16, 16)) + (0.15 if label == "day" else 0)
    path = folder / f"picture_{number:02d}.png"
    Image.fromarray(np.uint8(255 * pixels)).save(path)
    rows.append({"file": path, "label": label, "camera": number // 20})
table = pd.DataFrame(rows)
print(table.assign(file=[path.name for path in table["file"]]).head(4).to_string(index=False))


# %%
# The toy service believes that bright means day.


def service(images, class_prompts):
    day = images.mean(axis=(1, 2, 3)) / 255
    return 20 * np.stack([day - 0.5, 0.5 - day], axis=1)


# %%
# The pipeline selects the column of paths, and the classifier reads the files a batch at a time.

pipeline = make_pipeline(
    FunctionTransformer(lambda table: table["file"]),
    BlackVIPClassifier(service, "a photo taken at {}", prompter="basis", head=None, max_queries=1500, random_state=0),
)

# %%
# `search_cost` takes the arguments of `cross_validate` and tells what four folds bill at most.

cv = StratifiedGroupKFold(n_splits=4)
print(search_cost(pipeline, table, table["label"], groups=table["camera"], cv=cv))
scores = cross_validate(
    pipeline, table, table["label"], groups=table["camera"], cv=cv, return_estimator=True, error_score="raise"
)
billed = sum(fitted[-1].n_queries_ for fitted in scores["estimator"]) + len(table)
print(f"accuracy by camera: {scores['test_score'].round(3).tolist()}; billed {billed:,} images")

# %%
# How the first fold was trained. The display bills nothing.

QueryCurveDisplay.from_estimator(scores["estimator"][0][-1])
plt.show()

# %%
# An unreadable file raises an error that names it, before anything is billed. ``on_error="skip"`` leaves it out.

table.loc[3, "file"].write_text("no picture")
try:
    pipeline.fit(table, table["label"])
except ValueError as error:
    print(str(error).replace(str(folder), "..."))
