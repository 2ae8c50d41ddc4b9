"""AReS: a local model that learns from the service's scores and is then reprogrammed without the service."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import log_softmax, softmax
from sklearn.base import _fit_context
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.validation import check_is_fitted

from ..encoders.base import Encoder
from ..encoders.by_name import make_frozen_encoder
from ..exceptions import BudgetError
from ..inputs.class_names import class_names
from ..inputs.class_prompts import make_class_prompts
from ..inputs.estimators import PredictsFromLogProba, SharesScoreFunction
from ..inputs.labels import class_indices
from ..inputs.reading import ReadsImages, pixel_batches
from ..scorers.formats import SCORE_TYPES
from ..scorers.labels.mapping import bayesian_weights, label_counts
from ..scorers.wrappers import IsScoreFunction
from .service import Service

__all__ = ["AReSClassifier"]

_INNER = 128 / 224  # side of the image inside the frame, as a share of the canvas
_START = 1e-4  # spread of the first program: an even background has no gradient orientation, and no slope of one
_MIN_SPREAD = 1e-6  # smallest divisor of the features


class AReSClassifier(ReadsImages, PredictsFromLogProba, SharesScoreFunction):
    """Local model that is primed with the service's scores, and then reprogrammed without the service.

    First, each training image is sent once, and a linear head on a frozen local encoder learns the service's
    probabilities. Then a pattern on or around the images is trained on the labels, by gradient descent through this
    local model. A Bayesian label mapping leads from the outputs of the head to the classes.

    Parameters
    ----------
    score_fn : callable
        As in `BlackVIPClassifier`.
    class_prompts : str, dict, Series or sequence of str, default="{}"
        As in `BlackVIPClassifier`.
    local_encoder : str or Encoder, default="gradients"
        The frozen encoder: "gradients", "pca", the name of a timm model, or an `Encoder` whose `encode` lets gradients
        pass. The paper uses ``vit_base_patch16_224``.
    reprogramming : {"watermark", "padding"}, default="watermark"
        "watermark": a pattern that is added to the image. "padding": a frame of sigmoid(W) around the image, whose side
        is 4/7 of the canvas. The published figures use "padding", which suits an encoder that recognises objects at
        any size. If all framed images look alike to the head, the mapping cannot learn, and training does not begin.
    inference : {"local", "both"}, default="local"
        "local": predictions bill nothing, as published. "both": they also send the unmodified image, and add the log
        probabilities of the service and of the local model.
    prime_epochs : int, default=100
        Number of passes over the training images in which the head learns the service's probabilities.
    prime_lr : float, default=1e-3
        Learning rate of AdamW for the head, with cosine decay.
    epochs : int, default=200
        Number of passes in which the pattern is trained.
    lr : float, default=0.01
        Learning rate of Adam for the pattern. It falls to a tenth after 50 % of the epochs, and again after 72 %.
    batch_size : int, default=64
        Images in one step.
    smoothing : float, default=1.0
        Smoothing of the mapping, see `blackvip.scorers.labels.mapping`.
    top_share : float, default=0.15
        Number of outputs that the mapping counts for each image, as a share of the classes; at least one is counted.
    max_queries : int, default=10_000
        Limit of billed images in `fit`, which needs one per training image.
    score_type : {"auto", "logits", "probabilities", "percent", "levels"}, default="auto"
        As in `BlackVIPClassifier`.
    images_per_call : int or None, default=None
        As in `BlackVIPClassifier`.
    image_shape : tuple of int or None, default=None
        As in `BlackVIPClassifier`.
    resize : {"crop", "pad", "stretch"}, default="crop"
        As in `BlackVIPClassifier`.
    random_state : int, RandomState instance or None, default=None
        Seed of the first weights and of the order of the images.
    verbose : {0, 1, 2}, default=1
        Accepted for `compare`; there is no progress bar.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels, in the order of the scores.
    class_prompts_ : list of str
        One per class.
    n_features_in_ : int
        Number of columns if X is a table, else height * width * 3.
    feature_names_in_ : ndarray of str
        Names of the columns; only if X is a table whose columns have names.
    image_format_ : ImageFormat
        Size and pixel range with which later images are read.
    encoder_ : Encoder
        The local encoder.
    coef_ : ndarray of shape (n_classes, n_features)
        Weights of the primed head for the encoder's features.
    intercept_ : ndarray of shape (n_classes,)
        Intercepts of the primed head.
    program_ : ndarray of shape (3, height, width)
        The pattern W.
    mapping_ : ndarray of shape (n_classes, n_classes)
        Weights from outputs of the head to classes; columns sum to 1.
    priming_losses_ : list of float
        Mean Kullback-Leibler divergence from the service's probabilities in each epoch, in nats.
    losses_ : list of float
        Mean cross-entropy of the second stage in each epoch, in nats.
    n_queries_ : int
        Number of images billed by `fit`.
    score_format_ : ScoreFormat
        Format of the service's scores.

    Notes
    -----
    `fit` learns from the images of X alone, and makes all epochs. The public implementation differs: it trains its
    second stage on the whole training part of a data set, whatever the number of shots, and keeps the head and the
    pattern of the epoch that is best on the test images. Its figures are not those of a few-shot method, and cannot be
    expected here. The head's inputs are centred features divided by one number, so one learning rate suits any encoder.
    The mapping of an epoch is learned from the outputs of the epoch before.

    Examples
    --------
    >>> import numpy as np
    >>> from blackvip import AReSClassifier
    >>> def service(images, class_prompts):
    ...     left = images[:, :, :8].mean(axis=(1, 2, 3)) / 255
    ...     return 10 * np.stack([left - 0.5, 0.5 - left], axis=1)
    >>> y = np.repeat(["left", "right"], 20)
    >>> X = np.random.default_rng(0).uniform(0, 0.3, (40, 16, 16))
    >>> X[:20, :, :8] += 0.6
    >>> X[20:, :, 8:] += 0.6
    >>> clf = AReSClassifier(service, epochs=5, random_state=0).fit(X, y)
    >>> clf.n_queries_, clf.score(X, y)
    (40, 1.0)
    """

    fixed_cost = True  # one image per training image, whatever the budget is

    _parameter_constraints = {
        "score_fn": [IsScoreFunction()],
        "class_prompts": [str, dict, "array-like"],
        "local_encoder": [str, Encoder],
        "reprogramming": [StrOptions({"watermark", "padding"})],
        "inference": [StrOptions({"local", "both"})],
        "prime_epochs": [Interval(Integral, 1, None, closed="left")],
        "prime_lr": [Interval(Real, 0, None, closed="neither")],
        "epochs": [Interval(Integral, 0, None, closed="left")],
        "lr": [Interval(Real, 0, None, closed="neither")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "smoothing": [Interval(Real, 0, None, closed="left")],
        "top_share": [Interval(Real, 0, 1, closed="right")],
        "max_queries": [Interval(Integral, 1, None, closed="left")],
        "score_type": [StrOptions({"auto", *SCORE_TYPES})],
        "images_per_call": [None, Interval(Integral, 1, None, closed="left")],
        "image_shape": [None, tuple, list],
        "resize": [StrOptions({"crop", "pad", "stretch"})],
        "random_state": ["random_state"],
        "verbose": [Options(Integral, {0, 1, 2}), "boolean"],
    }

    def __init__(
        self,
        score_fn: Any,
        class_prompts: Any = "{}",
        *,
        local_encoder: str | Encoder = "gradients",
        reprogramming: str = "watermark",
        inference: str = "local",
        prime_epochs: int = 100,
        prime_lr: float = 1e-3,
        epochs: int = 200,
        lr: float = 0.01,
        batch_size: int = 64,
        smoothing: float = 1.0,
        top_share: float = 0.15,
        max_queries: int = 10_000,
        score_type: str = "auto",
        images_per_call: int | None = None,
        image_shape: tuple[int, ...] | None = None,
        resize: str = "crop",
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 1,
    ):
        self.score_fn = score_fn
        self.class_prompts = class_prompts
        self.local_encoder = local_encoder
        self.reprogramming = reprogramming
        self.inference = inference
        self.prime_epochs = prime_epochs
        self.prime_lr = prime_lr
        self.epochs = epochs
        self.lr = lr
        self.batch_size = batch_size
        self.smoothing = smoothing
        self.top_share = top_share
        self.max_queries = max_queries
        self.score_type = score_type
        self.images_per_call = images_per_call
        self.image_shape = image_shape
        self.resize = resize
        self.random_state = random_state
        self.verbose = verbose

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: Any, y: Any) -> AReSClassifier:
        """Train the local model on the service's scores, and then reprogram it.

        Parameters
        ----------
        X : images, in any form that `BlackVIPClassifier` takes
            Training images; all are held in memory.
        y : array-like of shape (n_images,)
            Class labels of at least two classes.

        Returns
        -------
        self : AReSClassifier
            The fitted estimator.

        Raises
        ------
        BudgetError
            If there are more images than `max_queries`. Nothing is billed then.
        TypeError
            If gradients do not pass through the encoder. Nothing is billed then.
        ValueError
            If parameters, images, labels or prompts are unusable.
        """
        encoder = make_frozen_encoder(self.local_encoder)
        if encoder.is_of_one_size and self.reprogramming == "padding":
            raise ValueError(
                f"reprogramming='padding' enlarges images, but local_encoder={self.local_encoder!r} takes only images "
                "of the training images' size; expected reprogramming='watermark', or another local_encoder."
            )
        names = class_names(X, y)
        images, y = self._learn_labelled(X, y)
        self.classes_ = np.unique(y)
        if len(self.classes_) < 2:
            raise ValueError(f"y has 1 class, {self.classes_.tolist()[0]!r}; expected at least two classes.")
        if len(images) > self.max_queries:
            raise BudgetError(
                f"max_queries={self.max_queries} does not pay for the {len(images)} training images; AReS sends each "
                f"once. The smallest budget that works here is {len(images)}; or pass fewer images."
            )
        index = class_indices(y, self.classes_)
        self.class_prompts_ = make_class_prompts(self.class_prompts, self.classes_, names)
        random = np.random.default_rng(check_random_state(self.random_state).randint(2**31))
        pixels = self.image_format_.pixels(images[:])
        self.encoder_ = encoder.fit_pixels(pixels)
        if not self.encoder_.encode(pixels[:1].clone().requires_grad_()).requires_grad:
            raise TypeError(
                f"Gradients do not pass through local_encoder={self.local_encoder!r}; expected an encoder whose "
                "`encode` uses operations of torch alone."
            )
        service = Service(self.score_fn, self.class_prompts_, self.score_type, self.images_per_call)
        answer = service.score(images, y=index)
        self.score_format_ = answer.score_format
        self.n_queries_ = answer.n_queries
        self._prime(pixels, softmax(answer.columns[:, : len(self.class_prompts_)], axis=1), random)
        self._reprogram(pixels, index, random)
        return self

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Predict log probabilities; it bills one image each with ``inference="both"``, and none otherwise.

        Parameters
        ----------
        X : images, in any form that `fit` takes
            Images of the training images' size, unless `fit` had to resize.

        Returns
        -------
        log_proba : ndarray of shape (n_images, n_classes)
            Columns are in the order of `classes_`.
        """
        return self.log_probas(X, [self.inference])[self.inference]

    def log_probas(self, X: Any, names: Sequence[str] = ("local", "both")) -> dict[str, np.ndarray]:
        """Predict log probabilities without the service, and with it.

        Parameters
        ----------
        X : images, in any form that `fit` takes
            Images of the training images' size, unless `fit` had to resize.
        names : sequence of str, default=("local", "both")
            Predictions to return; "both" bills one image each.

        Returns
        -------
        log_probas : dict of str to ndarray of shape (n_images, n_classes)
            Log probabilities by name.
        """
        check_is_fitted(self)
        images = self._open_images(X)
        program = torch.from_numpy(self.program_)
        with torch.no_grad():
            outputs = [self._outputs(pixels.double(), program) for pixels in pixel_batches(self.image_format_, images)]
        found = {"local": log_softmax(torch.cat(outputs).numpy() @ self.mapping_, axis=1)}
        if "both" in names:
            prompts, limit = self.class_prompts_, self.images_per_call
            service = Service(self.score_fn, prompts, self.score_type, limit, self.score_format_)
            log_scores = service.score(images).columns[:, : len(prompts)]
            found["both"] = log_softmax(found["local"] + log_softmax(log_scores, axis=1), axis=1)
        return {name: found[name] for name in names}

    def _prime(self, pixels: torch.Tensor, teacher: np.ndarray, random: np.random.Generator) -> None:
        """Run the first stage: a linear head on the local features learns the service's probabilities."""
        with torch.no_grad():
            features = torch.cat([self.encoder_.encode(part) for part in pixels.split(64)]).double()
        mean = features.mean(0)
        scale = max(float((features - mean).square().mean().sqrt()), _MIN_SPREAD)
        z, target = (features - mean) / scale, torch.from_numpy(teacher)
        # The head starts like torch.nn.Linear.
        bound = 1 / np.sqrt(z.shape[1])
        coef = torch.from_numpy(random.uniform(-bound, bound, (teacher.shape[1], z.shape[1]))).requires_grad_()
        intercept = torch.from_numpy(random.uniform(-bound, bound, teacher.shape[1])).requires_grad_()
        n_steps = self.prime_epochs * -(-len(z) // self.batch_size)
        optimizer = torch.optim.AdamW([coef, intercept], lr=self.prime_lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)

        def loss_of(rows: np.ndarray) -> torch.Tensor:
            outputs = F.log_softmax(z[rows] @ coef.T + intercept, dim=1)
            return F.kl_div(outputs, target[rows], reduction="batchmean")

        self.priming_losses_ = []
        for _ in range(self.prime_epochs):
            losses = []
            for rows in _batches(len(z), self.batch_size, random):
                loss = loss_of(rows)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                losses.append(loss.item() * len(rows))
            self.priming_losses_.append(sum(losses) / len(z))
        with torch.no_grad():
            self.coef_ = (coef / scale).numpy()
            self.intercept_ = (intercept - (coef / scale) @ mean).numpy()

    def _reprogram(self, pixels: torch.Tensor, y: np.ndarray, random: np.random.Generator) -> None:
        """Run the second stage: the labels train a pattern through the primed model, which stays unchanged."""
        height, width = _canvas(pixels, self.reprogramming)
        program = torch.from_numpy(_START * random.standard_normal((3, height, width))).float().requires_grad_()
        target = torch.from_numpy(y)
        optimizer = torch.optim.Adam([program], lr=self.lr)
        milestones = [int(0.5 * self.epochs), int(0.72 * self.epochs)]
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.1)
        self.losses_ = []
        outputs = self._all_outputs(pixels, program)
        for _ in range(self.epochs):
            mapping = torch.from_numpy(self._mapping(outputs, y)).float()
            losses = []
            for rows in _batches(len(y), self.batch_size, random):
                outputs_of_rows = self._outputs(pixels[rows], program)
                outputs[rows] = outputs_of_rows.detach().double().numpy()
                loss = F.cross_entropy(outputs_of_rows @ mapping, target[rows])
                (slope,) = torch.autograd.grad(loss, [program])
                # An encoder may have no slope at some pixels, such as a norm at zero.
                program.grad = torch.nan_to_num(slope, 0.0, 0.0, 0.0)
                optimizer.step()
                losses.append(loss.item() * len(rows))
            schedule.step()
            self.losses_.append(sum(losses) / len(y))
        self.program_ = program.detach().double().numpy()
        self.mapping_ = self._mapping(self._all_outputs(pixels, program), y)

    def _mapping(self, outputs: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Compute BLM+ weights (n_classes, n_classes) from the primed head's outputs for the training images."""
        n_classes = len(self.classes_)
        n_top = max(1, int(self.top_share * n_classes))
        return bayesian_weights(label_counts(outputs, y, n_classes, n_top), self.smoothing)

    def _all_outputs(self, pixels: torch.Tensor, program: torch.Tensor) -> np.ndarray:
        with torch.no_grad():
            return torch.cat([self._outputs(part, program) for part in pixels.split(64)]).double().numpy()

    def _outputs(self, pixels: torch.Tensor, program: torch.Tensor) -> torch.Tensor:
        """Compute outputs (n, n_classes) of the primed head for reprogrammed images."""
        features = self.encoder_.encode(_reprogrammed(pixels, program.to(pixels.dtype), self.reprogramming))
        coef, intercept = (torch.from_numpy(values).to(features.dtype) for values in (self.coef_, self.intercept_))
        return features @ coef.T + intercept

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        # It learns what its service knows, which may be nothing about the classes.
        tags.classifier_tags.poor_score = True
        return tags


def _batches(n: int, size: int, random: np.random.Generator) -> list[np.ndarray]:
    order = random.permutation(n)
    return [order[first : first + size] for first in range(0, n, size)]


def _canvas(pixels: torch.Tensor, reprogramming: str) -> tuple[int, int]:
    """Return the (height, width) of the local model's input."""
    height, width = pixels.shape[-2:]
    return (height, width) if reprogramming == "watermark" else (round(height / _INNER), round(width / _INNER))


def _reprogrammed(pixels: torch.Tensor, program: torch.Tensor, reprogramming: str) -> torch.Tensor:
    """Add the pattern (3, canvas_height, canvas_width) to images (n, 3, height, width)."""
    if reprogramming == "watermark":
        return pixels + program
    height, width = pixels.shape[-2:]
    top, left = (program.shape[-2] - height) // 2, (program.shape[-1] - width) // 2
    canvas = torch.sigmoid(program).expand(len(pixels), -1, -1, -1).clone()
    canvas[..., top : top + height, left : left + width] = pixels
    return canvas
