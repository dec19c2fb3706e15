"""Compiles a config's programs for a TPU slice, in a process whose environment and stack suit the compiler.

`compile.compile_for` starts it. It reads the config's name and options as JSON from standard input, and writes the
compiler's figures as JSON to standard output. A config for `pmap` is compiled for `shard_map`; results are equal.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cbjax import config as configs
from cbjax.config import ConfigError
from cbjax.data import DataError
from cbjax.data.batches import Batches
from cbjax.estimate import abstract_data, roofline, tpu
from cbjax.estimate.abstract_data import AbstractData
from cbjax.objectives.mixing import PARTNER
from cbjax.parallel import sharding
from cbjax.training import input_paths, resident
from cbjax.training.check_data import check_own_code
from cbjax.training.programs import Programs, build_programs
from cbjax.types import Trained, TrainState

Lower = Callable[[], Any]


def train_program(config: ConfigDict, data: AbstractData, mesh: Mesh) -> tuple[Lower, Any]:
    """Returns a function that lowers the training program, and the shapes of its state."""
    programs, state = _programs(config, data, mesh)
    size = config.batch_size
    if not data.resident:
        batch = _batch(size, data, mesh)
        if config.mix.name != "none":
            batch[PARTNER] = {name: batch[name] for name in ("image", "label")}
        if config.meta.name != "none":
            batch["meta"] = _batch(config.meta.batch_size, data, mesh)
        return lambda: programs.train.lower(state, batch), state
    count = programs.steps_per_dispatch
    sizes = {resident.TRAIN: (int(data.counts.sum()), size)}
    if config.meta.name != "none":  # a fraction counts as one image a class, the least possible
        per_class = int(max(1, config.data.meta))
        sizes["meta"] = (per_class * len(data.counts), config.meta.batch_size)
    images = {name: _images(total, data, mesh) for name, (total, _) in sizes.items()}
    if config.mix.name != "none":  # partners are training images
        taken = (PARTNER,) if config.mix.name == "cmo" else (PARTNER, resident.PLACES)
        sizes |= dict.fromkeys(taken, sizes[resident.TRAIN])
    if count == 1:
        indices = {name: sharding.abstract((of_step,), jnp.int32, mesh, 0) for name, (_, of_step) in sizes.items()}
        return lambda: programs.train.lower(state, images, indices), state
    indices = {name: sharding.abstract((count, of_step), jnp.int32, mesh, 1) for name, (_, of_step) in sizes.items()}
    return lambda: programs.train.lower(state, images, indices, sharding.abstract((), jnp.int32, mesh)), state


def evaluation_program(config: ConfigDict, data: AbstractData, mesh: Mesh) -> Lower:
    """Returns a function that lowers the evaluation of one batch."""
    programs, state = _programs(config, data, mesh)
    trained = Trained.of(state)
    size = config.evaluation.batch_size or config.batch_size
    return lambda: programs.evaluate.lower(trained, _batch(size, data, mesh))


def _programs(config: ConfigDict, data: AbstractData, mesh: Mesh) -> tuple[Programs, TrainState]:
    batches = Batches(int(data.counts.sum()), config.batch_size, config.seed)
    programs = build_programs(
        config,
        batches,
        data.image_shape,
        len(data.counts),
        mesh,
        path=input_paths.RESIDENT if data.resident else input_paths.STREAMED,
        kind="shard_map",
    )
    return programs, sharding.placed(programs.state, mesh)


def measure(lower: Lower) -> dict[str, Any]:
    """Compiles a program and returns the compiler's figures for one chip.

    Returns:
      "fits", and "seconds" of compilation. If it fits: "memory" (bytes by purpose), "flops" and "bytes" of a step, and
      "collectives". If not: "needed" and "available" bytes.
    """
    begin = time.perf_counter()
    try:
        compiled = lower().compile()
    except jax.errors.JaxRuntimeError as error:
        sizes = roofline.read_out_of_memory(str(error))
        if sizes is None:
            raise
        return {"fits": False, "seconds": time.perf_counter() - begin, "needed": sizes[0], "available": sizes[1]}
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    return {
        "fits": True,
        "seconds": time.perf_counter() - begin,
        "memory": {
            "arguments": memory.argument_size_in_bytes,
            "outputs": memory.output_size_in_bytes,
            "shared": memory.alias_size_in_bytes,
            "temporaries": memory.temp_size_in_bytes,
            "program": memory.generated_code_size_in_bytes,
        },
        "flops": cost["flops"],
        "bytes": cost["bytes accessed"],
        "collectives": [one._asdict() for one in roofline.read_collectives(compiled.as_text())],
    }


def compile_programs(request: dict[str, Any]) -> dict[str, Any]:
    """Answers a request of `compile.compile_for`."""
    _, num_chips = tpu.parse_topology(request["topology"])
    config = configs.load(request["config"], request["overrides"])
    data = abstract_data.describe(config, **request["data"])
    check_own_code(config, data.image_shape, len(data.counts), multi_label=False)
    mesh = sharding.make_topology_mesh(request["topology"], **tpu.topology_options(request["topology"]))
    assert mesh.devices.size == num_chips, "a device must be a whole chip"
    lower, state = train_program(config, data, mesh)
    fixed = sum(_num_bytes(leaf) for leaf in jax.tree.leaves(state))
    if data.resident:
        fixed += sum(_num_bytes(leaf) for leaf in jax.tree.leaves(_images(int(data.counts.sum()), data, mesh)))
    batches = Batches(int(data.counts.sum()), config.batch_size, config.seed)
    answer: dict[str, Any] = {
        "num_chips": num_chips,
        "batch_size": config.batch_size,
        "image_shape": data.image_shape,
        "num_classes": len(data.counts),
        "num_images": batches.num_examples,
        "num_epochs": config.num_epochs,
        "num_steps": batches.epoch_end(config.num_epochs),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "resident": data.resident,
        "train": measure(lower),
    }
    if answer["train"]["fits"]:
        answer["evaluation"] = measure(evaluation_program(config, data, mesh))
        return answer
    train = answer["train"]
    # What a chip's share of a batch must be a multiple of.
    group = config.model.batch_norm_size
    multiple = config.optim.accumulation * (group if isinstance(group, int) else 1)
    images = roofline.largest_batch(
        train["needed"], fixed, train["available"], config.batch_size // num_chips, multiple=multiple
    )
    answer["largest"] = {"images_per_chip": images}
    if images:
        config.batch_size = images * num_chips
        answer["largest"] |= measure(train_program(config, data, mesh)[0])
    return answer


def _images(size, data, mesh):
    return {
        "image": sharding.abstract((size, *data.image_shape), jnp.uint8, mesh),
        "label": sharding.abstract((size,), jnp.int32, mesh),
    }


def _batch(size, data, mesh):
    return {
        "image": sharding.abstract((size, *data.image_shape), jnp.uint8, mesh, 0),
        "label": sharding.abstract((size,), jnp.int32, mesh, 0),
        "mask": sharding.abstract((size,), bool, mesh, 0),
    }


def _num_bytes(leaf):
    return leaf.size * leaf.dtype.itemsize


def main() -> None:
    """Reads a request from standard input and writes the answer, or {"error": …}, as the last line of output."""
    try:
        answer = compile_programs(json.load(sys.stdin))
    except (ConfigError, DataError, tpu.TopologyError) as error:
        answer = {"error": str(error)}
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
