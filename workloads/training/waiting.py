"""A device that waits for its images is said."""

import logging

logger = logging.getLogger(__name__)

# Steps in which queues fill, and as many after them that decide.
WATCHED_STEPS = 50
# The share of its time that a device may wait before that is said.
MUCH_WAITING = 0.1


class WaitWatch:
    """Warns, once, of a device that waits for its batches for much of the time.

    The first `WATCHED_STEPS`, in which queues fill, are left out; the next ones decide.
    """

    def __init__(self, loader_threads: int) -> None:
        self._loading = "1 thread that loads" if loader_threads == 1 else f"{loader_threads} threads that load"
        self._steps = 0
        self._waited = self._spent = 0.0

    def note(self, waited: float, spent: float) -> None:
        """How long a step waited and how long it took with that, in seconds."""
        self._steps += 1
        if WATCHED_STEPS < self._steps <= 2 * WATCHED_STEPS:
            self._waited += waited
            self._spent += spent
        if self._steps == 2 * WATCHED_STEPS and self._waited > MUCH_WAITING * self._spent:
            logger.warning(
                "the device waits for its images %.0f %% of the time, with %s them; more cores for a worker "
                "(compute.train_cores) help, decoded images that are kept (compute.decoded_cache_gb), and images that "
                "are stored smaller or as JPEG",
                100 * self._waited / self._spent,
                self._loading,
            )
