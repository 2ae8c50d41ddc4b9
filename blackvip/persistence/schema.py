"""The schema: which classes a file may hold, and what each attribute of theirs may be.

A new prompter, encoder, head or optimizer is one more `Kind` here, and its name in the group below the kinds. What it
has in arrays is checked by their declared shapes; what must fit between objects is checked in its `finish`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.frozen import FrozenEstimator

from ..classifier import BlackVIPClassifier
from ..encoders.base import Encoder
from ..encoders.cached import CachedEncoder, digest_of
from ..encoders.cells import n_stages_for
from ..encoders.histograms import GradientEncoder
from ..encoders.pca import PCAEncoder
from ..encoders.scratch import ScratchEncoder
from ..encoders.timm import TimmEncoder
from ..heads.base import Head, ServiceHead
from ..heads.calibrated import CalibratedHead
from ..heads.fused import FusedHead, LocalProbe
from ..heads.judging import HeadResult
from ..heads.scored import ScoredImages
from ..inputs.images import ImageFormat
from ..optimizers import CMAES, RGF, SPSA, SPSAGC, AdamSPSA, Subspace
from ..prompters.basis import PromptBasis
from ..prompters.coordinator import Coordinator
from ..prompters.frames import PaddingFrame, ReprogrammingFrame
from ..scorers.formats import FLOOR
from ..scorers.labels.mapping import LabelMapping
from ..transformer import BlackVIPPrompter
from .fields import (
    BOOL,
    KINDS,
    LABEL,
    NONE,
    Array,
    Field,
    Generator,
    Kind,
    Labels,
    ListOf,
    Maybe,
    Object,
    OneOf,
    Pairs,
    Reading,
    Record,
    Writing,
    choice,
    integer,
    number,
    text,
)
from .format import expect

__all__ = ["MODEL"]

PROMPTERS = ("Coordinator", "PromptBasis", "PaddingFrame", "ReprogrammingFrame")
UNCACHED_ENCODERS = ("PCAEncoder", "GradientEncoder", "TimmEncoder")
FROZEN_ENCODERS = (*UNCACHED_ENCODERS, "CachedEncoder")
ENCODERS = (*FROZEN_ENCODERS, "ScratchEncoder")
HEADS = ("ServiceHead", "CalibratedHead", "LocalProbe", "FusedHead")
IN_ALL_DIMENSIONS = ("SPSA", "SPSAGC", "AdamSPSA", "RGF", "CMAES")
OPTIMIZERS = (*IN_ALL_DIMENSIONS, "Subspace")
MODEL = Object("BlackVIPClassifier", "BlackVIPPrompter", *PROMPTERS)  #: What a file may be.

_MAX_PIXELS = 2**24  # of an image: what an image is resized to is not backed by bytes in the file
_COUNT, _NATURAL = integer(0), integer(1)
_NAME = text(r"\w[\w.-]*")  # of a timm model, and of no folder and no hub
_REASONS = ("budget", "no_improvement", "callback", "interrupted", "error")


class _ScoreFunction(Field):
    """Code, or a client that has a key: it stays behind, and whoever loads the file gives one."""

    def pack(self, value: Any, file: Writing, where: str) -> None:
        return None

    def unpack(self, packed: Any, file: Reading, where: str) -> Any:
        return NONE.unpack(packed, file, where) or file.score_fn


class _Forgotten(Field):
    """What does not outlast the process: it is nothing afterwards."""

    def pack(self, value: Any, file: Writing, where: str) -> None:
        return None

    def unpack(self, packed: Any, file: Reading, where: str) -> Any:
        return NONE.unpack(packed, file, where)


class _RandomState(Field):
    """An int or None. The generator of a fit has its own place; another one's state would say nothing."""

    def pack(self, value: Any, file: Writing, where: str) -> Any:
        return int(value) if isinstance(value, (int, np.integer)) else None

    def unpack(self, packed: Any, file: Reading, where: str) -> Any:
        return OneOf(NONE, integer(0, 2**32 - 1)).unpack(packed, file, where)


_OUTPUT = Maybe(Record({"transform": choice("default", "pandas", "polars")}))
_READING: dict[str, Field] = {
    "image_format_": Object("ImageFormat"),
    "n_features_in_": _NATURAL,
    "feature_names_in_": Maybe(Labels("O")),
}


