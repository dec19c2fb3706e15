"""ImageNet-LT with ResNet-10 and CDB, by the recipe of Sinha et al. 2020.

Command: cbjax train --config=imagenet_lt --workdir=runs/imagenet_lt/cdb --config.data.root=IMAGENET
        --config.data.train_list=ImageNet_LT_train.txt --config.data.validation_list=ImageNet_LT_val.txt
        --config.data.test_list=ImageNet_LT_test.txt
    Plain softmax: --config.weights.name=uniform. Focal: that and --config.loss.name=focal.
    The authors' settings: --config.difficulty.tau=1 (their file of settings), or
    --config.difficulty.formula=authors_code_imagenet (their dynamic tau).
Data: ImageNet (ILSVRC 2012) as it is published, unpacked under IMAGENET, and the lists of images that Liu et al. 2019
    published with ImageNet-LT. 115,846 training images of 1,000 classes (the paper: 115,800), 1,280 to 5 of each; 20
    validation images of each, on which CDB measures difficulty; 50,000 test images, 50 of each.
Time: not measured. 90 epochs are 10,426,140 images: 20,364 steps of 512, each 2.73 TFLOP, in all 5.56e16 FLOP. The
    forward pass takes 1.78 GFLOP an image, with the backward pass three times that; a multiplication and an addition
    are two FLOPs.
Source: Sinha et al. 2020, table 5. The paper names the network; the rest is from the authors' code: batch 512, rate
    0.2 along a cosine to 0 over 90 epochs, momentum 0.9, decay 2e-4 of all parameters, the weighted mean (over the sum
    of the weights), random resized crops, flips and colour jitter of 0.4. Evaluation resizes to 256 and takes the
    centre. Difficulty has no floor, as in the paper: a class without validation errors has the weight 0 until it has
    one.
Expected top-1 accuracy % (the paper's; not measured here yet): CDB-CE 38.49. Others in its table: focal 30.50, OLTR
    35.60, joint training 34.80, EQL 36.44, OLTR with CDB-CE 36.70, joint training with CDB-CE 37.10.
"""

from cbjax.config import default


def get_config():
    """Returns CDB with dynamic tau; any number of epochs is valid."""
    config = default()
    config.num_epochs = 90
    config.batch_size = 512

    config.data.name = "list"
    config.data.train_list = "ImageNet_LT_train.txt"
    config.data.validation_list = "ImageNet_LT_val.txt"
    config.data.test_list = "ImageNet_LT_test.txt"
    config.data.image_size, config.data.resize = 224, 256
    config.data.crop_area = 0.08
    config.data.color_jitter = 0.4
    config.data.flip = True
    config.data.normalization = "imagenet"

    config.model.name = "resnet10"
    config.model.initialization = "he"
    config.model.zero_last_scale = False

    config.loss.mean = "weight_sum"
    config.weights.name = "difficulty"
    config.difficulty.floor = 0.0

    config.optim.learning_rate = 0.2
    config.optim.schedule = "cosine"
    config.optim.weight_decay = 2e-4
    return config
