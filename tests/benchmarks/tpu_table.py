"""Compiles ImageNet's networks for TPU slices and prints what is known of a step, as tables in Markdown.

Command: python -m tests.benchmarks.tpu_table --out=tests/benchmarks/results/tpu [--only=v5e] [--print]
Needs: pip install 'cbjax[tpu]'; no TPU. A program takes 3 to 8 minutes on two cores; one that is in --out is not
    compiled again, and --print compiles none.
Time of a step at least: max(FLOPs / peak, bytes / HBM bandwidth) where links wait for nothing, and + links where
    everything waits for them; links = 2 (n - 1) / n x all-reduced bytes / bandwidth of a chip's links, one way.
    Efficiency is the first time over the second: the worst case of a slice against as many chips that do not
    communicate.
"""

import argparse
import json
import pathlib

from cbjax.estimate import roofline, tpu
from cbjax.estimate.compile import compile_for

IMAGES = 128  # a chip
FLAT = {8: "2x4", 32: "4x8", 256: "16x16"}
CUBES = {8: "2x2x2", 32: "2x4x4", 256: "4x8x8"}
METHODS = {
    "softmax": [],
    "cb_focal": ["loss.name=focal", "loss.gamma=0.5", "weights.name=class_balanced", "weights.beta=0.999"],
    "cdb": ["weights.name=difficulty", "data.validation=20"],
}


def cells():
    """Yields (name, config, overrides, topology), the most telling first."""
    for method in METHODS:
        yield _cell("resnet50", method, "v5e", 8)
    for generation in ("v4", "v5p", "v6e"):
        yield _cell("resnet50", "softmax", generation, 8)
    for network in ("resnet101", "resnet152"):
        yield _cell(network, "softmax", "v5e", 8)
    for num_chips in (256, 32):
        for generation in ("v5e", "v5p", "v6e", "v4"):
            yield _cell("resnet50", "softmax", generation, num_chips)


def _cell(network, method, generation, num_chips):
    topology = f"{generation}:{(FLAT if '2x4' in tpu.CHIPS[generation].slices else CUBES)[num_chips]}"
    overrides = [f"batch_size={IMAGES * num_chips}", *METHODS[method]]
    return f"{network}_{method}_{topology.replace(':', '_')}", f"imagenet:{network}_softmax", overrides, topology


def row(name, figures):
    """Returns a table's row of one program."""
    chip, num_chips = tpu.parse_topology(figures["topology"])
    train = figures["train"]
    collectives = [roofline.Collective(**one) for one in train["collectives"]]
    times = roofline.bound(
        chip, num_chips, flops=train["flops"], bytes_accessed=train["bytes"], collectives=collectives
    )
    memory = train["memory"]
    in_use = sum(memory[part] for part in ("arguments", "outputs", "temporaries", "program")) - memory["shared"]
    reduced = sum(one.size * one.times for one in collectives)
    work = max(times.compute, times.memory)
    return [
        *name.rsplit("_", 2)[0].split("_", 1),
        figures["topology"],
        num_chips,
        f"{in_use / tpu.GIB:.2f} of {chip.usable_bytes / tpu.GIB:.2f}",
        f"{memory['temporaries'] / tpu.GIB:.2f}",
        f"{train['flops'] / 1e9:,.0f}",
        f"{train['bytes'] / 1e9:.2f}",
        f"{reduced / 1e6:.1f} in {sum(one.times for one in collectives)}",
        f"{1e3 * times.compute:.1f}",
        f"{1e3 * times.memory:.1f}",
        f"{1e3 * times.links:.2f}",
        f"{IMAGES * num_chips / work:,.0f}",
        f"{100 * work / times.not_overlapped:.1f} %",
    ]


HEAD = [
    *("network", "method", "slice", "chips", "HBM used, GiB", "temporaries, GiB", "GFLOP", "GB moved"),
    *("all-reduced, MB", "FLOPs / peak, ms", "bytes / bandwidth, ms", "links, ms", "images/s at most", "efficiency"),
]


def main():
    """Compiles what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--only", default="", help="part of the names of the programs to compile")
    parser.add_argument("--print", action="store_true", help="compile nothing")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for name, config, overrides, topology in cells():
        path = options.out / f"{name}.json"
        if not path.exists():
            if options.print or options.only not in name:
                continue
            path.write_text(json.dumps(compile_for(config, overrides, topology), indent=1) + "\n")
        rows.append(row(name, json.loads(path.read_text())))
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * 3}{'---:|' * (len(HEAD) - 3)}")
    for cells_of_row in rows:
        print(f"| {' | '.join(map(str, cells_of_row))} |")


if __name__ == "__main__":
    main()
