"""Methods by name: each combines parts of this package into an estimator that `compare` can fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sklearn.base import clone

from ..classifier import BlackVIPClassifier
from ..encoders.base import Encoder
from ..journal.identity import describe, name_of
from ..scorers.wrappers import innermost
from . import presets
from .ares import AReSClassifier
from .baselines import LabelMappedService, ServiceBaselines
from .white_box import WhiteBoxClassifier

__all__ = ["METHODS", "Method", "View", "make_method", "prepared", "with_parameters"]

_NOT_COMPARED = ("score_fn", "class_prompts", "checkpoint", "max_queries", "random_state", "verbose")


@dataclass(frozen=True)
class View:
    """One of several predictions of the same fit.

    Parameters
    ----------
    group : str
        Methods of the same group share a fit.
    name : str
        The name of the prediction in the estimator's `log_probas`.
    bills_fit, bills_predictions : bool, default=True
        Whether this prediction needs what the fit, or the prediction, has billed.
    """

    group: str
    name: str
    bills_fit: bool = True
    bills_predictions: bool = True


#: Methods that share a fit with others.
_VIEWS = {
    "zero-shot": View("baselines", "zero_shot", bills_fit=False),
    "calibrated": View("baselines", "calibrated_zero_shot"),
    "local-probe": View("baselines", "local_probe", bills_fit=False, bills_predictions=False),
    "fused": View("baselines", "fused_zero_shot"),
    "ares": View("ares", "local", bills_predictions=False),
    "ares-both": View("ares", "both"),
}
_MAPPINGS = ("frequency", "blm", "blm+")
#: Methods of the papers: a preset and its arguments.
_PRESETS: dict[str, tuple[Callable[..., dict[str, Any]], dict[str, Any]]] = {
    "vp-spsa-gc": (presets.vp, {}),
    "vp-spsa": (presets.vp, {"optimizer": "spsa"}),
    "bar": (presets.bar, {}),
    "bar-spsa-gc": (presets.bar, {"optimizer": "spsa-gc"}),
    "blackvip": (presets.cvpr2023, {}),
    "blackvip-spsa": (presets.cvpr2023, {"optimizer": "spsa"}),
    "blackvip-scratch": (presets.cvpr2023, {"encoder": "scratch"}),
    "blackvip-mae": (presets.cvpr2023, {"encoder": "vit-mae"}),
    "blackvip-in21k": (presets.cvpr2023, {"encoder": "vit-in21k"}),
    "blackvip-se": (presets.blackvip_se, {}),
    "blackvip-se-spsa": (presets.blackvip_se, {"optimizer": "spsa"}),
}

#: Names that `compare` knows.
METHODS = (*_VIEWS, *_MAPPINGS, "basis", *_PRESETS, "vp-white-box")


def make_method(
    name: str,
    score_fn: Any,
    class_prompts: Any = "{}",
    dataset: str | None = None,
    encoder: str | Encoder | None = None,
) -> Any:
    """Make the estimator of a method that `compare` knows by name.

    The baselines share one estimator, which predicts with each of them.

    Parameters
    ----------
    name : str
        One of `METHODS`.
    score_fn : callable
        Score function, as in `BlackVIPClassifier`.
    class_prompts : str, dict, Series or sequence of str, default="{}"
        Class prompts, as in `BlackVIPClassifier`.
    dataset : str or None, default=None
        The data set whose settings a preset uses, see ``blackvip.presets.SETTINGS``. None: the most common settings.
    encoder : str, Encoder or None, default=None
        The encoder of "blackvip" and its variants, see `blackvip.presets.cvpr2023`. None: the one in the name.

    Returns
    -------
    estimator : estimator
        The estimator, not fitted.

    Raises
    ------
    ValueError
        If there is no such method.
    """
    if name in _VIEWS:
        if _VIEWS[name].group == "baselines":
            return ServiceBaselines(score_fn, class_prompts)
        return AReSClassifier(score_fn, class_prompts, inference=_VIEWS[name].name)
    if name in _MAPPINGS:
        return LabelMappedService(score_fn, class_prompts, mapping=name)
    if name == "basis":
        return BlackVIPClassifier(score_fn, class_prompts, prompter="basis")
    if name == "vp-white-box":
        return WhiteBoxClassifier(score_fn, class_prompts, **presets.vp_white_box(dataset))
    if name in _PRESETS:
        preset, given = _PRESETS[name]
        if encoder is not None and preset is presets.cvpr2023:
            given = {**given, "encoder": encoder}
        return BlackVIPClassifier(score_fn, class_prompts, **preset(dataset, **given))
    raise ValueError(f"There is no method {name!r}; expected one of {', '.join(METHODS)}, or a dict of parameters.")


@dataclass
class Method:
    """One fit, and the methods that it serves: several views of it, or a single method."""

    name: str
    estimator: Any
    #: By the names of their rows; empty for a single method.
    views: dict[str, View] = field(default_factory=dict)

    @property
    def identity(self) -> dict[str, Any]:
        """What its results depend on besides the data, the service, the budget and the seed, as JSON."""
        params = self.estimator.get_params(deep=False)
        relevant = {name: value for name, value in params.items() if name not in _NOT_COMPARED}
        return {"estimator": name_of(self.estimator), **describe(relevant, open_names=False)}

    @property
    def costs_the_same(self) -> bool:
        """Whether a fit bills the same whatever its budget is."""
        return getattr(self.estimator, "fixed_cost", False)

    @property
    def has_seed(self) -> bool:
        """Whether the estimator or a part of it has a `random_state`."""
        return any(name.rpartition("__")[2] == "random_state" for name in self.estimator.get_params())


def prepared(methods: Sequence[str] | Mapping[str, Any], score_fn: Any, class_prompts: Any) -> list[Method]:
    """Make the estimators of all methods; methods that share a fit become one, in the place of the first.

    Parameters
    ----------
    methods : sequence of str, or dict
        Names of methods, or names with parameters or estimators.
    score_fn : callable
        The service.
    class_prompts : str, dict or sequence
        Class prompts, as in `BlackVIPClassifier`.

    Returns
    -------
    prepared : list of Method
        One entry per fit.

    Raises
    ------
    TypeError, ValueError
        If a method is unknown or cannot be used.
    """
    named = dict(methods) if isinstance(methods, Mapping) else {name: name for name in _checked_names(methods)}
    if not named:
        raise ValueError(f"methods is empty; expected some of {', '.join(METHODS)}.")
    found: list[Method] = []
    groups: dict[str, Method] = {}
    for name, value in named.items():
        view = _VIEWS.get(value if isinstance(value, str) else name)
        if view is not None and (isinstance(value, str) or hasattr(value, "log_probas")):
            estimator = make_method(value, score_fn, class_prompts) if isinstance(value, str) else value
            group = view.group + repr(Method(name, estimator).identity | {"inference": None})
            if group not in groups:
                groups[group] = Method(name, estimator)
                found.append(groups[group])
            groups[group].views[name] = view
        elif isinstance(value, str):
            found.append(Method(name, make_method(value, score_fn, class_prompts)))
        elif isinstance(value, Mapping):
            found.append(Method(name, BlackVIPClassifier(score_fn, class_prompts, **value)))
        else:
            found.append(Method(name, _checked_estimator(name, value)))
    return found


def _checked_names(methods: Any) -> list[str]:
    if isinstance(methods, str) or not all(isinstance(name, str) for name in methods):
        raise TypeError(
            f"methods is {methods!r:.200}; expected a list of names, or a dict from names to parameters or estimators."
        )
    return list(dict.fromkeys(methods))


def _checked_estimator(name: str, estimator: Any) -> Any:
    if not hasattr(estimator, "fit") or not hasattr(estimator, "get_params") or not _prefixes(estimator):
        raise TypeError(
            f"The method {name!r} is a {type(estimator).__name__} without a parameter score_fn; expected one of "
            f"{', '.join(METHODS)}, a dict of parameters of BlackVIPClassifier, or an estimator with a score_fn."
        )
    return estimator


def _prefixes(estimator: Any) -> list[str]:
    """Return the prefixes of an estimator's `score_fn` parameters: "" for its own, "estimator__" for a part's."""
    return [name.removesuffix("score_fn") for name in estimator.get_params() if name.rpartition("__")[2] == "score_fn"]


def with_parameters(estimator: Any, score_fn: Any, class_prompts: Any, limit: int, seed: int | None) -> Any:
    """Return a clone with the service, class prompts, budget and seed of a run.

    Parameters
    ----------
    estimator : estimator
        The estimator of a method.
    score_fn : callable
        The service.
    class_prompts : str, dict or sequence
        Class prompts, as in `BlackVIPClassifier`.
    limit : int
        Billed images of the fit, for an estimator with the parameter `max_queries`.
    seed : int or None
        Value of `random_state`, if the estimator has it.

    Returns
    -------
    clone : estimator
        The unfitted clone.
    """
    twin = clone(estimator)
    if getattr(twin, "needs_gradients", False):
        score_fn = innermost(score_fn)
    known = twin.get_params().keys()
    for prefix in _prefixes(twin):
        wanted = {"score_fn": score_fn, "class_prompts": class_prompts, "verbose": 0, "checkpoint": None}
        if not prefix:
            # Parts have budgets of their own; the shared budget limits them together.
            wanted["max_queries"] = limit
        if seed is not None:
            wanted["random_state"] = seed
        twin.set_params(**{prefix + name: value for name, value in wanted.items() if prefix + name in known})
    if seed is not None and "random_state" in known:
        twin.set_params(random_state=seed)
    return twin
