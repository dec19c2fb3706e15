# %% [markdown]
# # On Colab or a TPU VM
#
# Install cbjax, see which devices there are, train one network on all of them at once, and watch it. The same cells run on a
# laptop, where one CPU plays four devices. It takes **half a minute on a CPU**, after the installation.
#
# On Colab choose *Runtime → Change runtime type → TPU* (or GPU) first.

# %% [markdown]
# ## Install
#
# `cbjax[train]` leaves JAX as it is for GPU or TPU where it is there already, as on Colab. On a machine of your own write
# `cbjax[train,tpu]` or `cbjax[train,cuda]`. If this cell had to install something, restart the runtime once. There
# is no release yet: until then upload a clone of the repository as the folder `clone`.

# %%
import importlib.util
import pathlib
import subprocess
import sys

WHAT = "./clone[train]" if pathlib.Path("clone").is_dir() else "cbjax[train]"
if importlib.util.find_spec("cbjax") is None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", WHAT]
    if subprocess.run(pip, check=False).returncode:
        raise SystemExit(f"{WHAT} cannot be installed: upload a clone as the folder clone")

# %% [markdown]
# ## Devices
#
# Settings for JAX must come before it starts. The first line makes one CPU look like four devices; accelerators do not
# mind it.

# %%
import os

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
)
QUICK = bool(os.environ.get("CBJAX_QUICK"))

import jax

jax.devices()

# %% [markdown]
# If this shows CPUs on a machine with a GPU or TPU, JAX was installed without its plugin, or another process holds the
# device (a TPU belongs to one process: shut down other notebooks).
#
# ## One data-parallel run
#
# A process uses **all its devices**: each gets its share of every batch, gradients are averaged, and all hold the same
# parameters. The batch must be a multiple of their number. Nothing else changes. `devices=1` uses one only, to compare.
#
# The bar shows the epoch, the loss, images a second and the time left.

# %%
import cbjax

runs = {}
for name, devices in {"all": [], "one": ["devices=1"]}.items():
    keys = [f"num_epochs={3 if QUICK else 20}", "log.report=false", *devices]
    config = cbjax.config.load("digits_lt", ["method=cb_focal", *keys])
    runs[name] = cbjax.train(config, f"runs/{name}")

runs["all"]

# %% [markdown]
# The two runs agree to the rounding of float32: this network has no BatchNorm, and cbjax takes means over the whole batch,
# not over each device's share. (With BatchNorm each device has statistics of its own, unless `model.batch_norm_size` says
# otherwise.)

# %%
losses = {
    name: [row["train/loss"] for row in run.memory.history["metrics"] if "train/loss" in row]
    for name, run in runs.items()
}
difference = max(abs(a - b) for a, b in zip(losses["all"], losses["one"], strict=True))
print(f"largest difference between the training losses of an epoch: {difference:.1e}")
for name, run in runs.items():
    print(
        f"{name:>4}: {100 * run.metrics['test/last/balanced_accuracy']:.1f} % balanced test accuracy"
    )

# %% [markdown]
# ## Watch it
#
# A run writes its figures as it goes: a line an epoch in `metrics.jsonl`, and TensorBoard's files beside it. From another
# cell, or another machine that sees the folder:

# %%
import json
import pathlib

shown = ("epoch", "train/loss", "validation/balanced_accuracy", "time/images_per_second")
for line in pathlib.Path("runs/all/metrics.jsonl").read_text().splitlines()[-4:-1]:
    row = json.loads(line)
    print({key: round(row[key], 4) for key in shown})

# %% [markdown]
# In Colab and Jupyter TensorBoard shows below a cell:
#
# ```
# %load_ext tensorboard
# %tensorboard --logdir runs
# ```
#
# ## Do not lose it
#
# Colab and spot TPUs are taken away at any time. Keep the work directory where it stays, and give the same command again: it
# goes on from the last checkpoint and ends with the same parameters.
#
# ```python
# cbjax.train(config, "/content/drive/MyDrive/runs/cifar")   # Google Drive, mounted
# cbjax.train(config, "gs://BUCKET/runs/cifar")              # a bucket; pip install "cbjax[train,gcs]"
# ```
#
# ## A TPU VM, or a slice of many
#
# From your own machine one command rents a slice of any size, copies the clone there, trains, starts again after a
# preemption, and gives the slice back:
#
# ```bash
# bash launch/tpu_vm.sh --zone=ZONE --accelerator-type=v5litepod-32 --spot --delete -- \
#     train --config=imagenet:goyal --workdir=gs://BUCKET/imagenet
# ```
#
# Before you rent, ask the TPU's compiler, which needs no TPU, whether the run fits and how fast it can be at most:
#
# ```bash
# pip install "cbjax[train,tpu]"
# cbjax compile --config=imagenet:goyal --topology=v5e:4x8
# ```
#
# `launch/README.md` has Slurm, Kubernetes and one machine with several GPUs.
