"""The base class of optimizers, their short names, and the perturbations that several of them draw."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Protocol

import numpy as np
from sklearn.base import BaseEstimator, clone

from ..persistence.arrays import PLAIN, Generator
from ..persistence.fields import Maybe, Record, number
from ..persistence.format import expect
from ..persistence.saveable import Saveable

__all__ = ["FIGURES", "GainProbe", "Optimizer", "make_optimizer", "segmented_uniform"]

#: Figures of the last step in a saved state.
FIGURES = Maybe(Record({}, others=number()))


def segmented_uniform(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Draw perturbations whose entries are uniform on [-1, -0.5] and [0.5, 1].

    They are symmetric and their inverse moments are bounded, as SPSA requires (Spall 1992, condition A2). BlackVIP uses
    this distribution.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of random numbers.
    shape : tuple of int
        Shape of the result.

    Returns
    -------
    perturbations : ndarray of shape `shape`
        The perturbations, float64.
    """
    magnitude = rng.uniform(0.5, 1.0, shape)
    return magnitude * rng.choice([-1.0, 1.0], shape)


class GainProbe(Protocol):
    """Measurements on which an optimizer may base its gains before it starts.

    Attributes
    ----------
    budget : int
        Images that training may bill, including those that finding the gains bills.
    rows : ndarray of int
        Training images that losses can be measured on.
    """

    budget: int
    rows: np.ndarray

    def prompt_rms(self, w: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """Measure how far directions move the prompts; bills nothing.

        Parameters
        ----------
        w : ndarray of shape (d,)
            The parameter vector from which the prompts move.
        directions : ndarray of shape (p, d)
            Changes of the parameter vector.

        Returns
        -------
        rms : ndarray of shape (p,)
            Root mean square over all pixels, in units of the pixel range.
        """

    def losses(self, candidates: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Measure the mean losses of candidates; bills n images per candidate.

        Parameters
        ----------
        candidates : ndarray of shape (p, d)
            Parameter vectors.
        rows : ndarray of shape (n,) or (p, n)
            Training images on which all candidates, or each of them, are scored.

        Returns
        -------
        losses : ndarray of shape (p,)
            Mean loss of each candidate.
        """

    def n_rows_each(self, optimizer: Optimizer) -> int:
        """Return the number of images on which each candidate of a step is scored."""

    def next_rows(self, optimizer: Optimizer) -> np.ndarray:
        """Return the images of the next step, of shape (n_candidates, n)."""


class Optimizer(Saveable, BaseEstimator, ABC):
    """Base class of optimizers, which minimize a function that they know only by its values.

    A training loop calls `find_gains` and `start` once, and then `ask` and `tell` in turn. Everything that changes is
    in `state`, a dict of plain values and arrays, and in the generator `rng`. Another object with the same parameters
    continues from both exactly as this object would. Parameters are never overwritten: a value that is found for a
    parameter that is "auto" is in the state.

    A subclass with a short name gives it in its definition: ``class SPSA(Optimizer, name="spsa")``.

    Attributes
    ----------
    n_candidates : int
        Candidates that one step asks for. It is known after the start at the latest.
    rng : numpy.random.Generator
        Source of random numbers.
    state : dict of str to object
        Everything that steps change.
    figure_names : tuple of str
        Names of the figures that `figures` returns.
    """

    n_candidates: int
    rng: np.random.Generator
    state: dict[str, Any]
    #: Optimizers that have a short name.
    named: ClassVar[dict[str, type[Optimizer]]] = {}
    figure_names: ClassVar[tuple[str, ...]] = ("a", "a_k", "c_k", "estimate_norm", "step_norm")

    saved_attributes = {"rng": Generator(), "state": PLAIN}

    def _finish_loading(self) -> None:
        super()._finish_loading()
        w = self.state["w"]
        expect(isinstance(w, np.ndarray) and (w.ndim, w.dtype) == (1, np.float64), "an optimizer's w is not a vector")

    def n_candidates_for(self, d: int) -> int:
        """Return the number of candidates of a step in `d` parameters, and check this optimizer's parameters.

        A budget is planned with it before anything is billed.

        Parameters
        ----------
        d : int
            Number of parameters.

        Returns
        -------
        n_candidates : int
            Candidates of one step.

        Raises
        ------
        ValueError
            If a parameter of this optimizer is unusable.
        """
        return self.n_candidates

    @property
    def n_comparisons(self) -> int:
        """Number of groups of candidates, known before the start.

        Losses are compared with one another within a group, so they must be measured on the same images. Groups may
        have different images. By default, all candidates are in one group.
        """
        return 1

    @property
    def comparisons(self) -> np.ndarray:
        """Group of each candidate, of shape (n_candidates,), integers."""
        return np.arange(self.n_candidates) % self.n_comparisons

    @property
    def started(self) -> bool:
        """Whether `start` was called, so another run can continue from here."""
        return "w" in self._known

    @property
    def w(self) -> np.ndarray:
        """The current parameter vector, of shape (d,)."""
        return self.state["w"]

    @property
    def a_(self) -> float | None:
        """Step size in use, without the decay; None if it is unknown or the algorithm has none."""
        return self._known.get("a")

    @property
    def c_(self) -> float | None:
        """Perturbation size in use, without the decay; None if it is unknown or the algorithm has none."""
        return self._known.get("c")

    def signal_share(self, d: int, n_steps: int) -> float:
        """Return the share of a run's estimates that is signal rather than noise.

        Parameters
        ----------
        d : int
            Number of parameters.
        n_steps : int
            Steps of the run.

        Returns
        -------
        share : float
            Between 0 and 1. The default is 1, for algorithms that cannot tell.
        """
        return 1.0

    def gain_cost(self, d: int, n_rows_each: int, n_training_rows: int, budget: int) -> int:
        """Return the images that `find_gains` bills.

        Parameters
        ----------
        d : int
            Number of parameters.
        n_rows_each : int
            Images on which each candidate of a step is scored.
        n_training_rows : int
            Training images.
        budget : int
            Images that training may bill, including these.

        Returns
        -------
        cost : int
            Images; 0 by default.
        """
        return 0

    def find_gains(self, probe: GainProbe, w: np.ndarray, rng: np.random.Generator) -> None:
        """Find values for parameters that are "auto"; does nothing by default.

        Parameters
        ----------
        probe : GainProbe
            Measurements on the problem. They bill `gain_cost` images.
        w : ndarray of shape (d,)
            The vector at which training will start.
        rng : numpy.random.Generator
            Source of random numbers.
        """

    def continue_from(self, earlier: Optimizer) -> None:
        """Take over the state of an earlier optimizer if it has started and is of the same kind.

        Parameters that are "auto" here keep the values that were found earlier.

        Parameters
        ----------
        earlier : Optimizer
            The optimizer of the last run, which does not change.
        """
        if type(earlier) is type(self) and earlier.started:
            self.rng, self.state = earlier.rng, dict(earlier.state)
            self.state.update(self._gains())

    def begin_run(self, n_steps: int) -> None:
        """Prepare a further run, if the steps depend on how many there are; does nothing by default.

        Parameters
        ----------
        n_steps : int
            Steps that the run will make.
        """

    def restart_from(self, w: np.ndarray) -> None:
        """Continue from another parameter vector.

        Parameters
        ----------
        w : ndarray of shape (d,)
            The vector.
        """
        self.state["w"] = np.array(w, dtype=np.float64)

    def adapt(self, improvement: float, best_w: np.ndarray | None) -> None:
        """Correct the step size after a check on held-out images; does nothing by default.

        Parameters
        ----------
        improvement : float
            Share by which the loss is below the lowest one so far; negative if it is above.
        best_w : ndarray of shape (d,) or None
            The vector with the lowest loss so far, if there is one.
        """

    def figures(self) -> dict[str, float]:
        """Return figures of the last step, for the history.

        Returns
        -------
        figures : dict of str to float
            Plain numbers by their names; empty before the first step.
        """
        return self.state.get("figures", {})

    @abstractmethod
    def start(self, w: np.ndarray, rng: np.random.Generator) -> None:
        """Begin at a parameter vector.

        Parameters
        ----------
        w : ndarray of shape (d,)
            The vector.
        rng : numpy.random.Generator
            Source of random numbers for all steps.

        Raises
        ------
        ValueError
            If a parameter of this optimizer is unusable.
        """

    @abstractmethod
    def ask(self) -> np.ndarray:
        """Return the candidates of the next step.

        Returns
        -------
        candidates : ndarray of shape (n_candidates, d)
            Parameter vectors whose losses are needed.
        """

    @abstractmethod
    def tell(self, losses: np.ndarray) -> None:
        """Make one step.

        Parameters
        ----------
        losses : ndarray of shape (n_candidates,)
            Losses of the candidates of the last `ask`, in their order.
        """

    @property
    def _known(self) -> dict[str, Any]:
        """The state, empty before `find_gains` and `start`."""
        return vars(self).get("state", {})

    def _gains(self) -> dict[str, Any]:
        """Return the parameters of which the state has a copy, with the values found for those that are "auto"."""
        return {}

    def _in_use(self, *names: str) -> dict[str, Any]:
        """Return the values of parameters in use: those given, or those found where "auto" was given."""
        values = {name: getattr(self, name) for name in names}
        values = {name: self._known.get(name, value) if value == "auto" else value for name, value in values.items()}
        for name, value in values.items():
            if value == "auto":
                raise ValueError(
                    f"{type(self).__name__} has {name}='auto', and no value was found for it. Call find_gains before "
                    "start, as BlackVIPClassifier does, or give a number."
                )
        return values

    def _move(self, g: np.ndarray, step: np.ndarray, gains: dict[str, float]) -> None:
        """Subtract a step from the parameter vector, and keep its figures."""
        norms = {"estimate_norm": float(np.linalg.norm(g)), "step_norm": float(np.linalg.norm(step))}
        self.state["figures"] = {**gains, **norms}
        self.state["w"] = self.state["w"] - step
        self.state["k"] += 1


def make_optimizer(optimizer: str | Optimizer, **gains: Any) -> Optimizer:
    """Make an optimizer that has not started.

    Parameters
    ----------
    optimizer : {"spsa-gc", "spsa", "cma-es"} or Optimizer
        Short name of an optimizer in `Optimizer.named`, or an instance, which is cloned.
    **gains : float or "auto"
        Values for parameters of the optimizer; "auto" changes nothing.

    Returns
    -------
    optimizer : Optimizer
        The new optimizer.

    Raises
    ------
    ValueError
        If no optimizer has this name, or it has no such parameter.
    """
    if isinstance(optimizer, str):
        if optimizer not in Optimizer.named:
            names = ", ".join(map(repr, Optimizer.named))
            raise ValueError(f"optimizer={optimizer!r}; expected one of {names}, or an Optimizer.")
        made = Optimizer.named[optimizer]()
    else:
        made = clone(optimizer)
    given = {name: value for name, value in gains.items() if value != "auto"}
    unknown = given.keys() - made.get_params(deep=False).keys()
    if unknown:
        name = min(unknown)
        raise ValueError(
            f"{name}={given[name]!r} was given, but {type(made).__name__} has no parameter {name!r}; expected 'auto'."
        )
    return made.set_params(**given)
