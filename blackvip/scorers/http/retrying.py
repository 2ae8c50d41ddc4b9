"""When a request is made again, and how long it waits before."""

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

_FIRST_WAIT, _LONGEST_WAIT = 0.2, 60.0  # seconds, before they are jittered
_TOO_MANY_REQUESTS = 429


class CancelledError(Exception):
    """A request that need not be made any more."""


class UnreachableError(ServiceError):
    """No connection to the service could be made, and so it was sent nothing."""


@dataclass
class RetryPolicy:
    """Attempts of one request: their number, and the time between them.

    The wait doubles from attempt to attempt, half of it at random, so that requests that failed together do not come
    back together. Where the service says how long to wait, that is added to.

    Parameters
    ----------
    max_attempts : int
        Of one request. Those that did not reach the service, or that it refused as too many, do not count.
    patience : float
        Seconds from the first attempt after which no other is made.
    max_retry_after : float
        The longest wait that the service may ask for, in seconds.
    """

    max_attempts: int
    patience: float
    max_retry_after: float
    _random: random.Random = field(default_factory=random.Random)  # not the global one, which is the user's

    def call(self, attempt: Callable[[], None], cancelled: threading.Event, on_retry: Callable[[], None]) -> None:
        """Call `attempt` until it raises nothing, or an error after which there is no use in another.

        Parameters
        ----------
        attempt : callable
        cancelled : Event
            Ends a wait, by a `CancelledError`.
        on_retry : callable
            Called before each attempt but the first.
        """
        counted = 0

        def stop(state: RetryCallState) -> bool:
            nonlocal counted
            error = _error_of(state)
            counted += not (error.status == _TOO_MANY_REQUESTS or isinstance(error, UnreachableError))
            reason = None
            if error.retry_after is not None and error.retry_after > self.max_retry_after:
                reason = f"It asks for {error.retry_after:.0f} s of waiting, and max_retry_after is "
                reason += f"{self.max_retry_after:g} s. Call again later, or raise max_retry_after."
            elif counted >= self.max_attempts or (state.seconds_since_start or 0) >= self.patience:
                n, seconds = state.attempt_number, state.seconds_since_start or 0
                reason = f"It was asked {n} time{'s' * (n > 1)} in {seconds:.0f} s, see max_attempts and patience."
            if reason is not None:
                error.args = (f"{error} {reason}",)
            return reason is not None

        def wait(state: RetryCallState) -> float:
            longest = min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** min(state.attempt_number - 1, 30))
            jittered = self._random.uniform(longest / 2, longest)
            asked = _error_of(state).retry_after
            if asked is None:
                return jittered
            return asked + self._random.uniform(0, min(jittered, 0.1 * asked + 0.05))

        def sleep(seconds: float) -> None:
            on_retry()
            if cancelled.wait(seconds):
                raise CancelledError

        def tell(state: RetryCallState) -> None:
            logger.debug("Attempt %d failed, another follows: %s", state.attempt_number, _error_of(state))

        retry = retry_if_exception(_again)
        Retrying(stop=stop, wait=wait, sleep=sleep, retry=retry, before_sleep=tell, reraise=True)(attempt)


def _again(error: BaseException) -> bool:
    return isinstance(error, ServiceError) and error.retry


def _error_of(state: RetryCallState) -> ServiceError:
    error = state.outcome.exception() if state.outcome is not None else None
    assert isinstance(error, ServiceError)  # `_again` has let nothing else through
    return error
