"""What a training loop needs of an optimizer, and the perturbations that several of them draw."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator

from ..persistence.arrays import PLAIN, Generator
from ..persistence.fields import Maybe, Record, number
from ..persistence.format import expect
from ..persistence.saveable import Saveable

__all__ = ["FIGURES", "Optimizer", "segmented_uniform"]

#: The figures of the last step in a saved state.
FIGURES = Maybe(Record({}, others=number()))


def segmented_uniform(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Perturbations whose entries are uniform on [-1, -0.5] and [0.5, 1].

    They are symmetric with a bounded inverse moment, which is what SPSA asks of a perturbation
    (Spall 1992, condition A2); the choice is BlackVIP's.
    """
    magnitude = rng.uniform(0.5, 1.0, shape)
    return magnitude * rng.choice([-1.0, 1.0], shape)


class Optimizer(Saveable, BaseEstimator, ABC):
    """What a training loop needs of an optimizer.

    `start` once, then `ask` and `tell` in turn. What changes with each step is in `state`, a dict of plain values
    and arrays, and in the generator `rng`: with both, another object with the same parameters goes on just the same.
    """

    #: Candidates that one step asks for: known before the start, or at the latest once it was made.
    n_candidates: int
    rng: np.random.Generator
    state: dict[str, Any]
    figure_names: ClassVar[tuple[str, ...]] = ("a", "a_k", "c_k", "estimate_norm", "step_norm")  #: What `figures` has.

    saved_attributes = {"rng": Generator(), "state": PLAIN}

    def _finish_loading(self) -> None:
        super()._finish_loading()
        w = self.state["w"]
        expect(isinstance(w, np.ndarray) and (w.ndim, w.dtype) == (1, np.float64), "an optimizer's w is not a vector")

    def n_candidates_for(self, d: int) -> int:
        """Candidates that one step asks for in `d` parameters, by which a budget is planned before the start.

        Since it is called before anything is sent, it is also what refuses parameters that cannot work.
        """
        return self.n_candidates

    @property
    def n_comparisons(self) -> int:
        """Groups of candidates; known before the start.

        Losses within a group are compared with one another, so they must be of the same images; another group's
        may be of other images. Unless an algorithm knows better, all candidates are one group.
        """
        return 1

    @property
    def comparisons(self) -> np.ndarray:
        """For each candidate the number of its group, of shape (n_candidates,), integers."""
        return np.arange(self.n_candidates) % self.n_comparisons

    @property
    def started(self) -> bool:
        """Whether `start` was called, so that another run can go on from here."""
        return "state" in vars(self)

    @property
    def w(self) -> np.ndarray:
        """The current parameter vector, of shape (d,)."""
        return self.state["w"]

    def restart_from(self, w: np.ndarray) -> None:
        """Go on from another parameter vector.

        Parameters
        ----------
        w : ndarray of shape (d,)
            The vector.
        """
        self.state["w"] = np.array(w, dtype=np.float64)

    def begin_run(self, n_steps: int) -> None:
        """Go on with a further run of `n_steps` steps, by an optimizer whose steps depend on how many there are.

        Parameters
        ----------
        n_steps : int
            Steps that the run will make.
        """

    def figures(self) -> dict[str, float]:
        """What the last step has to tell, for the history.

        Returns
        -------
        figures : dict of str to float
            Plain numbers by their names; empty before the first step.
        """
        return self.state.get("figures", {})

    def _move(self, g: np.ndarray, step: np.ndarray, gains: dict[str, float]) -> None:
        """Make a step, which an estimate has led to, and keep what it has to tell."""
        norms = {"estimate_norm": float(np.linalg.norm(g)), "step_norm": float(np.linalg.norm(step))}
        self.state["figures"] = {**gains, **norms}
        self.state["w"] = self.state["w"] - step
        self.state["k"] += 1

    @abstractmethod
    def start(self, w: np.ndarray, rng: np.random.Generator) -> None:
        """Begin at the parameter vector `w` of shape (d,), with random numbers from `rng`."""

    @abstractmethod
    def ask(self) -> np.ndarray:
        """Return candidates of shape (n_candidates, d), whose losses are wanted."""

    @abstractmethod
    def tell(self, losses: np.ndarray) -> None:
        """Take the losses of shape (n_candidates,) of the candidates that were asked for last."""
