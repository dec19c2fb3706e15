"""ImageNet (ILSVRC 2012) with ResNet-50, -101 and -152: softmax and CB-focal, by the recipe of Goyal et al. 2017.

Command: cbjax train --config=imagenet:resnet50_softmax --workdir=runs/imagenet/resnet50_softmax
    Recipes: DEPTH_softmax, DEPTH_cb_focal, DEPTH_cb_focal_320 with DEPTH resnet50, resnet101 or resnet152, and goyal.
    If a device lacks memory for its share of 1024 images: --config.optim.accumulation=4 or --config.model.remat=true.
    With another batch size the rate is scaled: it is given for 256 images.
    To start from a file of weights: --config.model.pretrained=FILE (names as in torchvision or timm).
    CDB: --config=imagenet:resnet50_softmax --config.weights.name=difficulty --config.data.validation=20
Data: TFDS imagenet2012 in ArrayRecord; `cbjax datasets` says whether it is ready and how to prepare it. 1,281,167
    training images of 1,000 classes, 732 to 1,300 of each (imbalance 1.78); reported on the 50,000 validation images.
Time: not measured. 90 epochs are 115,305,030 images: 112,603 steps of 1024. A multiplication and an addition are two
    FLOPs, and the backward pass counts twice the forward one:

    | network    | input | GFLOP an image, forward | TFLOP a step | FLOP in all |
    |------------|-------|-------------------------|--------------|-------------|
    | ResNet-50  | 224   | 8.18                    | 25.1         | 2.83e18     |
    | ResNet-50  | 320   | 16.69                   | 51.3         | 5.77e18     |
    | ResNet-101 | 224   | 15.60                   | 47.9         | 5.40e18     |
    | ResNet-101 | 320   | 31.84                   | 97.8         | 1.10e19     |
    | ResNet-152 | 224   | 23.03                   | 70.7         | 7.97e18     |
    | ResNet-152 | 320   | 46.99                   | 144.4        | 1.63e19     |

Source: Cui et al. 2019, table 3, and the authors' TPU code: warm-up from 0 over 5 epochs, a tenth at 30, 60 and 80,
    batch 1024, Nesterov 0.9, decay 1e-4 without BatchNorm and the last bias, BatchNorm over a device's share, bfloat16.
    The rate for 256 images is 0.1; for the focal loss, whose values are smaller, 0.2. beta 0.999, gamma 0.5. Crops
    have at least 5 % of an image; evaluation resizes to the input's side plus 32 (320: plus 46).
    goyal: Goyal et al. 2017: softmax with the warm-up from the rate for 256 images, and BatchNorm over 32 images.
Expected top-1 / top-5 error % (the paper's; not measured here yet):

    | network    | softmax 224  | CB-focal 224 | CB-focal 320 |
    |------------|--------------|--------------|--------------|
    | ResNet-50  | 23.92 / 7.03 | 22.71 / 6.72 | 21.99 / 6.27 |
    | ResNet-101 | 22.65 / 6.47 | 21.57 / 5.91 | 20.25 / 5.34 |
    | ResNet-152 | 21.68 / 5.92 | 20.87 / 5.61 | 19.72 / 4.97 |
"""

from cbjax.config import choose_recipe, default

RECIPES = {
    f"{network}_{method}": (network, method)
    for network in ("resnet50", "resnet101", "resnet152")
    for method in ("softmax", "cb_focal", "cb_focal_320")
}
RECIPES["goyal"] = ("resnet50", "goyal")


def get_config(recipe=None):
    """Returns the recipe, such as "resnet50_cb_focal"; any number of epochs is valid."""
    network, method = choose_recipe(recipe, RECIPES)
    config = default()
    config.num_epochs = 90
    config.batch_size = 1024

    config.data.name = "imagenet2012"
    config.data.image_size, config.data.resize = (320, 366) if method == "cb_focal_320" else (224, 256)
    config.data.crop_area = 0.05
    config.data.flip = True
    config.data.normalization = "imagenet"

    config.model.name = network
    config.model.initialization = "he"
    config.model.dtype = "bfloat16"

    config.optim.learning_rate = 0.1
    config.optim.reference_batch_size = 256
    config.optim.warmup = 1 / 18  # 5 of 90 epochs
    config.optim.decay_at = (1 / 3, 2 / 3, 8 / 9)
    config.optim.decay_factor = 0.1
    config.optim.nesterov = True
    config.optim.weight_decay = 1e-4
    config.optim.decay_rule = "kernels"

    if method == "goyal":
        config.optim.warmup_from = "base"
        config.model.batch_norm_size = 32
    elif method != "softmax":
        config.loss.name = "focal"
        config.loss.gamma = 0.5
        config.weights.name = "class_balanced"
        config.weights.beta = 0.999
        config.optim.learning_rate = 0.2
    return config
