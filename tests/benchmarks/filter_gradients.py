"""Times the filter gradient of ResNet-32's 3x3 convolutions on CPU in several formulations, batch 128, in turns.

Run by hand: python tests/benchmarks/filter_gradients.py [--out=tests/benchmarks/results/filter_gradients.json]
It is the main reason why a step of ResNet-32 on CPU is slower than PyTorch's. With 16 channels, XLA's gradient takes
about twice the time of the convolution itself, and gains little from a second core. What is tried instead:

- `shifts`, `rows`, `patches`: matrix products over all pixels, one for each of nine shifts of the images, for each of
  three of their rows with three shifts side by side, or a single one;
- `images`: the product of patches for each image, then the sum;
- `of_gradients`: as `rows`, with the shifts of the gradients side by side;
- `along_rows`: XLA's convolution with images and rows as window and the pixels of a row as channels;
- `chunks`: XLA's own of 16 images each, then the sum.

The environment is the command's: XLA_FLAGS as cbjax sets them, and the MALLOC_ settings of launch/local.sh.
"""

import argparse
import json
import os
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from cbjax.cli import startup

STAGES = ((32, 16), (16, 32), (8, 64))  # pixels of a side, channels
BATCH, CHUNK, REPEATS = 128, 16, 3


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", help="a JSON file for the times of all rounds, in milliseconds")
    arguments = parser.parse_args()

    startup.set_flags(deterministic=False)  # read when the backend starts, by the first array
    jax.config.update("jax_platforms", "cpu")
    times = {}
    for pixels, channels in STAGES:
        first, second, third = jax.random.split(jax.random.key(0), 3)
        images = jax.random.normal(first, (BATCH, pixels, pixels, channels))
        gradients = jax.random.normal(second, images.shape)
        kernel = jax.random.normal(third, (3, 3, channels, channels))
        tried = {name: jax.jit(function) for name, function in formulations(kernel).items()}
        found = {name: np.asarray(function(images, gradients)) for name, function in tried.items()}
        for name in tried.keys() - {"convolution", "xla"}:
            np.testing.assert_allclose(found[name], found["xla"], rtol=1e-3, atol=1e-5 * np.abs(found["xla"]).max())
        rounds = {name: [] for name in tried}
        for _ in range(arguments.rounds):
            for name, function in tried.items():
                begin = time.perf_counter()
                for _ in range(REPEATS):
                    output = function(images, gradients)
                output.block_until_ready()
                rounds[name].append(1000 * (time.perf_counter() - begin) / REPEATS)
        times[f"{pixels}x{pixels}x{channels}"] = rounds
        shown = ", ".join(f"{name} {statistics.median(own):.1f}" for name, own in rounds.items())
        print(f"{pixels}x{pixels}, {channels} channels, ms (medians of {arguments.rounds}): {shown}", flush=True)
    if arguments.out:
        cores = len(os.sched_getaffinity(0))
        with open(arguments.out, "w", encoding="utf-8") as file:
            json.dump({"cores": cores, "jax": jax.__version__, "milliseconds": times}, file, indent=1)
            file.write("\n")


def formulations(kernel):
    """Returns name -> function of images and gradients [B, H, W, D]; all but "convolution" give [3, 3, D, D]."""
    channels = kernel.shape[-1]

    def convolution(images, kernel):
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(images, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=layout)

    def xla(images, gradients):
        return jax.vjp(lambda kernel: convolution(images, kernel), kernel)[1](gradients)[0]

    def product(left, right):
        return jnp.einsum("nhwc,nhwd->cd", left, right)

    def padded(images, rows=1, columns=1):
        return jnp.pad(images, ((0, 0), (rows, rows), (columns, columns), (0, 0)))

    def shifted(images):
        wide, size = padded(images), images.shape[1]
        return [wide[:, i : i + size, j : j + size] for i in range(3) for j in range(3)]

    def side_by_side(images):
        """The three shifts along a row as [B, H, W, 3D]."""
        wide, size = padded(images, rows=0), images.shape[2]
        return jnp.concatenate([wide[:, :, j : j + size] for j in range(3)], -1)

    def shifts(images, gradients):
        return jnp.stack([product(one, gradients) for one in shifted(images)]).reshape(kernel.shape)

    def rows(images, gradients):
        wide, size = padded(side_by_side(images), columns=0), images.shape[1]
        return jnp.stack([product(wide[:, i : i + size], gradients) for i in range(3)]).reshape(kernel.shape)

    def patches(images, gradients):
        return product(jnp.concatenate(shifted(images), -1), gradients).reshape(kernel.shape)

    def each_image(images, gradients):
        together = jnp.concatenate(shifted(images), -1)
        return jnp.einsum("nhwc,nhwd->ncd", together, gradients).sum(0).reshape(kernel.shape)

    def of_gradients(images, gradients):
        wide, size = padded(images, columns=0), images.shape[1]
        together = side_by_side(gradients)  # the shifts of gradients run the other way
        found = jnp.stack([product(wide[:, i : i + size], together) for i in range(3)])
        return found.reshape(3, channels, 3, channels).transpose(0, 2, 1, 3)[:, ::-1]

    def along_rows(images, gradients):
        # The channels of the images are the batch, images and rows the window, the pixels of a row the channels.
        layout = jax.lax.ConvDimensionNumbers((3, 2, 0, 1), (3, 2, 0, 1), (2, 3, 0, 1))
        together, padding = side_by_side(images), ((0, 0), (1, 1))
        found = jax.lax.conv_general_dilated(together, gradients, (1, 1), padding, dimension_numbers=layout)
        return found.reshape(kernel.shape)

    def chunks(images, gradients):
        return sum(
            xla(images[begin : begin + CHUNK], gradients[begin : begin + CHUNK]) for begin in range(0, BATCH, CHUNK)
        )

    return {
        "convolution": lambda images, gradients: convolution(images, kernel),
        "xla": xla,
        "shifts": shifts,
        "rows": rows,
        "patches": patches,
        "images": each_image,
        "of_gradients": of_gradients,
        "along_rows": along_rows,
        "chunks": chunks,
    }


if __name__ == "__main__":
    main()
