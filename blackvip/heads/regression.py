"""Multinomial logistic regression, of which all heads are made: several at once, on the same rows with other weights.

The folds of a cross-validation are such regressions. Solving them together, all from a rough solution of one of them,
and each strength from the solution for the one before, takes a fraction of the time of one fit after another.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg.lapack import dpotrf, dpotrs
from scipy.optimize import minimize

__all__ = ["Regressions", "linear_logits", "regression_loss"]

# Parameters of a regression up to which Newton's method is used. Its matrices grow with their square.
_MOST_FOR_NEWTON = 300
# Products of two inputs, and of the probabilities of two classes, in all rows, that it may keep: 20 MB each. With more
# of them it is slower than L-BFGS-B, too.
_MOST_PRODUCTS = 5_000_000
# Weights of the inputs of a regression. With more, inputs count only in the directions in which rows differ most.
_MOST_WEIGHTS = 50_000
_MOST_STEPS, _MOST_HALVINGS = 50, 30
# Relative tolerance of the loss in the regression that all others start from; they differ from it by more.
_START_FTOL = 1e-2
# Relative tolerance of the loss from which on L-BFGS-B computes products in single precision, in half the time.
_SINGLE_FTOL = 1e-7
# The curvature is kept as long as each step promises less than this share of what the last one promised.
_FALLS_FAST = 0.1
# Share of the slope by which a step must lower the loss at least.
_ARMIJO = 1e-4
# Share of the largest squared singular value of the inputs below which a direction is rounding.
_LEAST_SHARE = 1e-13
# An intercept's curvature, relative to the largest one: it is lost where a class is never probable.
_LEAST_CURVATURE = 1e-9


class Regressions:
    """Multinomial logistic regressions on the same rows; each has weights of its own, such as 0 for a fold's test rows.

    With the log probabilities q_l of experts, inputs z, and the parameters alpha, V and b, the logits are
    sum_l alpha_l q_l + V z + b (B15). Each fit starts from the solutions of the last one, and the first fit starts from
    a rough solution of the first regression. Where V would have more than 50,000 entries, it is restricted to the
    principal directions of z.

    Parameters
    ----------
    z : ndarray of shape (n_fits, n_inputs, n_rows) or (1, n_inputs, n_rows)
        Inputs of each regression, or of all of them.
    index : ndarray of shape (n_rows,)
        Class indices.
    weights : ndarray of shape (n_fits, n_rows)
        Non-negative weights of the rows in each regression.
    n_classes : int
        Number of classes.
    experts : ndarray of shape (n_experts, n_classes, n_rows) or None, default=None
        Log probabilities, of which each expert has one non-negative weight. None: there are none.
    loose : float, default=0.0
        Ridge penalty of the weights of experts and of the intercepts.

    Attributes
    ----------
    alpha : ndarray of shape (n_fits, n_experts)
        Weights of the experts in the last solutions.
    intercept : ndarray of shape (n_fits, n_classes)
    """

    def __init__(
        self,
        z: np.ndarray,
        index: np.ndarray,
        weights: np.ndarray,
        n_classes: int,
        experts: np.ndarray | None = None,
        loose: float = 0.0,
    ):
        _, n_inputs, n_rows = z.shape
        n_fits = len(weights)
        self.experts = np.empty((0, n_classes, n_rows)) if experts is None else np.ascontiguousarray(experts)
        n_experts = len(self.experts)
        self._axes = None
        if self._count(n_inputs) > _MOST_FOR_NEWTON:
            self._axes, z = _decorrelated(z, max(1, _MOST_WEIGHTS // n_classes))
        n_columns = z.shape[1] + 1
        n_products = max(len(z) * n_columns * (n_columns + 1), n_fits * n_classes * (n_classes + 1)) * n_rows // 2
        self._is_small = self._count(z.shape[1]) <= _MOST_FOR_NEWTON and n_products <= _MOST_PRODUCTS
        self.z1 = np.concatenate([np.ones((len(z), 1, n_rows)), z], axis=1)
        self.index, self.weights, self.loose = index, np.ascontiguousarray(weights), loose
        self.alpha = np.full((n_fits, n_experts), 1 / max(1, n_experts))
        self.intercept = np.zeros((n_fits, n_classes))
        self._coef = np.zeros((n_fits, n_classes, self.z1.shape[1] - 1))
        self._single: tuple[np.ndarray, ...] | None = None
        self._is_started = n_fits == 1

    def fit(self, strength: float, ftol: float = 1e-10, which: slice = slice(None)) -> Regressions:
        """Minimise the penalised losses (B16), from the last solutions.

        Parameters
        ----------
        strength : float
            Ridge penalty of the weights of the inputs.
        ftol : float, default=1e-10
            A regression is solved when a step lowers the loss by less than this share of it.
        which : slice, default=slice(None)
            The regressions to fit. By default all.
        """
        if not self._is_started:
            self._solve(slice(1), strength, _START_FTOL)
            self._start_from_first()
            self._is_started = True
        self._solve(which, strength, ftol)
        return self

    def _start_from_first(self) -> None:
        """Take over the solution of the first regression for all of them."""
        self.alpha[:], self.intercept[:], self._coef[:] = self.alpha[0], self.intercept[0], self._coef[0]
        if self._axes is not None:
            # Each regression may have directions of its own.
            self._coef[:] = self._coef[0] @ self._axes[0] @ self._axes.transpose(0, 2, 1)

    def _solve(self, which: slice, strength: float, ftol: float) -> None:
        """Fit some of the regressions, see `fit`."""
        numbers = np.arange(len(self.weights))[which]
        unsolved = self._newton(which, strength, ftol) if self._is_small else np.ones(len(numbers), bool)
        for fit in numbers[unsolved].tolist():
            self._quasi_newton(fit, strength, ftol)

    @staticmethod
    def _of(which: slice, inputs: np.ndarray) -> np.ndarray:
        """Select the inputs (m, ...) of some regressions; those of all of them (1, ...) stay."""
        return inputs[which] if len(inputs) > 1 else inputs

    def _count(self, n_inputs: int) -> int:
        """Number of parameters of a regression with this many inputs."""
        n_experts, n_classes, _ = self.experts.shape
        return n_experts + n_classes * (1 + n_inputs)

    @property
    def coef(self) -> np.ndarray:
        """Weights of the inputs in the last solutions, (n_fits, n_classes, n_inputs)."""
        return self._coef if self._axes is None else self._coef @ self._axes

    def _penalty(self, strength: float, n_inputs: int) -> np.ndarray:
        """Ridge penalties of the parameters of a regression, in the order of `regression_loss`."""
        n_experts, n_classes, _ = self.experts.shape
        of_class = np.concatenate([[self.loose], np.full(n_inputs, strength)])
        return np.concatenate([np.full(n_experts, self.loose), np.tile(of_class, n_classes)])

    def _newton(self, which: slice, strength: float, ftol: float) -> np.ndarray:
        """Newton's method for some regressions together; tells which of them it has not solved, (n_fits,)."""
        n_fits, n_experts = self.alpha[which].shape
        penalty = self._penalty(strength, self._coef.shape[2])
        of_classes = np.concatenate([self.intercept[which, :, None], self._coef[which]], axis=2)
        x = np.concatenate([self.alpha[which], of_classes.reshape(n_fits, -1)], axis=1)
        z1, weights = self._of(which, self.z1), self.weights[which]
        evaluate = lambda x: regression_loss(x, self.experts, z1, self.index, weights, penalty)
        loss, gradient, excess = evaluate(x)
        solved, failed = np.zeros(n_fits, bool), np.zeros(n_fits, bool)
        slope = np.full(n_fits, -np.inf)

        def next_step(curvature: _Curvature) -> tuple[np.ndarray, np.ndarray]:
            step = self._step(x, gradient, curvature)
            step[failed] = 0
            return step, (gradient * step).sum(axis=1)

        curvature = _Curvature(self._second_derivatives(which, excess, penalty), n_experts)
        for _ in range(_MOST_STEPS):
            last = slope
            failed |= curvature.failed
            step, slope = next_step(curvature)
            if (slope < np.minimum(_FALLS_FAST * last, -ftol * loss)).any():
                curvature = _Curvature(self._second_derivatives(which, excess, penalty), n_experts)
                failed |= curvature.failed
                step, slope = next_step(curvature)
            # The constrained step may ascend where several weights become zero at once. The other regressions go on.
            failed |= slope > ftol * loss
            length = np.where(failed, 0.0, 1.0)[:, None]
            solved = ~failed & (np.abs(slope) <= ftol * loss)
            for _ in range(_MOST_HALVINGS):
                found = evaluate(x + length * step)
                # Rounding may hide what a last step gains.
                better = found[0] <= loss + _ARMIJO * length[:, 0] * slope + 1e-14 * loss
                if better.all():
                    break
                length[~better] /= 2
            else:
                failed |= ~better
                length[~better] = 0
                found = evaluate(x + length * step)
            x = x + length * step
            loss, gradient, excess = found
            if (solved | failed).all():
                break
        self.alpha[which] = x[:, :n_experts]
        of_classes = x[:, n_experts:].reshape(of_classes.shape)
        self.intercept[which], self._coef[which] = of_classes[:, :, 0], of_classes[:, :, 1:]
        return ~solved | failed

    def _step(self, x: np.ndarray, gradient: np.ndarray, curvature: _Curvature) -> np.ndarray:
        """Newton's step (n_fits, n_parameters), at whose end no expert has a negative weight."""
        n_experts, inverse = len(self.experts), curvature.inverse_of_experts
        newton = -curvature.solve(gradient[:, :, None])[..., 0]
        weights, step = x[:, :n_experts], newton
        held = (weights <= 0) & (gradient[:, :n_experts] > 0)
        for _ in range(n_experts + 1):
            if held.any():
                # Weights that are held end at zero, and the quadratic model is lowest in all others: forces on the
                # held ones, (b, n_experts), see to that.
                both = held[:, :, None] & held[:, None]
                among = np.where(both, inverse[:, :n_experts], np.eye(n_experts))
                missing = np.where(held, -weights - newton[:, :n_experts], 0)
                force = np.linalg.solve(among, missing[:, :, None])
                step = newton + (inverse @ force)[..., 0]
            crossing = ~held & (weights + step[:, :n_experts] < 0)
            if not crossing.any():
                break
            held |= crossing
        # Exactly, without what rounding leaves.
        step[:, :n_experts] = np.where(held, -weights, np.maximum(step[:, :n_experts], -weights))
        return step

    def _second_derivatives(self, which: slice, excess: np.ndarray, penalty: np.ndarray) -> np.ndarray:
        """Second derivatives of the losses, from their gradient with respect to the logits, see `regression_loss`.

        They have the shape (n_fits, n_parameters, n_parameters). Sums over rows are taken in single precision: the
        solution depends on the gradient alone.
        """
        n_experts, n_classes, n_rows = self.experts.shape
        n_fits, n_columns = len(excess), self.z1.shape[1]
        low, high = np.triu_indices(n_classes)
        if self._single is None:
            z1 = self.z1.astype(np.float32)
            first, second = np.triu_indices(n_columns)
            products = np.ascontiguousarray((z1[:, first] * z1[:, second]).transpose(0, 2, 1))
            # The place of each second derivative among the sums over rows, (n_classes, n_columns, ...) twice.
            places = _pair_numbers(n_classes)[:, None, :, None] * len(first) + _pair_numbers(n_columns)[:, None]
            self._single = z1, products, self.experts.astype(np.float32), places
        z1, products = (self._of(which, inputs) for inputs in self._single[:2])
        experts, places = self._single[2:]
        # Probabilities, times the weights of the rows.
        weighted = excess.astype(np.float32)
        weighted[:, self.index, np.arange(n_rows)] += self.weights[which]
        weights = self.weights[which, None].astype(np.float32)
        share = np.divide(weighted, weights, out=np.zeros_like(weighted), where=weights > 0)
        joint = weighted[:, low]
        joint *= -share[:, high]
        joint[:, low == high] += weighted
        # (b, pairs of classes, n_rows) @ (b, n_rows, pairs of columns)
        sums = (joint @ products).reshape(n_fits, -1)
        n_of_classes = n_classes * n_columns
        curvature = np.empty((n_fits, len(penalty), len(penalty)))
        curvature[:, n_experts:, n_experts:] = sums.take(places.reshape(n_of_classes, -1), axis=1)
        for k, expert in enumerate(experts):
            # Deviations of the expert's log probabilities from their mean over the classes, (b, n_classes, n_rows).
            deviation = (expert - (share * expert).sum(axis=1, keepdims=True)) * weighted
            mixed = (deviation @ z1.transpose(0, 2, 1)).reshape(n_fits, n_of_classes)
            curvature[:, k, n_experts:] = curvature[:, n_experts:, k] = mixed
            curvature[:, k, :n_experts] = deviation.reshape(n_fits, -1) @ experts.reshape(n_experts, -1).T
        diagonal = np.arange(len(penalty))
        largest = curvature[:, diagonal, diagonal].max(axis=1, keepdims=True)
        curvature[:, diagonal, diagonal] += penalty + _LEAST_CURVATURE * largest
        if not self.loose:
            # All intercepts may rise together. This keeps their sum, without a change of the solution.
            intercepts = n_experts + n_columns * np.arange(n_classes)
            curvature[:, intercepts[:, None], intercepts] += largest[:, :, None] / n_classes
        return curvature

    def _quasi_newton(self, fit: int, strength: float, ftol: float) -> None:
        """Solve one regression by L-BFGS-B, which takes any number of parameters."""
        n_experts, n_classes, _ = self.experts.shape
        rows = np.flatnonzero(self.weights[fit])
        index, weights = self.index[rows], self.weights[fit, rows]
        dtype = np.float32 if ftol >= _SINGLE_FTOL else np.float64
        experts = np.ascontiguousarray(self.experts[:, :, rows], dtype)
        # (1 + n_inputs, n_rows)
        z1 = np.ascontiguousarray(self.z1[fit % len(self.z1)][:, rows], dtype)
        penalty = self._penalty(strength, len(z1) - 1)
        # Approximate square roots of the curvature in each parameter, at equally likely classes. L-BFGS-B needs many
        # times fewer steps with parameters that are scaled by them.
        of_class = np.square(z1) @ weights / n_classes
        curvature = np.concatenate([experts.var(axis=1) @ weights, np.tile(of_class, n_classes)])
        stretch = np.sqrt(curvature + penalty)

        def loss(stretched: np.ndarray) -> tuple[float, np.ndarray]:
            value, gradient, _ = regression_loss(
                stretched[None] / stretch, experts, z1[None], index, weights[None], penalty
            )
            return float(value[0]), gradient[0] / stretch

        of_classes = np.concatenate([self.intercept[fit, :, None], self._coef[fit]], axis=1)
        found = minimize(
            loss,
            np.concatenate([self.alpha[fit], of_classes.ravel()]) * stretch,
            jac=True,
            method="L-BFGS-B",
            # Without bounds, its steps take a fraction of the time.
            bounds=[(0, None)] * n_experts + [(None, None)] * of_classes.size if n_experts else None,
            options={"maxiter": 1000, "maxfun": 10_000, "ftol": ftol, "gtol": 1e-6, "maxcor": 5},
        )
        solution = found.x / stretch
        of_classes = solution[n_experts:].reshape(of_classes.shape)
        self.alpha[fit], self.intercept[fit] = solution[:n_experts], of_classes[:, 0]
        self._coef[fit] = of_classes[:, 1:]


