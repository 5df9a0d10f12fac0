"""Retrying what a storage of files refuses: being slow, failing or away for a minute costs time and nothing else.

The model: a call that may be repeated is repeated with growing, jittered pauses until it succeeds, fails for a reason
that waiting does not cure, or the time is up. What is waited for is said aloud. The failures this guards against: a run
of hours lost to one refused request, and a run that hangs without a word.
"""

import errno
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

_LOG = logging.getLogger("lookbeyond.storage")

Answer = TypeVar("Answer")

# What a disk, a network file system or an object store may say now and not say again in a minute.
_TRANSIENT = {
    getattr(errno, name)
    for name in (
        *("EIO", "EREMOTEIO", "EAGAIN", "EINTR", "EBUSY", "ESTALE", "ETIMEDOUT", "EHOSTDOWN", "EHOSTUNREACH"),
        *("ENETDOWN", "ENETUNREACH", "ENETRESET", "ECONNRESET", "ECONNABORTED", "ECONNREFUSED", "ENOTCONN"),
    )
    if hasattr(errno, name)
}


class StorageUnavailableError(OSError):
    """The storage did not answer for as long as was waited for it."""


@dataclass(frozen=True)
class RetryPolicy:
    """How long a call is repeated (seconds from its first failure), and the pauses between."""

    seconds: float = 120.0
    first_pause: float = 0.25
    longest_pause: float = 10.0


POLICY = RetryPolicy()


def retry(call: Callable[[], Answer], what: str, policy: RetryPolicy | None = None) -> Answer:
    """The answer of a call that may be repeated. `what` names the call and its URI.

    Raises
    ------
        StorageUnavailableError: it failed for `policy.seconds`.
        OSError: it failed for a reason that waiting does not cure.
    """
    policy = policy or POLICY
    since: float | None = None
    pause = policy.first_pause
    while True:
        try:
            return call()
        except OSError as error:
            if error.errno not in _TRANSIENT:
                raise
            now = time.monotonic()
            since = since or now
            left = policy.seconds - (now - since)
            reason = error.strerror or str(error)
            if left <= 0:
                raise StorageUnavailableError(f"{what} failed for {policy.seconds:.0f} s: {reason}") from None
        _LOG.warning("waiting for the storage: %s failed (%s); trying again for up to %.0f s", what, reason, left)
        # Jitter: many workers that met one outage must not all come back in the same moment.
        time.sleep(min(left, pause * random.uniform(0.5, 1.0)))
        pause = min(2 * pause, policy.longest_pause)
