"""Your own images, a few hundred to some ten thousand: class-balanced cross entropy with a small ResNet.

Command: cbjax train --config=own_images --workdir=runs/photos --config.data.root=photos
        a folder for each class, photos/CLASS/*.jpg
    cbjax train --config=own_images --workdir=runs/csv --config.data.name=csv --config.data.train_list=train.csv
        with the columns path and label; paths are relative to the file's folder, or to --config.data.root
    cbjax train --config=own_images --workdir=runs/list --config.data.name=list --config.data.train_list=train.txt
        a line `path label` each, labels from 0
    cbjax train --config=own_images:arrays --workdir=runs/arrays --config.data.file=mine.npz
        numpy.savez("mine.npz", images=images, labels=labels), images of one size
    Your own splits (photos/train, val and test; data.validation_list and data.test_list; test_images and test_labels in
    the .npz): --config.data.validation=0 --config.data.test=0 uses them whole.
    Other methods: --config.weights.name=uniform (plain cross entropy), --config.weights.name=difficulty (smoothed CDB).
    A broken image stops the run, which names it; --config.data.on_bad_image=skip leaves such images out.
Data: a fifth of each class is held out for validation, which chooses the best epoch, and a fifth for the test. Classes
    of fewer than five images have no image there; the run names them at its start.
    Such a class is trained on, but has no accuracy and counts in no mean, so nobody knows how well it is learned. CDB
    takes it for the hardest class, so its weight stays the largest. Better add images, or leave out the class.
Time: 176 photos, of which 110 are trained on, take 2.6 minutes of one CPU core.
Sizes: photos are resized to 96 pixels. Larger ones show more and take longer: --config.data.image_size=224. Weights of
    torchvision help small data most: --config.model.name=resnet18 --config.model.pretrained=resnet18.safetensors
    --config.data.image_size=224 --config.optim.learning_rate=0.01.
    Arrays may have any number of channels. They are not mirrored; if they show photos and the like, set
    --config.data.flip=true.
Source: none; usual values, not tuned. CDB's difficulties are at least 0.1, and tau is 1. So no class has more than ten
    times the weight of another. Without the floor, a class with few held-out images that are all right by luck would
    have no weight and be forgotten. CDB's accuracies are averaged over epochs (difficulty.smoothing), so that the
    weights do not swing; for two classes set --config.difficulty.smoothing=0 (docs/cdb_swings.md).
Expected accuracy: depends on your data. `per_class` in results.json, and the report, have the accuracy of each class.
"""

from cbjax.config import choose_recipe, default


def get_config(recipe="files"):
    """Returns the recipe, "files" (folder, csv, list) or "arrays"; any number of epochs is valid."""
    config = default()
    config.num_epochs = 60
    config.batch_size = 32

    config.data.validation = 0.2
    config.data.test = 0.2

    config.model.initialization = "he"

    config.weights.name = "class_balanced"
    config.weights.beta = 0.99
    config.difficulty.tau = 1.0
    config.difficulty.floor = 0.1
    config.difficulty.smoothing = 0.8

    config.optim.learning_rate = 0.05
    config.optim.schedule = "cosine"
    config.optim.warmup = 0.1
    config.optim.weight_decay = 5e-4
    config.optim.decay_rule = "kernels"

    config.checkpoint.every_epochs = 5

    choose_recipe(recipe, {"files": _files, "arrays": _arrays})(config)
    return config


def _files(config):
    config.data.name = "folder"
    config.data.image_size = 96
    config.data.crop_area = 0.3
    config.data.flip = True
    config.data.color_jitter = 0.2
    config.data.normalization = "imagenet"
    config.model.name = "resnet10"


def _arrays(config):
    config.data.name = "arrays"
    config.data.crop_padding = 2
    config.data.padding_mode = "reflect"
    config.data.normalization = "standardize"
    config.model.name = "resnet20"
