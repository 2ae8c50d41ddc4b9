"""BlackVIPClassifier: black-box visual prompting as a scikit-learn estimator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from os import PathLike
from typing import Any, Literal

import numpy as np
from sklearn.base import _fit_context
from sklearn.utils._param_validation import Interval, Options, StrOptions

from .documentation import Documented
from .encoders import Encoder, make_frozen_encoder
from .heads.base import Head, IsClassifier
from .heads.decision import fit_local_probe, fit_without_prompt
from .heads.scored import ScoredImages
from .inputs.training_set import TrainingSet
from .losses import LOSSES, Temperature
from .optimizers import Optimizer, make_optimizer
from .prediction import PromptedClassifier
from .prompters import CORRECTIONS, Prompter, make_prompter
from .scorers import ScoreFunction
from .scorers.background import BackgroundThread
from .scorers.checkpoint import refuse_checkpoint, replayed
from .scorers.formats import SCORE_TYPES
from .scorers.ledger import Ledger
from .scorers.memory import AnswerMemory
from .scorers.replay import Replay
from .scorers.wrappers import IsScoreFunction
from .training.augmentation import AUGMENTATIONS, augmentation
from .training.callbacks import CallbackSupportMixin
from .training.corrections import fitted_corrections
from .training.costs import PlansCosts
from .training.features import TrainingFeatures
from .training.ladder import FIRST_RUNG, ClimbsLadder
from .training.monitoring import Monitor
from .training.objective import Objective
from .training.outcomes import Outcome, Outcomes
from .training.setup import Run, RunSettings, Streams, generator_of, prepare, seed_of

__all__ = ["BlackVIPClassifier"]


class BlackVIPClassifier(Documented, CallbackSupportMixin, PlansCosts, ClimbsLadder, PromptedClassifier):
    """Adapt a vision service to labelled images, from nothing but its scores, by black-box visual prompting.

    A prompter draws a visual prompt onto every image before it is sent to the service. The prompter is trained from
    the service's scores by simultaneous perturbation (BlackVIP, Oh et al., CVPR 2023). A head turns the scores into
    class probabilities, and a guard keeps the prompt only if it helps.

    The parameters come in groups: essentials (`score_fn` to `random_state`), images (`image_shape` to `on_error`), the
    service (`score_type` to `checkpoint`), training (`a` to `warm_start`) and research (`prompt_scale` to `augment`).

    Parameters
    ----------
    score_fn : callable
        The service: ``score_fn(images, class_prompts) -> scores``. `images` is a uint8 array of shape
        (n, height, width, 3), RGB, and `class_prompts` a list of str in the order of `classes_`. The scores have the
        shape (n, n_classes); higher is better. A score that the service does not give is NaN, or missing in a dict
        from class prompt to score. See `blackvip.scorers.contract`, also for what it may declare as attributes.
    class_prompts : str, dict, Series or sequence of str, default="{}"
        A template in which ``{}`` becomes the class's name, a dict (or a Series) from label to prompt, or prompts in
        the order of `classes_`; a list of templates, or of prompts, stands for several. See also `EncodedClassPrompts`.
    prompter : {"auto", "basis", "coordinator", "autocontrast", ...} or Prompter, default="auto"
        "auto": the ladder, which tries image corrections first, then the basis on the best one, and ends when nothing
        more helps. "basis": `PromptBasis`, with fourteen parameters. "coordinator": the paper's `Coordinator`, see also
        `blackvip.presets.cvpr2023`. Other names: see `Correction`.
    optimizer : {"spsa-gc", "spsa", "cma-es"} or Optimizer, default="spsa-gc"
        Trains the prompter. Its settings are its own parameters, as in ``optimizer=SPSAGC(momentum=0.5)``.
    max_queries : int, default=4_000
        The most images that `fit` may bill, a hard limit. The ladder bills fewer if nothing more helps.
    head : {"auto", "fused", "calibrated", "tempered"}, None or classifier, default="auto"
        Turns scores into probabilities. "fused": scores and local features, see `FusedHead`. "calibrated":
        logistic regression on the log scores, see `CalibratedHead`. "tempered": the service's own answers at a fitted
        temperature. "auto": the first of these that cross-validation does not find clearly worse. None: the softmax of
        the scores, as in the paper. Any other classifier with `predict_proba` is trained on the log scores.
    guard : bool, default=True
        Whether the prompt is used only if it classifies the training images better than no prompt.
    cascade : bool, default=False
        Whether a local head answers the images that it is sure of; they are neither sent nor billed.
    max_views : {1, 2}, default=1
        Versions of an image that a prediction may send. 2: also without the prompt, if both are clearly better.
    local_encoder : str or Encoder, default="gradients"
        Computes the features of the local probe and of the fused head: "gradients", "pca", or the name of a timm
        model. It runs on this machine and calls no service.
    random_state : int, RandomState instance or None, default=None
        Source of random numbers. An int makes results bit-identical on one machine. Global generators are not used.
    image_shape : tuple of int or None, default=None
        (height, width) or (height, width, channels). Rows of flattened pixels are reshaped to it, other images resized.
        None: rows are grey images one pixel high, and others keep their size, or become 224 x 224 if sizes differ.
    resize : {"crop", "pad", "stretch"}, default="crop"
        "crop" covers the new size and cuts out the centre; "pad" adds black borders; "stretch" changes proportions.
    on_error : {"raise", "skip"}, default="raise"
        Treatment of unreadable images in `fit`: an error that names them, or a warning that they are left out.
    score_type : {"auto", "logits", "probabilities", "percent", "levels"}, default="auto"
        Type of the scores. "auto": the type that `score_fn` declares, else the one recognised in `fit`.
    images_per_call : int or None, default=None
        The most images in one call of `score_fn`. None: what it declares, else 64.
    n_jobs : int or None, default=None
        Workers that call `score_fn`, each with its own copy, as in scikit-learn. See `ParallelScorer`.
    checkpoint : str, path-like or None, default=None
        File in which every answer of the service is stored before it is used. After a crash or Ctrl-C, call `fit` again
        with the same checkpoint, parameters and images: it resumes bit for bit, and pays for no answer twice.
        Predictions are kept in a second file beside it. A folder holds one file per fit, as searches need.
    a : float or "auto", default="auto"
        Step size (Spall's a). "auto": the value of the optimizer, which finds one unless it was given a number.
    c : float or "auto", default="auto"
        Perturbation size (Spall's c), in units of the parameters. "auto": as for `a`.
    batch_size : int, default=16
        Training images of one step. A step bills two images for each, unless the optimizer shares batches.
    validation_fraction : float or "auto", default="auto"
        Share of each class that is held out from training. "auto": a quarter if the prompt has more parameters than
        there are training images, or if `patience` is given; else none.
    patience : int or None, default=None
        Checks of the held-out images without an improvement after which training stops. A fit makes at most ten, which
        bill some 5 % of the budget at most. None: training spends the budget.
    class_weight : dict, "balanced" or None, default=None
        Weights of the classes, as in scikit-learn.
    warm_start : bool, default=False
        Whether another `fit` continues from the last one, with its prompter, optimizer and classes, and a new budget.
    prompt_scale : float, default=1.0
        Factor of the prompt, in units of the pixel range. One unit of the paper's p_eps is about 0.27 of these.
    temperature : float or "auto", default="auto"
        Softmax temperature of the training loss. "auto": fitted to the latest scores. 1: the paper's.
    loss : {"cross-entropy", "focal"}, default="cross-entropy"
        Training loss; "focal" is BAR's, see `blackvip.losses.focal`.
    augment : {"crop-flip"} or None, default=None
        Augmentation of the training images: random resized crops, half of them mirrored, as in the papers.
    verbose : {0, 1, 2}, default=1
        Progress bar: never, on a terminal, always. The logger "blackvip" reports the same at any level.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels, in the order of the scores.
    class_prompts_ : list of str, or list of list of str
        One per class; a list of them per class if a class has several.
    prompter_ : Prompter
        The trained prompter; ``prompter_.transform(X)`` draws prompts and calls no service. `coordinator_` is an alias.
    prompt_used_ : bool
        Whether predictions use the prompt. False: the guard found that it does not help.
    head_ : Head
        The fitted head; it predicts class indices.
    result_, leaderboard_ : HeadResult, Leaderboard
        The cross-validated result of what predictions use, and a table of it and of `baselines_`.
    baselines_ : dict of str to HeadResult
        Cross-validated results without a prompt: "zero_shot", "calibrated_zero_shot", "local_probe", "fused_zero_shot".
    cost_curve_ : list of dict
        Accuracy against images per prediction, see `CostCurveDisplay`.
    n_queries_, n_queries_predict_, n_iter_ : int
        Images that `fit` billed, images that predictions have billed since, and steps that `fit` made.
    history_ : list of dict
        One row per step, with "n_iter", "n_queries", "loss", "accuracy", "a", "a_k", "c_k", "estimate_norm" and
        "step_norm"; at checks also "validation_loss" and "validation_accuracy".
    optimizer_, a_, c_ : Optimizer, float or None, float or None
        The optimizer in its last state, and the step and perturbation size that training started with.
    termination_reason_ : str
        Why training stopped, one of `blackvip.training.loop.TERMINATION_REASONS`.
    rungs_ : list of dict
        Rungs of the ladder: the "prompter", "n_queries" so far, "accuracy" and "log_loss" with the head, "own_accuracy"
        of the service's own answers, and whether it "helps".
    score_format_, score_type_, vector_size_ : ScoreFormat, {"logits", "probabilities", "percent", "levels"}, int
        Format of the scores and how it was found, their type, and the size of the vector that follows them, or 0.
    label_mapping_ : LabelMapping or None
        Mapping from the service's labels to classes, if `score_fn` is a `LabelMappedScorer` that learns it.
    seconds_per_image_ : float
        Mean time that the service took for an image in the last run.
    probe_encoder_, image_format_ : Encoder, ImageFormat
        The fitted local encoder, and the size and pixel range of the training images.
    n_skipped_, n_features_in_, feature_names_in_ : int, int, ndarray of str
        Images that could not be read; columns of X if X is a table, else height * width * 3; and names of the columns.

    Notes
    -----
    Unless `prompter` is "auto", `fit` bills one image per training image for the baselines, one for the final scores,
    and trains with the rest. Of more than 2,000 training images, these two use 2,000. A prediction bills one image.

    Ctrl-C during training does not raise: the best prompt so far is used, and a `FitInterruptedWarning` says so. It is
    raised if it comes twice, and in a script with a `checkpoint`. If it or an error of `score_fn` is raised, the
    estimator is fitted too; with a `checkpoint`, nothing more is sent then, and it has no prompt until `fit` resumes.

    Examples
    --------
    >>> import numpy as np
    >>> from blackvip import BlackVIPClassifier
    >>> def service(images, class_prompts):  # believes that bright means daytime
    ...     day = images.mean(axis=(1, 2, 3)) / 255
    ...     return 20 * np.stack([day - 0.5, 0.5 - day], axis=1)
    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat(["night", "day"], 40)  # every photo is underexposed
    >>> X = rng.uniform(0, 0.3, (80, 16, 16)) + np.where(y == "day", 0.15, 0)[:, None, None]
    >>> clf = BlackVIPClassifier(service, "a photo taken at {}", max_queries=2000, random_state=0).fit(X[::2], y[::2])
    >>> clf.baselines_["zero_shot"].accuracy, clf.score(X[1::2], y[1::2])
    (0.5, 1.0)
    """

    _parameter_constraints = {
        "score_fn": [IsScoreFunction()],
        "class_prompts": [str, dict, "array-like"],
        "prompter": [StrOptions({"auto"}), StrOptions(Prompter.named.keys()), StrOptions(CORRECTIONS.keys()), Prompter],
        "optimizer": [StrOptions(Optimizer.named.keys()), Optimizer],
        "max_queries": [Interval(Integral, 1, None, closed="left")],
        "head": [StrOptions({"auto"}), StrOptions(Head.named.keys()), IsClassifier(), None],
        "guard": ["boolean"],
        "cascade": ["boolean"],
        "max_views": [Options(Integral, {1, 2})],
        "local_encoder": [str, Encoder],
        "random_state": ["random_state"],
        "image_shape": [None, tuple, list],
        "resize": [StrOptions({"crop", "pad", "stretch"})],
        "on_error": [StrOptions({"raise", "skip"})],
        "score_type": [StrOptions({"auto", *SCORE_TYPES})],
        "images_per_call": [None, Interval(Integral, 1, None, closed="left")],
        "n_jobs": [Integral, None],
        "checkpoint": [str, PathLike, None],
        "a": [StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
        "c": [StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "validation_fraction": [StrOptions({"auto"}), Interval(Real, 0, 1, closed="left")],
        "patience": [None, Interval(Integral, 1, None, closed="left")],
        "class_weight": [dict, StrOptions({"balanced"}), None],
        "warm_start": ["boolean"],
        "prompt_scale": [Interval(Real, 0, None, closed="neither")],
        "temperature": [StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
        "loss": [StrOptions(set(LOSSES))],
        "augment": [StrOptions(set(AUGMENTATIONS)), None],
        "verbose": [Options(Integral, {0, 1, 2}), "boolean"],
    }

    def __init__(
        self,
        score_fn: ScoreFunction,
        class_prompts: str | Mapping[Any, Any] | Sequence[Any] = "{}",
        *,
        prompter: str | Prompter = "auto",
        optimizer: Literal["spsa-gc", "spsa", "cma-es"] | Optimizer = "spsa-gc",
        max_queries: int = 4_000,
        head: Literal["auto", "fused", "calibrated", "tempered"] | Any = "auto",
        guard: bool = True,
        cascade: bool = False,
        max_views: Literal[1, 2] = 1,
        local_encoder: Literal["gradients", "pca"] | str | Encoder = "gradients",
        random_state: int | np.random.RandomState | None = None,
        image_shape: tuple[int, ...] | None = None,
        resize: Literal["crop", "pad", "stretch"] = "crop",
        on_error: Literal["raise", "skip"] = "raise",
        score_type: Literal["auto", "logits", "probabilities", "percent", "levels"] = "auto",
        images_per_call: int | None = None,
        n_jobs: int | None = None,
        checkpoint: str | PathLike[str] | None = None,
        a: float | Literal["auto"] = "auto",
        c: float | Literal["auto"] = "auto",
        batch_size: int = 16,
        validation_fraction: float | Literal["auto"] = "auto",
        patience: int | None = None,
        class_weight: dict[Any, float] | Literal["balanced"] | None = None,
        warm_start: bool = False,
        prompt_scale: float = 1.0,
        temperature: float | Literal["auto"] = "auto",
        loss: Literal["cross-entropy", "focal"] = "cross-entropy",
        augment: Literal["crop-flip"] | None = None,
        verbose: int = 1,
    ):
        self.score_fn = score_fn
        self.class_prompts = class_prompts
        self.prompter = prompter
        self.optimizer = optimizer
        self.max_queries = max_queries
        self.head = head
        self.guard = guard
        self.cascade = cascade
        self.max_views = max_views
        self.local_encoder = local_encoder
        self.random_state = random_state
        self.image_shape = image_shape
        self.resize = resize
        self.on_error = on_error
        self.score_type = score_type
        self.images_per_call = images_per_call
        self.n_jobs = n_jobs
        self.checkpoint = checkpoint
        self.a = a
        self.c = c
        self.batch_size = batch_size
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.class_weight = class_weight
        self.warm_start = warm_start
        self.prompt_scale = prompt_scale
        self.temperature = temperature
        self.loss = loss
        self.augment = augment
        self.verbose = verbose

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> BlackVIPClassifier:
        """Train the prompter and the head on labelled images.

        Parameters
        ----------
        X : array of shape (n, height, width, 3), (n, height, width) or (n, 3, height, width); array-like of \
shape (n, n_features); or sequence of images, paths or encoded files
            Training images. Numbers in [0, 1], [-1, 1], [0, 255] or [0, 65535] keep that range; others are scaled by
            their minimum and maximum. See `blackvip.inputs.sources`.
        y : array-like of shape (n,)
            Labels of two or more classes.
        sample_weight : array-like of shape (n,) or None, default=None
            Weights of the images. Images of weight zero are left out and not billed.

        Returns
        -------
        self : BlackVIPClassifier
            The fitted estimator.

        Raises
        ------
        ValueError
            For unusable parameters, images, labels or prompts, before any image is billed. `ScoreError`,
            `BudgetError`, `ImageError`, `ClassPromptError` and `JournalError` are all of this kind.
        """
        if self.warm_start:
            refuse_checkpoint(self.checkpoint, "warm_start=True")
        continues = self.warm_start and hasattr(self, "optimizer_")
        with self._earlier_fit_kept(continues):
            data = self._read(X, y, sample_weight, self.classes_ if continues else None, continues)
            with replayed(self, data.images, data.y, data.weights, seed_of) as replay:
                rng = self._rng if continues else generator_of(self.random_state, replay)
                run = self._set_up(data, self._settings_of_fit(continues), rng, continues, replay)
                self._train(run, data, rng, replay=replay).warn_or_raise(self.n_queries_, replay is not None)
        return self

    #: `classes` is an argument of `partial_fit`, not metadata that is routed.
    __metadata_request__partial_fit = {"classes": True}

    @_fit_context(prefer_skip_nested_validation=False)
    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> BlackVIPClassifier:
        """Continue training on another batch of labelled images, with the same optimizer and the same budget.

        Each call makes one pass over its images. It bills two images for each of them in training
        (``2 * n_directions`` if the optimizer shares batches) and two more for its scores before and after; the first
        call also finds the step size. All calls together bill at most `max_queries`. Images are not kept: the head and
        the guard know earlier ones by the scores that they had then.

        Parameters
        ----------
        X : images, in any form that `fit` takes
            Images of the size of the first batch.
        y : array-like of shape (n,)
            Their class labels.
        classes : array-like of shape (n_classes,) or None, default=None
            All labels that may come. Required in the first call, unless the first batch has them all.
        sample_weight : array-like of shape (n,) or None, default=None
            Weights of the images.

        Returns
        -------
        self : BlackVIPClassifier
            The estimator, trained further.
        """
        refuse_checkpoint(self.checkpoint, "partial_fit")
        continues = hasattr(self, "optimizer_")
        if continues and classes is not None:
            self._check_same_classes(classes)
        with self._earlier_fit_kept(continues):
            data = self._read(X, y, sample_weight, self.classes_ if continues else classes, continues, continues)
            settings = self._settings(self.max_queries - (self.n_queries_ if continues else 0), one_pass=True)
            rng = self._rng if continues else generator_of(self.random_state)
            run = self._set_up(data, settings, rng, continues)
            self._train(run, data, rng, adds=continues).warn_or_raise(self.n_queries_)
        return self

    def _set_up(
        self,
        data: TrainingSet,
        settings: RunSettings,
        rng: np.random.Generator,
        continues: bool = False,
        replay: Replay | None = None,
    ) -> Run:
        """Make everything that a run needs (images -> features -> prompts), without sending or setting anything."""
        streams = Streams.of(int(rng.integers(2**63)))
        optimizer = make_optimizer(self.optimizer, a=self.a, c=self.c)

        # The prompter and the local encoder are fitted once, to a sample of the images.
        if continues:
            prompter, probe, w = self.prompter_, self.probe_encoder_, self.prompter_.parameters_
            known, corrections = None, {}
            optimizer.continue_from(self.optimizer_)
            if optimizer.started and not np.array_equal(optimizer.w, w):
                optimizer.restart_from(w)
        else:
            pixels = self._sample(data, streams)
            probe = make_frozen_encoder(self.local_encoder)
            with BackgroundThread() as background:
                features = background.submit(probe.fit_features, pixels)
                prompter = make_prompter(FIRST_RUNG if settings.climbs else self.prompter).fit_pixels(pixels)
                # A correction that fails is refused before anything is billed.
                corrections = fitted_corrections(pixels, self.prompt_scale) if settings.climbs else {}
            w, known = prompter.initial_parameters(streams.start), features.result()

        # Prompted images -> scores -> losses.
        memory = AnswerMemory(recalls=settings.climbs).of_service(self.score_fn)
        score_format = self.score_format_ if continues else None
        ledger = self._ledger(settings.budget, score_format, self.score_fn, replay, memory)
        objective = self._objective(TrainingFeatures(prompter, data.images), data, ledger, memory, streams)
        run = prepare(objective, data, probe, optimizer, w, settings, streams)
        run.known_features, run.corrections = known, corrections
        return run

    def _objective(
        self, features: TrainingFeatures, data: TrainingSet, ledger: Ledger, memory: AnswerMemory, streams: Streams
    ) -> Objective:
        temperature = Temperature(None if self.temperature == "auto" else float(self.temperature), self.loss)
        augment = None if self.augment is None else augmentation(self.augment, streams.augment)
        return Objective(features, data, ledger, memory, self.prompt_scale, temperature, augment)

    def _train(self, run: Run, data: TrainingSet, rng: Any, adds: bool = False, replay: Any = None) -> Outcome:
        """Train the prompter and the head: prompted images -> scores -> losses -> update -> head."""
        judged, ledger, blocks = run.judged_rows, run.objective.ledger, tuple(run.probe.block_sizes_)
        with ledger, Monitor(self, run) as monitor, BackgroundThread() as background:
            # Local features and probes on them are computed in a thread while the service answers.
            local = background.submit(run.local_features, data.images)
            run.objective.features.compute_in(background)
            labels = data.y[judged], data.weights[judged]
            early = background.submit(fit_local_probe, local, blocks, *labels, len(data.classes))
            try:
                # Zero-shot: one image each.
                scored = ScoredImages.before_training(
                    *labels,
                    self._plain_columns(ledger, data, judged),
                    *(self._prompt_groups.prompt_classes, ledger.reader.vector_size),
                    features=local.result(),
                    held_out=run.validation.is_held_out,
                    block_sizes=blocks,
                ).after(self._scored if adds else None)
                without = background.submit(fit_without_prompt, scored, self.head, None if adds else early)
                outcomes = Outcomes(scored, without, self.head, self.guard, monitor, replay)
                # Scores -> probabilities: the prompt or none, and the head that goes with it.
                if run.settings.climbs:
                    outcome = self._ladder(run, data, outcomes, background).climb(run)
                else:
                    outcome = outcomes.trained(run)
            finally:
                self.n_queries_ = ledger.n_queries + (self.n_queries_ if adds else 0)
            self._store(outcome, outcomes, adds)
            self._rng = rng
            monitor.tell_result(self._summary())
        return outcome

    def _settings(self, budget: int, **kind: bool) -> RunSettings:
        how = self.max_queries, budget, self.batch_size, self.guard, self.validation_fraction, self.patience
        return RunSettings(*how, **kind)