def _check_reading(fitted: Any) -> None:
    """The columns of X against the size of the images; where X is a table, its names are as many."""
    names, image_format = getattr(fitted, "feature_names_in_", None), fitted.image_format_
    pixels = image_format.height * image_format.width
    channels = (image_format.image_shape or ())[2:] or (1,)
    fits = fitted.n_features_in_ in (pixels, 3 * pixels, channels[0] * pixels) if names is None else True
    expect(fits, f"n_features_in_ is {fitted.n_features_in_}, which does not fit {image_format}")
    expect(names is None or len(names) == fitted.n_features_in_, "feature_names_in_ and n_features_in_ differ")


def _finish_image_format(f: Any) -> None:
    expect(f.height * f.width <= _MAX_PIXELS, f"its images have {f.height} x {f.width} pixels, which is too large")
    expect(f.low < f.high, f"its images' black, {f.low}, is not less than their white, {f.high}")
    shape = f.image_shape
    if shape is not None:
        expect(type(shape) is tuple and len(shape) in (2, 3), f"image_shape is {shape}")
        expect(shape[:2] == (f.height, f.width) and f.resized, f"image_shape={shape} does not fit {f}")


_SHAPE = OneOf(NONE, ListOf(_NATURAL))

KINDS["ImageFormat"] = Kind(
    ImageFormat,
    params={
        "height": _NATURAL,
        "width": _NATURAL,
        "low": number(),
        "high": number(),
        "eight_bits": BOOL,
        "image_shape": _SHAPE,
        "resize": choice("crop", "pad", "stretch"),
        "resized": BOOL,
    },
    finish=_finish_image_format,
)

# Label mappings


def _finish_label_mapping(mapping: LabelMapping) -> None:
    shape = (len(mapping.labels), len(mapping.class_prompts))
    expect(mapping.weights.shape == shape, f"a label mapping has weights of shape {mapping.weights.shape}, not {shape}")


KINDS["LabelMapping"] = Kind(
    LabelMapping,
    params={
        "labels": ListOf(text()),
        "class_prompts": ListOf(text()),
        "weights": Array(("n_labels", "n_mapped"), low=0, high=1 + 1e-9),
        "score_type": choice("logits", "probabilities"),
        "floor": number(FLOOR, 0.05),
    },
    finish=_finish_label_mapping,
)

# Encoders


def _check_encoder(encoder: Encoder, height: int, width: int) -> None:
    if isinstance(encoder, PCAEncoder):
        expect(encoder.axes_.shape[1] == 3 * height * width, f"axes_ do not fit images of {height} x {width} pixels")
    elif isinstance(encoder, ScratchEncoder):
        expect(encoder.n_stages_ == n_stages_for(height, width), f"{encoder.n_stages_} stages do not fit the images")
    elif isinstance(encoder, CachedEncoder):
        _check_encoder(encoder.encoder_, height, width)


def _finish_pca(encoder: PCAEncoder) -> None:
    expect(encoder.n_features_out_ == len(encoder.axes_), "n_features_out_ is not the number of axes_")


def _finish_gradients(encoder: GradientEncoder) -> None:
    n_features = sum(encoder.block_sizes_)
    expect(encoder.n_features_out_ == n_features, f"n_features_out_ is {encoder.n_features_out_}")
    expect(len(encoder.mean_) == n_features, f"mean_ has {len(encoder.mean_)} numbers; expected {n_features}")


def _finish_cached(encoder: CachedEncoder) -> None:
    encoder.n_features_out_ = encoder.encoder_.n_features_out_
    encoder.key_ = digest_of(encoder.encoder_)


def _finish_scratch(encoder: ScratchEncoder) -> None:
    expect(encoder.n_features_out_ == encoder.n_channels_out * 49, f"n_features_out_ is {encoder.n_features_out_}")


