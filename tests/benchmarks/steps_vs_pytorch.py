"""Times one training step of ResNet-32 (batch 128) and LeNet-5 (batch 100) against PyTorch, on CPU, in turns.

Run by hand: python tests/benchmarks/steps_vs_pytorch.py --pytorch=/path/to/python/with/torch
Both sides use the same number of threads and take the same step: forward, backward, SGD with momentum 0.9 and weight
decay. Rounds of steps alternate between the processes; a round's time is its mean per step and the ratio is taken round
by round, so that load on the machine falls on both. PyTorch runs eagerly, in both memory layouts, each in a process of
its own. Compilation and the first steps are excluded. All processes inherit the environment: XLA_FLAGS, and the MALLOC_
settings with which the C library keeps freed memory instead of asking the system for fresh pages in each step. On a
machine with other work only --threads=1 is fair: PyTorch's threads wait for each other at every operation.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time

CASES = {"resnet32": (128, (32, 32, 3)), "lenet5": (100, (28, 28, 1))}
SIDES = ("jax", "pytorch NCHW", "pytorch NHWC")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pytorch", help="a Python that has torch; without it only JAX is timed")
    parser.add_argument("--models", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=2.0, help="about how long a round lasts")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        serve(arguments)
    else:
        compare(arguments)


def compare(arguments):
    workers = {"jax": Worker("jax", sys.executable)}
    if arguments.pytorch:
        workers |= {side: Worker(side, arguments.pytorch) for side in SIDES[1:]}
    print(*(worker.about for worker in workers.values()), sep="\n")
    malloc = {name: value for name, value in os.environ.items() if name.startswith("MALLOC_")}
    print(f"{arguments.threads} threads a side; {malloc or 'malloc as it comes'}; load {os.getloadavg()[0]:.1f}")
    for name in arguments.models:
        # The slowest side decides how many steps all take.
        steps = max(1, round(arguments.seconds / max(worker.ask(name, 3) for worker in workers.values())))
        rounds = {side: [] for side in workers}
        for _ in range(arguments.rounds):
            for side, worker in workers.items():
                rounds[side].append(worker.ask(name, steps))
        print(f"{name}, batch {CASES[name][0]}, medians of {arguments.rounds} rounds of {steps} steps:")
        for side, times in rounds.items():
            ratios = sorted(ours / theirs for ours, theirs in zip(rounds["jax"], times, strict=True))
            median, spread = statistics.median(ratios), f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
            print(f"  {side}: {1000 * statistics.median(times):.2f} ms; jax takes {median:.2f} ({spread}) of its time")


class Worker:
    """A process that times steps on request, so that the two frameworks never share a process or run at once."""

    def __init__(self, side, python):
        command = [python, __file__, *sys.argv[1:], f"--worker={side}"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.about = self._answer()

    def ask(self, name, steps):
        print(json.dumps([name, steps]), file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"the worker {' '.join(self.process.args)} ended")
        return json.loads(line)


def serve(arguments):
    make, about = (jax_steps if arguments.worker == "jax" else pytorch_steps)(arguments)
    print(json.dumps(about), flush=True)
    runs = {}
    for line in sys.stdin:
        name, steps = json.loads(line)
        if name not in runs:
            runs[name] = make(name)
            runs[name](3)
        started = time.perf_counter()
        runs[name](steps)
        print(json.dumps((time.perf_counter() - started) / steps), flush=True)


def jax_steps(arguments):
    os.environ["JAX_PLATFORMS"] = "cpu"
    # XLA's pool has one thread for each core it may use.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.threads])
    import jax
    import jax.numpy as jnp
    import jaxlib
    import optax

    from cbjax import models

    def make(name):
        batch, shape = CASES[name]
        model = models.build(name, 10)
        tx = optax.chain(optax.add_decayed_weights(2e-4), optax.sgd(0.01, momentum=0.9))
        images = jax.random.normal(jax.random.key(0), (batch, *shape))
        labels = jnp.arange(batch) % 10
        params, batch_stats = model.init(jax.random.key(1), images)

        @jax.jit
        def step(params, batch_stats, opt_state):
            def objective(params):
                logits, stats = model.apply(params, batch_stats, images, True)
                return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels)), stats

            grads, stats = jax.grad(objective, has_aux=True)(params)
            updates, opt_state = tx.update(grads, opt_state, params)
            return optax.apply_updates(params, updates), stats, opt_state

        state = [params, batch_stats, tx.init(params)]

        def run(steps):
            for _ in range(steps):
                state[:] = step(*state)
            jax.block_until_ready(state)

        return run

    return make, f"jax {jax.__version__}, jaxlib {jaxlib.__version__}, XLA_FLAGS={os.environ.get('XLA_FLAGS', '')!r}"


def pytorch_steps(arguments):
    import torch
    from torch import nn
    from torch.nn import functional

    torch.set_num_threads(arguments.threads)

    class Block(nn.Module):
        def __init__(self, before, width):
            super().__init__()
            self.stride = width // before
            self.convolution1 = nn.Conv2d(before, width, 3, self.stride, 1, bias=False)
            self.convolution2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
            self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

        def forward(self, inputs):
            outputs = functional.relu(self.norm1(self.convolution1(inputs)))
            outputs = self.norm2(self.convolution2(outputs))
            if self.stride == 2:
                channels = inputs.shape[1] // 2
                inputs = functional.pad(functional.avg_pool2d(inputs, 2), (0, 0, 0, 0, channels, channels))
            return functional.relu(outputs + inputs)

    def resnet32():
        widths = [16] * 6 + [32] * 5 + [64] * 5
        blocks = [Block(before, width) for before, width in itertools.pairwise(widths)]
        stem = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
        return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))

    def lenet5():
        first = [nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
        second = [nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
        dense = [nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)]
        return nn.Sequential(*first, *second, *dense)

    def make(name):
        batch, (height, width, channels) = CASES[name]
        network = {"resnet32": resnet32, "lenet5": lenet5}[name]()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=2e-4)
        layout = torch.channels_last if arguments.worker.endswith("NHWC") else torch.contiguous_format
        network = network.to(memory_format=layout)
        images = torch.randn(batch, channels, height, width).to(memory_format=layout)
        labels = torch.arange(batch) % 10

        def run(steps):
            for _ in range(steps):
                optimizer.zero_grad()
                functional.cross_entropy(network(images), labels).backward()
                optimizer.step()

        return run

    return make, f"torch {torch.__version__}, {arguments.worker}"


if __name__ == "__main__":
    main()
