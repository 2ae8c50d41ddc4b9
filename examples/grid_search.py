"""
A grid search over step sizes
=============================

``a``, the step size, and ``c``, the size of the perturbations, are found by themselves unless they are given. A search
over them works as for any scikit-learn estimator; what it bills is told first.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.model_selection import GridSearchCV

from blackvip import BlackVIPClassifier, SharedBudget, search_cost

# %%
# A service that takes bright pictures for days, and pictures that are all far too dark.


def service(images, class_prompts):
    day = images.mean(axis=(1, 2, 3)) / 255
    return 20 * np.stack([day - 0.5, 0.5 - day], axis=1)


rng = np.random.default_rng(0)
y = np.repeat(["night", "day"], 20)
X = rng.uniform(0, 0.3, (40, 8, 8)) + np.where(y == "day", 0.15, 0)[:, None, None]

# %%
# The paper's setting: no head, the loss on the scores as they are, SPSA-GC with step sizes that are set.

clf = BlackVIPClassifier(
    service, "a photo taken at {}", head=None, guard=False, temperature=1, max_queries=1000, random_state=0
)
steps, perturbations = [0.00001, 0.0003, 0.003, 0.03], [0.01, 0.1, 0.5]
search = GridSearchCV(clf, {"a": steps, "c": perturbations}, cv=2, scoring=["accuracy", "neg_log_loss"])
search.set_params(refit="neg_log_loss")
cost = search_cost(search, X, y)
print(cost)

# %%
# One budget for all fits and predictions of the search: it is never passed by a single image.

budget = SharedBudget(service, max_queries=cost.total)
search.estimator.set_params(score_fn=budget)
search.fit(X, y)
print(f"best: {search.best_params_}, accuracy {search.cv_results_['mean_test_accuracy'][search.best_index_]:.3f}")
print(f"billed {budget.n_queries} images of {cost.total} that were told")

# %%
# How the two go together: steps that are too short lead nowhere, and those that are too long wash all pictures out.

accuracy = search.cv_results_["mean_test_accuracy"].reshape(len(steps), len(perturbations))
figure, ax = plt.subplots(figsize=(5, 4), layout="constrained")
picture = ax.imshow(accuracy, vmin=0.5, vmax=1, cmap="viridis")
ax.set(xlabel="c, size of the perturbations", ylabel="a, step size")
ax.set_xticks(range(len(perturbations)), perturbations)
ax.set_yticks(range(len(steps)), steps)
for row, column in np.ndindex(accuracy.shape):
    color = "black" if accuracy[row, column] > 0.8 else "white"
    ax.text(column, row, f"{accuracy[row, column]:.2f}", ha="center", va="center", color=color)
figure.colorbar(picture, label="accuracy, two folds")
plt.show()

# %%
# Without a search: the step sizes that are found by themselves.

found = BlackVIPClassifier(service, "a photo taken at {}", head=None, max_queries=1000, random_state=0).fit(X, y)
print(f"found by itself: a = {found.a_:.3g}, c = {found.c_:.3g}, accuracy {found.score(X, y):.3f}")