KINDS["PCAEncoder"] = Kind(
    PCAEncoder,
    params={"n_components": _NATURAL},
    fitted={
        "axes_": Array(("n_axes", "n_numbers")),
        "scale_": number(),
        "n_features_out_": _NATURAL,
        "_sklearn_output_config": _OUTPUT,
    },
    finish=_finish_pca,
)
KINDS["GradientEncoder"] = Kind(
    GradientEncoder,
    params={},
    fitted={
        "mean_": Array(("n_features",)),
        "scale_": Array(("n_features",), low=1e-3),
        "n_features_out_": _NATURAL,
        "_sklearn_output_config": _OUTPUT,
    },
    finish=_finish_gradients,
)
KINDS["TimmEncoder"] = Kind(
    TimmEncoder,
    params={"model_name": _NAME, "pretrained": BOOL, "batch_size": _NATURAL, "device": text(r"[a-z]+(:\d+)?")},
    fitted={"n_features_out_": _NATURAL, "_sklearn_output_config": _OUTPUT},
)
KINDS["ScratchEncoder"] = Kind(
    ScratchEncoder,
    params={},
    fitted={"n_stages_": integer(1, 5), "n_features_out_": _NATURAL, "_sklearn_output_config": _OUTPUT},
    finish=_finish_scratch,
)

KINDS["CachedEncoder"] = Kind(
    CachedEncoder,
    params={
        "encoder": OneOf(_NAME, Object(*UNCACHED_ENCODERS, fitted="no")),
        "path": _Forgotten(),  # of this machine, and none that a file of unknown origin may name
        "max_bytes": _COUNT,
    },
    fitted={"encoder_": Object(*UNCACHED_ENCODERS), "_sklearn_output_config": _OUTPUT},
    derived=("n_features_out_", "key_"),
    finish=_finish_cached,
)

# Prompters

_ENCODER = OneOf(_NAME, Object(*ENCODERS, fitted="no"))
_FROZEN: dict[str, Field] = {"prompt_scale_": number(low=0), "_sklearn_output_config": _OUTPUT, **_READING}


class _Ready(Encoder):
    """Stands in for an encoder that is fitted already, where a Coordinator would fit one."""

    def __init__(self, fitted: Encoder):
        self.fitted = fitted

    def __sklearn_clone__(self) -> Encoder:
        return self

    def fit_pixels(self, pixels: torch.Tensor) -> Encoder:
        return self.fitted

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.fitted.encode(pixels)


def _finish_coordinator(prompter: Coordinator) -> None:
    """The decoder, laid out by the Coordinator itself from the encoder and the size of the images."""
    height, width = prompter.image_format_.height, prompter.image_format_.width
    encoder = prompter.encoder_
    _check_reading(prompter)
    _check_encoder(encoder, height, width)
    twin = Coordinator(_Ready(encoder), prompter.src_dim, prompter.last_layer).fit_pixels(
        torch.empty(0, 3, height, width)
    )
    prompter.__dict__.update({name: vars(twin)[name] for name in KINDS["Coordinator"].derived})
    for name, found, expected in (
        ("parameters_", len(prompter.parameters_), prompter.n_parameters_),
        ("statistics_", len(prompter.statistics_), prompter.n_statistics),  # type: ignore[arg-type]
    ):
        expect(found == expected, f"{name} has {found} numbers; expected {expected}")


def _finish_basis(prompter: PromptBasis) -> None:
    _check_reading(prompter)
    size = (prompter.image_format_.height, prompter.image_format_.width)
    expect(prompter.images_.shape[2:] == size, f"images_ have the size {prompter.images_.shape[2:]}; expected {size}")


def _finish_frame(prompter: PaddingFrame | ReprogrammingFrame) -> None:
    """The frame, laid out by itself from the size of the images."""
    _check_reading(prompter)
    prompter.fit_pixels(torch.empty(0, 3, prompter.image_format_.height, prompter.image_format_.width))
    found, expected = len(prompter.parameters_), prompter.n_parameters_
    expect(found == expected, f"parameters_ has {found} numbers; expected {expected}")


_N_STILL, _N_PHI = 5, 5 + len(PromptBasis._sigmas) + 6

