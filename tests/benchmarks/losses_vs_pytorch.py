"""Times CB-focal, forward and backward, [1024, 8142] float32, against the same formula in PyTorch, and CDB's weights.

    python tests/benchmarks/losses_vs_pytorch.py --pytorch=PATH   # PATH: a python with torch; this one needs cbjax

Both run in turns on the same cores, each in its own process, so that neither's threads disturb the other's; the first
calls, which compile, are not counted. PyTorch runs eagerly, as the CB losses in use do, in two forms: log-sigmoids (the
formula that cbjax computes) and the authors' (which overflows below logit -88). The ratio is against the faster.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

BATCH, CLASSES, GAMMA, BETA = 1024, 8142, 0.5, 0.999


def inputs():
    """Returns the same logits, labels and class weights to both sides, as NumPy arrays."""
    import numpy as np

    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (BATCH, CLASSES)).astype(np.float32)
    counts = np.maximum(1000 * 0.002 ** (np.arange(CLASSES) / (CLASSES - 1)), 2).astype(int)
    sizes = (1 - BETA**counts) / (1 - BETA)
    weights = (1 / sizes / np.mean(1 / sizes)).astype(np.float32)
    return logits, rng.integers(0, CLASSES, BATCH), weights


def jax_calls():
    """Returns functions by name; each runs to its end and returns the loss."""
    import jax
    import jax.numpy as jnp

    from cbjax import difficulty, losses

    logits, labels, weights = map(jnp.asarray, inputs())

    @jax.jit
    def focal(logits, labels, weights):
        return jax.value_and_grad(lambda logits: losses.focal_loss(logits, labels, weights, gamma=GAMMA).mean())(logits)

    accuracy = jnp.linspace(0.0, 1.0, CLASSES)
    reweight = jax.jit(difficulty.difficulty_weights)
    return {
        "focal": lambda: float(jax.block_until_ready(focal(logits, labels, weights))[0]),
        "cdb_weights": lambda: float(reweight(accuracy).block_until_ready()[0]),
        "cdb_weights_eager": lambda: float(difficulty.difficulty_weights(accuracy).block_until_ready()[0]),
    }


def torch_calls():
    """Returns functions by name; each runs to its end and returns the loss."""
    import torch
    from torch.nn import functional

    logits, labels, weights = map(torch.from_numpy, inputs())
    logits.requires_grad_()

    def log_sigmoids():
        margins = torch.where(functional.one_hot(labels, CLASSES).bool(), logits, -logits)
        return torch.exp(GAMMA * functional.logsigmoid(-margins)) * -functional.logsigmoid(margins)

    def authors():
        target = functional.one_hot(labels, CLASSES).float()
        cross_entropy = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
        return torch.exp(-GAMMA * target * logits - GAMMA * torch.log1p(torch.exp(-logits))) * cross_entropy

    def run(terms):
        loss = (weights[labels] * terms().sum(dim=1)).mean()
        loss.backward()
        logits.grad = None
        return loss.item()

    return {"log-sigmoids": lambda: run(log_sigmoids), "authors": lambda: run(authors)}


def serve(calls):
    """Answers each line on standard input with the times of one call of each function, in ms."""
    results = {name: call() for name, call in calls.items()}
    print(json.dumps(results), flush=True)
    for _ in sys.stdin:
        times = {}
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name] = 1e3 * (time.perf_counter() - start)
        print(json.dumps(times), flush=True)


def main():
    """Runs both sides in turns and prints medians and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pytorch", help="python interpreter that has torch")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--serve", choices=["jax", "torch"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve(jax_calls() if options.serve == "jax" else torch_calls())
    if not options.pytorch:
        parser.error("--pytorch=PATH is needed, the path of a python that has torch")

    sides = [
        subprocess.Popen(
            [python, __file__, f"--serve={side}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for python, side in ((sys.executable, "jax"), (options.pytorch, "torch"))
    ]
    print("results:", *(json.loads(side.stdout.readline()) for side in sides))
    times, ratios = {}, []
    for turn in range(options.rounds + 2):
        measured = {}
        for side in sides:
            print(file=side.stdin, flush=True)
            measured |= json.loads(side.stdout.readline())
        if turn >= 2:
            for name, value in measured.items():
                times.setdefault(name, []).append(value)
            ratios.append(measured["focal"] / min(measured["log-sigmoids"], measured["authors"]))
    for side in sides:
        side.stdin.close()
        side.wait()
    for name, values in times.items():
        print(f"{name:18} median {statistics.median(values):8.2f} ms, least {min(values):8.2f} ms, n = {len(values)}")
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(
        f"focal / PyTorch: {medians['focal'] / min(medians['log-sigmoids'], medians['authors']):.2f} of the medians, "
        f"{statistics.median(ratios):.2f} median of the ratios"
    )
    return None


if __name__ == "__main__":
    main()
