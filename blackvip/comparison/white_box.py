"""White-box training: prompters that are trained by back-propagation through a network on this machine.

It is an upper reference for black-box training, and no method for services: VP's own training (Bahng et al., arXiv
2203.17274), for any prompter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.base import _fit_context
from sklearn.utils._param_validation import Interval

from ..inputs.class_names import class_names
from ..inputs.class_prompts import make_class_prompts
from ..inputs.estimators import PredictsFromLogProba, SharesScoreFunction
from ..inputs.images import from_uint8, to_uint8
from ..inputs.labels import class_indices
from ..inputs.reading import ReadsImages, pixel_batches
from ..prompters.base import Prompter, prompted
from ..prompters.by_name import make_prompter
from ..prompters.frames import PaddingFrame
from ..scorers.declarations import method_of
from .presets import BATCH_SIZE, CLIP_UNIT

__all__ = ["WhiteBoxClassifier", "differentiable"]

_MOST_NUMBERS = 2**26  # numbers of features that are kept rather than computed again

Network = Callable[[torch.Tensor], torch.Tensor]


def differentiable(score_fn: Any, class_prompts: Sequence[str]) -> Network:
    """Return the logits of a scorer as a function of pixels that gradients can pass.

    Parameters
    ----------
    score_fn : torch.nn.Module or object
        A module takes pixels (n, 3, height, width) in [0, 1], and gives logits (n, n_classes). Another scorer, such as
        `OpenCLIPScorer`, has a method ``differentiable(class_prompts)`` that returns such a function.
    class_prompts : sequence of str
        One text per class.

    Returns
    -------
    network : callable
        Function from pixels (n, 3, height, width) in [0, 1] to logits (n, n_classes).

    Raises
    ------
    TypeError
        If gradients do not pass through the scorer.
    """
    if (method := method_of(score_fn, "differentiable")) is not None:
        return method(list(class_prompts))
    if isinstance(score_fn, torch.nn.Module):
        return score_fn
    raise TypeError(
        f"{type(score_fn).__name__} allows no gradients; expected an OpenCLIPScorer, a torch.nn.Module of pixels in "
        "[0, 1], or an object with a method differentiable(class_prompts)."
    )


class WhiteBoxClassifier(ReadsImages, PredictsFromLogProba, SharesScoreFunction):
    """Classifier whose prompt is trained by back-propagation through the service's network; by default that is VP.

    Parameters
    ----------
    score_fn : OpenCLIPScorer, torch.nn.Module or object
        The network, whose logits let gradients pass to the pixels; see `blackvip.comparison.white_box.differentiable`.
    class_prompts : str, dict, Series or sequence of str, default="{}"
        As in `BlackVIPClassifier`.
    prompter : {"basis", "coordinator"}, Prompter or None, default=None
        The prompter to train. None: VP's `PaddingFrame` of 30 px.
    prompt_scale : float, default=0.27
        The factor of the prompt, in units of the pixel range. The default is one unit of CLIP's normalised pixels, in
        which VP has its parameters.
    learning_rate : float, default=40.0
        Initial learning rate of stochastic gradient descent; it falls to zero along a cosine.
    momentum : float, default=0.9
        Momentum of the descent.
    n_epochs : int, default=1000
        Passes over the training images.
    batch_size : int, default=128
        Images in one step.
    image_shape : tuple of int or None, default=None
        As in `BlackVIPClassifier`.
    resize : {"crop", "pad", "stretch"}, default="crop"
        As in `BlackVIPClassifier`.
    random_state : int or None, default=None
        Seed of the initial parameters and of the order of the images.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels, in the order of the logits.
    class_prompts_ : list of str
        One per class.
    coordinator_ : Prompter
        The trained prompter; ``coordinator_.transform(X)`` draws prompts onto images.
    history_ : list of dict
        One row per step, with "n_iter", "loss", "accuracy" and "learning_rate".
    n_queries_ : int
        Number of images whose gradients were taken.

    Notes
    -----
    Predictions round images to 8 bits, as a service would receive them; `fit` does not.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from blackvip import WhiteBoxClassifier
    >>> class Service(torch.nn.Module):  # it believes that bright means daytime
    ...     def forward(self, pixels):
    ...         day = pixels.mean(dim=(1, 2, 3))
    ...         return 20 * torch.stack([day - 0.5, 0.5 - day], dim=1)
    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat(["night", "day"], 40)  # every image is underexposed
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
        class_prompts: Any = "{}",
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
        y : array-like of shape (n_images,)
            Class labels of at least two classes.

        Returns
        -------
        self : WhiteBoxClassifier
            The fitted estimator.

        Raises
        ------
        TypeError
            If gradients do not pass through `score_fn`.
        """
        names = class_names(X, y)
        images, y = self._learn_labelled(X, y)
        self.classes_ = np.unique(y)
        if len(self.classes_) < 2:
            raise ValueError(f"y has 1 class, {self.classes_.tolist()[0]!r}; expected at least two classes.")
        self.class_prompts_ = make_class_prompts(self.class_prompts, self.classes_, names)
        network = differentiable(self.score_fn, self.class_prompts_)
        pixels = self.image_format_.pixels(images[:])
        rng = np.random.default_rng(self.random_state)
        prompter = make_prompter(PaddingFrame() if self.prompter is None else self.prompter).fit_pixels(pixels)
        w = self._descended(network, prompter, pixels, torch.as_tensor(class_indices(y, self.classes_)), rng)
        batches = lambda: (prompter.features(part).double() for part in pixels.split(self.batch_size))
        self.coordinator_ = prompter.freeze(
            w.double().numpy(), prompter.batch_statistics(w.double(), batches), self.prompt_scale
        )
        self.coordinator_.read_like(self)
        return self

    def _descended(
        self, network: Network, prompter: Prompter, pixels: torch.Tensor, y: torch.Tensor, rng: np.random.Generator
    ) -> torch.Tensor:
        """Train parameters by stochastic gradient descent with momentum and a cosine schedule."""
        w = torch.tensor(prompter.initial_parameters(rng), dtype=torch.float32, requires_grad=True)
        velocity = torch.zeros_like(w)
        size = min(self.batch_size, len(y))
        # A prompter without parameters has nothing to train.
        n_steps = self.n_epochs * (len(y) // size) if len(w) else 0
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

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Log probabilities of prompted images; it bills nothing.

        Parameters
        ----------
        X : images, in any form that `fit` takes
            Images of the training images' size, unless `fit` had to resize.

        Returns
        -------
        log_proba : ndarray of shape (n_images, n_classes)
            Columns are in the order of `classes_`.
        """
        images = self._open_images(X)
        network = differentiable(self.score_fn, self.class_prompts_)
        parts = []
        for pixels in pixel_batches(self.image_format_, images):
            sent = from_uint8(to_uint8(self.coordinator_.draw(pixels)))
            with torch.no_grad():
                parts.append(network(sent).float().cpu())
        return torch.cat(parts).double().log_softmax(dim=1).numpy()


def _small_features(prompter: Prompter, pixels: torch.Tensor, size: int) -> torch.Tensor | None:
    """Compute the features of all images, or return None if they are too large to be kept."""
    one = prompter.features(pixels[:1])
    if one.numel() * len(pixels) > _MOST_NUMBERS:
        return None
    return torch.cat([prompter.features(part) for part in pixels.split(size)])