KINDS["Coordinator"] = Kind(
    Coordinator,
    params={
        "encoder": _ENCODER,
        "src_dim": OneOf(choice("auto"), _NATURAL),
        "last_layer": choice("zero", "random"),
    },
    fitted={
        "encoder_": Object(*ENCODERS),
        "parameters_": Array(("n_parameters",)),
        "statistics_": Array(("n_statistics",)),
        **_FROZEN,
    },
    derived=("size_", "n_trigger_", "decoder_", "n_parameters_"),
    finish=_finish_coordinator,
)
KINDS["PromptBasis"] = Kind(
    PromptBasis,
    params={"rms": number()},
    fitted={
        "images_": Array((_N_STILL, 3, "height", "width"), "float32"),
        "scale_": Array((_N_PHI,)),
        "n_parameters_": integer(_N_PHI, _N_PHI),
        "parameters_": Array((_N_PHI,)),
        "statistics_": NONE,
        **_FROZEN,
    },
    finish=_finish_basis,
)

_FRAME: dict[str, Any] = {
    "fitted": {"parameters_": Array(("n_parameters",)), "statistics_": NONE, **_FROZEN},
    "derived": ("size_", "n_parameters_"),
    "finish": _finish_frame,
}
_START = choice("zero", "random")
KINDS["PaddingFrame"] = Kind(PaddingFrame, params={"width": number(np.finfo(float).tiny), "start": _START}, **_FRAME)
KINDS["ReprogrammingFrame"] = Kind(
    ReprogrammingFrame, params={"inner": number(np.finfo(float).tiny, 224), "start": _START}, **_FRAME
)

# Heads: in a fitted classifier they tell class indices.

_IMAGES_BY_CLASSES = Array(("n_images", "n_classes"))
_WEIGHTS = Array(("n_images",), low=0)


def _finish_head(head: Any) -> None:
    expect(bool((np.diff(head.classes_) > 0).all()) and len(head.classes_) > 0, "a head's classes_ are not sorted")


def _finish_calibrated(head: CalibratedHead) -> None:
    _finish_head(head)
    expect(head.n_features_in_ == head.coef_.shape[1], "a head's n_features_in_ does not fit its coef_")


def _finish_fused(head: FusedHead) -> None:
    _finish_head(head)
    n_scores, n_features = head.coef_.shape[1], head.block_coef_.shape[1]
    # As floats: a sum of sizes that a file makes up may not overflow.
    expect(float(head.block_sizes_.sum(dtype=float)) == n_features, "a head's block_sizes_ do not fit its block_coef_")
    expect(head.n_features_in_ == n_scores + n_features, "a head's n_features_in_ does not fit its coefficients")
    expect(head.tau_ == 0 or head.classes_[-1] < n_scores, "a head has a tau_, but no scores of its classes")


def _check_head(head: Head, n_classes: int, encoder: Encoder, n_scores: int) -> None:
    """Whether a head that takes so many log scores fits these classes, and the encoder whose features it may take."""
    expected = n_scores
    expect(head.classes_[-1] < n_classes, f"a head knows the class {head.classes_[-1]}, but there are {n_classes}")
    if isinstance(head, FusedHead):
        own, sizes = tuple(head.block_sizes_.tolist()), tuple(encoder.block_sizes_)
        expect(own == sizes, f"a head has blocks of {own} features; expected {sizes}")
        expect(head.n_scores == n_scores, f"a head has n_scores={head.n_scores}; expected {n_scores}")
        expected += sum(sizes)
    expect(head.n_features_in_ == expected, f"a head takes {head.n_features_in_} inputs; expected {expected}")


