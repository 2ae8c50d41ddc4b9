"""Retries: which requests are repeated, and after how long."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from tenacity import RetryCallState, Retrying, retry_if_exception

from ...exceptions import ServiceError

__all__ = ["CancelledError", "RetryPolicy", "UnreachableError"]

logger = logging.getLogger("blackvip.scorers.http")

# Seconds, before jitter.
_FIRST_WAIT, _LONGEST_WAIT = 0.2, 60.0
_TOO_MANY_REQUESTS = 429


class CancelledError(Exception):
    """A request was cancelled before it was sent."""


class UnreachableError(ServiceError):
    """No connection to the service could be made, so nothing was sent."""


@dataclass
class RetryPolicy:
    """The number of attempts of a request, and the time between them.

    The wait doubles with each attempt, and half of it is random, so that requests that failed together are not repeated
    together. If the service says how long to wait, a random time is added to that.

    Parameters
    ----------
    max_attempts : int
        Maximal number of attempts of a request. Connection failures and 429s do not count.
    patience : float
        Time in seconds after the first attempt after which the request is not repeated.
    max_retry_after : float
        Longest wait that the service may ask for, in seconds.
    """

    max_attempts: int
    patience: float
    max_retry_after: float
    # The global generator belongs to the user.
    _random: random.Random = field(default_factory=random.Random)

    def call(self, attempt: Callable[[], None], cancelled: threading.Event, on_retry: Callable[[], None]) -> None:
        """Call `attempt` until it succeeds or raises an error that is not worth a retry.

        Parameters
        ----------
        attempt : callable
        cancelled : Event
            Ends a wait with a `CancelledError`.
        on_retry : callable
            Called before each attempt except the first.
        """
        counted = 0

        def stop(state: RetryCallState) -> bool:
            nonlocal counted
            error = _error_of(state)
            counted += not (error.status == _TOO_MANY_REQUESTS or isinstance(error, UnreachableError))
            reason = None
            if error.retry_after is not None and error.retry_after > self.max_retry_after:
                reason = f"It asks to wait {error.retry_after:.0f} s, but max_retry_after is "
                reason += f"{self.max_retry_after:g} s. Call again later, or raise max_retry_after."
            elif counted >= self.max_attempts or (state.seconds_since_start or 0) >= self.patience:
                n, seconds = state.attempt_number, state.seconds_since_start or 0
                reason = f"Gave up after {n} attempt{'s' * (n > 1)} in {seconds:.0f} s, see max_attempts and patience."
            if reason is not None:
                error.args = (f"{error} {reason}",)
            return reason is not None

        def wait(state: RetryCallState) -> float:
            longest = min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** min(state.attempt_number - 1, 30))
            jittered = self._random.uniform(longest / 2, longest)
            retry_after = _error_of(state).retry_after
            if retry_after is None:
                return jittered
            return retry_after + self._random.uniform(0, min(jittered, 0.1 * retry_after + 0.05))

        def sleep(seconds: float) -> None:
            on_retry()
            if cancelled.wait(seconds):
                raise CancelledError

        def tell(state: RetryCallState) -> None:
            logger.debug("Attempt %d failed and will be repeated: %s", state.attempt_number, _error_of(state))

        retry = retry_if_exception(_again)
        Retrying(stop=stop, wait=wait, sleep=sleep, retry=retry, before_sleep=tell, reraise=True)(attempt)


def _again(error: BaseException) -> bool:
    return isinstance(error, ServiceError) and error.retry


def _error_of(state: RetryCallState) -> ServiceError:
    error = state.outcome.exception() if state.outcome is not None else None
    # `_again` lets nothing else through.
    assert isinstance(error, ServiceError)
    return error
