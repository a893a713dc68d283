"""Threads that compute side by side, where the work falls into parts: each part on one thread of its own.

Many small products scale better so than each over all threads, and their bits don't depend on the number of threads.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch


@contextmanager
def side_by_side(most: int | None = None) -> Iterator[tuple[ThreadPoolExecutor, int]]:
    """As many threads as torch would use, ``most`` at most, each computing alone meanwhile; and how many they are."""
    allowed = torch.get_num_threads()
    count = min(allowed, most or allowed)
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(count) as pool:
            yield pool, count
    finally:
        torch.set_num_threads(allowed)