class _Curvature:
    """Second derivatives (n_fits, n_parameters, n_parameters) of the losses of regressions, factorised by Cholesky.

    Attributes
    ----------
    failed : ndarray of shape (n_fits,), bool
        Whether rounding has left no factors.
    inverse_of_experts : ndarray of shape (n_fits, n_parameters, n_experts)
        The columns of the inverse that belong to the weights of experts, which are the first parameters.
    """

    def __init__(self, second_derivatives: np.ndarray, n_experts: int):
        n_fits, n_parameters, _ = second_derivatives.shape
        # LAPACK works on columns, and a symmetric matrix is its own transpose.
        found = [dpotrf(matrix.T, lower=1, clean=0, overwrite_a=1) for matrix in second_derivatives]
        self._factors = [factor for factor, _ in found]
        self.failed = np.array([info != 0 for _, info in found], dtype=bool)
        units = np.eye(n_parameters, n_experts)
        self.inverse_of_experts = self.solve(np.broadcast_to(units, (n_fits, *units.shape)))

    def solve(self, right: np.ndarray) -> np.ndarray:
        """Divide right sides (n_fits, n_parameters, n_right) by the curvature; those of fits that failed become 0."""
        solved = np.zeros(right.shape)
        for fit in np.flatnonzero(~self.failed):
            solved[fit], _ = dpotrs(self._factors[fit], right[fit], lower=1)
        return solved


