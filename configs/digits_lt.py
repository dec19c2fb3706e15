"""Long-tailed digits: real 8x8 scans that ship with scikit-learn, softmax cross entropy, equal weights.

Command: cbjax train --config=digits_lt --workdir=runs/digits_lt/ce/seed_0
    with CB-focal: --config.loss.name=focal --config.weights.name=class_balanced
    with CDB, smoothed (docs/cdb_swings.md): --config.weights.name=difficulty --config.difficulty.smoothing=0.8
    all with 3 seeds: cbjax sweep --config=configs/sweeps/digits_lt.py --workdir=runs/digits_lt
Time: 8 seconds on 2 CPU cores.
Data: 1,797 images, 174 to 183 of each class. First 50 test images and 20 validation images are taken from each class.
    The rest is made long-tailed with imbalance 20: 363 images, 108 of the most frequent class and 5 of the rarest.
    There are 500 test images.
Source: the data are those of E. Alpaydin and C. Kaynak (UCI, 1998); the imbalance is as in Cui et al. 2019.
Expected accuracy: 90.3 ± 1.8 % balanced, 73.6 ± 6.7 % for the three rarest classes (last epoch, seeds 0 to 2, CPU;
    other methods are in sweeps/digits_lt.py).
"""

from cbjax.config import default


def get_config():
    """Returns one run; any number of epochs is valid."""
    config = default()
    config.num_epochs = 100
    config.batch_size = 64

    config.data.name = "digits"
    config.data.longtail = "exponential"
    config.data.imbalance = 20.0
    config.data.validation = 20
    config.data.test = 50
    config.data.normalization = "unit"

    config.model.name = "digits_cnn"
    config.model.initialization = "he"

    config.optim.learning_rate = 0.02
    config.optim.weight_decay = 5e-4
    config.optim.warmup = 0.05
    config.optim.decay_at = (0.75,)
    config.optim.decay_factor = 0.1

    config.checkpoint.every_epochs = 10  # an epoch takes milliseconds
    return config
