# %% [markdown]
# # Effective number and class weights
#
# How many images does a class *really* have? The hundredth photo of a sparrow says less than the first. The
# class-balanced loss ([Cui et al. 2019](https://arxiv.org/abs/1901.05555)) counts a class of $n$ images as
# $E_n = (1-\beta^n)/(1-\beta)$ images, its **effective number**, and weighs the class by $1/E_n$.
#
# You will see where this formula comes from, what β does to the weights of *your* classes, and which β to begin with.
# It takes **5 seconds on a CPU**; nothing is trained.
#
# **Put your own numbers of training images here.** Everything below follows them.

# %%
COUNTS = [
    5000,
    2997,
    1796,
    1077,
    645,
    387,
    232,
    139,
    83,
    50,
]  # CIFAR-10 made long-tailed, imbalance 100
BETAS = [0.9, 0.99, 0.999, 0.9999]

# %%
import matplotlib.pyplot as plt
import numpy as np

from cbjax.data.longtail import exponential_counts
from cbjax.report import canvas
from cbjax.weights import (
    class_balanced,
    effective_number,
    inverse_frequency,
    inverse_sqrt_frequency,
)

plt.rcParams["figure.dpi"] = 110
counts = np.sort(np.array(COUNTS))[::-1]
rank = np.arange(1, len(counts) + 1)
COLOUR = dict(zip(BETAS, canvas.COLOURS, strict=False))


def panels(columns, width=4.6, height=3.2, **options):
    """Returns a figure with a row of panels."""
    return plt.subplots(
        1, columns, figsize=(width * columns, height), layout="constrained", **options
    )


# %% [markdown]
# ## Where the formula comes from: covering at random
#
# Think of all images that a class could ever have as $N$ different prototypes. Each training image shows one of them, at
# random. With $n$ images you have seen fewer than $n$ prototypes, because some came twice. The expected number of those
# that you have seen is $E_n$ with $\beta = (N-1)/N$. We draw at random and count (grey), beside the formula (blue).

# %%
PROTOTYPES, MOST, TRIALS = 100, 400, 40
draws = np.random.default_rng(0).integers(PROTOTYPES, size=(TRIALS, MOST))
seen = np.array([[len(set(trial[:n])) for n in range(1, MOST + 1)] for trial in draws.tolist()])

images = np.arange(1, MOST + 1)
expected = effective_number(images, beta=(PROTOTYPES - 1) / PROTOTYPES)

figure, axes = panels(1, width=6)
axes.plot(images, seen.T, color="#bbbbbb", lw=0.5)
axes.plot(
    images, expected, color=canvas.COLOURS[0], lw=2, label=r"effective number, $\beta = 0.99$"
)
axes.plot(images, images, color="black", lw=1, ls=":", label="number of images")
axes.plot([], [], color="#bbbbbb", label=f"prototypes seen in {TRIALS} trials")
axes.set(xlim=(0, MOST), ylim=(0, PROTOTYPES * 1.14))
axes.axhline(PROTOTYPES, color=canvas.GREY, lw=0.8)
axes.annotate("all 100 prototypes", (MOST, PROTOTYPES + 2), ha="right", fontsize=8)
axes.legend(fontsize=8, frameon=False, loc="lower right")
canvas.finish(axes, "", "training images of the class", "prototypes that were seen")

print(
    f"largest difference between the mean of the trials and the formula: {np.abs(seen.mean(axis=0) - expected).max():.2f}"
)

# %% [markdown]
# So β is a belief about the variety within a class: $N = 1/(1-\beta)$. With β = 0.9 a class has only 10 different images
# to show, and is full after some 30. With β = 0.9999 it has 10,000.
#
# ## The weight of a class with $n$ images (figure 3 of the paper)
#
# The class-balanced term is $1/E_n$. A small β gives all classes that have more than a few images the same weight (a flat
# line). As β goes to 1, the weight becomes $1/n$ (the dotted line). The kink is near $n = N$.

# %%
n = np.unique(np.geomspace(1, 10_000, 200).astype(int))
figure, axes = panels(1, width=6)
for beta in BETAS:
    axes.plot(
        n,
        1 / effective_number(n, beta),
        color=COLOUR[beta],
        lw=1.8,
        label=rf"$\beta$ = {beta}   (N = {1 / (1 - beta):,.0f})",
    )
axes.plot(n, 1 / n, color="black", lw=1, ls=":", label=r"$\beta \to 1$: $1/n$")
axes.plot(n, np.ones(len(n)), color="black", lw=1, ls="--", label=r"$\beta = 0$: no weights")
axes.set(xscale="log", yscale="log", xlim=(1, n[-1]), ylim=(1e-4, 1.5))
canvas.finish(
    axes, "", "training images of the class", "class-balanced term $1/E_n$", grid="both"
)
axes.legend(fontsize=8, frameon=False, loc="lower left")

