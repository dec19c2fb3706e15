# %% [markdown]
# # Losses as surfaces
#
# A loss decides which mistakes a network works on. You will see each loss of this field as a curve, a slope and a surface:
# softmax, sigmoid and focal, their class-balanced (CB) and difficulty-balanced (CDB) forms, LDAM and logit adjustment; and
# what the three numbers γ, β and τ do. It takes **40 seconds on a CPU**; nothing is trained.
#
# Three classes stand for a long tail. Change the numbers and run all cells again.

# %%
COUNTS = [1000, 100, 10]  # training images of a frequent, a middle and a rare class
ACCURACY = [0.9, 0.8, 0.5]  # of each class on held-out images, for CDB
BETA = 0.99

# %%
import functools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from cbjax import losses
from cbjax.difficulty import difficulty_weights, dynamic_tau
from cbjax.report import canvas
from cbjax.weights import class_balanced

plt.rcParams["figure.dpi"] = 110
cb_weights = class_balanced(COUNTS, BETA)
cdb_weights = np.asarray(difficulty_weights(jnp.array(ACCURACY)))
print("class-balanced weights (CB):      ", cb_weights.round(2))
print("difficulty-balanced weights (CDB):", cdb_weights.round(2))


def panels(columns, width=4.6, height=3.4, **options):
    """Returns a figure with a row of panels."""
    size = (width * columns, height)
    return plt.subplots(1, columns, figsize=size, layout="constrained", **options)


# %% [markdown]
# ## Curves: two classes
#
# With two classes all that counts is the **margin**: by how much the logit of the true class is above the other. At a
# margin of 0 the network is undecided; to the right it is right. The slope of a loss is the force with which an image pulls
# at the network. Focal loss makes light of images that are already right: with γ = 2 their pull is almost gone.
#
# (The one-vs-rest losses see one yes-or-no answer here, whose logit is the margin. JAX gives the slopes.)

# %%
margin = jnp.linspace(-5, 5, 401)
yes_or_no = margin[:, None]  # one class, one logit
two_logits = jnp.stack([margin, jnp.zeros_like(margin)], axis=1)
is_true = jnp.ones_like(yes_or_no)
curves = {"softmax = sigmoid": lambda x: losses.sigmoid_cross_entropy(x, is_true)}
for gamma in (0.5, 1.0, 2.0):
    curves[f"focal, γ = {gamma:g}"] = lambda x, gamma=gamma: losses.focal_loss(
        x, is_true, gamma=gamma
    )

figure, (left, middle, right) = panels(3, width=3.7)
for place, (name, loss) in enumerate(curves.items()):
    slope = jax.grad(lambda x, loss=loss: loss(x).sum())(yes_or_no)[:, 0]
    left.plot(margin, loss(yes_or_no), lw=1.8, label=name, **canvas.style(place))
    middle.plot(margin, -slope, lw=1.8, **canvas.style(place))
    right.plot(jax.nn.sigmoid(margin), loss(yes_or_no), lw=1.8, **canvas.style(place))
left.legend(fontsize=8, frameon=False)
for axes in (left, middle):
    axes.axvline(0, color=canvas.GREY, lw=0.8, ls=":")
    axes.set_xlim(-5, 5)
right.set(xlim=(0, 1), ylim=(0, 5))
canvas.finish(left, "loss against margin", "margin (logits)", "loss (nats)")
canvas.finish(middle, "its pull: minus the slope", "margin (logits)", "pull on the margin")
canvas.finish(right, "loss against probability", "probability of the true class", "loss (nats)")

labels = jnp.zeros(len(margin), int)
same = losses.softmax_cross_entropy(two_logits, labels) - curves["softmax = sigmoid"](yes_or_no)
print(
    f"softmax of two logits minus sigmoid of their difference: at most {jnp.abs(same).max():.1e}"
)

# %% [markdown]
# ## Surfaces: three classes, one of them rare
#
# Each panel shows the loss of one image for every pair of logits: to the right that of its **true** class, upwards that of
# another class; the third logit is 0. The true class wins below the dashed line. Top row: the true class is the frequent
# one. Bottom row: it is the rare one.
#
# Look at the space between the lines, and at where they lie:
#
# - **softmax** treats both alike;
# - **CB** and **CDB** multiply: the same shape, flat for frequent classes and steep for rare (CB) or hard (CDB) ones;
# - **LDAM** and **logit adjustment** *move* the surface instead: a rare class must win by more before the loss is small.
#   This still counts when the network fits all training images, where a factor on a loss of almost 0 does nothing.

