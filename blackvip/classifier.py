"""BlackVIPClassifier: the method as a scikit-learn estimator."""

from __future__ import annotations

import warnings
from numbers import Integral, Real

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, _fit_context, clone
from sklearn.utils import assert_all_finite, check_random_state
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d, validate_data

from .controls import fit_controls
from .encoders import Encoder, PCAEncoder
from .exceptions import BudgetError, FitInterruptedWarning, PromptNotUsedWarning
from .gains import gain_cost
from .guard import Validation, prompt_helps, split_held_out
from .heads import Head, choose_head
from .images import ImageFormat, holds_flattened_rows, to_uint8
from .optimizers import SPSA, SPSAGC, Optimizer
from .progress import ProgressBar
from .prompters import Prompter, make_prompter
from .prompts import make_class_prompts
from .scorers import Ledger
from .training import Batches, Objective, train

__all__ = ["BlackVIPClassifier"]

_FITTING_IMAGES = 2_000  # the most images that an encoder or a basis is fitted to
_CHECK_SHARE = 0.05  # of the budget, for the guard's checks
_MAX_CHECKS = 10


class BlackVIPClassifier(ClassifierMixin, BaseEstimator):
    """Adapt a vision service to labelled images from its scores alone, by black-box visual prompting.

    A prompter draws a prompt onto every image before it is sent to the service; it is trained from the
    service's scores by simultaneous perturbation (BlackVIP, Oh et al., CVPR 2023). A head that is calibrated
    on the same scores, and a guard that keeps the prompt only where it helps, complete it.

    Parameters
    ----------
    score_fn : callable
        ``score_fn(images, class_prompts) -> scores``. `images` is a uint8 array of shape
        (n, height, width, 3), RGB; `class_prompts` a list of str in the order of `classes_`; the scores an
        array of shape (n, n_classes), finite, higher is better. It may declare ``images_per_call`` and
        ``score_type`` as attributes.
    class_prompts : str, dict or sequence of str, default="a photo of a {}."
        A template in which ``{}`` becomes the class's name, a dict from label to prompt, or one prompt per
        class in the order of `classes_`.
    prompter : {"coordinator", "basis"} or Prompter, default="coordinator"
        "coordinator": the paper's, see `Coordinator`. "basis": a dozen parameters, by far the cheaper to
        train, see `PromptBasis`.
    encoder : str or Encoder, default="pca"
        Where the Coordinator's features, and those of the local probe, come from: "pca", "scratch", or the
        name of a timm model.
    prompt_scale : float, default=1.0
        The factor of the prompt, in units of the pixel range (the paper's p_eps is in units of CLIP's
        normalised range, of which one is about 0.27 of these).
    optimizer : {"spsa-gc", "spsa"} or Optimizer, default="spsa-gc"
        An instance comes with its own gains; `a`, `c`, `alpha`, `gamma`, `stability`, `momentum`,
        `n_directions` and `clip` are then not used.
    a : float or "auto", default="auto"
        Step size, a_k = a / (k + stability)^alpha. "auto": found at the start of `fit` from at most a tenth of
        the budget, such that the noise of a whole run moves the prompts no further than the service tolerates;
        see `blackvip.gains`.
    c : float or "auto", default="auto"
        Perturbation size, c_k = c / k^gamma, in units of the parameters. "auto": so large that it moves the
        prompts by 3 % to 8 % of the pixel range (root mean square), as much as the service bears.
    alpha, gamma : float, default=0.4, 0.1
        The exponents with which the two decay.
    stability : float, default=1.0
        The paper's o.
    momentum : float, default=0.9
        The gradient correction's beta.
    n_directions : int, default=5
        Perturbations in one step, each of which is scored on both sides.
    clip : float, "auto" or None, default="auto"
        Greatest Euclidean norm of a gradient estimate; a longer one is scaled down to it. "auto": twice that
        of the estimates from which a="auto" was found; no limit where `a` is given.
    batch_size : int, default=8
        Training images in one step; a step bills ``2 * n_directions * batch_size`` images.
    max_queries : int, default=10_000
        Images that `fit` may send to the service, all told. It is never passed by a single one.
    head : {"auto", "calibrated"}, None or Head, default="auto"
        From scores to probabilities. "calibrated": multinomial logistic regression on the log scores of the
        prompted training images. "auto": that, unless cross-validation speaks against it. None: the softmax of
        the scores, as in the paper.
    guard : bool, default=True
        Whether the prompt is used only if it classifies held-out training images better than none.
    validation_fraction : float, default=0.25
        Share of each class's training images that is held out from the prompt's training for the guard. With
        fewer than 1 / validation_fraction images a class holds none out; where no class does, the guard
        relies on cross-validation of the head over the training images alone.
    patience : int or None, default=None
        Checks of the held-out images without an improvement after which training stops. A fit makes at most
        ten checks, which bill at most about 5 % of the budget. None: the budget is spent.
    score_type : {"auto", "logits", "probabilities"}, default="auto"
        What the scores are. "auto": what `score_fn` declares, else recognised in its first answer.
    images_per_call : int or None, default=None
        The most images in one call of `score_fn`. None: what it declares, else 64.
    image_shape : tuple of int or None, default=None
        (height, width) or (height, width, channels) of X given as rows of flattened pixels. None: such rows
        are grey images that are one pixel high.
    random_state : int, RandomState instance or None, default=None
        With an int, `fit` gives bit-identical results on one machine. NumPy's and torch's global generators
        are neither read nor set.
    verbose : {0, 1, 2}, default=1
        Progress bar: never, on a terminal, always.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels, in the order of the scores.
    class_prompts_ : list of str
        One per class.
    n_features_in_ : int
        Numbers that describe an image: the columns of flattened rows, else height * width * 3.
    coordinator_ : Prompter
        The trained prompter; ``coordinator_.transform(pixels)`` draws prompts without any service. It pickles
        by itself.
    prompt_used_ : bool
        False where the guard found that the prompt does not help: images are then sent as they are.
    head_ : Head
    controls_ : dict of str to JudgedHead
        What was free: "zero_shot", "calibrated_zero_shot", and "local_probe", a linear classifier on the
        encoder's features that asks no service.
    history_ : list of dict
        A row per step: "n_iter", "n_queries" (billed so far), "loss" (mean over the candidates), "a", "a_k",
        "c_k", "estimate_norm", "step_norm"; at checks also "validation_loss" and "validation_accuracy".
        ``pandas.DataFrame(clf.history_)`` makes a table of it.
    n_queries_ : int
        Images that `fit` sent to the service.
    n_iter_ : int
        Steps that were made.
    a_, c_ : float
        The step and perturbation size that training started with. A step size that was found, and not given,
        is corrected after each check of the held-out images; `history_` has it step by step.
    termination_reason_ : {"budget", "no_improvement", "interrupted", "error"}
        Why training stopped.
    score_type_ : {"logits", "probabilities"}
    image_format_ : ImageFormat
        Size and pixel range of the training images, by which all later images are read.
    probe_encoder_ : Encoder
        The frozen encoder of the local probe.

    Notes
    -----
    `fit` bills one image per training image for the controls and one for the head; the rest of the budget
    trains. Predicting bills one image per image.

    Ctrl-C during training does not raise: training ends, the best prompt so far is used, and a
    `FitInterruptedWarning` says so. When `score_fn` raises during training, the estimator is fitted with the
    best prompt so far in the same way, and the error is then raised.

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
    >>> clf.controls_["zero_shot"].accuracy
    0.5
    >>> clf.score(X[1::2], y[1::2])
    1.0
    >>> clf.n_queries_ <= 2000
    True
    """

    _parameter_constraints = {
        "score_fn": [callable],
        "class_prompts": [str, dict, "array-like"],
        "prompter": [StrOptions({"coordinator", "basis"}), Prompter],
        "encoder": [str, Encoder],
        "prompt_scale": [Interval(Real, 0, None, closed="neither")],
        "optimizer": [StrOptions({"spsa-gc", "spsa"}), Optimizer],
        "a": [StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
        "c": [StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "gamma": [Interval(Real, 0, None, closed="left")],
        "stability": [Interval(Real, 0, None, closed="left")],
        "momentum": [Interval(Real, 0, 1, closed="left")],
        "n_directions": [Interval(Integral, 1, None, closed="left")],
        "clip": [None, StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "max_queries": [Interval(Integral, 1, None, closed="left")],
        "head": [StrOptions({"auto", "calibrated"}), Head, None],
        "guard": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "patience": [None, Interval(Integral, 1, None, closed="left")],
        "score_type": [StrOptions({"auto", "logits", "probabilities"})],
        "images_per_call": [None, Interval(Integral, 1, None, closed="left")],
        "image_shape": [None, tuple, list],
        "random_state": ["random_state"],
        "verbose": [Options(Integral, {0, 1, 2}), "boolean"],
    }

    def __init__(
        self,
        score_fn,
        class_prompts="a photo of a {}.",
        *,
        prompter="coordinator",
        encoder="pca",
        prompt_scale=1.0,
        optimizer="spsa-gc",
        a="auto",
        c="auto",
        alpha=0.4,
        gamma=0.1,
        stability=1.0,
        momentum=0.9,
        n_directions=5,
        clip="auto",
        batch_size=8,
        max_queries=10_000,
        head="auto",
        guard=True,
        validation_fraction=0.25,
        patience=None,
        score_type="auto",
        images_per_call=None,
        image_shape=None,
        random_state=None,
        verbose=1,
    ):
        self.score_fn = score_fn
        self.class_prompts = class_prompts
        self.prompter = prompter
        self.encoder = encoder
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
        self.max_queries = max_queries
        self.head = head
        self.guard = guard
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.score_type = score_type
        self.images_per_call = images_per_call
        self.image_shape = image_shape
        self.random_state = random_state
        self.verbose = verbose

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y):
        """Train the prompter and the head on labelled images.

        Parameters
        ----------
        X : array of shape (n, height, width, 3), (n, height, width) or (n, 3, height, width); array-like of \
shape (n, n_features); or sequence of PIL images or of file paths
            Training images. Floats between 0 and 1, or 0 and 255, are taken as such; other numbers are scaled by
            their least and greatest value.
        y : array-like of shape (n,)
            Class labels, two classes at least.

        Returns
        -------
        self : BlackVIPClassifier

        Raises
        ------
        ValueError
            For unusable parameters, images, labels or prompts, before any image is billed; also
            `ScoreError`, `BudgetError`, `ImageError` and `ClassPromptError`, which are all of this kind.
        """
        images, y = self._training_set(X, y)
        rng = _local_generator(self.random_state)
        self.class_prompts_ = make_class_prompts(self.class_prompts, self.classes_)

        # images -> features -> prompts
        sample = np.sort(rng.permutation(len(images))[:_FITTING_IMAGES])
        pixels = self.image_format_.pixels(images[sample])
        prompter = make_prompter(self.prompter, self.encoder).fit(pixels)
        self.probe_encoder_ = _frozen_encoder(prompter, pixels)
        w = prompter.initial_parameters(rng)

        # prompts -> scores -> losses
        ledger = self._ledger(self.score_type, self.max_queries)
        objective = Objective(prompter, images, self.image_format_, y, ledger, self.prompt_scale)
        optimizer = self._optimizer()
        rows, held_out = split_held_out(y, self.validation_fraction if self.guard else 0.0, rng)
        batches = Batches(rows, min(self.batch_size, len(rows)), rng)
        left = self._checked_budget(len(images), optimizer, batches)
        n_checks = min(_MAX_CHECKS, int(min(_CHECK_SHARE * self.max_queries, left)) // max(len(held_out), 1))
        validation = Validation(objective, held_out, n_checks, self.patience)

        # losses -> update
        bar = ProgressBar(self.max_queries, self.verbose)
        ledger.on_queries = bar.on_queries
        try:
            plain = objective.plain_log_scores()
            validation.set_start(plain)
            self.controls_ = fit_controls(plain, objective.encoded(self.probe_encoder_), y)
            budget = self.max_queries - 2 * len(images)
            run = train(objective, optimizer, w, batches, validation, budget, rng, bar.on_step)
            error = self._settle(objective, run, plain, validation)
        finally:
            bar.close()
            self.n_queries_ = ledger.n_queries
        if isinstance(error, KeyboardInterrupt):
            warnings.warn(
                f"fit was interrupted after {run.n_iter} steps and {self.n_queries_} billed images. The estimator is "
                f"fitted and {'uses the best prompt so far' if self.prompt_used_ else 'uses no prompt'}.",
                FitInterruptedWarning,
                stacklevel=2,
            )
        elif error is not None:
            raise error
        return self

    def predict(self, X):
        """Class labels of images; bills one image each.

        Parameters
        ----------
        X : images, in any form that `fit` takes, of the same size

        Returns
        -------
        y : ndarray of shape (n,)
        """
        log_proba = self._log_proba(X)
        return self.classes_[log_proba.argmax(axis=1)]

    def predict_proba(self, X):
        """Class probabilities of images; bills one image each.

        Parameters
        ----------
        X : images, in any form that `fit` takes, of the same size

        Returns
        -------
        proba : ndarray of shape (n, n_classes)
        """
        return np.exp(self._log_proba(X))

    def decision_function(self, X):
        """Log probabilities of images, or the log odds of the second of two classes; bills one image each.

        Parameters
        ----------
        X : images, in any form that `fit` takes, of the same size

        Returns
        -------
        decision : ndarray of shape (n, n_classes), or (n,) for two classes
        """
        log_proba = self._log_proba(X)
        return log_proba[:, 1] - log_proba[:, 0] if len(self.classes_) == 2 else log_proba

    def prompted_images(self, X):
        """Images with their prompts, exactly as `predict` sends them to the service; bills nothing.

        Parameters
        ----------
        X : images, in any form that `fit` takes, of the same size

        Returns
        -------
        prompted : ndarray of shape (n, height, width, 3), uint8
        """
        return np.concatenate([self._prompted(pixels) for pixels in self._pixel_batches(self._images(X))])

    def score_controls(self, X, y):
        """Accuracies of what was free, on other images; bills one image each.

        Parameters
        ----------
        X : images, in any form that `fit` takes, of the same size
        y : array-like of shape (n,)

        Returns
        -------
        accuracies : dict of str to float
            Of each of `controls_`.
        """
        images = self._images(X)
        y = column_or_1d(y)
        check_consistent_length(images, y)
        plain = self._log_scores(images, to_uint8)
        features = np.concatenate([self.probe_encoder_.transform(pixels) for pixels in self._pixel_batches(images)])
        inputs = {"zero_shot": plain, "calibrated_zero_shot": plain, "local_probe": features}
        return {
            name: float((self.classes_[control.head.predict_log_proba(inputs[name]).argmax(axis=1)] == y).mean())
            for name, control in self.controls_.items()
        }

    def _training_set(self, X, y):
        """Images and class indices; sets `classes_`, `image_format_` and `n_features_in_`."""
        X, y = self._checked(X, y)
        check_classification_targets(y)
        self.classes_, y = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y has 1 class, {self.classes_.tolist()[0]!r}; expected at least two classes.")
        self.image_format_, images = ImageFormat.learn(X, self.image_shape)
        if not holds_flattened_rows(X):
            self.n_features_in_ = self.image_format_.height * self.image_format_.width * 3
        return images, y

    def _checked(self, X, y):
        """X and y after scikit-learn's checks, which for X are those of rows of flattened pixels."""
        if y is None:
            raise ValueError("BlackVIPClassifier requires y to be passed, but the target y is None.")
        if holds_flattened_rows(X):
            return validate_data(self, X, y)
        y = column_or_1d(y, warn=True)
        check_consistent_length(X, y)
        assert_all_finite(y, input_name="y")
        return X, y

    def _images(self, X):
        """Images to predict, as `fit` has learned to read them."""
        check_is_fitted(self)
        if holds_flattened_rows(X):
            X = validate_data(self, X, reset=False)
        return self.image_format_.open(X, self.image_shape)

    def _pixel_batches(self, images):
        for first in range(0, len(images), 64):
            yield self.image_format_.pixels(images[first : first + 64])

    def _log_proba(self, X):
        log_scores = self._log_scores(self._images(X), self._prompted)
        return self.head_.predict_log_proba(log_scores)

    def _prompted(self, pixels):
        return to_uint8(self.coordinator_.transform(pixels))

    def _log_scores(self, images, drawn):
        """Log scores of images that `drawn` turns from pixels into what is sent."""
        ledger = self._ledger(self.score_type_)
        return np.concatenate([ledger.log_scores(drawn(pixels)) for pixels in self._pixel_batches(images)])

    def _ledger(self, score_type, max_queries=None):
        return Ledger(
            self.score_fn,
            self.class_prompts_,
            max_queries=max_queries,
            images_per_call=self.images_per_call,
            score_type=score_type,
        )

    def _optimizer(self):
        if isinstance(self.optimizer, Optimizer):
            return clone(self.optimizer)
        gains = {
            name: getattr(self, name) for name in ("a", "c", "alpha", "gamma", "stability", "n_directions", "clip")
        }
        return SPSAGC(momentum=self.momentum, **gains) if self.optimizer == "spsa-gc" else SPSA(**gains)

    def _checked_budget(self, n_images, optimizer, batches):
        """What the budget leaves beyond a single step and all around it; an error where that is negative."""
        step = optimizer.n_candidates * batches.batch_size
        gains = gain_cost(optimizer, batches, 0)
        smallest = 2 * n_images + gains + step
        if self.max_queries < smallest:
            raise BudgetError(
                f"max_queries={self.max_queries} does not pay for one step. The smallest budget that works here is "
                f"{smallest}: {2 * n_images} to score the {n_images} training images before and after, {gains} to find "
                f"the step size, {step} for a step ({optimizer.n_candidates} candidates, {batches.batch_size} images)."
            )
        return self.max_queries - smallest

    def _settle(self, objective, run, plain, validation):
        """Choose between the trained prompt and none, and fit the head; returns what cut the training short."""
        y, error = objective.y, run.error
        shipped = unprompted = choose_head(self.head, plain, y, validation.rows)
        used, w = False, run.w
        if run.n_iter:
            try:
                log_scores = validation.completed_log_scores(w)
            except (KeyboardInterrupt, Exception) as again:  # the service fails still: plain images are all there is
                error = error or again
            else:
                prompted = choose_head(self.head, log_scores, y, validation.rows)
                used = not self.guard or prompt_helps(unprompted, prompted, validation.rows)
                shipped = prompted if used else unprompted
        self.coordinator_ = objective.frozen(w, self.prompt_scale if used else 0.0)
        self.prompt_used_ = used
        self.head_ = shipped.head
        self.score_type_ = objective.ledger.score_type
        self.history_ = run.history
        self.n_iter_ = run.n_iter
        self.a_, self.c_ = run.a, getattr(run.optimizer, "c", None)
        self.termination_reason_ = run.termination_reason
        if not used and error is None:
            warnings.warn(
                "The trained prompt does not classify held-out training images better than no prompt, so that images "
                "will be sent as they are. More training images, another prompter or a larger budget may help.",
                PromptNotUsedWarning,
                stacklevel=4,
            )
        return error


def _local_generator(random_state) -> np.random.Generator:
    """A generator of our own, so that the global ones are neither read nor set."""
    if random_state is None:
        return np.random.default_rng()
    if isinstance(random_state, Integral):
        return np.random.default_rng(int(random_state))
    return np.random.default_rng(check_random_state(random_state).randint(2**31))


def _frozen_encoder(prompter, pixels):
    """The encoder whose features the local probe classifies: the prompter's own, if it is frozen, else PCA."""
    encoder = getattr(prompter, "encoder_", None)
    if encoder is None or encoder.n_parameters:
        encoder = PCAEncoder().fit(pixels)
    return encoder
