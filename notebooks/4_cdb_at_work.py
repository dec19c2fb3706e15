# %% [markdown]
# # CDB at work
#
# The difficulty-balanced loss ([Sinha et al. 2020](https://arxiv.org/abs/2010.01824)) measures the accuracy of each class on
# held-out images after every epoch, and gives the classes that do badly more weight in the next. You will see this loop run
# on real digits with a long tail: difficulty, τ and weight of every class over the epochs; why the weights can swing; and
# what averaging does about it. Three networks are trained. It takes **about a minute on a CPU**.

# %%
import os

EPOCHS = 8 if os.environ.get("CBJAX_QUICK") else 100

# %%
import matplotlib.pyplot as plt
import numpy as np

import cbjax
from cbjax.report import canvas

plt.rcParams["figure.dpi"] = 110

# %% [markdown]
# ## Three trainings
#
# `digits_lt` has 363 images: 108 of the digit 0, then fewer and fewer, 5 of the digit 9; and 20 held-out images of each
# class, which only measure difficulty. A finished run is read instead of trained again, so run this cell as often as you
# like.

# %%
METHODS = {
    "cross entropy": [],
    "CDB": ["weights.name=difficulty"],
    "CDB, smoothed": ["weights.name=difficulty", "difficulty.smoothing=0.8"],
}
runs = {}
for name, keys in METHODS.items():
    config = cbjax.config.load("digits_lt", [f"num_epochs={EPOCHS}", "log.report=false", *keys])
    runs[name] = cbjax.train(config, f"runs/{name.replace(', ', '_').replace(' ', '_')}")

runs["CDB"]

# %% [markdown]
# ## What a run remembers
#
# Everything below is in the run's work directory (`per_class.jsonl`, `class_weights.jsonl`, `metrics.jsonl`), and in
# `run.memory.history`.


# %%
def held_out(run):
    """Returns [E] epochs and [E, C] accuracies on held-out images."""
    rows = [row for row in run.memory.history["per_class"] if row["split"] == "validation"]
    return np.array([row["epoch"] for row in rows]), np.array([row["accuracy"] for row in rows])


def class_weights(run):
    """Returns [E, C] the class weights that each epoch was trained with."""
    return np.array([row["class_weights"] for row in run.memory.history["class_weights"]])


def of_epochs(run, key):
    """Returns [E] a metric of each epoch; NaN where there is none."""
    return np.array([row.get(key, np.nan) for row in run.memory.history["metrics"]])


names = runs["CDB"].class_names
order = range(len(names))  # digits_lt is sorted: the most frequent class comes first
counts = np.asarray(runs["CDB"].state.settings.counts).astype(int)

# %% [markdown]
# ## Class by class
#
# Each panel is a digit, with its number of training images. Top row of each pair: accuracy on held-out images. Bottom row:
# the class's weight (1 is that of cross entropy; the axis is logarithmic and ends at 0.01). Follow one digit under plain CDB (orange): its accuracy falls, its weight
# jumps, its accuracy comes back, its weight is taken away, and it is forgotten again. With averages over epochs (green) the
# weights settle.


# %%
def small_multiples(methods, first=None):
    """Draws accuracy and weight of each class over the epochs."""
    figure = plt.figure(figsize=(12, 7.6), layout="constrained")
    blocks = figure.subfigures(2, 1, hspace=0.04)
    for block, classes in zip(blocks, np.array_split(np.array(order), 2), strict=True):
        rows = block.subplots(2, len(classes), sharex=True, sharey="row", height_ratios=(1, 1))
        for column, c in enumerate(classes):
            top, bottom = rows[:, column]
            for place, name in enumerate(methods):
                epochs, accuracy = held_out(runs[name])
                style = {"lw": 1.2, "color": canvas.COLOURS[list(METHODS).index(name)]}
                top.plot(epochs[:first], 100 * accuracy[:first, c], label=name, **style)
                bottom.plot(
                    epochs[:first],
                    class_weights(runs[name])[:first, c],
                    zorder=3 - place,
                    **style,
                )
            top.set_ylim(0, 103)
            bottom.set(yscale="log", ylim=(0.008, 12))
            canvas.finish(
                top,
                f"{names[c]}   ({counts[c]} images)",
                "",
                "accuracy (%)" if not column else "",
            )
            canvas.finish(bottom, "", "epoch", "class weight" if not column else "")
    handles, labels = top.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper center", ncols=3, fontsize=9, frameon=False
    )