# %%
AXIS = jnp.linspace(-4, 4, 81)
own, other = jnp.meshgrid(AXIS, AXIS)
FREQUENT, RARE = 0, 2
margins = losses.ldam_margins(jnp.array(COUNTS), max_margin=0.5)

METHODS = {
    "softmax": losses.softmax_cross_entropy,
    f"CB softmax, β = {BETA}": functools.partial(
        losses.softmax_cross_entropy, class_weights=cb_weights
    ),
    "CDB softmax": functools.partial(losses.softmax_cross_entropy, class_weights=cdb_weights),
    "CB focal, γ = 1": functools.partial(
        losses.focal_loss, class_weights=cb_weights, gamma=1.0
    ),
    # LDAM takes cosines, and scales them; here with a scale that gives them the range of the other logits
    "LDAM": lambda logits, labels: losses.ldam_loss(
        logits / 4, labels, margins=margins, scale=4.0
    ),
    "logit adjustment": functools.partial(losses.logit_adjusted_loss, counts=jnp.array(COUNTS)),
}


@functools.partial(jax.jit, static_argnums=(0, 1))
def surface(name, true):
    """Returns the loss for each pair of logits, and its slope against that of the true class."""
    logits = jnp.zeros((own.size, 3)).at[:, true].set(own.ravel())
    logits = logits.at[:, RARE if true == FREQUENT else FREQUENT].set(other.ravel())
    truth = jnp.full(own.size, true)
    value, pull_back = jax.vjp(lambda x: METHODS[name](x, truth), logits)
    slope = pull_back(jnp.ones_like(value))[0][:, true]
    return value.reshape(own.shape), -slope.reshape(own.shape)


def draw_surfaces(index, levels, quantity):
    """Draws loss (index 0) or pull (1): a row for the frequent class and one for the rare one."""
    figure, rows = plt.subplots(
        2, len(METHODS), figsize=(12.5, 4.7), sharex=True, sharey=True, layout="constrained"
    )
    for true, row in ((FREQUENT, rows[0]), (RARE, rows[1])):
        for axes, name in zip(row, METHODS, strict=True):
            values = np.clip(surface(name, true)[index], levels[0], levels[-1])
            filled = axes.contourf(AXIS, AXIS, values, levels=levels, cmap="viridis_r")
            axes.contour(
                AXIS, AXIS, values, levels=levels[1:-1:2], colors="white", linewidths=0.5
            )
            axes.plot([0, 4], [0, 4], color="black", lw=1, ls="--")
            axes.plot([0, 0], [-4, 0], color="black", lw=1, ls="--")
            axes.set_title(name if true == FREQUENT else "", fontsize=9)
            axes.set_aspect("equal")
            axes.tick_params(labelsize=8)
    rows[0][0].set_ylabel(f"frequent ({COUNTS[FREQUENT]})", fontsize=9)
    rows[1][0].set_ylabel(f"rare ({COUNTS[RARE]})", fontsize=9)
    figure.supxlabel("logit of the true class", fontsize=9)
    figure.supylabel("logit of the other class", fontsize=9)
    bar = figure.colorbar(filled, ax=rows, shrink=0.9, ticks=levels[::4])
    bar.set_label(quantity, fontsize=9)
    bar.ax.tick_params(labelsize=8)


draw_surfaces(0, np.linspace(0, 8, 17), "loss (nats)")

# %% [markdown]
# ## The pull on the true class's logit
#
# The slopes of the same surfaces. For the rare class, CB and CDB pull harder everywhere that the answer is not yet right;
# logit adjustment pulls further to the right, where others have long stopped; for the frequent class it stops early.

# %%
draw_surfaces(1, np.linspace(0, 2.4, 17), "pull on the true class's logit")

# %% [markdown]
# ## The same along one line
#
# The margin of the true class over the other one, with the third logit level with the other. Solid: the frequent class.
# Dashed: the rare class.

# %%
line = jnp.stack([margin, jnp.zeros_like(margin), jnp.zeros_like(margin)], axis=1)
figure, (left, right) = panels(2, width=5.4, height=3.6)
for place, (name, loss) in enumerate(METHODS.items()):
    colour = canvas.COLOURS[place]
    for true, dashes in ((FREQUENT, "-"), (RARE, "--")):
        truth = jnp.full(len(margin), true)
        logits = jnp.roll(line, true, axis=1)
        value = loss(logits, truth)
        slope = jax.grad(lambda x, loss=loss, truth=truth: loss(x, truth).sum())(logits)[
            :, true
        ]
        label = name if true == FREQUENT else None
        left.plot(margin, value, color=colour, ls=dashes, lw=1.6, label=label)
        right.plot(margin, -slope, color=colour, ls=dashes, lw=1.6)
