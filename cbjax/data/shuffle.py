"""Makes random orders that depend on nothing but their key."""

import numpy as np


def permutation(length: int, seed: int, *key: int) -> np.ndarray:
    """Returns a random order of range(length), int64, a pure function of (length, seed, key).

    It sorts raw bits, because a run must be able to go on under another version of NumPy. NumPy never changes the bits
    of its bit generators, but numbers from `Generator` may differ between versions.

    Args:
      length: how many numbers.
      seed: at least 0.
      *key: at least one whole number of at least 0; different keys give independent orders of one seed.
    """
    return np.argsort(random_bits(length, seed, *key), kind="stable")


def random_bits(length: int, seed: int, *key: int) -> np.ndarray:
    """Returns [length] uint64 of random bits; arguments as in `permutation`."""
    return np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)).random_raw(length)
