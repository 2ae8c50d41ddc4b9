"""How an estimator reaches its service: the score function, its ledger, and the format of its scores."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import numpy as np

from ..inputs.estimators import SharesScoreFunction
from ..inputs.images import Images
from ..inputs.prompt_groups import ClassPrompts, PromptGroups
from ..inputs.training_set import TrainingSet
from .cached import CachedScorer
from .checkpoint import predictions_path
from .contract import check_scores_vary
from .declarations import declared
from .formats import ScoreFormat
from .labels.mapping import LabelMapping
from .labels.scorer import learning_scorer, refuse_several_prompts
from .ledger import Ledger
from .memory import AnswerMemory
from .parallel.scorer import spread
from .reader import ScoreReader, warn_if_lower_is_better
from .replay import JournaledScorer, Recalls
from .scoring import Drawing, Encoding, plain_scores_of, score_images

__all__ = ["ReachesService"]


class ReachesService(SharesScoreFunction):
    """Mixin of the classifier that sends images to its score function and reads the answers."""

    score_fn: Any
    checkpoint: Any
    images_per_call: int | None
    n_jobs: int | None
    score_type: str
    class_prompts_: ClassPrompts
    label_mapping_: LabelMapping | None
    score_format_: ScoreFormat
    vector_size_: int
    _memory: AnswerMemory

    def _ledger(
        self, max_queries: int, score_format: ScoreFormat | None, score_fn: Any, *stores: Recalls | None
    ) -> Ledger:
        """Make a ledger with a budget; without a format, it recognises that of the scores.

        Each of the stores is asked for answers before those that stand in front of it, and before the service.
        """
        if score_fn is None:
            raise ValueError(
                f"This {type(self).__name__} has no score function, because files do not hold one. Give it one with "
                "blackvip.load(path, score_fn) or set_params(score_fn=score_fn)."
            )
        scorer = spread(score_fn, self.n_jobs, self.images_per_call)
        # A spread score function cuts calls itself.
        images_per_call = self.images_per_call if scorer is score_fn else None
        groups = self._prompt_groups.if_several
        if groups is not None:
            refuse_several_prompts(score_fn)
        mapping = self.label_mapping_
        reader = ScoreReader.of(
            scorer, self.score_type, score_format=score_format, label_mapping=mapping, groups=groups
        )
        for store in stores:
            if store is not None:
                scorer, images_per_call = JournaledScorer(scorer, store, reader, images_per_call), None
        return Ledger(
            scorer, self._service_prompts, max_queries=max_queries, images_per_call=images_per_call, reader=reader
        )

    def _score_in_batches(
        self, images: Images, rows: np.ndarray, draw: Drawing | None = None, encode: Encoding | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray, Any]]:
        """Score columns of images, batch by batch, see `score_images`."""
        with self._prediction_ledger(len(rows)) as ledger:
            yield from score_images(ledger, images, rows, draw, encode, ledger.score_columns)

    def _score_columns_from(self, scores: Any, n_images: int) -> np.ndarray:
        """Score columns (n_images, n_columns) from scores in the service's own format."""
        groups = self._prompt_groups.if_several
        reader = ScoreReader("auto", self.score_format_, self.label_mapping_, groups, self.vector_size_)
        return reader.score_columns(reader.check(scores, n_images, self._service_prompts))

    def _plain_columns(self, ledger: Ledger, data: TrainingSet, rows: np.ndarray) -> np.ndarray:
        """Score columns (len(rows), n_columns) of training images without prompts; one billed image each.

        The first ones show what the scores are, and teach the mapping of a service's own labels.
        """
        y, weights = data.y[rows], data.weights[rows]
        scores = plain_scores_of(ledger, data.images, rows)
        # A small batch that is added to a fit may well get equal scores.
        is_first = ledger.score_format is None
        if is_first:
            check_scores_vary(scores, data.images, rows)
        plain = ledger.reader.score_columns(scores, y, weights)
        learning = learning_scorer(self.score_fn)
        if learning is None or ledger.reader.label_mapping is not None:
            if is_first:
                warn_if_lower_is_better(plain[:, : ledger.n_classes], y)
            return plain
        mapping = learning.fit_labels(plain, y, self._prompt_groups.prompts, weights)
        self.label_mapping_ = ledger.reader.label_mapping = mapping
        return mapping.log_scores(plain)

    def _check_vector_size(self) -> None:
        """Raise a `ValueError` if the score function's vectors are not those of the fit."""
        if self.score_fn is None:  # `_ledger` says so
            return
        size = declared(self.score_fn, "vector_size", 0)
        if size != self.vector_size_:
            raise ValueError(
                f"The score function declares vectors of {size} numbers (vector_size); expected {self.vector_size_}, "
                "as in fit. Give it the same model and the same vector_size, or fit again."
            )

    @contextmanager
    def _prediction_ledger(self, max_queries: int) -> Iterator[Ledger]:
        """Make a ledger for a fitted estimator, which remembers answers; with a checkpoint, also on disk."""
        self._check_vector_size()
        with ExitStack() as stack:
            score_fn = self.score_fn
            if self.checkpoint is not None and score_fn is not None:
                score_fn = stack.enter_context(closing(CachedScorer(score_fn, predictions_path(self.checkpoint))))
            memory = self._memory.of_service(self.score_fn)
            ledger = stack.enter_context(self._ledger(max_queries, self.score_format_, score_fn, memory))
            try:
                yield ledger
            finally:
                memory.count(ledger.n_queries)

    @property
    def n_queries_predict_(self) -> int:
        """Images that were billed after `fit`, by predictions and by scoring baselines and prompts."""
        return self._memory.n_queries

    @property
    def score_type_(self) -> str:
        """Type of the scores, as declared or recognised."""
        return self.score_format_.score_type

    @property
    def score_floor_(self) -> float:
        """Half a unit of the last decimal to which the service rounds probabilities, else 0."""
        return self.score_format_.floor

    @property
    def _prompt_groups(self) -> PromptGroups:
        """The prompts of each class."""
        return PromptGroups.of(self.class_prompts_)

    @property
    def _service_prompts(self) -> list[str]:
        """Prompts for the service: the class prompts, or its own labels, which are mapped to classes."""
        if self.label_mapping_ is not None:
            return list(self.label_mapping_.labels)
        learning = learning_scorer(self.score_fn)
        return self._prompt_groups.prompts if learning is None else learning.service_labels