KINDS["ServiceHead"] = Kind(
    ServiceHead, params={}, fitted={"classes_": Array(("n_classes",), "int64", low=0)}, finish=_finish_head
)
KINDS["CalibratedHead"] = Kind(
    CalibratedHead,
    params={"Cs": ListOf(number()), "n_folds": _NATURAL, "standardize": BOOL},
    fitted={
        "C_": number(),
        "classes_": Array(("n_classes",), "int64", low=0),
        "coef_": Array(("n_classes", "n_inputs")),
        "intercept_": Array(("n_classes",)),
        "n_features_in_": _NATURAL,
    },
    finish=_finish_calibrated,
)
KINDS["FusedHead"] = Kind(
    FusedHead,
    params={
        "n_scores": OneOf(NONE, _COUNT),
        "block_sizes": OneOf(NONE, ListOf(_NATURAL)),
        "C": number(),
        "strengths": ListOf(number()),
        "n_folds": _NATURAL,
        "scores_of_classes": BOOL,
    },
    fitted={
        "alpha_": Array(("n_blocks",), low=0),
        "block_coef_": Array(("n_classes", "n_features")),
        "block_intercept_": Array(("n_blocks", "n_classes")),
        "block_sizes_": Array(("n_blocks",), "int64", low=1),
        "classes_": Array(("n_classes",), "int64", low=0),
        "coef_": Array(("n_classes", "n_scores")),
        "intercept_": Array(("n_classes",)),
        "n_features_in_": _NATURAL,
        "strength_": number(),
        "tau_": number(low=0),
    },
    finish=_finish_fused,
)
KINDS["LocalProbe"] = Kind(
    LocalProbe,
    params={name: KINDS["FusedHead"].params[name] for name in ("block_sizes", "C", "n_folds")},
    fitted=KINDS["FusedHead"].fitted,
    finish=_finish_fused,
)
KINDS["HeadResult"] = Kind(
    HeadResult,
    params={
        "head": Object(*HEADS),
        "held_out": _IMAGES_BY_CLASSES,
        "hits": Array(("n_images",), "bool"),
        "losses": Array(("n_images",)),
        "weights": _WEIGHTS,
    },
)
KINDS["ScoredImages"] = Kind(
    ScoredImages,
    params={
        "y": Array(("n_images",), "int64", low=0),
        "weights": _WEIGHTS,
        "held_out": Array(("n_images",), "bool"),
        "features": Array(("n_images", "n_features"), "float64 float32"),
        "block_sizes": ListOf(_NATURAL),
        "plain": _IMAGES_BY_CLASSES,
        "prompted": Array(("n_images", "n_classes"), nan=True),
    },
)

# Optimizers

_GAIN = OneOf(choice("auto"), number())
_FIGURES = {name: Maybe(number()) for name in ("a", "a_k", "c_k", "sigma", "estimate_norm", "step_norm")}
_SPSA: dict[str, Field] = {
    "a": _GAIN,
    "c": _GAIN,
    "alpha": number(),
    "gamma": number(),
    "stability": number(),
    "n_directions": _NATURAL,
    "clip": OneOf(choice(None, "auto"), number()),
    "sides": Maybe(integer(1, 2)),  # files of the first release have none
    "share_batch": BOOL,
}
_ANNEALED: dict[str, Field] = {"normalize": Maybe(BOOL), "n_steps": Maybe(OneOf(NONE, _NATURAL))}
_BETA = number(0, 1)


def _states(d: str) -> dict[str, Record]:
    """The state of each kind of optimizer whose vectors have the dimension of this name."""
    vector, figures = Array((d,)), Maybe(Record({**_FIGURES}))
    spsa: dict[str, Field] = {"k": _NATURAL, "w": vector, "delta": _Forgotten(), "figures": figures}
    spsa.update(square=OneOf(NONE, number(low=0)), a=number(), c=number(), clip=OneOf(NONE, number()))
    spsa.update(normalize=BOOL, n_steps=OneOf(NONE, _NATURAL))
    bounded = Array((d,), low=-1e32, high=1e32)  # as `cmaes` asks of a mean
    return {
        "SPSA": Record({**spsa, "m": OneOf(NONE, vector)}),
        "SPSAGC": Record({**spsa, "m": OneOf(NONE, vector)}),
        "AdamSPSA": Record({**spsa, "t": _COUNT, "m": vector, "v": Array((d,), low=0)}),
        "RGF": Record(
            {
                "k": _NATURAL,
                "w": vector,
                "a": number(),
                "c": number(),
                "n_steps": _NATURAL,
                "directions": _Forgotten(),
                "figures": figures,
            }
        ),
        "CMAES": Record(
            {
                "w": bounded,
                "sigma": number(low=np.finfo(float).tiny, high=1e32),
                "C": Array((d, d)),
                "p_sigma": vector,
                "p_c": vector,
                "generation": _COUNT,
                "candidates": _Forgotten(),
                "figures": figures,
            }
        ),
    }


