"""Which client has what: examples, and memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from keras_dynhp.sizes import parse_size


def split(y: np.ndarray, clients: int, alpha: float, seed: int) -> list[np.ndarray]:
    """Which examples each client has: of each class, shares drawn from a Dirichlet distribution.

    Drawn again until nobody has fewer than 1% of an even share.
    """
    random = np.random.default_rng(seed)
    while True:
        parts: list[list[np.ndarray]] = [[] for _ in range(clients)]
        for label in np.unique(y):
            members = random.permutation(np.flatnonzero(y == label))
            shares = random.dirichlet(np.full(clients, alpha))
            cuts = (np.cumsum(shares)[:-1] * len(members)).round().astype(int)
            for part, chosen in zip(parts, np.split(members, cuts)):
                part.append(chosen)
        found = [np.concatenate(part) for part in parts]
        if min(map(len, found)) >= 0.01 * len(y) / clients:
            return found


def write_images(path: Path, x: np.ndarray, y: np.ndarray) -> None:
    """Images in [0, 1] and their classes, as a client reads them."""
    np.savez(path, x=(x * 255).round().astype("uint8"), y=y.astype("uint8"))


def memory_cap(budget: str) -> dict[str, str]:
    """What makes TensorFlow's allocator refuse to go beyond a budget."""
    megabytes = max(1, parse_size(budget) >> 20)
    return {
        "TF_CPU_ALLOCATOR_USE_BFC": "1",
        "TF_CPU_BFC_MEM_LIMIT_IN_MB": str(megabytes),
        "CUDA_VISIBLE_DEVICES": "-1",
    }
