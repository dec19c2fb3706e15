"""iNaturalist 2017 and 2018 with ResNet-50, -101 and -152: softmax and CB-focal, by the recipe of Cui et al. 2019.

Command: cbjax train --config=inaturalist:2018_resnet50_cb_focal --workdir=runs/inaturalist/2018_resnet50_cb_focal
    Recipes: YEAR_DEPTH_softmax, YEAR_DEPTH_cb_focal, YEAR_DEPTH_cb_focal_320 with YEAR 2017 or 2018 and DEPTH resnet50,
    resnet101 or resnet152.
    If a device lacks memory for its share of 1024 images: --config.optim.accumulation=4 or --config.model.remat=true.
    With another batch size the rate is scaled: it is given for 256 images.
Data: TFDS i_naturalist2017 and i_naturalist2018 in ArrayRecord; `cbjax datasets` says whether they are ready and how to
    prepare them. 2017: 579,184 training images of 5,089 classes, imbalance 435.44; 2018: 437,513 of 8,142, 500.00.
Time: not measured. 90 epochs are 52,126,560 images (2017) and 39,376,170 (2018): 50,905 and 38,454 steps of 1024. A
    multiplication and an addition are two FLOPs, and the backward pass counts twice the forward one (2017, 2018):

    | network    | input | GFLOP an image, forward | TFLOP a step | FLOP in all      |
    |------------|-------|-------------------------|--------------|------------------|
    | ResNet-50  | 224   | 8.20, 8.21              | 25.2, 25.2   | 1.28e18, 9.70e17 |
    | ResNet-50  | 320   | 16.70, 16.72            | 51.3, 51.4   | 2.61e18, 1.97e18 |
    | ResNet-101 | 224   | 15.62, 15.63            | 48.0, 48.0   | 2.44e18, 1.85e18 |
    | ResNet-101 | 320   | 31.85, 31.87            | 97.9, 97.9   | 4.98e18, 3.76e18 |
    | ResNet-152 | 224   | 23.04, 23.06            | 70.8, 70.8   | 3.60e18, 2.72e18 |
    | ResNet-152 | 320   | 47.01, 47.02            | 144.4, 144.4 | 7.35e18, 5.55e18 |

Source: Cui et al. 2019, table 3, and the authors' TPU code: warm-up from 0 over 5 epochs, a tenth at 30, 60 and 80,
    batch 1024, Nesterov 0.9, decay 1e-4 without BatchNorm and the last bias, BatchNorm over a device's share, bfloat16.
    The rate for 256 images is 0.1; for the focal loss, whose values are smaller, 0.4. beta 0.999, gamma 0.5. Crops
    have at least 5 % of an image; evaluation resizes to the input's side plus 32 (320: plus 46). Colours are normalised
    by ImageNet's mean and deviation (the code: mean .466, .471, .380, deviation .195, .194, .192).
Expected top-1 / top-5 error % (the paper's; not measured here yet):

    | network    | loss, input  | 2017          | 2018          |
    |------------|--------------|---------------|---------------|
    | ResNet-50  | softmax 224  | 45.38 / 22.67 | 42.86 / 21.31 |
    | ResNet-101 | softmax 224  | 42.57 / 20.42 | 39.47 / 18.86 |
    | ResNet-152 | softmax 224  | 41.42 / 19.47 | 38.61 / 18.07 |
    | ResNet-50  | CB-focal 224 | 41.92 / 20.92 | 38.88 / 18.97 |
    | ResNet-101 | CB-focal 224 | 39.06 / 18.96 | 36.12 / 17.18 |
    | ResNet-152 | CB-focal 224 | 38.06 / 18.42 | 35.21 / 16.34 |
    | ResNet-50  | CB-focal 320 | 38.16 / 18.28 | 35.84 / 16.85 |
    | ResNet-101 | CB-focal 320 | 34.96 / 15.90 | 32.02 / 14.27 |
    | ResNet-152 | CB-focal 320 | 33.73 / 14.96 | 30.95 / 13.54 |
"""

from cbjax.config import choose_recipe, default

RECIPES = {
    f"{year}_{network}_{method}": (year, network, method)
    for year in (2017, 2018)
    for network in ("resnet50", "resnet101", "resnet152")
    for method in ("softmax", "cb_focal", "cb_focal_320")
}


def get_config(recipe=None):
    """Returns the recipe, such as "2018_resnet50_cb_focal"; any number of epochs is valid."""
    year, network, method = choose_recipe(recipe, RECIPES)
    config = default()
    config.num_epochs = 90
    config.batch_size = 1024

    config.data.name = f"i_naturalist{year}"
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

    if method != "softmax":
        config.loss.name = "focal"
        config.loss.gamma = 0.5
        config.weights.name = "class_balanced"
        config.weights.beta = 0.999
        config.optim.learning_rate = 0.4
    return config