# %% [markdown]
# ## Long-tailed sets (figure 4 of the paper)
#
# Researchers make such sets from balanced ones: class $i$ keeps $n\,\mu^i$ of its images. The *imbalance* is the largest
# count over the smallest. Here are CIFAR-100's classes, and the counts from the first cell.

# %%
figure, (left, right) = panels(2)
for place, imbalance in enumerate([200, 100, 50, 20, 10, 1]):
    of_classes = exponential_counts(500, 100, imbalance)
    left.plot(
        range(1, 101),
        of_classes,
        lw=1.6,
        label=f"{imbalance}   ({of_classes.sum():,} images)",
        **canvas.style(place),
    )
canvas.finish(left, "CIFAR-100, made long-tailed", "class", "training images")
left.set_ylim(0, 530)
left.legend(
    title="imbalance", title_fontsize=8, fontsize=7.5, frameon=False, bbox_to_anchor=(1, 0.93)
)

right.bar(rank, counts, color=canvas.COLOURS[0])
canvas.finish(
    right,
    f"your counts: imbalance {counts[0] / counts[-1]:.3g}",
    "class, from the most frequent",
    "training images",
)
canvas.whole_numbers(right)

# %% [markdown]
# ## Effective numbers of your classes (figure 6 of the paper), and their weights
#
# Left: with a small β all classes count as equally large; with β near 1 they count as what they are. Right: the weights
# that training uses, scaled to sum to the number of classes. The dashed line is a class of weight 1. Compare the two
# grey lines, the usual $1/n$ and $1/\sqrt{n}$: with counts like these, β = 0.9999 is almost $1/n$.

# %%
figure, (left, right) = panels(2, height=3.4)
left.plot(rank, counts, color="black", lw=1, ls=":", label="images")
for beta in BETAS:
    left.plot(
        rank,
        effective_number(counts, beta),
        "o-",
        ms=3,
        lw=1.6,
        color=COLOUR[beta],
        label=rf"$\beta$ = {beta}",
    )
    right.plot(rank, class_balanced(counts, beta), "o-", ms=3, lw=1.6, color=COLOUR[beta])
right.plot(rank, inverse_frequency(counts), color=canvas.GREY, lw=1, ls=":", label="$1/n$")
right.plot(
    rank,
    inverse_sqrt_frequency(counts),
    color=canvas.GREY,
    lw=1,
    ls="-.",
    label=r"$1/\sqrt{n}$",
)
right.axhline(1, color=canvas.GREY, lw=0.8, ls="--")
left.set_yscale("log")
right.set_yscale("log")
left.legend(fontsize=8, frameon=False, loc="best")
right.legend(fontsize=8, frameon=False, loc="upper left")
for axes, quantity in ((left, "effective number of images"), (right, "class weight")):
    canvas.finish(axes, "", "class, from the most frequent", quantity)
    canvas.whole_numbers(axes)

# %% [markdown]
# ## Which β for your classes?
#
# A β does something only if its $N$ lies among your counts or above. If all your classes have many more than $N$ images,
# all weights are 1 (the commonest surprise: "β = 0.9 changes nothing"). The table says how much more weight the rarest
# class gets than the most frequent one.

# %%
spread = counts[0] / counts[-1]
print(
    f"counts from {counts[-1]:,} to {counts[0]:,}: the largest class is {spread:.3g} times the smallest\n"
)
print("      beta           N   weight of the rarest over that of the most frequent")
for beta in (0, 0.9, 0.99, 0.999, 0.9999, 0.99999, 1):
    weights = class_balanced(counts, beta)
    size = "1" if beta == 0 else "infinite" if beta == 1 else f"{1 / (1 - beta):,.0f}"
    ratio = weights[counts.argmin()] / weights[counts.argmax()]
    bar = "#" * round(40 * np.log(max(ratio, 1)) / np.log(max(spread, 1.01)))
    print(f"{beta:>10g}{size:>12}{ratio:>9.2f}  {bar}")

# %% [markdown]
# To begin with, take the smallest β whose ratio you would call a real difference, and one step above it; choose between
# them, and no weights at all, on held-out images. In the paper the best β was 0.9999 for CIFAR-10, and 0.9 to 0.999 for
# CIFAR-100, whose classes have a tenth of the images.
#
# To train with it:
#
# ```bash
# cbjax train --config=digits_lt --workdir=runs/cb --config.weights.name=class_balanced --config.weights.beta=0.99
# ```
#
# Next: [losses as surfaces](2_losses_as_surfaces.ipynb), or straight to [your own data](5_your_own_data.ipynb).
