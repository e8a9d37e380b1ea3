"""How long to wait before the next try."""

from __future__ import annotations

import random
from collections.abc import Iterator


def backoff(first: float = 0.01, longest: float = 0.5) -> Iterator[float]:
    """Seconds to wait before each next try: doubling, with jitter so that waiters do not march in step."""
    pause = first
    while True:
        yield pause * random.uniform(0.5, 1.0)  # noqa: S311 - jitter needs no secrecy
        pause = min(longest, 2 * pause)
