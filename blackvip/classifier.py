"""BlackVIPClassifier: the method as a scikit-learn estimator."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from os import PathLike
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, _fit_context
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import HasMethods, Interval, Options, StrOptions

from .documentation import Documented, pipeline_block
from .encoders.base import Encoder
from .encoders.by_name import make_frozen_encoder
from .exceptions import BudgetError, FitInterruptedWarning, JournalError, PromptNotUsedWarning
from .heads.base import Head
from .heads.decision import WithoutPrompt, decide, fit_without_prompt
from .heads.scored import ScoredImages
from .inputs.class_prompts import make_class_prompts
from .inputs.images import Images
from .inputs.labels import check_labels, class_indices, labels_of, training_weights
from .inputs.reading import most_to_fit
from .inputs.sources import select
from .losses import LOSSES, Temperature
from .optimizers import Optimizer, make_optimizer
from .prediction import PromptedClassifier
from .prompters.base import Prompter, make_prompter
from .prompters.coordinator import Coordinator
from .scorers import ScoreFormat, ScoreFunction, check_rate
from .scorers.background import BackgroundThread
from .scorers.checkpoint import replayed
from .scorers.labels.scorer import learning_scorer
from .scorers.ledger import Ledger
from .scorers.replay import Replay
from .training.augmentation import AUGMENTATIONS, augmentation
from .training.batches import Batches
from .training.callbacks import CallbackSupportMixin
from .training.costs import CostPlan, Run, cost_plan
from .training.loop import TrainingResult, train
from .training.monitoring import Monitor
from .training.objective import Objective
from .training.plan import Plan
from .training.validation import Validation, judged_rows, split_held_out

__all__ = ["BlackVIPClassifier"]

_JUDGED_IMAGES = 2_000  # the most that are scored before and after training, for the heads and the guard
_HELD_OUT_SHARE = 0.25  # of the images, where a prompt has enough parameters to fit single ones
_LEAST_SIGNAL = 0.01  # of what a run's estimates add up to: below it there is nothing to pay for
_CHECK_SHARE = 0.05  # of the budget, for the guard's checks
_MAX_CHECKS = 10
_MEASURED_IMAGES = 8  # the most that `plan` sends where it is asked to measure


class BlackVIPClassifier(Documented, CallbackSupportMixin, PromptedClassifier):
    """Adapt a vision service to labelled images from its scores alone, by black-box visual prompting.

    A prompter draws a prompt onto every image before it is sent to the service; it is trained from the
    service's scores by simultaneous perturbation (BlackVIP, Oh et al., CVPR 2023). A head that is calibrated
    on the same scores, and a guard that keeps the prompt only where it helps, complete it.

    Parameters
    ----------
    score_fn : callable
        ``score_fn(images, class_prompts) -> scores``. `images` is a uint8 array of shape
        (n, height, width, 3), RGB; `class_prompts` a list of str in the order of `classes_`; the scores an
        array of shape (n, n_classes), higher is better; NaN, or dicts from class prompt to score without it,
        where a service gives none, see `blackvip.scorers.contract`. It may declare ``images_per_call``,
        ``score_type``, ``price_per_image`` and more as attributes.
    class_prompts : str, dict or sequence of str, default="a photo of a {}."
        A template in which ``{}`` becomes the class's name, a dict from label to prompt, or one prompt per
        class in the order of `classes_`.
    prompter : {"basis", "coordinator"} or Prompter, default="basis"
        "basis": fourteen parameters, by far the cheaper to train, see `PromptBasis`. "coordinator": the paper's, see
        `Coordinator`; ``**blackvip.presets.cvpr2023()`` sets all that goes with it.
    encoder : str or Encoder, default="pca"
        Where the Coordinator's features come from: "pca", "gradients", "scratch", or the name of a timm model.
    local_encoder : str or Encoder, default="gradients"
        Where the features of the local probe and of the fused head come from, which ask no service: "gradients",
        "pca", or the name of a timm model. They are computed on this machine, also for each image that is predicted.
    prompt_scale : float, default=1.0
        The factor of the prompt, in units of the pixel range (the paper's p_eps is in units of CLIP's
        normalised range, of which one is about 0.27 of these).
    optimizer : {"spsa-gc", "spsa", "cma-es"} or Optimizer, default="spsa-gc"
        An instance comes with its own gains; `a`, `c`, `alpha`, `gamma`, `stability`, `momentum`,
        `n_directions` and `clip` are then not used.
    a : float or "auto", default="auto"
        Step size, a_k = a / (k + stability)^alpha. "auto": where the budget pays for more directions than there are
        parameters, as for the basis, steps from normalized estimates whose length, in pixels, falls linearly to the
        end of the run, which costs nothing to find; else it is found at the start of `fit` from at most a tenth of
        the budget, such that the noise of a whole run moves the prompts no further than the service tolerates. See
        `blackvip.gains`.
    c : float or "auto", default="auto"
        Perturbation size, c_k = c / k^gamma, in units of the parameters. "auto": so large that it moves the prompts
        (root mean square) by 15 % of the pixel range at first and 1.5 % at the end, with steps that fall
        linearly; else by 3 % to 8 %, as much as the service bears.
    alpha, gamma : float, default=0.4, 0.1
        The exponents with which the two decay.
    stability : float, default=1.0
        The paper's o.
    momentum : float, default=0.9
        The gradient correction's beta.
    n_directions : int, default=4
        Perturbations in one step, each of which is scored on both sides.
    clip : float, "auto" or None, default="auto"
        Greatest Euclidean norm of a gradient estimate; a longer one is scaled down to it. "auto": twice that
        of the estimates from which a="auto" was found; no limit where `a` is given.
    batch_size : int, default=16
        Training images in one step, which bills two images for each.
    share_batch : bool, default=False
        Whether each direction is scored on all images of the step, as in the paper, instead of on a part of its own:
        a step then bills ``2 * n_directions * batch_size`` images. CMA-ES always compares on all of them.
    temperature : float or "auto", default="auto"
        By which the log scores are divided in the loss that the prompt is trained on. "auto": what suits the scores
        that were paid for last, so that a service that is sure of wrong answers is not merely silenced. 1: the paper's.
    loss : {"cross-entropy", "focal"}, default="cross-entropy"
        What training lowers, at that temperature. "focal": BAR's, by which images that are already right count for
        little, see `blackvip.losses.focal`.
    augment : {"crop-flip"} or None, default=None
        What is done to the images of a step. "crop-flip": random resized crops, half of them mirrored, as in the
        papers; the prompter's features are then computed anew in each step. None: nothing.
    max_queries : int, default=10_000
        Images that `fit` may send to the service, all told. It is never passed by a single one.
    head : {"auto", "fused", "calibrated"}, None or classifier, default="auto"
        From scores to probabilities. "fused": the scores of the prompted images together with the local encoder's
        features, see `FusedHead`. "calibrated": multinomial logistic regression on the log scores alone, see
        `CalibratedHead`. "auto": the first of fused, calibrated and none against which cross-validation does not
        speak. None: the softmax of the scores, as in the paper. A `FusedHead` is told which columns are which. Any
        other scikit-learn classifier that has `predict_proba` is trained on the log scores instead, see
        `ClassifierHead`. The name of any other `Head` works too.
    guard : bool, default=True
        Whether the prompt is used only if it classifies held-out training images better than none.
    validation_fraction : float or "auto", default="auto"
        Share of each class's training images that is held out from the prompt's training, for checks on the way and
        for the guard. With fewer than 1 / validation_fraction images a class holds none out; where no class does, the
        guard relies on cross-validation of the head over the training images alone. "auto": a quarter where the
        prompt has more parameters than there are training images, or `patience` is given; else none, since so few
        parameters fit no image by itself.
    patience : int or None, default=None
        Checks of the held-out images without an improvement after which training stops. A fit makes at most
        ten checks, which bill at most about 5 % of the budget. None: the budget is spent.
    score_type : {"auto", "logits", "probabilities"}, default="auto"
        What the scores are. "auto": what `score_fn` declares, else recognised in those of the training images.
    images_per_call : int or None, default=None
        The most images in one call of `score_fn`. None: what it declares, else 64; where calls are spread, an even
        share for each worker, if that is less.
    n_jobs : int or None, default=None
        Workers that ask `score_fn`, as in scikit-learn: None is 1 unless a ``joblib.parallel_config`` says otherwise,
        with which they may be on other machines. Each has its own copy of `score_fn`, which is pickled. Results are
        the same where a score depends on its image alone, or with `images_per_call`, which makes calls the same. A
        score function that asks concurrently by itself, as `HTTPScorer` does, is not spread; see `ParallelScorer`.
    image_shape : tuple of int or None, default=None
        (height, width) or (height, width, channels). Rows of flattened pixels are reshaped to it, and other images
        resized to it. None: such rows are grey images that are one pixel high, and other images keep their size;
        where they differ in size, they are resized to 224 x 224, with a warning.
    resize : {"crop", "pad", "stretch"}, default="crop"
        How an image is resized: "crop" covers the new size and cuts the centre out; "pad" fits into it, with black
        around; "stretch" scales height and width each on their own.
    on_error : {"raise", "skip"}, default="raise"
        What `fit` does with images that cannot be read: an error that names them, or go on without them, with a
        warning. Prediction always raises, since each image needs an answer.
    class_weight : dict, "balanced" or None, default=None
        Weights of the classes' images, as in scikit-learn; multiplied with `sample_weight`.
    warm_start : bool, default=False
        Whether a further `fit` goes on from where the last one ended, with its prompter, optimizer and step size,
        and a new budget, instead of starting anew. The classes must be the same.
    checkpoint : str, path-like or None, default=None
        The journal of a fit: a file in which each answer of the service is on disk before it is used. After a failure,
        Ctrl-C or a kill, `fit` with the same journal, parameters and images goes on where it was, and ends as if it had
        not been interrupted; a journal of another fit is refused. Answers to predictions are kept too, in a file beside
        it. A folder, which is one that exists or whose path ends with a separator, has a journal for each fit, as
        searches over parameters need. None: nothing is kept.
    random_state : int, RandomState instance or None, default=None
        With an int, `fit` gives bit-identical results on one machine. NumPy's and torch's global generators
        are neither read nor set.
    verbose : {0, 1, 2}, default=1
        Progress bar: never, on a terminal, always. The logger "blackvip" tells the same, whatever this is.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels, in the order of the scores.
    class_prompts_ : list of str
        One per class.
    n_features_in_ : int
        The columns of X where X is a table, else height * width * 3.
    feature_names_in_ : ndarray of str
        Only where X is a table whose columns have names.
    coordinator_ : Prompter
        The trained prompter; ``coordinator_.transform(X)`` draws prompts onto images and asks no service. It
        pickles by itself.
    prompt_used_ : bool
        False where the guard found that the prompt does not help: images are then sent as they are.
    head_ : Head
        The fitted head, a classifier of class indices.
    optimizer_ : Optimizer
        With its state, from which `partial_fit` goes on.
    n_skipped_ : int
        Training images that were left out since they cannot be read.
    baselines_ : dict of str to HeadResult
        What was free: "zero_shot"; "calibrated_zero_shot", with a head on the scores; "local_probe", a linear
        classifier on the local encoder's features that asks no service; and "fused_zero_shot" of both.
    history_ : list of dict
        A row per step: "n_iter", "n_queries" (billed so far), "loss" and "accuracy" (over all candidates), "a", "a_k",
        "c_k", "estimate_norm", "step_norm"; at checks also "validation_loss" and "validation_accuracy".
        ``pandas.DataFrame(clf.history_)`` makes a table of it.
    n_queries_ : int
        Images that `fit` sent to the service.
    n_iter_ : int
        Steps that were made.
    a_, c_ : float
        The step and perturbation size that training started with. A step size that was found, and not given,
        is corrected after each check of the held-out images; `history_` has it step by step.
    termination_reason_ : {"budget", "no_improvement", "callback", "interrupted", "error"}
        Why training stopped.
    score_type_ : {"logits", "probabilities"}
    label_mapping_ : LabelMapping or None
        From the service's labels to classes, where `score_fn` is a `LabelMappedScorer` that learns it.
    score_floor_ : float
        What lower probabilities are taken for: half a unit of the last decimal where the service rounds them.
    seconds_per_image_ : float
        The mean time of an answer in the last run, in seconds per image.
    image_format_ : ImageFormat
        Size and pixel range of the training images, by which all later images are read.
    probe_encoder_ : Encoder
        The frozen encoder of the local probe.

    Notes
    -----
    `fit` bills one image per training image for the controls and one for the head; the rest of the budget
    trains. Of more than 2,000 training images only a share of each class, 2,000 in all, is billed for these two, and
    all are trained on. Predicting bills one image per image.

    Ctrl-C during training does not raise: training ends, the best prompt so far is used, and a
    `FitInterruptedWarning` says so. When `score_fn` raises during training, the estimator is fitted with the
    best prompt so far in the same way, and the error is then raised. With a `checkpoint`, nothing more is sent after
    such an error, so that the estimator uses no prompt until `fit`, called again, has gone on.

    Examples
    --------
    >>> import numpy as np
    >>> from blackvip import BlackVIPClassifier
    >>> def service(images, class_prompts):  # it takes bright images for days
    ...     day = images.mean(axis=(1, 2, 3)) / 255
    ...     return 20 * np.stack([day - 0.5, 0.5 - day], axis=1)
    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat(["night", "day"], 40)  # all of it far too dark for the service
    >>> X = rng.uniform(0, 0.3, (80, 16, 16)) + np.where(y == "day", 0.15, 0)[:, None, None]
    >>> clf = BlackVIPClassifier(service, "a photo taken at {}", prompter="basis", max_queries=2000, random_state=0)
    >>> clf = clf.fit(X[::2], y[::2])
    >>> clf.baselines_["zero_shot"].accuracy
    0.5
    >>> clf.score(X[1::2], y[1::2])
    1.0
    >>> clf.n_queries_ <= 2000
    True
    """

    _scored: ScoredImages
    _rng: np.random.Generator
    history_: list[dict[str, Any]]
    n_iter_: int
    n_queries_: int
    optimizer_: Optimizer
    seconds_per_image_: float | None

    _parameter_constraints = {
        "score_fn": [callable],
        "class_prompts": [str, dict, "array-like"],
        "prompter": [StrOptions(Prompter.named.keys()), Prompter],
        "encoder": [str, Encoder],
        "local_encoder": [str, Encoder],
        "prompt_scale": [Interval(Real, 0, None, closed="neither")],
        "optimizer": [str, Optimizer],
        "a": [StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
        "c": [StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "gamma": [Interval(Real, 0, None, closed="left")],
        "stability": [Interval(Real, 0, None, closed="left")],
        "momentum": [Interval(Real, 0, 1, closed="left")],
        "n_directions": [Interval(Integral, 1, None, closed="left")],
        "clip": [None, StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "share_batch": ["boolean"],
        "temperature": [StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
        "loss": [StrOptions(set(LOSSES))],
        "augment": [StrOptions(set(AUGMENTATIONS)), None],
        "max_queries": [Interval(Integral, 1, None, closed="left")],
        "head": [StrOptions({"auto"}), StrOptions(Head.named.keys()), HasMethods(["fit", "predict_proba"]), None],
        "guard": ["boolean"],
        "validation_fraction": [StrOptions({"auto"}), Interval(Real, 0, 1, closed="left")],
        "patience": [None, Interval(Integral, 1, None, closed="left")],
        "score_type": [StrOptions({"auto", "logits", "probabilities"})],
        "images_per_call": [None, Interval(Integral, 1, None, closed="left")],
        "n_jobs": [Integral, None],
        "image_shape": [None, tuple, list],
        "resize": [StrOptions({"crop", "pad", "stretch"})],
        "on_error": [StrOptions({"raise", "skip"})],
        "class_weight": [dict, StrOptions({"balanced"}), None],
        "warm_start": ["boolean"],
        "checkpoint": [str, PathLike, None],
        "random_state": ["random_state"],
        "verbose": [Options(Integral, {0, 1, 2}), "boolean"],
    }

    def __init__(
        self,
        score_fn: ScoreFunction,
        class_prompts: str | Mapping[Any, str] | Sequence[str] = "a photo of a {}.",
        *,
        prompter: str | Prompter = "basis",
        encoder: str | Encoder = "pca",
        local_encoder: str | Encoder = "gradients",
        prompt_scale: float = 1.0,
        optimizer: str | Optimizer = "spsa-gc",
        a: float | str = "auto",
        c: float | str = "auto",
        alpha: float = 0.4,
        gamma: float = 0.1,
        stability: float = 1.0,
        momentum: float = 0.9,
        n_directions: int = 4,
        clip: float | str | None = "auto",
        batch_size: int = 16,
        share_batch: bool = False,
        temperature: float | str = "auto",
        loss: str = "cross-entropy",
        augment: str | None = None,
        max_queries: int = 10_000,
        head: Any = "auto",
        guard: bool = True,
        validation_fraction: float | str = "auto",
        patience: int | None = None,
        score_type: str = "auto",
        images_per_call: int | None = None,
        n_jobs: int | None = None,
        image_shape: tuple[int, ...] | None = None,
        resize: str = "crop",
        on_error: str = "raise",
        class_weight: dict[Any, float] | str | None = None,
        warm_start: bool = False,
        checkpoint: str | PathLike[str] | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 1,
    ):
        self.score_fn = score_fn
        self.class_prompts = class_prompts
        self.prompter = prompter
        self.encoder = encoder
        self.local_encoder = local_encoder
        self.prompt_scale = prompt_scale
        self.optimizer = optimizer
        self.a = a
        self.c = c
        self.alpha = alpha
        self.gamma = gamma
        self.stability = stability
        self.momentum = momentum
        self.n_directions = n_directions
        self.clip = clip
        self.batch_size = batch_size
        self.share_batch = share_batch
        self.temperature = temperature
        self.loss = loss
        self.augment = augment
        self.max_queries = max_queries
        self.head = head
        self.guard = guard
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.score_type = score_type
        self.images_per_call = images_per_call
        self.n_jobs = n_jobs
        self.image_shape = image_shape
        self.resize = resize
        self.on_error = on_error
        self.class_weight = class_weight
        self.warm_start = warm_start
        self.checkpoint = checkpoint
        self.random_state = random_state
        self.verbose = verbose

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> BlackVIPClassifier:
        """Train the prompter and the head on labelled images.

        Parameters
        ----------
        X : array of shape (n, height, width, 3), (n, height, width) or (n, 3, height, width); array-like of \
