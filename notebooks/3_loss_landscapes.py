# %% [markdown]
# # Loss landscapes of trained networks
#
# A network is a point in a space of thousands of parameters, and the loss is a height above each point. You will look at the
# landscape around networks that were trained with cross entropy (CE), class-balanced (CB) and difficulty-balanced (CDB)
# weights: in random directions, on the line and the plane between them, along the way of their training; and at its
# curvature. Every picture comes for frequent classes and for rare ones. It takes **about two minutes on a CPU**: three
# networks are trained, and the loss is measured at some 3,000 points.
#
# The command for one of your runs is `cbjax landscape --from=DIR`.

# %%
import os

QUICK = bool(os.environ.get("CBJAX_QUICK"))
EPOCHS, POINTS = (4, 5) if QUICK else (60, 25)

# %%
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Image

import cbjax
from cbjax import landscape
from cbjax.report import canvas

plt.rcParams["figure.dpi"] = 110

# %% [markdown]
# ## Three trainings from one start
#
# Real digits with a long tail, 108 images of the digit 0 to 5 of the digit 9. The seed is the same, so all three begin with
# the same parameters and see the same batches; only the class weights differ. CDB is in its smoothed form.

# %%
METHODS = {
    "CE": [],
    "CB": ["weights.name=class_balanced", "weights.beta=0.99"],
    "CDB": ["weights.name=difficulty", "difficulty.smoothing=0.8"],
}
runs = {}
for name, keys in METHODS.items():
    often = f"checkpoint.every_epochs={max(1, EPOCHS // 12)}"
    settings = [f"num_epochs={EPOCHS}", "log.report=false", "checkpoint.keep=all", often, *keys]
    runs[name] = cbjax.train(cbjax.config.load("digits_lt", settings), f"runs/{name}")

for name, run in runs.items():
    few, balanced = (
        100 * run.metrics[f"test/last/{key}"] for key in ("few_accuracy", "balanced_accuracy")
    )
    print(
        f"{name:>4}: test accuracy {balanced:.1f} % balanced, {few:.1f} % of the rare classes"
    )

# %% [markdown]
# ## Around each network
#
# Two random directions, in which every filter moves by its own length at distance 1 (filter normalisation,
# [Li et al. 2018](https://arxiv.org/abs/1712.09913)); the same two for all networks. The loss of each class is measured in
# the same pass, so the rare classes cost nothing more. A surface is kept in the run's work directory; this cell reads it
# when you run it again.
#
# The star is the trained network. With CE the valley of the rare classes lies high and is narrow beside that of the frequent
# ones. CB and CDB level them out: the rare classes' valley is lower, and the frequent classes pay a little for it.

# %%
surfaces = {
    name: landscape.random(run, span=(-0.6, 0.6), points=POINTS, pictures=False)
    for name, run in runs.items()
}
surfaces["CE"]

# %%
GROUPS = {"all images": None, "frequent classes": "many", "rare classes": "few"}


def loss_of(surface, group):
    """Returns the mean loss of all images, or over the classes of a group."""
    return surface.loss if group is None else surface.group_loss(group)


def draw(surfaces, groups, across="", up=""):
    """Draws a row for each surface and a column for each group, on one scale."""
    rows, columns = len(surfaces), len(groups)
    levels = np.geomspace(0.02, 10, 19)
    figure, panels = plt.subplots(
        rows,
        columns,
        figsize=(3.1 * columns + 1, 2.6 * rows + 0.3),
        sharex="row",
        sharey="row",
        squeeze=False,
        layout="constrained",
    )
    for axes, title in zip(panels[0], groups, strict=True):
        axes.set_title(title, fontsize=10)
    for row, (name, surface) in zip(panels, surfaces.items(), strict=True):
        x, y = surface.axes
        for axes, group in zip(row, groups.values(), strict=True):
            field = np.clip(loss_of(surface, group), levels[0], levels[-1]).T
            filled = axes.contourf(x, y, field, levels=levels, cmap="viridis_r", norm="log")
            axes.contour(x, y, field, levels=levels[1:-1:2], colors="white", linewidths=0.4)
            if surface.path is not None:
                axes.plot(*surface.path.T, "-o", color=canvas.COLOURS[1], ms=2.5, lw=1)
            elif not surface.marks:
                axes.plot(0, 0, "*", color=canvas.COLOURS[1], ms=11, mec="black", mew=0.5)
            for place, (mark, at) in enumerate(surface.marks.items()):
                colour = canvas.COLOURS[(1, 5, 3)[place % 3]]
                axes.plot(*at, "o", color=colour, ms=6, mec="white", label=mark.split("/")[-1])
            axes.tick_params(labelsize=8)
        row[0].set_ylabel(name, fontsize=10)
    if surface.marks and surface.path is None:
        axes.legend(fontsize=8, loc="upper right")
    figure.supxlabel(across, fontsize=9)
    figure.supylabel(up, fontsize=9)
    bar = figure.colorbar(filled, ax=panels, ticks=[0.02, 0.1, 0.5, 2, 10], shrink=0.8)
    bar.ax.set_yticklabels(["0.02", "0.1", "0.5", "2", "10"])
    bar.set_label("loss (nats)", fontsize=9)
    bar.ax.tick_params(labelsize=8)


