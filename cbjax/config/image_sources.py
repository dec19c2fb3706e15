"""Facts about the image sources, to check a configuration without importing them; a test compares them."""

# Number of classes and image size [H, W]; None if the user's file decides.
SOURCES: dict[str, tuple[int | None, tuple[int, int] | None]] = {
    "digits": (10, (8, 8)),
    "arrays": (None, None),
    "mnist": (10, (28, 28)),
    "fashion_mnist": (10, (28, 28)),
    "cifar10": (10, (32, 32)),
    "cifar20": (20, (32, 32)),
    "cifar100": (100, (32, 32)),
    "imagenet2012": (1000, None),
    "i_naturalist2017": (5089, None),
    "i_naturalist2018": (8142, None),
    "places365_small": (365, None),
    "list": (None, None),
    "csv": (None, None),
    "folder": (None, None),
    "egtea": (19, None),
}
# Sources whose images are read as they are needed and cropped to data.image_size, as are those of every "tfds:NAME".
STREAMED = (
    *("imagenet2012", "i_naturalist2017", "i_naturalist2018", "places365_small"),
    *("list", "csv", "folder", "egtea"),
)
# Sources that may hold clips (data.frames above 0); the second kind holds nothing else.
OF_CLIPS = ("list", "csv", "folder", "egtea")
CLIPS_ALONE = ("egtea",)
TFDS_PREFIX = "tfds:"


def is_streamed(name: str) -> bool:
    """Returns whether the images of a source are read as they are needed."""
    return name in STREAMED or name.startswith(TFDS_PREFIX)