shape (n, n_features); or sequence of images, paths or encoded files
            Training images. Floats between 0 and 1, or 0 and 255, are taken as such; other numbers are scaled by
            their least and greatest value. See `blackvip.sources` for all that an image may be.
        y : array-like of shape (n,)
            Class labels, two classes at least.
        sample_weight : array-like of shape (n,) or None, default=None
            Weights of the images in the loss, the head and the guard. Images of weight zero are left out, and
            are not billed.

        Returns
        -------
        self : BlackVIPClassifier
            The fitted estimator.

        Raises
        ------
        ValueError
            For unusable parameters, images, labels or prompts, before any image is billed; also `ScoreError`,
            `BudgetError`, `ImageError`, `ClassPromptError` and `JournalError`, which are all of this kind.
        """
        if self.warm_start:
            self._refuse_checkpoint("warm_start=True goes")
        resumes = self.warm_start and hasattr(self, "optimizer_")
        images, y, weights = self._training_set(X, y, sample_weight, self.classes_ if resumes else None, resumes)
        with replayed(self, images, y, weights, _seed) as replay:
            return self._train(images, y, weights, resumes, budget=self.max_queries, earlier=None, replay=replay)

    #: `classes` is an argument of `partial_fit`, not metadata that is routed.
    __metadata_request__partial_fit = {"classes": True}

    @_fit_context(prefer_skip_nested_validation=False)
    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> BlackVIPClassifier:
        """Go on training on a further batch of labelled images, with the same optimizer and the same budget.

        Each call makes one pass over its images, and bills two images for each of them that is not held out, or
        ``2 * n_directions`` with `share_batch`, and two for each besides; the first call also finds the step size,
        where that costs images. All calls together bill
        at most `max_queries`. Images are not kept: the head and the guard know the earlier ones by their scores,
        with the prompts of the time when they came.

        Parameters
        ----------
        X : images, in any form that `fit` takes
            Of the size of the first batch.
        y : array-like of shape (n,)
            Their class labels.
        classes : array-like of shape (n_classes,) or None, default=None
            All labels that may come. Needed in the first call, unless the first batch has them all.
        sample_weight : array-like of shape (n,) or None, default=None
            Weights of the images.

        Returns
        -------
        self : BlackVIPClassifier
            The estimator, trained further.
        """
        self._refuse_checkpoint("partial_fit goes")
        resumes = hasattr(self, "optimizer_")
        if resumes and classes is not None and not np.array_equal(np.unique(check_labels(classes)), self.classes_):
            raise ValueError(
                f"classes={np.unique(classes).tolist()} is not the same as on the last call to partial_fit, "
                f"{self.classes_.tolist()}. Leave it out, or start anew with fit."
            )
        known = self.classes_ if resumes else classes
        images, y, weights = self._training_set(X, y, sample_weight, known, resumes)
        budget = self.max_queries - (self.n_queries_ if resumes else 0)
        return self._train(images, y, weights, resumes, budget, self._scored if resumes else None, one_pass=True)

    @_fit_context(prefer_skip_nested_validation=False)
    def plan(
        self,
        X: Any,
        y: Any,
        n_predict: int = 0,
        price_per_image: float | None = None,
        seconds_per_image: float | None = None,
        *,
        sample_weight: Any = None,
        measure: bool = False,
    ) -> CostPlan:
        """What `fit` on these images will send, take and cost at most; unless it measures, it sends nothing.

        It prepares a fit in the same way as `fit` does, up to where the first image would be sent, and so refuses what
        `fit` would refuse. What is fitted already stays as it is; with ``warm_start=True``, the plan is that of going
        on from it.

        Parameters
        ----------
        X : images, in any form that `fit` takes
            Training images.
        y : array-like of shape (n,)
            Class labels, two classes at least.
        n_predict : int, default=0
            Images that will be predicted afterwards.
        price_per_image : float or None, default=None
            In any currency. None: what `score_fn` declares as its ``price_per_image``, if anything.
        seconds_per_image : float or None, default=None
            How long the service takes for an image. None: what the last fit has measured, if there was one.
        sample_weight : array-like of shape (n,) or None, default=None
            Weights of the images; those of weight zero are not sent.
        measure : bool, default=False
            Whether to measure `seconds_per_image` by one call of the service with the first training images, at most
            eight of them. They are billed, on top of what the plan says.

        Returns
        -------
        plan : CostPlan
            Images, calls, and where they are known seconds and price, of each part of the fit and of the predictions.

        Raises
        ------
        ValueError
            For whatever `fit` would refuse, among it a budget that does not pay for a single step (`BudgetError`), and
            for a price or time that is none.

        Examples
        --------
        >>> import numpy as np
        >>> from blackvip import BlackVIPClassifier
        >>> def service(images, class_prompts):
        ...     return images.mean(axis=(1, 2))
        >>> X, y = np.random.default_rng(0).uniform(size=(60, 8, 8)), np.arange(60) % 3
        >>> clf = BlackVIPClassifier(service, prompter="basis", a=0.01, c=0.1, max_queries=2000, random_state=0)
        >>> clf.plan(X, y, n_predict=1000, price_per_image=0.0015)
                          images  calls  price
        fit, at most       1,976     60   2.96
          controls            60      1   0.09
          step size            0      0   0.00
          training steps   1,856     58   2.78
          checks               0      0   0.00
          final scores        60      1   0.09
        predictions        1,000     16   1.50
        all                2,976     76   4.46
        """
        if not isinstance(n_predict, Integral) or n_predict < 0:
            raise ValueError(f"n_predict={n_predict!r}; expected a whole number of images, at least 0.")
        if measure and seconds_per_image is not None:
            raise ValueError(f"seconds_per_image={seconds_per_image!r} and measure=True were given; expected only one.")
        price = check_rate(price_per_image, "price_per_image")
        seconds = check_rate(seconds_per_image, "seconds_per_image")
        twin = self._twin_for_planning()
        resumes = twin.warm_start and hasattr(twin, "optimizer_")
        images, y, weights = twin._training_set(X, y, sample_weight, twin.classes_ if resumes else None, resumes)
        run = twin._prepared(images, y, weights, resumes, budget=twin.max_queries)
        ledger = run.objective.ledger
        with ledger:  # where the budget is shared, it must have as much left
            pass
        if measure:
            n_measured = min(_MEASURED_IMAGES, ledger.images_per_call, len(images))
            with twin._ledger(n_measured, ledger.score_format, twin.score_fn) as measuring:
                measuring.log_scores(measuring.as_sent(run.objective.pixels(np.arange(n_measured))))
            seconds = measuring.seconds_per_image
        elif seconds is None:
            seconds = getattr(self, "seconds_per_image_", None)
        return cost_plan(run, int(n_predict), ledger.price_per_image if price is None else price, seconds)

    def _twin_for_planning(self) -> BlackVIPClassifier:
        """Another estimator in the same state, of which all may change that preparing a fit changes."""
        twin = copy.copy(self)
        twin.random_state = copy.deepcopy(self.random_state)
        if hasattr(self, "optimizer_"):
            twin.optimizer_, twin._rng = copy.deepcopy((self.optimizer_, self._rng))
        return twin

    def _prepared(
        self,
        images: Images,
        y: np.ndarray,
        weights: np.ndarray,
        resumes: bool,
        budget: int,
        one_pass: bool = False,
        replay: Replay | None = None,
    ) -> Run:
        """All that a run within `budget` images needs: `plan` counts it, and `_train` carries it out. Sends nothing."""
        if resumes:
            rng = self._rng
        else:
            rng = np.random.default_rng(_seed(self.random_state) if replay is None else replay.seed)

        # images -> features -> prompts
        optimizer = self._new_optimizer()
        if resumes:
            prompter, w = self.coordinator_, self.coordinator_.parameters_
            optimizer = self._continued(optimizer)
        else:
            sample = np.sort(rng.permutation(len(images))[: most_to_fit(self.image_format_)])
            pixels = images.pixels(sample)
            prompter = make_prompter(
                Coordinator(self.encoder) if self.prompter == "coordinator" else self.prompter
            ).fit_pixels(pixels)
            self.probe_encoder_ = make_frozen_encoder(self.local_encoder).fit_pixels(pixels)
            w = prompter.initial_parameters(rng)

        # prompts -> scores -> losses
        ledger = self._ledger(budget, self._score_format if resumes else None, self.score_fn, replay)
        temperature = Temperature(None if self.temperature == "auto" else float(self.temperature), self.loss)
        augment = None if self.augment is None else augmentation(self.augment, rng)
        objective = Objective(prompter, images, y, weights, ledger, self.prompt_scale, temperature, augment)
        known = judged_rows(y, _JUDGED_IMAGES, rng)
        held_out = known[split_held_out(y[known], self._held_out_share(len(w), len(images)), rng)]
        rows = np.setdiff1d(np.arange(len(images)), held_out)
        batches = Batches(rows, min(self.batch_size, len(rows)), rng)
        n_checks = 0 if one_pass else self._n_checks(budget, len(known), len(held_out), optimizer, len(w), batches)
        validation = Validation(objective, known, held_out, n_checks, self.patience)
        pass_length = -(-len(rows) // batches.n_rows(optimizer)) if one_pass else None
        plan = Plan.make(optimizer, len(w), batches, validation.cost, budget - 2 * len(known), pass_length)
        self._check_budget(plan, len(known), budget, batches.n_rows_each(optimizer))
        if not resumes and not one_pass:
            self._check_signal(plan, optimizer, len(w), len(known))
        if optimizer.started and not one_pass:
            optimizer.begin_run(plan.n_steps)
        return Run(objective, optimizer, w, batches, validation, plan, rng)

    def _train(
        self,
        images: Images,
        y: np.ndarray,
        weights: np.ndarray,
        resumes: bool,
        budget: int,
        earlier: ScoredImages | None,
        one_pass: bool = False,
        replay: Replay | None = None,
    ) -> BlackVIPClassifier:
        """One run of training within `budget` images, from the start or from where the last run ended."""
        prepared = self._prepared(images, y, weights, resumes, budget, one_pass, replay)
        objective, validation, ledger = prepared.objective, prepared.validation, prepared.objective.ledger
        known = validation.known

        # losses -> update; meanwhile, in a thread, what is free
        with ledger, Monitor(self, objective, validation, prepared.plan) as monitor, BackgroundThread() as aside:
            features = aside.submit(objective.encoded, self.probe_encoder_, known)
            objective.make_features(aside)  # in the same thread, which may find what that one has encoded
            try:
                of_known = y[known], weights[known]
                plain = self._with_labels_mapped(objective.plain_log_scores(known), *of_known, ledger)
                objective.temperature.learn(plain, y[known])
                validation.set_start(plain)
                scored = ScoredImages.before_training(
                    *of_known,
                    features.result(),
                    held_out=validation.is_held_out,
                    block_sizes=tuple(self.probe_encoder_.block_sizes_),
                    plain=plain,
                ).after(earlier)
                without_prompt = aside.submit(fit_without_prompt, scored, self.head)
                run = train(*prepared, monitor)
                prompted, error = self._completed_log_scores(run, validation, plain.shape, replay)
                scored.prompted[-len(known) :] = prompted
            finally:
                self.n_queries_ = ledger.n_queries + (self.n_queries_ if earlier else 0)
            self._settle(scored, without_prompt.result(), validation, run, added=earlier is not None)
            self._rng = prepared.rng
        self._warn_or_raise(error, run)
        return self

    def _with_labels_mapped(self, plain: np.ndarray, y: np.ndarray, weights: np.ndarray, ledger: Ledger) -> np.ndarray:
        """Log scores for classes; those for a service's labels teach the mapping that makes them so, once."""
        learning = learning_scorer(self.score_fn)
        if learning is None or ledger.reader.label_mapping is not None:
            return plain
        self.label_mapping_ = ledger.reader.label_mapping = learning.fit_labels(plain, y, self.class_prompts_, weights)
        return self.label_mapping_.log_scores(plain)

    def _refuse_checkpoint(self, what: str) -> None:
        if self.checkpoint is not None:
            raise JournalError(
                f"{what} on from an earlier fit, but a journal holds the answers of one fit from its start, and "
                f"checkpoint={self.checkpoint!r}. Set checkpoint=None, or call fit with warm_start=False."
            )

    def _training_set(
        self, X: Any, y: Any, sample_weight: Any, classes: Any, resumes: bool
    ) -> tuple[Images, np.ndarray, np.ndarray]:
        """Images, class indices and weights; sets `classes_`, `class_prompts_` and what reading X learns."""
        y = labels_of(X, y)
        if not resumes:
            self.label_mapping_ = None
        weights = training_weights(sample_weight, self.class_weight, y)
        if not weights.all():
            used = np.flatnonzero(weights)
            X, y, weights = select(X, used), y[used], weights[used]
        images, y = (self._open_images(X), y) if resumes else self._learn_images(X, y)
        self.n_skipped_ = len(y) - len(images.kept)
        y, weights = y[images.kept], weights[images.kept]
        classes = np.unique(y if classes is None else check_labels(classes))
        if len(classes) < 2:
            raise ValueError(f"y has 1 class, {classes.tolist()[0]!r}; expected at least two classes.")
        self.classes_, y = classes, class_indices(y, classes)
        self.class_prompts_ = make_class_prompts(self.class_prompts, self.classes_)
        return images, y, weights

    def _sk_visual_block_(self) -> Any:
        """The diagram of a notebook: what an image goes through."""
        prompter = make_prompter(Coordinator(self.encoder) if self.prompter == "coordinator" else self.prompter)
        service = getattr(self.score_fn, "__name__", type(self.score_fn).__name__)
        head = "softmax" if self.head is None else self.head
        return pipeline_block({"prompter": prompter, "service": f"service: {service}", "head": head})

    def _new_optimizer(self) -> Optimizer:
        names = "a", "c", "alpha", "gamma", "stability", "momentum", "n_directions", "clip", "share_batch"
        optimizer = make_optimizer(self.optimizer, **{name: getattr(self, name) for name in names})
        if self.share_batch and "share_batch" in optimizer.get_params(deep=False):
            optimizer.set_params(share_batch=True)
        return optimizer

    def _continued(self, new: Optimizer) -> Optimizer:
        """The new optimizer, which goes on from where the one of the last run stands."""
        new.continue_from(self.optimizer_)
        if new.started and not np.array_equal(new.w, self.coordinator_.parameters_):
            new.restart_from(self.coordinator_.parameters_)
        return new

    def _held_out_share(self, d: int, n_images: int) -> float:
        """The share of the images that a prompt of `d` parameters is not trained on."""
        if not self.guard:
            return 0.0
        if self.validation_fraction == "auto":
            return _HELD_OUT_SHARE if d > n_images or self.patience is not None else 0.0
        return float(self.validation_fraction)

    def _n_checks(
        self, budget: int, n_images: int, n_held_out: int, optimizer: Optimizer, d: int, batches: Batches
    ) -> int:
        """Checks of the held-out images that a run can pay for, beyond a single step and all around it."""
        smallest = Plan.make(optimizer, d, batches, 0, 0)
        left = max(0, budget - 2 * n_images - smallest.gains - smallest.step)
        return min(_MAX_CHECKS, int(min(_CHECK_SHARE * budget, left)) // max(n_held_out, 1))

    def _check_budget(self, plan: Plan, n_images: int, budget: int, n_rows_each: int) -> None:
        if plan.n_steps:
            return
        smallest = 2 * n_images + plan.gains + plan.step
        left = "" if budget == self.max_queries else f", of which {budget} are left,"
        raise BudgetError(
            f"max_queries={self.max_queries}{left} does not pay for one step. The smallest budget that works here is "
            f"{smallest}: {2 * n_images} to score the {n_images} training images before and after, {plan.gains} to "
            f"find the step size, {plan.step} for a step ({plan.step // n_rows_each} candidates, {n_rows_each} images "
            "each)."
        )

    def _check_signal(self, plan: Plan, optimizer: Optimizer, d: int, n_images: int) -> None:
        """Refuse a whole training that would be spent on noise."""
        share = optimizer.signal_share(d, plan.n_steps)
        if share >= _LEAST_SIGNAL:
            return
        n_directions = round(share / (1 - share) * d)
        n_steps = math.ceil(_LEAST_SIGNAL / (1 - _LEAST_SIGNAL) * d / (n_directions // plan.n_steps))
        raise BudgetError(
            f"max_queries={self.max_queries} pays for {n_directions} perturbations of the "
            f"prompt's {d} parameters; expected at least one for a hundred parameters, since a prompt that is found "
            f"from fewer is noise. Take a prompter with fewer parameters, such as prompter='basis', or at least "
            f"{math.ceil((2 * n_images + plan.gains + plan.step * n_steps) / (1 - _CHECK_SHARE))} images."
        )

    def _completed_log_scores(
        self, run: TrainingResult, validation: Validation, shape: tuple[int, ...], replay: Replay | None
    ) -> tuple[np.ndarray, BaseException | None]:
        """Log scores of the training images with the trained prompt, NaN where there are none; and what went wrong."""
        if replay is not None:
            replay.off_path = run.termination_reason in ("callback", "interrupted")
            if isinstance(run.error, Exception):  # `fit` will go on: a prompt from halfway is not worth its price
                return np.full(shape, np.nan), run.error
        if run.n_iter:
            try:
                return validation.completed_log_scores(run.w), run.error
            except (KeyboardInterrupt, Exception) as error:  # the service fails still: plain images are all there is
                return np.full(shape, np.nan), run.error or error
        return np.full(shape, np.nan), run.error

    def _settle(
        self, scored: ScoredImages, without: WithoutPrompt, validation: Validation, run: TrainingResult, added: bool
    ) -> None:
        """Choose between the trained prompt and none, fit the head, and set what a fitted estimator has."""
        objective = validation.objective
        last_answers = scored.last_answers(validation.known, *objective.recent_answers())
        used, shipped = decide(without, scored, last_answers, self.head, self.guard)
        self.baselines_ = without.baselines
        self._scored = scored
        self.coordinator_ = objective.frozen(run.w, self.prompt_scale if used else 0.0)
        self.coordinator_.read_like(self)
        self.prompt_used_ = used
        self.head_ = shipped.head
        self.optimizer_ = run.optimizer
        score_format = objective.ledger.score_format or ScoreFormat("logits")  # a single image may be given nothing
        self.score_type_, self.score_floor_ = score_format.score_type, score_format.floor
        self.seconds_per_image_ = objective.ledger.seconds_per_image
        steps_before = self.n_iter_ if added else 0
        billed_before = self.n_queries_ - objective.ledger.n_queries
        history = [
            {**row, "n_iter": row["n_iter"] + steps_before, "n_queries": row["n_queries"] + billed_before}
            for row in run.history
        ]
        self.history_ = (self.history_ if added else []) + history
        self.n_iter_ = steps_before + run.n_iter
        self.a_, self.c_ = run.a, run.optimizer.c_
        self.termination_reason_ = run.termination_reason

    def _warn_or_raise(self, error: BaseException | None, run: TrainingResult) -> None:
        if isinstance(error, KeyboardInterrupt):
            warnings.warn(
                f"fit was interrupted after {run.n_iter} steps and {self.n_queries_} billed images. The estimator is "
                f"fitted and {'uses the best prompt so far' if self.prompt_used_ else 'uses no prompt'}.",
                FitInterruptedWarning,
                stacklevel=5,
            )
        elif error is not None:
            raise error
        elif not self.prompt_used_:
            warnings.warn(
                "The trained prompt does not classify training images better than no prompt, so that images "
                "will be sent as they are. More training images, another prompter or a larger budget may help.",
                PromptNotUsedWarning,
                stacklevel=5,
            )

    def __sklearn_clone__(self) -> BlackVIPClassifier:
        """A clone that shares the score function: a model or a client is not copied for every fold or candidate."""
        twin = BaseEstimator.__sklearn_clone__(copy.copy(self).set_params(score_fn=None))
        twin.score_fn = self.score_fn
        if hasattr(self, "_skl_callbacks"):  # scikit-learn before 1.9 does not know them
            twin._skl_callbacks = self._skl_callbacks
        return twin


def _seed(random_state: Any) -> int:
    """The seed of a generator of our own, so that the global ones are neither read nor set."""
    if random_state is None:
        return int(np.random.SeedSequence().entropy)  # type: ignore[arg-type]
    if isinstance(random_state, Integral):
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31))
