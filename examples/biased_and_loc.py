"""
Biased and Loc digits
=====================

The paper's two synthetic data sets test whether a prompt survives a shift between training and test. `make_biased` and
`make_loc` build them from any images of digits. Here they use scikit-learn's digits and the demo's text reader.
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.model_selection import train_test_split

from blackvip import BlackVIPClassifier, PromptNotUsedWarning
from blackvip.datasets import make_biased, make_loc, read_digits
from blackvip.demo import text_reader

# %%
# In Biased, 90 % of the training images have the colour of their class, but only 10 % of the test images: a model that
# learns colours instead of digits fails on the test images. In Loc, the true digit is small and near the edge. Another
# digit, as large or four times as large, is in the centre.

digits = read_digits()
keep, _ = train_test_split(np.arange(len(digits.y_train)), train_size=160, stratify=digits.y_train, random_state=0)
X_digits, y = digits.X_train[keep], digits.y_train[keep]
test = slice(0, 300)
sets = {
    "Biased, training": make_biased(X_digits, y, 0.9, random_state=1)[0],
    "Biased, test": make_biased(digits.X_test[test], digits.y_test[test], 0.9, split="test", random_state=0)[0],
    "Loc 1:1": make_loc(X_digits, y, ratio=1, random_state=1)[0],
    "Loc 1:4": make_loc(X_digits, y, ratio=4, random_state=1)[0],
}
figure, grid = plt.subplots(len(sets), 8, figsize=(9, 5), layout="constrained")
for axes, (name, images) in zip(grid, sets.items()):
    labels = digits.y_test if name == "Biased, test" else y
    for ax, image, label in zip(axes, images, labels):
        ax.imshow(image)
        ax.set(xticks=[], yticks=[])
        ax.set_title(f"a {label}", fontsize="medium")
    axes[0].set_ylabel(name.replace(", ", ",\n"))
plt.show()

# %%
# The reader expects lines of text 48 pixels high, so we enlarge the images of Biased. A baseline has learned colours if
# its accuracy on the test images is far below its cross-validated accuracy on the training images.


def enlarged(images):
    return np.pad(images.repeat(4, axis=1).repeat(4, axis=2), ((0, 0), (8, 8), (8, 8), (0, 0)), mode="edge")


X, X_test, y_test = enlarged(sets["Biased, training"]), enlarged(sets["Biased, test"]), digits.y_test[test]
clf = BlackVIPClassifier(text_reader(), list("0123456789"), max_queries=1500, random_state=0)
with warnings.catch_warnings():
    warnings.simplefilter("ignore", PromptNotUsedWarning)
    clf.fit(X, y)
print("Accuracy on Biased")
for name, accuracy in clf.score_baselines(X_test, y_test).items():
    print(f"  {name:24s} {accuracy:.3f}   training images {clf.baselines_[name].accuracy:.3f}")
print(f"  {'BlackVIP':24s} {clf.score(X_test, y_test):.3f}   prompt used: {clf.prompt_used_}")
