"""CDB's weights in float64, as printed in the paper and as in the authors' files."""

import math

import numpy as np


def paper_tau(accuracy):
    """Sinha et al. 2020, eqs. 3 and 4."""
    bias = max(accuracy) / (min(accuracy) + 0.0001) - 1
    return 2 / (1 + math.exp(-bias)) if bias < 700 else 2.0


def authors_code_tau(accuracy):
    """CIFAR-LT/losses/cdb_loss.py, in terms of difficulty."""
    difficulty = [1 - value for value in accuracy]
    return 1 / (1 + math.exp(-(1 - min(difficulty)) / (1 - max(difficulty) + 0.01)))


def authors_code_imagenet_tau(accuracy):
    """ImageNet-LT/loss/CDBSoftmaxLoss.py."""
    difficulty = [1 - value for value in accuracy]
    bias = (1 - min(difficulty)) / (1 - max(difficulty) + 0.01)
    return 2 / (1 + math.exp(-(bias - 1)))


def weights(accuracy, tau, floor):
    """Eq. 2 with a least difficulty, scaled to sum to C; in logarithms, so that no tau is too large."""
    log_difficulty = np.log(np.maximum(1 - np.asarray(accuracy, np.float64), floor))
    powers = np.exp(tau * (log_difficulty - log_difficulty.max()))
    return powers / powers.mean()


def smooth(measurements, keep):
    """The average of accuracies [E][C] over epochs, from 0 on, in float64; a class without a number keeps its own."""
    average = np.zeros(len(measurements[0]))
    for measured in np.asarray(measurements, np.float64):
        average = np.where(np.isnan(measured), average, keep * average + (1 - keep) * measured)
    return average