_STATES: dict[str, dict[str, Field]] = {
    name: {"rng": Generator(), "state": state} for name, state in _states("n_parameters").items()
}
KINDS["SPSA"] = Kind(SPSA, {**_SPSA, **_ANNEALED}, _STATES["SPSA"])
KINDS["SPSAGC"] = Kind(SPSAGC, {**_SPSA, **_ANNEALED, "momentum": number()}, _STATES["SPSAGC"])
KINDS["AdamSPSA"] = Kind(
    AdamSPSA, {**_SPSA, "beta1": _BETA, "beta2": _BETA, "epsilon": number(low=0)}, _STATES["AdamSPSA"]
)
KINDS["RGF"] = Kind(
    RGF,
    {
        "a": number(),
        "c": _GAIN,
        "a_end": number(),
        "n_steps": OneOf(choice("auto"), _NATURAL),
        "power": number(),
        "n_directions": _NATURAL,
    },
    _STATES["RGF"],
)
KINDS["CMAES"] = Kind(CMAES, {"sigma": number(), "population_size": OneOf(NONE, _NATURAL)}, _STATES["CMAES"])


def _finish_subspace(subspace: Any) -> None:
    """Whether the state within is one of its optimizer's."""
    name = type(subspace.optimizer).__name__
    expected = _states("n_dims")[name].fields.keys() - {"figures"}
    found = subspace.state["inner"].keys() - {"figures"}
    expect(found == expected, f"the state within a Subspace of {name} has {sorted(found)}; expected {sorted(expected)}")


KINDS["Subspace"] = Kind(
    Subspace,
    {
        "optimizer": Object(*IN_ALL_DIMENSIONS, fitted="no"),
        "n_dims": _NATURAL,
        "kind": choice("orthonormal", "gaussian"),
    },
    {
        "rng": Generator(),
        "state": Record(
            {
                "w": Array(("n_parameters",)),
                "origin": Array(("n_parameters",)),
                "P": Array(("n_parameters", "n_dims")),
                "inner": OneOf(*_states("n_dims").values()),
            }
        ),
    },
    finish=_finish_subspace,
)

# Estimators


def _finish_classifier(clf: BlackVIPClassifier) -> None:
    n_classes, evidence = len(clf.classes_), clf._scored
    height, width = clf.image_format_.height, clf.image_format_.width
    _check_reading(clf)
    expect(n_classes >= 2 and np.array_equal(np.unique(clf.classes_), clf.classes_), "classes_ are not sorted, or few")
    expect(
        len(clf.class_prompts_) == n_classes, f"there are {len(clf.class_prompts_)} class prompts; expected {n_classes}"
    )
    mapping = clf.label_mapping_
    expect(mapping is None or mapping.class_prompts == clf.class_prompts_, "label_mapping_ is for other class prompts")
    own = clf.prompter_.image_format_
    expect(own == clf.image_format_, "coordinator_ was made for images of another format")
    expect(
        clf.prompt_used_ == (clf.prompter_.prompt_scale_ > 0), "prompt_used_ and prompt_scale_ contradict each other"
    )
    _check_encoder(clf.probe_encoder_, height, width)
    n_features, n_images = clf.probe_encoder_.n_features_out_, len(evidence.y)
    expect(evidence.features.shape[1] == n_features, f"the evidence is not of the encoder's {n_features} features")
    sizes = tuple(clf.probe_encoder_.block_sizes_)
    expect(tuple(evidence.block_sizes) == sizes, f"the evidence has blocks of {evidence.block_sizes}; expected {sizes}")
    expect(evidence.plain.shape[1] == n_classes and n_images > 0, "the evidence is not of these classes")
    expect(int(evidence.y.max()) < n_classes, "the evidence has a class that there is not")
    _check_head(clf.head_, n_classes, clf.probe_encoder_, n_classes if clf.head_.needs_scores else 0)
    for name, control in clf.baselines_.items():
        n_scores = 0 if name == "local_probe" else n_classes
        _check_head(control.head, n_classes, clf.probe_encoder_, n_scores)
        expect(control.held_out.shape == (n_images, n_classes), f"baselines_ has another number of images in {name}")
    state = vars(clf.optimizer_).get("state")
    n_parameters = clf.prompter_.n_parameters_
    expect(state is None or len(state["w"]) == n_parameters, f"optimizer_ has not {n_parameters} parameters")
        expect(len(clf.history_) <= clf.n_iter_, f"history_ has {len(clf.history_)} steps, but {clf.n_iter_} were made")