small_multiples(METHODS)

# %% [markdown]
# ## The first epochs
#
# Here the swings are largest, because some class is still at 0 %.

# %%
small_multiples(["CDB", "CDB, smoothed"], first=20)

# %% [markdown]
# ## All classes at once
#
# The same weights as a map: a row for each class, a column for each epoch. Vertical stripes are swings: the whole weight
# moves from some classes to others between two epochs.

# %%
from matplotlib.colors import LogNorm

figure, panels = plt.subplots(1, 2, figsize=(11, 3.2), layout="constrained", sharey=True)
for axes, name in zip(panels, ["CDB", "CDB, smoothed"], strict=True):
    weights = class_weights(runs[name])
    image = axes.imshow(
        np.maximum(weights.T, 0.01),
        aspect="auto",
        norm=LogNorm(0.03, 6),
        cmap="viridis",
        interpolation="nearest",
        extent=(0.5, len(weights) + 0.5, len(names) - 0.5, -0.5),
    )
    axes.set_yticks(order, [f"{names[c]} ({counts[c]})" for c in order])
    canvas.finish(axes, name, "epoch", "", grid="x")
    axes.grid(False)
panels[0].set_ylabel("class (training images)", fontsize=9)
bar = figure.colorbar(image, ax=panels, extend="both")
bar.set_label("class weight", fontsize=9)
canvas.plain_numbers(bar.ax.yaxis)
bar.ax.tick_params(which="both", labelsize=8)

# %% [markdown]
# ## τ, and how far the weights move
#
# The dynamic τ is 2 as long as a class is at 0 %, and falls towards 1 as the classes come together. The third panel is the
# share of the whole weight that changes classes from one epoch to the next; cbjax warns if it stays large.

# %%
figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.3), layout="constrained")
for place, (name, run) in enumerate(runs.items()):
    style = {"lw": 1.4, "color": canvas.COLOURS[place]}
    epochs = of_epochs(run, "epoch")
    left.plot(epochs, 100 * of_epochs(run, "validation/balanced_accuracy"), label=name, **style)
    if name != "cross entropy":
        middle.plot(epochs, of_epochs(run, "difficulty/tau"), **style)
        right.plot(epochs, 100 * of_epochs(run, "difficulty/weights_moved"), **style)
left.legend(fontsize=8, frameon=False, loc="lower right")
left.set_ylim(0, 100)
right.set_ylim(bottom=0)
canvas.finish(left, "", "epoch", "held-out balanced accuracy (%)")
canvas.finish(middle, "", "epoch", "dynamic τ")
canvas.finish(right, "", "epoch", "weight that changes classes (%)")

# %% [markdown]
# ## What came out
#
# Test accuracy in percent at the last epoch. This is **one** seed: differences of a few points can be chance. Over seeds,
# see [why did CDB do worse than cross entropy?](../docs/cdb_swings.md)

# %%
print(f"{'':<16}{'balanced':>10}{'many':>8}{'medium':>8}{'few':>8}{'worst':>8}")
for name, run in runs.items():
    figures = [
        run.metrics[f"test/last/{key}"]
        for key in (
            "balanced_accuracy",
            "many_accuracy",
            "medium_accuracy",
            "few_accuracy",
            "worst_accuracy",
        )
    ]
    print(
        f"{name:<16}{100 * figures[0]:>10.1f}"
        + "".join(f"{100 * one:>8.1f}" for one in figures[1:])
    )

# %% [markdown]
# Next: [your own data](5_your_own_data.ipynb). For three classes or more use `difficulty.smoothing=0.8`; for two classes,
# the paper's form.
