"""
Saving and loading a Coordinator
================================

You can keep a trained prompt in three ways: the whole classifier in a file that is safe to load, the Coordinator alone
with joblib, and a transformer in front of another client of the service.
"""

import pathlib
import tempfile

import joblib
import matplotlib.pyplot as plt
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline

import blackvip
from blackvip import BlackVIPClassifier, BlackVIPPrompter, PromptDisplay

# %%
# Train the paper's Coordinator on underexposed pictures, for a toy service that believes that bright means day.


def service(images, class_prompts):
    day = images.mean(axis=(1, 2, 3)) / 255
    return 20 * np.stack([day - 0.5, 0.5 - day], axis=1)


rng = np.random.default_rng(0)
y = np.repeat(["night", "day"], 40)
X = rng.uniform(0, 0.3, (80, 16, 16)) + np.where(y == "day", 0.15, 0)[:, None, None]
X, X_test, y, y_test = X[::2], X[1::2], y[::2], y[1::2]
clf = BlackVIPClassifier(
    service, "a photo taken at {}", prompter="coordinator", head=None, max_queries=4000, random_state=0
)
clf.fit(X, y)
print(f"zero-shot {clf.score_baselines(X_test, y_test)['zero_shot']:.3f}, prompted {clf.score(X_test, y_test):.3f}")

# %%
# ``save`` writes a file that executes nothing when it is loaded. It never contains the service.

folder = pathlib.Path(tempfile.mkdtemp())
clf.save(folder / "day.safetensors")
loaded = blackvip.load(folder / "day.safetensors", service)
print(f"{(folder / 'day.safetensors').stat().st_size:,} bytes")
print(f"same probabilities: {np.array_equal(loaded.predict_proba(X_test), clf.predict_proba(X_test))}")

# %%
# The loaded classifier draws the same prompts. They make all pictures brighter.

PromptDisplay.from_estimator(loaded, X_test[::20], y_test[::20])
plt.show()

# %%
# The Coordinator alone draws prompts onto images and bills nothing. joblib and pickle execute code from the file, so
# load only files that you trust. ``save`` works for a Coordinator, too.

joblib.dump(clf.coordinator_, folder / "coordinator.joblib")
coordinator = joblib.load(folder / "coordinator.joblib")
prompted = coordinator.transform(X_test)
print(f"prompted images: {prompted.dtype} {prompted.shape}")

# %%
# Another client of the service, which knows nothing of prompts, benefits as well.


class Client(ClassifierMixin, BaseEstimator):
    """A client that predicts what the service says."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict(self, X):
        return self.classes_[service(X, self.classes_).argmax(axis=1)]


client = Client().fit(X, y)
plain = np.repeat((255 * X_test).astype(np.uint8)[..., None], 3, axis=3)
print(f"client: plain images {client.score(plain, y_test):.3f}, prompted {client.score(prompted, y_test):.3f}")

# %%
# In a pipeline, ``FrozenEstimator`` keeps scikit-learn from training the classifier again.

pipeline = make_pipeline(BlackVIPPrompter(FrozenEstimator(clf)), client).fit(X, y)
print(f"pipeline: {pipeline.score(X_test, y_test):.3f}")
