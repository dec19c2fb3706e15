# %% [markdown]
# # Bring your own data
#
# From images and labels to a classifier that knows rare classes too, and to a report about it, in Python alone. You will
# train on **arrays in memory** and on a **data frame of files**, ask a network about new images, and read which classes it
# does not know. It takes **about a minute on a CPU**.
#
# The stand-in for your data are the scans of digits that come with scikit-learn. Put your own in their place.

# %%
import os

QUICK = bool(os.environ.get("CBJAX_QUICK"))

# %%
import pathlib

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.datasets import load_digits

import cbjax
from cbjax.report import canvas

plt.rcParams["figure.dpi"] = 110

# %% [markdown]
# ## Arrays in memory
#
# Images are `[N, height, width]` or `[N, height, width, channels]`, uint8 (0 to 255) or float. Labels are `[N]` whole
# numbers or names. We make these imbalanced by hand: 160 images of the digit zero, down to 16 of the digit nine.

# %%
digits = load_digits()
NAMES = np.array(
    ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
)
wanted = np.geomspace(160, 16, 10).astype(int)
chosen = np.concatenate([np.flatnonzero(digits.target == c)[:n] for c, n in enumerate(wanted)])
images = (digits.images[chosen] * (255 / 16)).astype(np.uint8)
labels = NAMES[digits.target[chosen]]
print(f"{len(images)} images of {images.shape[1:]} pixels, {images.dtype}")

figure, panels = plt.subplots(1, 10, figsize=(10, 1.3), layout="constrained")
for axes, name in zip(panels, NAMES, strict=True):
    axes.imshow(images[np.argmax(labels == name)], cmap="gray_r")
    axes.set_title(f"{name}\n{np.sum(labels == name)}", fontsize=9)
    axes.set_axis_off()

# %% [markdown]
# ## Train
#
# `own_images:arrays` is a recipe for a few hundred to ten thousand images: class-balanced cross entropy, a fifth of each
# class held out for validation and a fifth for the test. We take a network for 8×8 images, and no random crops, which such
# small images do not bear. For yours keep the recipe's ResNet-20.
#
# The bar shows the epoch and the time left. **Interrupt the kernel at any time**: the state is saved, and the same cell goes
# on from there. A run that is finished is read instead of trained. The arrays are kept in the work directory, so the run is
# whole there: `cbjax eval`, `cbjax report` and `cbjax landscape` need nothing else.

# %%
config = cbjax.config.load(
    "own_images:arrays",
    [f"num_epochs={4 if QUICK else 60}", "model.name=digits_cnn", "data.crop_padding=0"],
)
run = cbjax.train(config, "runs/mine", arrays={"images": images, "labels": labels})

# %%
run

# %% [markdown]
# ## The report
#
# `run.show()` shows it here; `report.md` in the work directory is the same with its pictures, for others. Begin with
# *worst class* and *few*: one number for all classes hides the rare ones.

# %%
run.show()

# %% [markdown]
# ## Ask it about new images
#
# `predict` returns a probability for each class, in the order of `run.class_names`. It takes arrays in the units of the
# training, of any size, and paths and Pillow images too. Here are twelve digits that were left out above, all of rare
# classes; green if the answer is right.

# %%
unseen = np.setdiff1d(np.arange(len(digits.target)), chosen)[:12]
new = (digits.images[unseen] * (255 / 16)).astype(np.uint8)
chances = run.predict(new)

figure, panels = plt.subplots(1, 12, figsize=(11, 1.5), layout="constrained")
for axes, image, row, truth in zip(
    panels, new, chances, NAMES[digits.target[unseen]], strict=True
):
    answer = run.class_names[row.argmax()]
    axes.imshow(image, cmap="gray_r")
    colour = canvas.COLOURS[2] if answer == truth else canvas.COLOURS[1]
    axes.set_title(f"{answer}\n{100 * row.max():.0f} %", fontsize=9, color=colour)
    axes.set_axis_off()

# %% [markdown]
# Images of other sizes are brought to the size of the training: here the same digit, three times as large.

# %%
large = new[0].repeat(3, axis=0).repeat(3, axis=1)
for one in (new[0], large):
    row = run.predict([one])[0]
    print(f"{one.shape}: {run.class_names[row.argmax()]}, {100 * row.max():.0f} %")

# %% [markdown]
# ## A data frame of files
#
# Most people have files and a table. The table needs the columns `path` and `label`; more columns do not matter. Paths are
# relative to the table, or to `data.root`. (A folder for each class needs no table: `data.root=photos`.)
#
# First we write files, each of its own size, as a stand-in for yours.

# %%
from PIL import Image

folder = pathlib.Path("photos")
rows = []
for number, (pixels, label) in enumerate(zip(images, labels, strict=True)):
    place = folder / label / f"{number}.png"
    place.parent.mkdir(parents=True, exist_ok=True)
    side = 32 + number % 9
    Image.fromarray(255 - pixels).resize((side, side), Image.Resampling.BICUBIC).save(place)
    rows.append({"path": str(place), "label": label, "scanner": number % 3})
frame = pd.DataFrame(rows)
frame.sample(4, random_state=0)

# %%
frame.label.value_counts().to_frame().T

# %% [markdown]
# Write the table where the paths begin, and train. Such images are read while the network trains, so they need not fit
# into memory. For photos leave out the keys from `data.flip` on: they are for digits, which must not be mirrored. And take
# the recipe's ResNet-10 with `data.image_size=96` or more; this network for 28×28 is here because it takes seconds.

# %%
frame.to_csv("train.csv", index=False)
config = cbjax.config.load(
    "own_images",
    [
        "data.name=csv",
        "data.train_list=train.csv",
        f"num_epochs={2 if QUICK else 30}",
        "data.flip=false",
        "data.color_jitter=0",
        "data.crop_area=0.8",
        "data.image_size=28",
        "model.name=lenet5",
        "log.report=false",
    ],
)
from_files = cbjax.train(config, "runs/from_files")
from_files

# %% [markdown]
# `predict` takes the paths themselves.

# %%
paths = [
    str(folder / name / file.name)
    for name in ("zero", "nine")
    for file in sorted((folder / name).iterdir())[:2]
]
for path, row in zip(paths, from_files.predict(paths), strict=True):
    print(f"{path}: {from_files.class_names[row.argmax()]}, {100 * row.max():.0f} %")

# %% [markdown]
# ## Which method?
#
# The recipe weighs classes by their effective number (CB). Another method is one word, `method=…`, as in
#
# ```python
# config = cbjax.config.load("digits_lt", ["method=balanced_softmax"])
# ```
#
# | if | try |
# |---|---|
# | you have a finished network and a minute | `logit_adjustment` by `evaluation.tau=1`, then `cbjax stage2 --method=crt` |
# | you train anew, with a few classes | `cb_focal`, `cb_sigmoid` |
# | you train anew, with many classes | `balanced_softmax`, `progressive` |
# | the hard classes are not the rare ones | `cdb` with `difficulty.smoothing=0.8` |
# | there are two classes, one very rare | `cdb` with `difficulty.tau=5`, or `inverse_frequency` |
#
# [The methods' page](../docs/methods/README.md) has what was measured, and how little that proves. Compare on your own
# images, with three seeds each; the difference between seeds is often larger than that between methods.
#
# Several runs side by side, with their report:
#
# ```python
# cbjax.report.report(["runs/mine", "runs/other"], "runs/compared")
# cbjax.report.show("runs/compared")
# ```
#
# Next: [on Colab or a TPU](6_colab_and_tpu.ipynb).
