"""
A grid search over step sizes
=============================

The step size ``a`` and the perturbation size ``c`` are found automatically by default. You can also search over them as
for any scikit-learn estimator. `search_cost` tells in advance what a search bills at most.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.model_selection import GridSearchCV

from blackvip import BlackVIPClassifier, SharedBudget, search_cost

# %%
# A toy service that believes that bright means day, and pictures that are all underexposed.


def service(images, class_prompts):
    day = images.mean(axis=(1, 2, 3)) / 255
    return 20 * np.stack([day - 0.5, 0.5 - day], axis=1)


rng = np.random.default_rng(0)
y = np.repeat(["night", "day"], 20)
X = rng.uniform(0, 0.3, (40, 8, 8)) + np.where(y == "day", 0.15, 0)[:, None, None]

# %%
# The paper's setting: no head, a temperature of 1, and SPSA-GC with fixed gains.

clf = BlackVIPClassifier(
    service,
    "a photo taken at {}",
    prompter="basis",
    head=None,
    guard=False,
    temperature=1,
    max_queries=1000,
    random_state=0,
)
steps, perturbations = [0.00001, 0.0003, 0.003, 0.03], [0.01, 0.1, 0.5]
search = GridSearchCV(clf, {"a": steps, "c": perturbations}, cv=2, scoring=["accuracy", "neg_log_loss"])
search.set_params(refit="neg_log_loss")
cost = search_cost(search, X, y)
print(cost)

# %%
# One budget for all fits and predictions of the search is a hard limit.

budget = SharedBudget(service, max_queries=cost.total)
search.estimator.set_params(score_fn=budget)
search.fit(X, y)
print(f"best: {search.best_params_}, accuracy {search.cv_results_['mean_test_accuracy'][search.best_index_]:.3f}")
print(f"billed {budget.n_queries} images of {cost.total} predicted at most")

# %%
# Steps that are too short lead nowhere, and steps that are too long saturate all pictures.

accuracy = search.cv_results_["mean_test_accuracy"].reshape(len(steps), len(perturbations))
figure, ax = plt.subplots(figsize=(5, 4), layout="constrained")
picture = ax.imshow(accuracy, vmin=0.5, vmax=1, cmap="viridis")
ax.set(xlabel="perturbation size c", ylabel="step size a")
ax.set_xticks(range(len(perturbations)), perturbations)
ax.set_yticks(range(len(steps)), steps)
for row, column in np.ndindex(accuracy.shape):
    color = "black" if accuracy[row, column] > 0.8 else "white"
    ax.text(column, row, f"{accuracy[row, column]:.2f}", ha="center", va="center", color=color)
figure.colorbar(picture, label="accuracy, two folds")
plt.show()

# %%
# Without a search, the classifier finds both sizes.

found = BlackVIPClassifier(
    service, "a photo taken at {}", prompter="basis", head=None, max_queries=1000, random_state=0
).fit(X, y)
print(f"found by itself: a = {found.a_:.3g}, c = {found.c_:.3g}, accuracy {found.score(X, y):.3f}")