def _pair_numbers(n: int) -> np.ndarray:
    """Number the pairs of n things in the order of `numpy.triu_indices`; (i, j) and (j, i) have the same, (n, n)."""
    low, high = np.triu_indices(n)
    numbers = np.empty((n, n), dtype=np.intp)
    numbers[low, high] = numbers[high, low] = np.arange(len(low))
    return numbers


def _decorrelated(z: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Uncorrelated directions of inputs (m, n_inputs, n_rows): axes (m, n_axes, n_inputs), and the inputs along them.

    With a ridge penalty the weights of z are combinations of its rows, so directions that no row has are left out:
    there are at most as many directions as rows, and at most the `most` in which rows differ most. This is a singular
    value decomposition, by the smaller of the two matrices of products, which takes a third of the time.
    """
    found = [_axes_of(of_fit, most) for of_fit in z]
    n_axes = max(map(len, found))
    # Directions that a fit has in addition to its own are zero.
    axes = np.stack([np.pad(of_fit, [(0, n_axes - len(of_fit)), (0, 0)]) for of_fit in found])
    return axes, axes @ z


def _axes_of(z: np.ndarray, most: int) -> np.ndarray:
    """Orthonormal directions (n_axes, n_inputs) of inputs (n_inputs, n_rows), at most the `most` largest ones."""
    is_wide = len(z) > z.shape[1]
    squares, axes = np.linalg.eigh(z.T @ z if is_wide else z @ z.T)
    kept = squares > _LEAST_SHARE * squares.max(initial=0)
    # They come in increasing order.
    kept[:-most] = False
    axes = axes[:, kept].T
    return axes @ z.T / np.sqrt(squares[kept, None]) if is_wide else axes


def linear_logits(z: np.ndarray, coef: np.ndarray, intercept: np.ndarray) -> np.ndarray:
    """Compute the logits of images, each in the same way however many there are.

    The last digits of a product of matrices depend on the other rows, and a prediction must not.

    Parameters
    ----------
    z : ndarray of shape (n_images, n_inputs)
    coef : ndarray of shape (n_classes, n_inputs)
    intercept : ndarray of shape (n_classes,)

    Returns
    -------
    logits : ndarray of shape (n_images, n_classes)
    """
    return np.einsum("ij,kj->ik", np.ascontiguousarray(z), np.ascontiguousarray(coef)) + intercept


def regression_loss(
    parameters: np.ndarray,
    experts: np.ndarray,
    z1: np.ndarray,
    index: np.ndarray,
    weights: np.ndarray,
    penalty: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Penalised negative log likelihoods of regressions, and their gradients (B16).

    Parameters
    ----------
    parameters : ndarray of shape (n_fits, n_experts + n_classes * (1 + n_inputs))
        Weights of the experts, then the intercept and the weights of the inputs of each class.
    experts : ndarray of shape (n_experts, n_classes, n_rows)
        Log probabilities. The rows are the last axis, so that sums over classes run along contiguous memory.
    z1 : ndarray of shape (n_fits, 1 + n_inputs, n_rows) or (1, 1 + n_inputs, n_rows)
        Ones, then the inputs.
    index : ndarray of shape (n_rows,)
        Class indices.
    weights : ndarray of shape (n_fits, n_rows)
    penalty : ndarray of shape (n_parameters,)
        Ridge penalty of each parameter.

    Returns
    -------
    loss : ndarray of shape (n_fits,)
    gradient : ndarray of the shape of `parameters`
    excess : ndarray of shape (n_fits, n_classes, n_rows)
        Gradient with respect to the logits: probabilities minus the true classes, times the weights of the rows.
    """
    n_experts, n_classes, n_rows = experts.shape
    n_fits, n_columns = len(parameters), z1.shape[1]
    given = parameters.astype(z1.dtype, copy=False)
    of_classes = given[:, n_experts:].reshape(n_fits, n_classes, n_columns)
    # (b, n_classes, n_columns) @ (b, n_columns, n_rows)
    logits = of_classes @ z1
    flat = experts.reshape(n_experts, n_classes * n_rows)
    if n_experts:
        logits += (given[:, :n_experts] @ flat).reshape(logits.shape)
    logits -= logits.max(axis=1, keepdims=True)
    columns = np.arange(n_rows)
    true = logits[:, index, columns]
    excess = np.exp(logits, out=logits)
    total = excess.sum(axis=1)
    loss = (weights * (np.log(total) - true)).sum(axis=1) + np.square(parameters) @ penalty / 2
    excess *= (weights / total)[:, None]
    excess[:, index, columns] -= weights
    gradient = penalty * parameters
    gradient[:, n_experts:] += (excess @ z1.transpose(0, 2, 1)).reshape(n_fits, -1)
    if n_experts:
        gradient[:, :n_experts] += excess.reshape(n_fits, -1) @ flat.T
    return loss, gradient, excess
