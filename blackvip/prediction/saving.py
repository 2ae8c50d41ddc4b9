"""Saving of a fitted classifier: its attributes in a file, and checks of those that were loaded."""

from __future__ import annotations

import reprlib
from typing import Any

import numpy as np

from ..encoders.base import ENCODER, Encoder
from ..heads.base import Head
from ..heads.judging import HeadResult
from ..heads.scored import ScoredImages
from ..heads.stages import Stages
from ..inputs.class_prompts import CLASS_PROMPTS, MADE_PROMPTS
from ..inputs.images import IMAGE_SHAPE, ImageFormat
from ..inputs.labels import CLASS_WEIGHT
from ..inputs.prompt_groups import PromptGroups
from ..optimizers import Optimizer
from ..persistence import SaveableEstimator
from ..persistence.arrays import Generator as GeneratorField
from ..persistence.arrays import Labels
from ..persistence.fields import BOOL, NONE, ListOf, Maybe, OneOf, Record, choice, integer, number, text
from ..persistence.format import expect
from ..persistence.objects import Object
from ..prompters.base import Prompter
from ..prompters.by_name import PROMPTER
from ..scorers import ScoreFormat
from ..scorers.labels.mapping import LabelMapping
from ..scorers.memory import AnswerMemory
from ..training.loop import TERMINATION_REASONS

__all__ = ["SavedClassifier"]

_RESULT = Object(HeadResult)
_OTHER_BASELINES = ("calibrated_zero_shot", "local_probe", "fused_zero_shot")
_SHARE = number(0, 1 + 1e-9)
_GAIN = OneOf(choice("auto", None), number())
# A step of the history, with the figures of its optimizer.
_STEP = Record(
    {
        "n_iter": integer(1),
        "n_queries": integer(0),
        "loss": number(),
        "accuracy": number(),
        "validation_loss": Maybe(number()),
        "validation_accuracy": Maybe(_SHARE),
    },
    others=number(),
)
# A rung of the ladder.
_RUNG = Record(
    {
        "prompter": text(),
        "n_queries": integer(0),
        "accuracy": _SHARE,
        "log_loss": number(),
        "own_accuracy": _SHARE,
        "helps": BOOL,
    }
)


class SavedClassifier(SaveableEstimator, saveable=False):
    """Mixin of the classifier that saves its parameters and fitted attributes."""

    classes_: np.ndarray
    class_prompts_: Any
    image_format_: ImageFormat
    prompter_: Prompter
    prompt_used_: bool
    head_: Head
    result_: HeadResult
    baselines_: dict[str, HeadResult]
    probe_encoder_: Encoder
    optimizer_: Optimizer
    history_: list[dict[str, Any]]
    n_iter_: int
    vector_size_: int
    label_mapping_: LabelMapping | None
    _scored: ScoredImages
    _stages: Stages
    _prompt_groups: PromptGroups

    not_saved = ("score_fn", "n_jobs", "checkpoint")
    derived_attributes = ("_memory",)
    saved_parameters = {
        "class_prompts": CLASS_PROMPTS,
        "prompter": PROMPTER,
        "local_encoder": ENCODER,
        "head": OneOf(NONE, text(), Object(Head, fitted="no")),
        "image_shape": IMAGE_SHAPE,
        "class_weight": CLASS_WEIGHT,
    }
    saved_attributes = {
        "classes_": Labels(),
        "class_prompts_": MADE_PROMPTS,
        "prompter_": Object(Prompter),
        "prompt_used_": BOOL,
        "head_": Object(Head),
        "result_": _RESULT,
        "optimizer_": Object(Optimizer, fitted="maybe"),
        "n_skipped_": integer(0),
        "baselines_": Record({"zero_shot": _RESULT, **dict.fromkeys(_OTHER_BASELINES, Maybe(_RESULT))}),
        "history_": ListOf(_STEP),
        "n_queries_": integer(0),
        "n_iter_": integer(0),
        "a_": _GAIN,
        "c_": _GAIN,
        "termination_reason_": choice(*TERMINATION_REASONS),
        "rungs_": ListOf(_RUNG),
        "score_format_": Object(ScoreFormat),
        "vector_size_": integer(0),
        "label_mapping_": OneOf(NONE, Object(LabelMapping)),
        "seconds_per_image_": OneOf(NONE, number(low=0)),
        "probe_encoder_": Object(Encoder),
        "_scored": Object(ScoredImages),
        "_rng": GeneratorField(),
    }

    def _finish_loading(self) -> None:
        super()._finish_loading()
        self._memory = AnswerMemory()
        n_classes, mapping, prompter = len(self.classes_), self.label_mapping_, self.prompter_
        in_order = n_classes >= 2 and np.array_equal(np.unique(self.classes_), self.classes_)
        expect(in_order, "classes_ are not sorted, or fewer than two")
        n_prompts = len(self.class_prompts_)
        expect(n_prompts == n_classes, f"there are {n_prompts} class prompts; expected {n_classes}")
        expect(all(self.class_prompts_), "a class has no class prompt")
        expect(
            mapping is None or mapping.class_prompts == self.class_prompts_, "label_mapping_ is for other class prompts"
        )
        expect(prompter.image_format_ == self.image_format_, "prompter_ was made for images of another format")
        expect(
            self.prompt_used_ == (prompter.prompt_scale_ > 0), "prompt_used_ and prompt_scale_ contradict each other"
        )
        self._check_loaded_heads(n_classes)
        n_unknown, optimizer = len(self.history_) - self.n_iter_, self.optimizer_
        expect(n_unknown <= 0, f"history_ has {len(self.history_)} steps, but {self.n_iter_} were made")
        told = set().union(*self.history_) - _STEP.fields.keys() - set(optimizer.figure_names)
        expect(not told, f"history_ has {reprlib.repr(sorted(told))}, which its optimizer does not report")
        if "state" in vars(optimizer):
            n_parameters = prompter.n_parameters_
            expect(
                len(optimizer.w) == n_parameters,
                f"optimizer_ has {len(optimizer.w)} parameters; expected {n_parameters}",
            )

    def _check_loaded_heads(self, n_classes: int) -> None:
        """Raise a `PersistenceError` if the heads, the encoder and the scored images do not fit one another."""
        encoder, scored = self.probe_encoder_, self._scored
        encoder.check_image_size(self.image_format_.height, self.image_format_.width)
        expect(encoder.is_frozen, "probe_encoder_ is not frozen")
        block_sizes, prompt_classes = tuple(encoder.block_sizes_), self._prompt_groups.prompt_classes
        scored.check_layout(n_classes, prompt_classes, self.vector_size_, block_sizes, encoder.n_features_out_)
        heads = {"head_": self.head_, **{name: result.head for name, result in self.baselines_.items()}}
        heads.update(self._stages.heads)
        for name, head in heads.items():
            expect(head.n_deviations in (0, len(prompt_classes)), "a head is of other class prompts")
            expect(head.vector_size in (0, self.vector_size_), "a head is of vectors of another size")
            asks = head.needs_scores if name in ("head_", "second") else name not in ("local", "local_probe")
            head.check_layout(n_classes, n_classes + head.n_deviations if asks else 0, block_sizes)
        expect(self.result_.head is self.head_, "result_ is of another head than head_")
        for name, result in {**self.baselines_, "result_": self.result_}.items():
            fits = result.held_out.shape == (len(scored.y), n_classes)
            expect(fits, f"{name} has another number of images than were scored")
