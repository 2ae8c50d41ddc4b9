"""White box: prompters that are trained by gradients, where a service is a network on this machine that gives them.

An upper reference for what black-box training can reach, and no method for services: VP's own training (Bahng et al.,
arXiv 2203.17274), and that of any other prompter.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.base import BaseEstimator, ClassifierMixin, _fit_context
from sklearn.utils._param_validation import Interval

from ..inputs.class_prompts import make_class_prompts
from ..inputs.images import to_uint8
from ..inputs.labels import class_indices, labels_of
from ..inputs.reading import ReadsImages, pixel_batches
from ..prompters.base import Prompter, make_prompter, prompted
from ..prompters.frames import PaddingFrame
from ..scorers.open_clip import OpenCLIPScorer
from .presets import BATCH_SIZE, CLIP_UNIT

__all__ = ["WhiteBoxClassifier", "differentiable"]

_MOST_NUMBERS = 2**26  # features that are kept rather than computed again

Network = Callable[[torch.Tensor], torch.Tensor]


def differentiable(score_fn: Any, class_prompts: Sequence[str]) -> Network:
    """A scorer's logits as a function of pixels through which gradients pass.

    Parameters
    ----------
    score_fn : OpenCLIPScorer, torch.nn.Module or object
        A module takes pixels (n, 3, height, width) in [0, 1] and gives logits (n, n_classes). Another object that
        allows gradients has a method ``differentiable(class_prompts)`` that returns such a function.
    class_prompts : sequence of str

    Returns
    -------
    network : callable
        Pixels (n, 3, height, width) in [0, 1] to logits (n, n_classes).

    Raises
    ------
    TypeError
        If the scorer allows no gradients.
    """
    if hasattr(score_fn, "differentiable"):
        return score_fn.differentiable(list(class_prompts))
    if isinstance(score_fn, torch.nn.Module):
        return score_fn
    if not isinstance(score_fn, OpenCLIPScorer):
        raise TypeError(
            f"{type(score_fn).__name__} allows no gradients; expected an OpenCLIPScorer, a torch.nn.Module of pixels "
            "in [0, 1], or an object with a method differentiable(class_prompts)."
        )
    score_fn(np.zeros((1, 8, 8, 3), dtype=np.uint8), class_prompts)  # its parameters are checked, its texts embedded
    tower = score_fn._tower()
    templates = (score_fn.templates,) if isinstance(score_fn.templates, str) else tuple(score_fn.templates or ("{}",))
    with torch.no_grad():
        texts = tower.text_embeddings(list(class_prompts), templates, score_fn.batch_size).clone()
    return lambda pixels: tower.logits(pixels, texts, None)


class WhiteBoxClassifier(ReadsImages, ClassifierMixin, BaseEstimator):
    """A prompt that is trained by back-propagation through the service's network: VP, unless told otherwise.

    Parameters
    ----------
    score_fn : OpenCLIPScorer, torch.nn.Module or object
        What gives logits, and gradients, of pixels; see `differentiable`.
    class_prompts : str, dict or sequence of str, default="a photo of a {}."
        As of `BlackVIPClassifier`.
    prompter : {"basis", "coordinator"}, Prompter or None, default=None
        What is trained. None: VP's `PaddingFrame` of 30 px.
    prompt_scale : float, default=0.27
        The factor of the prompt in units of the pixel range: one unit of CLIP's normalised space, in which VP has its
        parameters.
    learning_rate : float, default=40.0
        Of stochastic gradient descent at the start, from where it falls to zero like a cosine.
    momentum : float, default=0.9
        Of the descent.
    n_epochs : int, default=1000
        Passes over the training images.
    batch_size : int, default=128
        Images of a step.
    image_shape : tuple of int or None, default=None
        As of `BlackVIPClassifier`.
    resize : {"crop", "pad", "stretch"}, default="crop"
        As of `BlackVIPClassifier`.
    random_state : int or None, default=None
        Of the start and the order of the images.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels, in the order of the logits.
    class_prompts_ : list of str
        One per class.
    coordinator_ : Prompter
        The trained prompter; ``coordinator_.transform(X)`` draws prompts onto images.
    history_ : list of dict
        A row per step: "n_iter", "loss", "accuracy" and "learning_rate".
    n_queries_ : int
        Images whose gradient was taken.

    Notes
    -----
    Images are rounded to 8 bits in `predict`, as a service would get them, but not in `fit`.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from blackvip import WhiteBoxClassifier
    >>> class Service(torch.nn.Module):  # it takes bright images for days
    ...     def forward(self, pixels):
    ...         day = pixels.mean(dim=(1, 2, 3))
    ...         return 20 * torch.stack([day - 0.5, 0.5 - day], dim=1)
    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat(["night", "day"], 40)  # all of it far too dark for the service
    >>> X = rng.uniform(0, 0.3, (80, 16, 16)) + np.where(y == "day", 0.15, 0)[:, None, None]
    >>> clf = WhiteBoxClassifier(Service(), learning_rate=5, n_epochs=50, random_state=0).fit(X[::2], y[::2])
    >>> clf.score(X[1::2], y[1::2])
    1.0
    """

    #: `fit` needs the gradients of the service, and bills the same whatever the budget is.
    fixed_cost = needs_gradients = True

    _parameter_constraints = {
        "score_fn": [object],
        "class_prompts": [str, dict, "array-like"],
        "prompter": [str, Prompter, None],
        "prompt_scale": [Interval(Real, 0, None, closed="neither")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "momentum": [Interval(Real, 0, 1, closed="left")],
        "n_epochs": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "image_shape": [None, tuple, list],
        "resize": [str],
        "random_state": ["random_state"],
    }

    classes_: np.ndarray
    class_prompts_: list[str]
    coordinator_: Prompter
    history_: list[dict[str, Any]]

    def __init__(
        self,
        score_fn: Any,
        class_prompts: Any = "a photo of a {}.",
        *,
        prompter: str | Prompter | None = None,
        prompt_scale: float = CLIP_UNIT,
        learning_rate: float = 40.0,
        momentum: float = 0.9,
        n_epochs: int = 1000,
        batch_size: int = BATCH_SIZE,
        image_shape: tuple[int, ...] | None = None,
        resize: str = "crop",
        random_state: int | None = None,
    ):
        self.score_fn = score_fn
        self.class_prompts = class_prompts
        self.prompter = prompter
        self.prompt_scale = prompt_scale
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.n_epochs = n_epochs
        self.batch_size = batch_size
        self.image_shape = image_shape
        self.resize = resize
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: Any, y: Any) -> WhiteBoxClassifier:
        """Train the prompter by gradients.

        Parameters
        ----------
        X : images, in any form that `BlackVIPClassifier` takes
            Training images.
        y : array-like of shape (n,)
            Class labels, two classes at least.

        Returns
        -------
        self : WhiteBoxClassifier
            The fitted estimator.

        Raises
        ------
        TypeError
            If `score_fn` allows no gradients.
        """
        y = labels_of(X, y)
        images, y = self._learn_images(X, y)
        self.classes_ = np.unique(y)
        if len(self.classes_) < 2:
            raise ValueError(f"y has 1 class, {self.classes_.tolist()[0]!r}; expected at least two classes.")
        self.class_prompts_ = make_class_prompts(self.class_prompts, self.classes_)
        network = differentiable(self.score_fn, self.class_prompts_)
        pixels = self.image_format_.pixels(images[:])
        rng = np.random.default_rng(self.random_state)
        prompter = make_prompter(PaddingFrame() if self.prompter is None else self.prompter).fit_pixels(pixels)
        w = self._descended(network, prompter, pixels, torch.as_tensor(class_indices(y, self.classes_)), rng)
        batches = lambda: (prompter.features(part).double() for part in pixels.split(self.batch_size))
        self.coordinator_ = prompter.freeze(
            w.double().numpy(), prompter.batch_statistics(w.double(), batches), self.prompt_scale
        )
        self.coordinator_._adopt_reading(self)
        return self

    def _descended(
        self, network: Network, prompter: Prompter, pixels: torch.Tensor, y: torch.Tensor, rng: np.random.Generator
    ) -> torch.Tensor:
        """The parameters after stochastic gradient descent with momentum and a cosine schedule."""
        w = torch.tensor(prompter.initial_parameters(rng), dtype=torch.float32, requires_grad=True)
        velocity = torch.zeros_like(w)
        size = min(self.batch_size, len(y))
        n_steps = self.n_epochs * (len(y) // size)
        self.history_, self.n_queries_ = [], 0
        order = np.empty(0, dtype=int)
        features = _small_features(prompter, pixels, size)
        for step in range(n_steps):
            if len(order) < size:
                order = rng.permutation(len(y))
            rows, order = order[:size], order[size:]
            some = pixels[rows]
            known = prompter.features(some) if features is None else features[rows]
            prompts = prompter.prompts(w[None, None], known[None])[0, 0]
            logits = network(prompted(prompter.canvas(some), prompts, self.prompt_scale))
            labels = y[rows].to(logits.device)
            loss = F.cross_entropy(logits.float(), labels)
            (gradient,) = torch.autograd.grad(loss, w)
            rate = self.learning_rate * (1 + math.cos(math.pi * step / n_steps)) / 2
            velocity = self.momentum * velocity + gradient
            with torch.no_grad():
                w -= rate * velocity
            self.n_queries_ += size
            accuracy = (logits.argmax(1) == labels).float().mean().item()
            self.history_.append({"n_iter": step + 1, "loss": loss.item(), "accuracy": accuracy, "learning_rate": rate})
        return w.detach()

    def decision_function(self, X: Any) -> np.ndarray:
        """Logits of prompted images, or the difference between the second's and the first's of two classes.

        Parameters
        ----------
        X : images, in any form that `fit` takes
            Of the training images' size, unless `fit` had to resize.

        Returns
        -------
        decision : ndarray of shape (n_images, n_classes), or (n_images,) for two classes
            In the order of `classes_`.
        """
        logits = self._logits(X)
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits

    def predict(self, X: Any) -> np.ndarray:
        """Class labels of images.

        Parameters
        ----------
        X : images, in any form that `fit` takes
            Of the training images' size, unless `fit` had to resize.

        Returns
        -------
        y : ndarray of shape (n_images,)
            The class of the highest logit.
        """
        best = self._logits(X).argmax(axis=1)
        return self.classes_[best]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Class probabilities of images.

        Parameters
        ----------
        X : images, in any form that `fit` takes
            Of the training images' size, unless `fit` had to resize.

        Returns
        -------
        proba : ndarray of shape (n_images, n_classes)
            In the order of `classes_`.
        """
        return torch.from_numpy(self._logits(X)).double().softmax(dim=1).numpy()

    def _logits(self, X: Any) -> np.ndarray:
        images = self._open_images(X)
        network = differentiable(self.score_fn, self.class_prompts_)
        parts = []
        for pixels in pixel_batches(self.image_format_, images):
            sent = torch.from_numpy(to_uint8(self.coordinator_.draw(pixels))).permute(0, 3, 1, 2).float() / 255
            with torch.no_grad():
                parts.append(network(sent).float().cpu().numpy())
        return np.concatenate(parts)

    def __sklearn_clone__(self) -> WhiteBoxClassifier:
        """A clone that shares the network."""
        twin = BaseEstimator.__sklearn_clone__(copy.copy(self).set_params(score_fn=None))
        twin.score_fn = self.score_fn
        return twin


def _small_features(prompter: Prompter, pixels: torch.Tensor, size: int) -> torch.Tensor | None:
    """The features of all images, where they are small enough to be kept."""
    one = prompter.features(pixels[:1])
    if one.numel() * len(pixels) > _MOST_NUMBERS:
        return None
    return torch.cat([prompter.features(part) for part in pixels.split(size)])
