"""Times landscapes: points of the digits network against a plain loop, and Hessian products against gradients.

Run: taskset -c 0,1 python tests/benchmarks/landscapes.py digits|resnet32 [rounds]
    Compilation is not timed. Rounds take turns, so a busy machine
    slows both; processor time is given beside the clock's.
"""

import os
import statistics
import sys
import tempfile
import time

os.environ.setdefault(
    "XLA_FLAGS", "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_REDUCE,LIBRARY_FUSION_TYPE_ELTWISE"
)

import jax
import numpy as np

from cbjax.cli.startup import make_cores_devices

SPAN = np.linspace(-1, 1, 51)


def untrained(name, keys=()):
    """Returns a subject with the network before its first step; nothing is trained."""
    from cbjax import config as configs
    from cbjax import data
    from cbjax.landscape.directions import Network
    from cbjax.landscape.subject import Subject, groups_of
    from cbjax.parallel import sharding
    from cbjax.training import build
    from cbjax.types import Run, Trained

    config = configs.load(name, keys)
    dataset = data.of_config(config)
    parts = build.build(config, dataset, sharding.make_mesh(1))
    state = build.first_state(parts)
    run = Run(config, parts.model, state, {}, dataset.class_names)
    trained = jax.device_get(Trained.of(state))
    groups = groups_of(dataset.counts, (), dataset.class_names)
    network = Network(trained.params, trained.batch_stats)
    return Subject(run, network, dataset.test, dataset, np.asarray(dataset.counts), groups, {}, None)


def timed(call):
    clock, processor = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - clock, time.process_time() - processor


def told(name, times, factor=1.0):
    clock, processor = (factor * statistics.median(part) for part in zip(*times, strict=True))
    print(f"{name}: {clock:.2f} s by the clock, {processor:.2f} s of processors, medians of {len(times)}", flush=True)
    return clock, processor


def digits(rounds):
    from cbjax.landscape import directions, grid, images, points
    from cbjax.landscape.points import Way

    subject = untrained("digits_lt")
    found = directions.random(subject.network, 2, 123)
    places = np.stack([part.ravel() for part in np.meshgrid(SPAN, SPAN, indexing="ij")], axis=1)
    some = places[np.random.default_rng(0).choice(len(places), 400, replace=False)]
    one = points.build(subject, found, "keep", Way(1, 1))
    size = images.batch_size(subject, len(subject.examples))
    walk = images.in_batches(subject, subject.examples, size, images.everywhere(one.mesh))

    def plain():
        # What a user would write: a call for each batch of each point, and its figures at once.
        for place in some:
            for batch, _ in walk():
                jax.device_get(one.sums(place[None], batch))

    def walked(way):
        """Returns seconds of a walk from its first block to its end, without compilation, for all points."""
        ends = []
        told = lambda count: ends.append((count, time.perf_counter(), time.process_time()))  # noqa: E731
        chosen = grid.measure(subject, found, some, way=way, block_seconds=0.1, progress=told)[1]
        taken = [
            (last - first) * len(some) / (ends[-1][0] - ends[0][0])
            for first, last in zip(ends[0][1:], ends[-1][1:], strict=True)
        ]
        return chosen, taken

    plain()
    times = {}
    for _ in range(rounds):
        times.setdefault("a plain loop", []).append(timed(plain))
        for way in (None, Way(1, 1), Way(2, 1), Way(2, 4)):
            chosen, taken = walked(way)
            name = f"{chosen.devices} devices x {chosen.at_once}" if way else "the way that is chosen"
            times.setdefault(name, []).append(taken)
    for name, taken in times.items():
        told(f"51 x 51 points, {name}", taken, len(places) / len(some))


def resnet32(rounds):
    from cbjax.landscape import products
    from cbjax.parallel import sharding

    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        # Three batches of noise: what the images show changes no time.
        images, labels = rng.integers(0, 256, (400, 32, 32, 3), np.uint8), np.arange(400) % 100
        np.savez(f"{folder}/noise.npz", images=images, labels=labels)
        keys = ["data.name=arrays", f"data.file={folder}/noise.npz", "data.longtail=natural", "data.imbalance=1"]
        subject = untrained("cifar_lt:cui", [*keys, "data.validation=0", "data.test=1"])
    compiled = products.build(subject, sharding.make_mesh(1))
    of_train = compiled.of(subject.dataset.train)
    vector = rng.normal(size=compiled.size)
    print(f"{len(subject.dataset.train)} images, {compiled.size} parameters", flush=True)
    times = {"gradient": [], "product": []}
    for number in range(rounds + 1):
        for name, call in (("gradient", of_train.gradient), ("product", lambda: of_train.hessian(vector))):
            took = timed(call)
            if number:
                times[name].append(took)
    gradient, product = told("gradient", times["gradient"]), told("product", times["product"])
    ratios = " and ".join(f"{one / other:.2f}" for one, other in zip(product, gradient, strict=True))
    print(f"a product takes {ratios} times a gradient, by the clock and by processors")


if __name__ == "__main__":
    make_cores_devices()
    {"digits": digits, "resnet32": resnet32}[sys.argv[1]](int(sys.argv[2]) if len(sys.argv) > 2 else 5)
    print("load", os.getloadavg())
