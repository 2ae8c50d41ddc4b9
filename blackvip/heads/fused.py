"""The fused head: class probabilities from the service's log scores and from local features of the image together.

They fail on different images, so a stack of both is right more often. It is trained on scores that are paid for.
"""

from __future__ import annotations

from dataclasses import replace
from numbers import Integral, Real
from typing import Any

import numpy as np
from scipy.special import log_softmax
from sklearn.base import clone
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted, validate_data

from ..inputs.labels import check_labels, training_weights
from ..persistence.arrays import Array
from ..persistence.fields import NONE, ListOf, OneOf, integer, number
from ..persistence.format import expect
from ..persistence.objects import Object
from .base import Auto, Head
from .calibrated import CalibratedHead
from .experts import LinearExpert
from .probes import N_PROBES, PROBE_C, PROBE_FOLDS, Probes, fit_probes
from .prompt_weights import fit_prompt_weights
from .scored import LabelledScores
from .stack import Examples, StackWeights, fit_stack
from .vector_probe import fit_vector_probe

__all__ = ["FusedHead"]

# Score columns and classes beyond which single prompts get weights for their own class alone.
_MOST_PROMPT_WEIGHTS = 5_000


class FusedHead(Head, name="fused", auto=Auto(rank=0)):
    """Stack of the service's log scores and of probes on local features.

    Parameters
    ----------
    n_scores : int or None, default=None
        Number of columns that are log scores. 0: none, as in `LocalProbe`. None: all columns that `vector_size` and
        `block_sizes` do not count.
    block_sizes : tuple of int or None, default=None
        Number of columns of each block of features. None: all columns to the right of the scores are one block.
    C : float, default=30.0
        Inverse regularisation strength of the blocks' probes. The features of a block should have a norm of about 1.
    strengths : tuple of float, default=(0.3, 1, 3, 10, 30, 100)
        Regularisation strengths of `coef_` to choose from, by the cross-validated log loss.
    n_folds : int, default=5
        Maximum number of folds; at most the number of images in the smallest class.
    scores_of_classes : bool, default=True
        Whether score column k belongs to the label k. The service's own probabilities of the labels are then an
        expert of the stack. It has no effect unless all labels in y are numbers of score columns.
    prompt_classes : tuple of int or None, default=None
        Score column of the class of each class prompt whose deviation from its class is a score column, too, to the
        right of those of the classes, see `PromptGroups.columns`. The weighted prompts are then an expert of the
        stack. None: there are no deviations.
    across_classes : bool, default=False
        Whether deviations also count for other classes than their own.
    vector_size : int, default=0
        Number of columns to the right of the scores that are a vector with which the service describes the image. A
        probe on it is then an expert of the stack.

    Attributes
    ----------
    block_sizes_ : ndarray of shape (n_blocks,)
        Number of features in each block.
    classes_ : ndarray of shape (n_classes,)
        The labels.
    coef_ : ndarray of shape (n_classes, n_scores)
        Weights that apply to the log scores before standardisation.
    intercept_ : ndarray of shape (n_classes,)
        Intercepts.
    n_features_in_ : int
        Number of columns of X.
    probes_ : list of LinearExpert
        The probes of each block: a multinomial logistic regression, and a linear discriminant.
    prompt_expert_, vector_expert_ : LinearExpert or None
        Weighted prompts, and the probe on the vector. None without `prompt_classes`, and without `vector_size`.
    strength_ : float
        The chosen regularisation strength.
    tau_ : float
        Non-negative weight of the service's own log probabilities; 0 if the score columns do not belong to the labels.

    Notes
    -----
    Probe l has log probabilities q_l, which are raised to at least -15, and a non-negative weight alpha_l. With log
    scores s, the service's own log probabilities are log_softmax(s), and with u = coef_ s + intercept_ (B15)::

        log p = log_softmax(sum_l alpha_l q_l + tau log_softmax(s) + u)

    The stack is trained on held-out log probabilities of the probes. Its ridge penalty is `strength_` / 2 for the
    weights of the standardised log scores, times n_scores / n_classes if there are more scores than classes, and
    1 / 2 for everything else (B16). An image of weight two counts as two images.

    Examples
    --------
    >>> import numpy as np
    >>> from blackvip import FusedHead
    >>> log_scores = np.log([[0.6, 0.4], [0.7, 0.3], [0.6, 0.4], [0.8, 0.2]])
    >>> features = np.array([[0.5], [1.0], [-0.5], [-1.0]])
    >>> head = FusedHead(n_scores=2).fit(np.hstack([log_scores, features]), ["cat", "cat", "dog", "dog"])
    >>> head.predict(np.hstack([log_scores, features])).tolist()
    ['cat', 'cat', 'dog', 'dog']
    """

    min_classes = min_images = 2
    fallback = CalibratedHead
    needs_features = True

    classes_: np.ndarray
    block_sizes_: np.ndarray

    _parameter_constraints = {
        "n_scores": [None, Interval(Integral, 0, None, closed="left")],
        "block_sizes": [None, "array-like"],
        "C": [Interval(Real, 0, None, closed="neither")],
        "strengths": ["array-like"],
        "n_folds": [Interval(Integral, 1, None, closed="left")],
        "scores_of_classes": ["boolean"],
        "prompt_classes": [None, "array-like"],
        "across_classes": ["boolean"],
        "vector_size": [Interval(Integral, 0, None, closed="left")],
    }
    saved_parameters = {
        "block_sizes": OneOf(NONE, ListOf(integer(1))),
        "strengths": ListOf(number()),
        "prompt_classes": OneOf(NONE, ListOf(integer(0))),
    }
    saved_attributes = {
        "block_sizes_": Array(("n_blocks",), "int64", low=1),
        "coef_": Array(("n_classes", "n_scores")),
        "intercept_": Array(("n_classes",)),
        "n_features_in_": integer(1),
        "probes_": ListOf(Object(LinearExpert)),
        "prompt_expert_": OneOf(NONE, Object(LinearExpert)),
        "strength_": number(),
        "tau_": number(low=0),
        "vector_expert_": OneOf(NONE, Object(LinearExpert)),
    }

    def _finish_loading(self) -> None:
        super()._finish_loading()
        n_scores, sizes = self.coef_.shape[1], self.block_sizes_.tolist()
        n_inputs = n_scores + self.vector_size + sum(sizes)
        expect(self.n_features_in_ == n_inputs, "a head's n_features_in_ does not fit its coefficients")
        n_class_scores = n_scores - self.n_deviations
        expect(n_class_scores >= 0, "a head has more prompt_classes than scores")
        expect(self.tau_ == 0 or self.classes_[-1] < n_class_scores, "a head has a tau_, but no scores of its classes")
        n_of_prompts = None if self.prompt_classes is None else n_scores
        experts: dict[str, tuple[list[LinearExpert | None], list[int | None]]] = {
            "probes_": ([*self.probes_], [size for size in sizes for _ in range(N_PROBES)]),
            "prompt_expert_": ([self.prompt_expert_], [n_of_prompts]),
            "vector_expert_": ([self.vector_expert_], [self.vector_size or None]),
        }
        for name, (found, n_inputs_of) in experts.items():
            shapes = [expert and expert.coef.shape for expert in found]
            expected = [size and (len(self.classes_), size) for size in n_inputs_of]
            expect(shapes == expected, f"a head's {name} has the shapes {shapes}; expected {expected}")

    def check_layout(self, n_classes: int, n_scores: int, block_sizes: tuple[int, ...]) -> None:
        own = tuple(self.block_sizes_.tolist())
        expect(own == block_sizes, f"a head has blocks of {own} features; expected {block_sizes}")
        expect(self.n_scores == n_scores, f"a head has n_scores={self.n_scores}; expected {n_scores}")
        super().check_layout(n_classes, n_scores, block_sizes)

    def __init__(
        self,
        n_scores: int | None = None,
        block_sizes: tuple[int, ...] | None = None,
        C: float = PROBE_C,
        strengths: tuple[float, ...] = (0.3, 1, 3, 10, 30, 100),
        n_folds: int = PROBE_FOLDS,
        scores_of_classes: bool = True,
        prompt_classes: tuple[int, ...] | None = None,
        across_classes: bool = False,
        vector_size: int = 0,
    ):
        self.n_scores = n_scores
        self.block_sizes = block_sizes
        self.C = C
        self.strengths = strengths
        self.n_folds = n_folds
        self.scores_of_classes = scores_of_classes
        self.prompt_classes = prompt_classes
        self.across_classes = across_classes
        self.vector_size = vector_size

    @property
    def needs_scores(self) -> bool:  # type: ignore[override]
        """Whether it uses the service's log scores."""
        return self.n_scores != 0

    def with_layout(self, n_scores: int, block_sizes: tuple[int, ...], vector_size: int = 0) -> Head:
        if not self.needs_scores:
            n_scores = vector_size = 0
        return clone(self).set_params(n_scores=n_scores, block_sizes=block_sizes, vector_size=vector_size)

    @property
    def n_deviations(self) -> int:  # type: ignore[override]
        """Number of score columns that are deviations of class prompts."""
        return 0 if self.prompt_classes is None else len(self.prompt_classes)

    def with_deviations(self, prompt_classes: tuple[int, ...]) -> list[Head]:
        # The second one, in which prompts also count for other classes, is left out if it has too many weights.
        n_scores = self.n_scores + len(prompt_classes) if self.n_scores is not None else None
        twins = [
            clone(self).set_params(n_scores=n_scores, prompt_classes=prompt_classes, across_classes=across)
            for across in (False, True)
        ]
        n_weights = len(prompt_classes) * (len(prompt_classes) if self.n_scores is None else self.n_scores)
        return list(twins if n_weights <= _MOST_PROMPT_WEIGHTS else twins[:1])

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> FusedHead:
        """Fit the probes, choose the regularisation strength, and fit the stack.

        Parameters
        ----------
        X : array-like of shape (n_images, n_scores + vector_size + n_features)
            Log scores, the service's vector if there is one, and the blocks of features.
        y : array-like of shape (n_images,)
            Labels of at least two classes, each with at least two images.
        sample_weight : array-like of shape (n_images,) or None, default=None
            Non-negative weights of the images.

        Returns
        -------
        self : FusedHead
            The fitted head.
        """
        self.fit_held_out(X, y, sample_weight)
        return self

    def fit_held_out(self, X: Any, y: Any, sample_weight: Any = None) -> np.ndarray:
        """Fit, and compute cross-validated log probabilities of the training images.

        Parameters
        ----------
        X : array-like of shape (n_images, n_scores + vector_size + n_features)
            As in `fit`.
        y : array-like of shape (n_images,)
            Labels.
        sample_weight : array-like of shape (n_images,) or None, default=None
            Non-negative weights of the images.

        Returns
        -------
        log_proba : ndarray of shape (n_images, n_classes)
            Each row comes from a stack that was not fitted to that image. In the order of `classes_`.

        Raises
        ------
        ValueError
            If a class has one image, or if `n_scores` and `block_sizes` do not add up to the columns of X.
        """
        X, index, weights = self._validated(X, y, sample_weight)
        probes = fit_probes(self._blocks(X), index, weights, self.C, self.n_folds)
        examples = self._examples(np.arange(len(X)), self._columns(X), index, weights, probes)
        return self._fit_stack(examples, probes)

    def fit_scored(self, data: LabelledScores) -> np.ndarray:
        """Fit to scored images and to their last answers; heads with the same probes share them.

        Parameters
        ----------
        data : LabelledScores
            The training images with their scores.

        Returns
        -------
        held_out : ndarray of shape (n_images, n_classes)
            Log probabilities of all classes, each row from a head that was not fitted to that image.
        """
        columns = self.columns_of(data.columns, data.n_classes)
        X, index, weights = self._validated(self.inputs(columns, data.features), data.y, data.weights)
        probes = data.once(
            (fit_probes, self.C, self.n_folds),
            lambda: fit_probes(self._blocks(X), index, weights, self.C, self.n_folds),
        )
        rows, columns = np.arange(len(X)), self._columns(X)
        # A probe of features alone has no use for further scores.
        if data.last_answers is not None and self.needs_scores:
            rows = np.concatenate([rows, data.last_answers[0]])
            columns = np.concatenate([columns, self.columns_of(data.last_answers[1], data.n_classes)])
        held_out = self._fit_stack(self._examples(rows, columns, index, weights, probes), probes)
        return self._of_all_classes(held_out, data.n_classes)

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Compute log probabilities.

        Parameters
        ----------
        X : array-like of shape (n_images, n_features_in_)
            As in `fit`.

        Returns
        -------
        log_proba : ndarray of shape (n_images, n_classes)
            Log probabilities, in the order of `classes_`.
        """
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=np.float64)
        scores, vectors = self._scores_and_vectors(self._columns(X))
        blocks = [block for block in self._blocks(X) for _ in range(N_PROBES)]
        fitted = [*zip(self.probes_, blocks), (self.prompt_expert_, scores), (self.vector_expert_, vectors)]
        weights = [expert.alpha for expert, _ in fitted if expert is not None]
        experts = [expert.log_proba(inputs) for expert, inputs in fitted if expert is not None]
        if self.tau_:
            weights.append(self.tau_)
            experts.append(log_softmax(self._of_classes(scores), axis=1)[:, self.classes_])
        stacked = np.array(experts).reshape(-1, len(X), len(self.classes_))
        return StackWeights(np.array(weights), self.coef_, self.intercept_).log_proba(stacked, scores)

    def _validated(self, X: Any, y: Any, sample_weight: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Check the training data; return X, class indices and weights, and set `classes_` and `block_sizes_`."""
        y = check_labels(y)
        X, y = validate_data(self, X, y, dtype=np.float64)
        weights = training_weights(sample_weight, None, y)
        self.classes_, index = np.unique(y, return_inverse=True)
        counts = np.bincount(index)
        if len(counts) < 2:
            raise ValueError(f"y has 1 class, {self.classes_.tolist()[0]!r}; expected at least two classes.")
        if counts.min() < 2:
            raise ValueError(
                f"The class {self.classes_.tolist()[counts.argmin()]!r} has 1 image; expected 2 or more of each class, "
                'because probes are cross-validated. Use head="calibrated", or add images.'
            )
        self.block_sizes_ = self._layout(X.shape[1])[1]
        return X, index, weights

    def _examples(
        self, rows: np.ndarray, columns: np.ndarray, index: np.ndarray, weights: np.ndarray, probes: Probes
    ) -> Examples:
        """Make the training data of the stack, from the images of score columns; fit the experts on these."""
        scores, vectors = self._scores_and_vectors(columns)
        experts = [log_proba[rows] for log_proba in probes.held_out]
        of_classes = self._of_classes(scores)
        answers = Examples(np.empty(0), scores, rows, index, weights)
        self.prompt_expert_ = self.vector_expert_ = None
        if self.prompt_classes is not None:
            self.prompt_expert_, held_out = self._fit_prompt_weights(answers)
            experts.append(held_out)
            scores = scores if self.across_classes else of_classes
        if self.vector_size:
            self.vector_expert_, held_out = fit_vector_probe(answers, vectors, self._n_folds(answers))
            experts.append(held_out)
        if self._has_scores_of_classes(of_classes.shape[1]):
            experts.append(log_softmax(of_classes, axis=1)[:, self.classes_])
        stacked = np.array(experts).reshape(-1, len(rows), len(self.classes_))
        n_deviations = scores.shape[1] - of_classes.shape[1]
        return Examples(stacked, scores, rows, index, weights, n_deviations)

    def _fit_prompt_weights(self, examples: Examples) -> tuple[LinearExpert, np.ndarray]:
        """Return the weighted prompts, and their held-out log probabilities (n_rows, n_classes)."""
        n_class_scores = examples.scores.shape[1] - self.n_deviations
        if not set(self.classes_.tolist()) <= set(range(n_class_scores)):
            raise ValueError(
                f"prompt_classes were given, but the labels {self.classes_.tolist()} are not numbers of the "
                f"{n_class_scores} score columns of the classes; expected class indices in y."
            )
        return fit_prompt_weights(examples, self.classes_, self.prompt_classes or (), self._n_folds(examples))

    def _n_folds(self, examples: Examples) -> int:
        return int(min(self.n_folds, np.bincount(examples.index).min()))

    def _columns(self, X: np.ndarray) -> np.ndarray:
        """Select the score columns, to the left of the blocks."""
        return X[:, : X.shape[1] - self.block_sizes_.sum()]

    def _scores_and_vectors(self, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Split score columns into scores (n, n_scores) and vectors (n, vector_size)."""
        n_scores = columns.shape[1] - self.vector_size
        return columns[:, :n_scores], columns[:, n_scores:]

    def _of_classes(self, scores: np.ndarray) -> np.ndarray:
        """Select the score columns of the classes, without the deviations of their prompts."""
        return scores[:, : scores.shape[1] - self.n_deviations]

    def _fit_stack(self, examples: Examples, probes: Probes) -> np.ndarray:
        """Set the fitted attributes; return the held-out log probabilities of the images (n_images, n_classes)."""
        n_scores = examples.scores.shape[1]
        # Without scores all strengths are the same.
        strengths = sorted(self.strengths) if n_scores else self.strengths[:1]
        self.strength_, held_out, found = fit_stack(examples, strengths, self._n_folds(examples))
        of_experts, self.coef_, self.intercept_ = found
        # Other heads may have the same probes, with other weights.
        self.probes_ = [replace(probe) for probe in probes.experts]
        weights = of_experts.tolist()
        for expert in (*self.probes_, self.prompt_expert_, self.vector_expert_):
            if expert is not None:
                expert.alpha = weights.pop(0)
        if self.prompt_expert_ is not None:
            # Columns that the stack does not use have weights of zero.
            self.coef_ = np.pad(self.coef_, [(0, 0), (0, self.prompt_expert_.coef.shape[1] - n_scores)])
        self.tau_ = weights.pop() if weights else 0.0
        return held_out

    def _has_scores_of_classes(self, n_scores: int) -> bool:
        """Whether the score columns include one of each label."""
        integers = self.classes_.dtype.kind in "iu"
        return self.scores_of_classes and integers and set(self.classes_) <= set(range(n_scores))

    def _layout(self, n_columns: int) -> tuple[int, np.ndarray]:
        """Number of score columns, and sizes of the blocks to their right."""
        sizes = None if self.block_sizes is None else [int(size) for size in self.block_sizes]
        n_others = n_columns - self.vector_size
        n_scores = n_others - sum(sizes or []) if self.n_scores is None else self.n_scores
        if sizes is None:
            sizes = [n_others - n_scores] if n_others != n_scores else []
        if n_scores < 0 or min(sizes, default=1) < 1 or n_scores + sum(sizes) != n_others:
            raise ValueError(
                f"X has {n_columns} columns, but n_scores={self.n_scores}, vector_size={self.vector_size} and "
                f"block_sizes={self.block_sizes}; expected the columns of the scores, those of the vector, then those "
                "of the blocks."
            )
        return n_scores, np.array(sizes, dtype=np.int64)

    def _blocks(self, X: np.ndarray) -> list[np.ndarray]:
        """Split off the columns (n_images, n_features_of_block) of each block."""
        ends = X.shape[1] - self.block_sizes_.sum() + np.cumsum(self.block_sizes_)
        return [X[:, end - size : end] for size, end in zip(self.block_sizes_, ends)]
