"""One thread for the linear algebra of learners."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch and BLAS on one thread: episodes are small, and no bit may depend on how many cores there are.

    On a busy machine several threads wait for each other at every small product: ten times slower was seen.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)
