"""Long-tailed CIFAR with ResNet-32, by the recipes of the two papers.

Command: cbjax train --config=cifar_lt:cui --workdir=runs/cifar_lt/cui
         cbjax train --config=cifar_lt:cdb --workdir=runs/cifar_lt/cdb
    Other data and methods: --config.data.name=cifar10 (cifar20, cifar100), --config.data.imbalance=50 (at least 1),
    --config.loss.name=softmax --config.weights.name=uniform (plain cross entropy; the same with sigmoid and focal).
Data: TFDS; `cbjax datasets` says whether they are ready and how to prepare them.
Time: about a minute an epoch on 2 CPU cores (85 steps, CIFAR-100 at imbalance 100); not measured on a GPU yet.

cui: Cui et al. 2019, and the authors' code. Trains on the whole long-tailed set, holds nothing out and reports the last
    checkpoint. As given here: CB-focal for CIFAR-100 at imbalance 100. Source: table 2, row "class-balanced".
    Expected accuracy % (the paper's, from its errors; not measured here yet), with the paper's best loss
    (SM softmax, SGM sigmoid), beta and gamma, chosen by the authors for each column:

    | imbalance | 200            | 100            | 50             | 20              | 10              | 1     |
    |-----------|----------------|----------------|----------------|-----------------|-----------------|-------|
    | CIFAR-10  | 68.89          | 74.57          | 79.27          | 84.36           | 87.49           | 93.64 |
    |           | SM .9999       | focal .9999, 1 | focal .9999, 2 | SM .9999        | SGM .9999       | SGM   |
    | CIFAR-100 | 36.23          | 39.60          | 45.32          | 52.59           | 57.99           | 71.61 |
    |           | focal .9, 1    | focal .9, 1    | SGM .99        | focal .99, 0.5  | focal .999, 0.5 | SGM   |

    Plain softmax: CIFAR-10 65.68, 70.36, 74.81, 82.23, 86.39, 93.39;
    CIFAR-100 34.84, 38.32, 43.85, 51.14, 55.71, 70.93.

cdb: Sinha et al. 2020: CDB-CE with dynamic tau, 50 validation images per class held out before the imbalance (so at
    most 450 training images in a class of CIFAR-100), the rest as printed. Source: tables 3 and 4.
    Expected accuracy % on CIFAR-100 (the paper's; not measured here yet), imbalance 200, 100, 50, 20, 10:
    37.40, 42.57, 46.78, 54.22, 58.74.
    The paper does not name shortcut, initialisation or normalisation. The first two are taken from the authors' code
    (subsample, he). Normalisation is by CIFAR's mean and deviation, as in their test script; their training script has
    ImageNet's. Their code differs from the paper in more: 240 epochs with decay at 160 and 210, batch 32, 25 validation
    images per class, another form of tau (--config.difficulty.formula=authors_code). Difficulty has no floor, as in the
    paper: a class without validation errors has the weight 0 until it has one.
"""

from cbjax.config import choose_recipe, default


def get_config(recipe=None):
    """Returns the recipe, "cui" or "cdb", for CIFAR-100 at imbalance 100."""
    config = default()
    config.num_epochs = 200
    config.batch_size = 128

    config.data.name = "cifar100"
    config.data.longtail = "exponential"
    config.data.imbalance = 100.0
    config.data.crop_padding = 4
    config.data.flip = True

    config.model.name = "resnet32"

    config.optim.learning_rate = 0.1
    config.optim.decay_at = (0.8, 0.9)
    config.optim.decay_factor = 0.01

    choose_recipe(recipe, {"cui": _cui, "cdb": _cdb})(config)
    return config


def _cui(config):
    config.data.normalization = "symmetric"
    config.model.shortcut = "average"
    config.model.initialization = "glorot"
    config.loss.name = "focal"
    config.loss.gamma = 1.0
    config.weights.name = "class_balanced"
    config.weights.beta = 0.9
    config.optim.weight_decay = 2e-4
    config.optim.warmup = 0.025  # 5 of 200 epochs


def _cdb(config):
    config.data.validation = 50
    config.data.normalization = "cifar"
    config.model.shortcut = "subsample"
    config.model.initialization = "he"
    config.weights.name = "difficulty"
    config.difficulty.floor = 0.0
    config.optim.weight_decay = 5e-4
