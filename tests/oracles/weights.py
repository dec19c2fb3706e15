"""Effective numbers in decimal arithmetic of 60 digits, where the textbook form is safe; weights from them."""

import decimal

import numpy as np


def effective_number(counts, beta):
    """Returns (1 - beta^n) / (1 - beta), or n at beta = 1 (Cui et al. 2019, eq. 5)."""
    with decimal.localcontext(prec=60):
        beta = decimal.Decimal(float(beta))
        return np.array([float(n if beta == 1 else (1 - beta**n) / (1 - beta)) for n in map(int, counts)])


def scaled_inverse(sizes):
    """Returns weights proportional to 1/size whose sum is the number of classes."""
    inverse = 1.0 / np.asarray(sizes, np.float64)
    return inverse / inverse.mean()
