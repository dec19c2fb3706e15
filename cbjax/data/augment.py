"""Crops, flips and normalises images on the device, in pure functions of keys and images."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from cbjax.types import Array

_PADDING_MODES = {"zero": "constant", "reflect": "reflect"}


def crop_flip(keys: Array, images: Array, padding: int = 0, flip: bool = False, padding_mode: str = "zero") -> Array:
    """Pads each image and crops its size at a random place; mirrors half of the images left to right.

    Each image has its own key, so its values do not depend on how the batch is split over devices.

    Args:
      keys: [B] random keys.
      images: [B, H, W, channels], any dtype.
      padding: pixels added on each side before the crop; 0 for no crop.
      flip: whether to mirror with probability one half.
      padding_mode: "zero" (black before normalisation) or "reflect".

    Returns:
      [B, H, W, channels] in the images' dtype.

    Raises:
      ValueError: if the shapes do not fit together, padding is negative or too large to reflect, or the
        mode is unknown.

    Source: Cui et al. 2019, section 5.2 (pad 4, crop, flip); reflection is Meta-Weight-Net's.
    """
    if images.ndim != 4 or keys.shape != images.shape[:1]:
        raise ValueError(
            "crop_flip needs images [B, H, W, channels] and keys [B] (jax.random.split(key, B)), "
            f"got images {images.shape} and keys {keys.shape}"
        )
    if padding_mode not in _PADDING_MODES:
        raise ValueError(f"padding_mode {padding_mode!r} is unknown; it is one of {', '.join(_PADDING_MODES)}")
    if padding < 0 or (padding_mode == "reflect" and padding >= min(images.shape[1:3])):
        raise ValueError(
            f"padding must be at least 0, and below the image's side if it reflects, got {padding} for {images.shape}"
        )

    def one(key, image):
        crop_key, flip_key = jax.random.split(key)
        if padding:
            padded = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)), mode=_PADDING_MODES[padding_mode])
            row, column = jax.random.randint(crop_key, (2,), 0, 2 * padding + 1)
            image = jax.lax.dynamic_slice(padded, (row, column, 0), image.shape)
        if flip:
            image = jnp.where(jax.random.bernoulli(flip_key), image[:, ::-1], image)
        return image

    return jax.vmap(one)(keys, images)


def normalize(images: Array, mean: Sequence[float] | Array, std: Sequence[float] | Array) -> Array:
    """Returns (images - mean) / std in float32.

    Args:
      images: [..., channels], any real dtype.
      mean: [channels], in the images' units (0 to 255 for uint8).
      std: as mean, above 0.

    Raises:
      ValueError: if mean or std does not fit the channels, or a std is not above 0; traced values are not checked.
    """
    channels = images.shape[-1]
    shift, scale = (
        value.astype(jnp.float32) if isinstance(value, jax.core.Tracer) else np.asarray(value, np.float32)
        for value in (mean, std)
    )
    for name, value in (("mean", shift), ("std", scale)):
        if value.shape != (channels,):
            raise ValueError(f"{name} must have one value for each of the {channels} channels, got shape {value.shape}")
    if isinstance(scale, np.ndarray) and not (scale > 0).all():
        raise ValueError(f"std must be above 0 in every channel, got {scale.tolist()}")
    # Reshaped to the images' rank, because the tests forbid silent rank promotion.
    shape = (1,) * (images.ndim - 1) + (channels,)
    return (jnp.asarray(images).astype(jnp.float32) - shift.reshape(shape)) / scale.reshape(shape)
