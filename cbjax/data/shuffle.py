"""Random orders that depend on their key alone."""

import numpy as np


def permutation(length: int, seed: int, *key: int) -> np.ndarray:
    """Returns a random order of range(length), int64, a pure function of (length, seed, key).

    It sorts raw bits because NumPy fixes the streams of its bit generators for good, while what `Generator` makes of
    them may differ between versions, and a run must be able to go on under another version.

    Args:
      length: how many numbers.
      seed: at least 0.
      *key: whole numbers of at least 0 that tell independent orders of one seed apart; at least one.
    """
    return np.argsort(random_bits(length, seed, *key), kind="stable")


def random_bits(length: int, seed: int, *key: int) -> np.ndarray:
    """Returns [length] uint64 of random bits; arguments as in `permutation`."""
    return np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)).random_raw(length)
