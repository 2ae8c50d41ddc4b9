"""
Your own score function
=======================

Any function from images and class prompts to scores can be adapted, so wrap the call of your service in one. Our toy
service tells the time of day from the brightness of a picture, and our camera underexposes everything.
"""

import matplotlib.pyplot as plt
import numpy as np

from blackvip import BlackVIPClassifier, PromptDisplay

# %%
# A score function receives ``images``, a uint8 array (n, height, width, 3), and the class prompts. It returns an array
# (n, n_classes) in which higher is better, or a dict from class prompt to score for each image, for services that
# return only their top classes. It may declare a price, the kind of its scores, and the most images in one call.

BRIGHTNESS = {"night": 0.2, "dusk": 0.5, "day": 0.8}
n_sent = 0


def score_fn(images, class_prompts):
    global n_sent
    n_sent += len(images)
    answers = []
    for image in images:
        probabilities = {name: np.exp(-20 * abs(image.mean() / 255 - level)) for name, level in BRIGHTNESS.items()}
        best = sorted(probabilities, key=probabilities.get)[-2:]  # the top two classes
        answers.append({f"a photo taken at {name}": probabilities[name] / 1.1 for name in best})
    return answers


score_fn.price_per_image = 0.0015
score_fn.score_type = "probabilities"
score_fn.images_per_call = 32

# %%
# Pictures of a camera that captures only a third of the light.

rng = np.random.default_rng(0)
names = np.array(list(BRIGHTNESS))
y = np.tile(names, 40)
light = np.array([BRIGHTNESS[name] for name in y]) + rng.uniform(-0.1, 0.1, len(y))
X = np.clip(light[:, None, None] + rng.normal(0, 0.05, (len(y), 16, 16)), 0, 1) / 3
X, X_test, y, y_test = X[:60], X[60:], y[:60], y[60:]

# %%
# ``plan`` tells what a fit will cost. It sends nothing.

clf = BlackVIPClassifier(score_fn, "a photo taken at {}", prompter="basis", max_queries=2000, random_state=0)
print(clf.plan(X, y, n_predict=1000))
print(f"images sent so far: {n_sent}")

# %%
# Fit, and compare with the baselines. ``score_baselines`` scores the service without a prompt: zero-shot, with a
# calibrated head, a local probe that does not use the service, and the two fused. A task as easy as this needs no
# prompt: a head on the service's scores is as good, for 60 billed images. If a prompt does not help, a warning says so.

clf.fit(X, y)
for name, accuracy in clf.score_baselines(X_test, y_test).items():
    print(f"{name:24s} {accuracy:.3f}")
print(f"{'BlackVIP':24s} {clf.score(X_test, y_test):.3f}")
print(f"billed: {clf.n_queries_} images to fit, {n_sent} altogether, for {n_sent * score_fn.price_per_image:.2f}")

# %%
# Without a head, as in the paper, the prompt alone has to correct the service's scores.

clf.set_params(head=None).fit(X, y)
print(f"without a head: zero-shot {clf.baselines_['zero_shot'].accuracy:.3f}, prompted {clf.score(X_test, y_test):.3f}")

# %%
# Some test images without and with the prompt, and what the service says. This bills two images each.

PromptDisplay.from_estimator(clf, X_test[:3], y_test[:3])
plt.show()

# %%
# An invalid return value raises an error that says what was returned and what was expected.

clf.set_params(score_fn=lambda images, class_prompts: np.zeros(len(images)))
try:
    clf.fit(X, y)
except ValueError as error:
    print(error)
