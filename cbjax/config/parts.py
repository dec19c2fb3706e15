"""Facts about the parts that a configuration names, to check it without importing them.

A test compares them with the registries.
"""

# Models: the image size that each needs; None for any. The last are for clips [B, T, H, W, 3].
CIFAR_RESNETS = ("resnet20", "resnet32", "resnet44", "resnet56", "resnet110")
IMAGENET_RESNETS = ("resnet10", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
VIDEO_MODELS = ("r3d18", "resnet3d18", "resnet3d18_a", "resnext3d50", "resnext3d101")
DEEP_RESNETS = (*IMAGENET_RESNETS, *VIDEO_MODELS)
MODELS: dict[str, tuple[int, int] | None] = {
    "digits_cnn": (8, 8),
    "lenet5": (28, 28),
    "linear": None,
    **dict.fromkeys((*CIFAR_RESNETS, *DEEP_RESNETS)),
}
SHORTCUTS = ("average", "subsample", "projection")
LOSSES = (
    *("softmax", "sigmoid", "focal", "softmax_focal", "poly", "ldam", "logit_adjusted", "vs", "eql", "softmax_eql"),
    *("ghm", "ghm_softmax"),
)
ONE_VS_REST = ("sigmoid", "focal", "eql", "ghm")  # losses of a separate yes or no for each class
META_METHODS = ("none", "l2rw", "mw_net")
SHARPNESS = ("none", "sam", "imbsam")
MIXES = ("none", "mixup", "cutmix", "remix", "cmo")
STAGES = ("none", "crt", "lws", "tau", "ncm", "oltr")
FITTED = ("tau", "ncm")  # stages that are found without a step of training
SYNTHESES = ("none", "smote", "borderline_smote", "adasyn")
SIMILARITIES = ("cosine", "euclidean")
# Numbers of losses that programs take as arguments: a sweep over them compiles once.
LOSS_NUMBERS = (
    *("gamma", "epsilon", "max_margin", "scale", "tau", "divisor_power", "rare_below", "mask_chance", "momentum"),
)
# The same of what is around the loss, by their whole keys.
MIX_NUMBERS = ("mix.alpha", "mix.kappa", "mix.tau", "mix.chance")
OLTR_NUMBERS = ("oltr.backbone_rate", "oltr.memory_rate", "oltr.feature_weight", "oltr.repulsion", "oltr.margin")
_AROUND_NUMBERS = ("meta.network_rate", "meta.network_decay", "sharpness.radius", "sharpness.tail_below")
METHOD_NUMBERS = (*_AROUND_NUMBERS, *MIX_NUMBERS, *OLTR_NUMBERS)
COUNT_WEIGHTS = ("inverse_frequency", "inverse_sqrt_frequency", "class_balanced")
WEIGHTS = ("uniform", *COUNT_WEIGHTS, "difficulty")
TAU_FORMULAS = ("paper", "authors_code", "authors_code_imagenet")
LONGTAILS = ("natural", "exponential", "step", "counts", "majority")
SAMPLERS = ("instance", "class_aware", "square_root", "progressive", "oversample", "undersample", "class_balanced")
NORMALIZATIONS = (
    *("unit", "symmetric", "cifar", "imagenet", "kinetics", "kinetics700", "kinetics_torchvision"),
    *("standardize", "none"),
)