left.set(xlim=(-4, 5), ylim=(0, 8))
right.set_xlim(-4, 5)
left.legend(fontsize=8, frameon=False, loc="upper right")
canvas.finish(left, "", "margin (logits)", "loss (nats)")
canvas.finish(right, "", "margin (logits)", "pull on the true class's logit")

# %% [markdown]
# ## What γ, β and τ do
#
# - **γ** (focal): the factor $(1-p)^\gamma$ on an image whose true class has probability $p$. It looks at the *image*.
# - **β** (CB): the weight of a class by its *count*; [the first notebook](1_effective_number.ipynb) has it at length.
# - **τ** (CDB, figure 2 of [Sinha et al. 2020](https://arxiv.org/abs/2010.01824)): the weight $d^\tau$ of a class by its
#   *difficulty*, $d = 1 -$ its accuracy on held-out images. τ = 0 is plain cross entropy; a large τ listens to the hardest
#   classes alone.

# %%
p = jnp.linspace(0.001, 0.999, 300)
logit = jnp.log(p / (1 - p))[:, None]
n = np.unique(np.geomspace(1, 10_000, 200).astype(int))
d = jnp.linspace(0, 1, 200)
figure, (left, middle, right) = panels(3, width=3.7)
for place, gamma in enumerate((0.0, 0.5, 1.0, 2.0, 5.0)):
    factor = losses.focal_loss(logit, jnp.ones_like(logit), gamma=gamma) / -jnp.log(p)
    left.plot(p, factor, lw=1.8, label=f"γ = {gamma:g}", **canvas.style(place))
for place, beta in enumerate((0.0, 0.9, 0.99, 0.999, 0.9999)):
    weight = class_balanced(n, beta) / class_balanced(n, beta)[0]
    middle.plot(n, weight, lw=1.8, label=f"β = {beta:g}", **canvas.style(place))
for place, tau in enumerate((0.0, 0.5, 1.0, 2.0, 5.0)):
    weight = difficulty_weights(1 - d, tau, floor=0.0, scale=False)
    right.plot(d, weight, lw=1.8, label=f"τ = {tau:g}", **canvas.style(place))
middle.set(xscale="log", yscale="log", xlim=(1, 10_000), ylim=(1e-4, 1.6))
for axes in (left, right):
    axes.set_ylim(0, 1.4)
    axes.legend(fontsize=8, frameon=False, ncols=3, loc="upper center")
middle.legend(fontsize=8, frameon=False)
canvas.finish(left, "γ: by the image's probability", "probability of the true class", "factor")
canvas.finish(
    middle, "β: by the class's count", "training images of the class", "weight (one image: 1)"
)
canvas.finish(right, "τ: by the class's difficulty", "difficulty, 1 - accuracy", "weight")

# %% [markdown]
# ## The dynamic τ
#
# CDB can choose τ itself from the gap between the best and the worst class: near 1 when all classes are equally good,
# towards 2 when one is far behind. As long as the worst class is at 0, τ is 2 (to rounding), however good the best one is.

# %%
accuracies = jnp.linspace(0, 1, 201)
taus = jax.vmap(
    lambda worst: jax.vmap(lambda best: dynamic_tau(jnp.array([best, worst])))(accuracies)
)(accuracies)
taus = jnp.where(accuracies[None, :] >= accuracies[:, None], jnp.maximum(taus, 1), jnp.nan)
figure, axes = panels(1, width=5.2, height=3.8)
levels = np.linspace(1, 2, 11)
filled = axes.contourf(accuracies, accuracies, taus, levels=levels, cmap="viridis")
axes.contour(
    accuracies, accuracies, taus, levels=[1.1, 1.5, 1.9], colors="white", linewidths=0.8
)
bar = figure.colorbar(filled, ticks=[1, 1.5, 2])
bar.set_label("dynamic τ", fontsize=9)
bar.ax.tick_params(labelsize=8)
canvas.finish(axes, "", "accuracy of the best class", "accuracy of the worst class")
now = dynamic_tau(jnp.array(ACCURACY))
axes.plot(
    max(ACCURACY), min(ACCURACY), "o", ms=9, color=canvas.COLOURS[1], mec="white", clip_on=False
)
print(f"tau for the accuracies of the first cell (the dot): {now:.2f}")

# %% [markdown]
# Next: [CDB at work](4_cdb_at_work.ipynb), where the weights follow a training, or
# [the landscapes of trained networks](3_loss_landscapes.ipynb), where these losses have shaped whole networks.
