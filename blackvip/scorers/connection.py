"""How an estimator reaches its service: the score function, its ledger, and the format of its scores."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import numpy as np

from ..inputs.estimators import SharesScoreFunction
from ..inputs.images import Images
from ..inputs.training_set import TrainingSet
from .cached import CachedScorer
from .checkpoint import predictions_path
from .contract import check_scores
from .formats import ScoreFormat, ScoreReader
from .labels.mapping import LabelMapping
from .labels.scorer import learning_scorer
from .ledger import Ledger
from .parallel.scorer import spread
from .replay import JournaledScorer, Replay
from .scoring import Drawing, Encoding, score_images

__all__ = ["ReachesService"]


class ReachesService(SharesScoreFunction):
    """Mixin of the classifier that sends images to its score function and reads the answers."""

    score_fn: Any
    checkpoint: Any
    images_per_call: int | None
    n_jobs: int | None
    score_type: str
    class_prompts_: list[str]
    label_mapping_: LabelMapping | None
    score_type_: str
    score_floor_: float

    def _ledger(
        self, max_queries: int, score_format: ScoreFormat | None, score_fn: Any, replay: Replay | None = None
    ) -> Ledger:
        """A ledger with a budget; without a format, it recognises that of the scores."""
        if score_fn is None:
            raise ValueError(
                f"This {type(self).__name__} has no score function, because files do not hold one. Give it one with "
                "blackvip.load(path, score_fn) or set_params(score_fn=score_fn)."
            )
        scorer = spread(score_fn, self.n_jobs, self.images_per_call)
        # A spread score function cuts calls itself.
        images_per_call = self.images_per_call if scorer is score_fn else None
        reader = ScoreReader.of(scorer, self.score_type, score_format=score_format, label_mapping=self.label_mapping_)
        if replay is not None:
            scorer, images_per_call = JournaledScorer(scorer, replay, reader, images_per_call), None
        return Ledger(
            scorer, self._service_prompts, max_queries=max_queries, images_per_call=images_per_call, reader=reader
        )

    def _score_in_batches(
        self, images: Images, rows: np.ndarray, draw: Drawing | None = None, encode: Encoding | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray, Any]]:
        """Score images batch by batch, see `score_images`."""
        with self._cached_scorer() as score_fn, self._ledger(len(rows), self._score_format, score_fn) as ledger:
            yield from score_images(ledger, images, rows, draw, encode)

    def _log_scores_from(self, scores: Any, n_images: int) -> np.ndarray:
        """Log scores (n_images, n_classes) from scores in the service's own format."""
        log_scores = self._score_format.log_scores(
            check_scores(scores, n_images, self._service_prompts, self.score_type_)
        )
        return log_scores if self.label_mapping_ is None else self.label_mapping_.log_scores(log_scores)

    def _map_labels(self, plain: np.ndarray, data: TrainingSet, judged: np.ndarray, ledger: Ledger) -> np.ndarray:
        """Map scores for a service's own labels to classes; the first ones teach the mapping."""
        learning = learning_scorer(self.score_fn)
        if learning is None or ledger.reader.label_mapping is not None:
            return plain
        mapping = learning.fit_labels(plain, data.y[judged], self.class_prompts_, data.weights[judged])
        self.label_mapping_ = ledger.reader.label_mapping = mapping
        return mapping.log_scores(plain)

    @contextmanager
    def _cached_scorer(self) -> Iterator[Any]:
        """The score function, with a cache of its scores if there is a checkpoint."""
        if self.checkpoint is None or self.score_fn is None:
            yield self.score_fn
            return
        with closing(CachedScorer(self.score_fn, predictions_path(self.checkpoint))) as cached:
            yield cached

    @property
    def _score_format(self) -> ScoreFormat:
        """The format of the scores that `fit` has recognised."""
        return ScoreFormat(self.score_type_, self.score_floor_)

    @property
    def _service_prompts(self) -> list[str]:
        """Prompts for the service: the class prompts, or its own labels, which are mapped to classes."""
        if self.label_mapping_ is not None:
            return list(self.label_mapping_.labels)
        learning = learning_scorer(self.score_fn)
        return self.class_prompts_ if learning is None else learning.service_labels