draw(surfaces, GROUPS, "filter-normalised direction 1", "filter-normalised direction 2")

# %% [markdown]
# ## From one network to another
#
# The straight line from CE (at 0) to CB (at 1): cross entropy and accuracy of frequent and rare classes. A hill between the
# two is a barrier: they are different solutions, although they began with the same parameters. Without one they would lie in
# the same valley. Here the hill is highest for the rare classes.

# %%
line = landscape.line(runs["CE"], runs["CB"], points=4 * POINTS + 1, pictures=False)
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
for place, (title, group) in enumerate(GROUPS.items()):
    accuracy = line.balanced_accuracy if group is None else line.group_accuracy(group)
    label = "all classes" if group is None else title
    left.plot(line.axes[0], loss_of(line, group), lw=1.8, label=title, **canvas.style(place))
    right.plot(line.axes[0], 100 * accuracy, lw=1.8, label=label, **canvas.style(place))
for axes in (left, right):
    for at, name in ((0, "CE"), (1, "CB")):
        axes.axvline(at, color=canvas.GREY, lw=0.8, ls=":")
        axes.annotate(
            name,
            (at, 0.97),
            (3, 0),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            fontsize=9,
        )
    axes.set_xlim(-0.5, 1.5)
left.set_yscale("log")
left.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(0.0, 0.75))
canvas.finish(left, "", "from CE (0) to CB (1)", "loss (nats)")
right.set_ylim(0, 108)
right.legend(fontsize=8, frameon=False, loc="lower left")
canvas.finish(right, "", "from CE (0) to CB (1)", "training accuracy (%)")

# %% [markdown]
# ## The plane through all three
#
# Distances in it are true: how far the three networks lie apart, in parameters. CDB, whose weights change slowly, stayed near
# CE; the valley of the rare classes runs to its side.

# %%
plane = landscape.plane(*runs.values(), points=POINTS, pictures=False)
draw({"": plane}, GROUPS, "distance along CE and CB", "distance towards CDB")

# %% [markdown]
# ## The way of a training
#
# The checkpoints of the CDB run, on the two directions in which they moved most (principal components). The path begins far
# out and ends in the valley. `landscape.trajectory` draws its own pictures, as PNG and SVG; this is one of them.

# %%
way = landscape.trajectory(runs["CDB"], points=POINTS)
Image(way.folder / "loss.png", width=980)

# %% [markdown]
# ## Curvature
#
# The eigenvalues of the Hessian say how steep the valley is in its steepest directions, and whether it is a valley at all: a
# network with clearly negative eigenvalues lies on a saddle. For rare classes that is common
# ([Rangwani et al. 2022](https://arxiv.org/abs/2212.13827)). By Lanczos, over all training images, frequent and rare ones.

# %%
curvatures = {
    name: landscape.curvature(run, steps=4 if QUICK else 20, probes=2, pictures=False)
    for name, run in runs.items()
}
print(f"{'':<5}{'':<22}{'smallest':>10}{'largest':>10}{'trace':>10}")
for name, curvature in curvatures.items():
    for part in ("all images", "many", "few"):
        found = curvature[part]
        size = f"{part} ({found.images} images)"
        print(
            f"{name:<5}{size:<22}{found.smallest:>10.3g}{found.largest:>10.3g}{found.trace:>10.3g}"
        )

# %%
figure, panels = plt.subplots(1, 3, figsize=(11, 3), sharey=True, layout="constrained")
for axes, part in zip(panels, ("all images", "many", "few"), strict=True):
    for place, (name, curvature) in enumerate(curvatures.items()):
        top = np.maximum(curvature[part].top(8), 1e-6)
        style = {"marker": "o", "ms": 4, "lw": 1.4, **canvas.style(place)}
        axes.plot(range(1, len(top) + 1), top, label=name, **style)
    axes.set_yscale("log")
panels[0].legend(fontsize=8, frameon=False)
for axes, title, label in zip(panels, GROUPS, ("largest eigenvalues", "", ""), strict=True):
    canvas.finish(axes, title, "eigenvalue, from the largest", label)

# %% [markdown]
# These are single networks of one seed on a small set: the pictures show what to look for, not which method is better.
# Everything is kept in each run's folder `landscape/`, as tables and arrays too.
#
# Next: [CDB at work](4_cdb_at_work.ipynb).