KINDS["BlackVIPClassifier"] = Kind(
    BlackVIPClassifier,
    params={
        "score_fn": _ScoreFunction(),
        "class_prompts": OneOf(text(), Pairs(LABEL, text()), ListOf(text())),
        "prompter": OneOf(choice("coordinator", "basis"), Object(*PROMPTERS, fitted="no")),
        "local_encoder": _ENCODER,
        "prompt_scale": number(),
        "optimizer": OneOf(choice("spsa-gc", "spsa", "cma-es"), Object(*OPTIMIZERS, fitted="no")),
        "a": _GAIN,
        "c": _GAIN,
        "batch_size": _NATURAL,
        "temperature": OneOf(choice("auto"), number()),
        "loss": Maybe(choice("cross-entropy", "focal")),  # files of the first release have none, nor the next
        "augment": Maybe(choice(None, "crop-flip")),
        "max_queries": _NATURAL,
        "head": OneOf(choice("auto", "fused", "calibrated", None), Object(*HEADS, fitted="no")),
        "guard": BOOL,
        "validation_fraction": OneOf(choice("auto"), number()),
        "patience": OneOf(NONE, _NATURAL),
        "score_type": choice("auto", "logits", "probabilities"),
        "images_per_call": OneOf(NONE, _NATURAL),
        "n_jobs": Maybe(_Forgotten()),  # of this machine
        "image_shape": _SHAPE,
        "resize": choice("crop", "pad", "stretch"),
        "on_error": choice("raise", "skip"),
        "class_weight": OneOf(choice("balanced", None), Pairs(LABEL, number())),
        "warm_start": BOOL,
        "checkpoint": Maybe(_Forgotten()),  # a path of this machine, and none that a file of unknown origin may name
        "random_state": _RandomState(),
        "verbose": OneOf(BOOL, integer(0, 2)),
    },
    fitted={
        "classes_": Labels(),
        "class_prompts_": ListOf(text()),
        "prompter_": Object(*PROMPTERS),
        "prompt_used_": BOOL,
        "head_": Object(*HEADS),
        "optimizer_": Object(*OPTIMIZERS, fitted="maybe"),
        "n_skipped_": _COUNT,
        "baselines_": Record(
            {
                "zero_shot": Object("HeadResult"),
                "calibrated_zero_shot": Maybe(Object("HeadResult")),
                "local_probe": Maybe(Object("HeadResult")),
                "fused_zero_shot": Maybe(Object("HeadResult")),
            }
        ),
        "history_": ListOf(
            Record(
                {
                    "n_iter": _NATURAL,
                    "n_queries": _COUNT,
                    "loss": number(),
                    "accuracy": number(),
                    "validation_loss": Maybe(number()),
                    "validation_accuracy": Maybe(number(0, 1 + 1e-9)),
                    **_FIGURES,
                }
            )
        ),
        "n_queries_": _COUNT,
        "n_iter_": _COUNT,
        "a_": OneOf(choice("auto", None), number()),
        "c_": OneOf(choice("auto", None), number()),
        "termination_reason_": choice(*_REASONS),
        "score_type_": choice("logits", "probabilities"),
        "score_floor_": Maybe(number(FLOOR, 0.05)),  # files of the first release have none
        "label_mapping_": Maybe(OneOf(NONE, Object("LabelMapping"))),  # files of the first release have none
        "seconds_per_image_": Maybe(OneOf(NONE, number(low=0))),
        "probe_encoder_": Object(*FROZEN_ENCODERS),
        "_scored": Object("ScoredImages"),
        "_rng": Generator(),
        **_READING,
    },
    finish=_finish_classifier,
)


def _finish_transformer(prompter: BlackVIPPrompter) -> None:
    expect(hasattr(prompter._fitted, "coordinator_"), "it has no fitted classifier")


KINDS["FrozenEstimator"] = Kind(FrozenEstimator, params={"estimator": Object("BlackVIPClassifier")})
KINDS["BlackVIPPrompter"] = Kind(
    BlackVIPPrompter,
    params={"estimator": OneOf(Object("FrozenEstimator"), Object("BlackVIPClassifier", fitted="no"))},
    fitted={"estimator_": Maybe(Object("FrozenEstimator", "BlackVIPClassifier")), "_sklearn_output_config": _OUTPUT},
    finish=_finish_transformer,
)
