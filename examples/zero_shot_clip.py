"""
Zero-shot CLIP with open_clip
=============================

`OpenCLIPScorer` makes a score function of any open_clip model. It loads the model at the first call. Without
weights on this machine, the example uses a small model with random weights, which knows nothing and only shows the
steps. ``HF_HUB_OFFLINE=0`` downloads the real weights (600 MB).
"""

import json
import logging
import os
import pathlib
import tempfile

# open_clip reads this when it is imported, and otherwise tries the network for minutes.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import matplotlib.pyplot as plt
import numpy as np
import open_clip
from scipy.special import softmax
from sklearn.datasets import load_sample_images

from blackvip.scorers import OpenCLIPScorer

# %%
# Two crops of each of scikit-learn's photographs, a temple and a flower.

temple, flower = load_sample_images().images
X = np.stack([photo[:, left : left + 427] for photo in (temple, flower) for left in (0, 213)])
prompts = ["a photo of a temple.", "a photo of a flower.", "a photo of a cat."]

# %%
# Load a model by its name, or build a small one from a configuration.

logging.disable(logging.ERROR)  # open_clip logs what it raises
scorer = OpenCLIPScorer("ViT-B-32", "laion2b_s34b_b79k")
try:
    logits = scorer(X, prompts)
except Exception as error:  # open_clip and Hugging Face raise various errors for failed downloads
    print(f"No weights of ViT-B-32 here ({type(error).__name__}); using a small model with random weights.")
    tower = {"layers": 2, "width": 64}
    config = {
        "embed_dim": 32,
        "vision_cfg": {**tower, "image_size": 64, "patch_size": 16, "head_width": 32},
        "text_cfg": {**tower, "context_length": 24, "vocab_size": 49408, "heads": 2},
    }
    file = pathlib.Path(tempfile.mkdtemp()) / "random-clip.json"
    file.write_text(json.dumps(config))
    open_clip.add_model_config(file)
    scorer = OpenCLIPScorer("random-clip")
    logits = scorer(X, prompts)
logging.disable(logging.NOTSET)

# %%
# Logits are cosines times the model's scale, so their softmax gives probabilities.

figure, axes = plt.subplots(1, len(X), figsize=(10, 3.6), layout="constrained")
for ax, photo, row in zip(axes, X, softmax(logits, axis=1)):
    ax.imshow(photo)
    ax.set(xticks=[], yticks=[])
    ax.set_xlabel("\n".join(f"{probability:.2f} {prompt}" for probability, prompt in zip(row, prompts)))
    print("  ".join(f"{probability:.2f} {prompt}" for probability, prompt in zip(row, prompts)))
figure.suptitle(f"Zero-shot predictions of {scorer.model_name}")
plt.show()

# %%
# To adapt the model, call ``BlackVIPClassifier(scorer, "a photo of a {}.").fit(X, y)``. Images stay float tensors on
# the device of the model, and the class prompts are embedded only once.
