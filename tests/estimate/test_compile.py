"""`cbjax compile`: messages and tables without a TPU's compiler, and real programs where it is installed."""

import dataclasses
import importlib.util
import io
import json
import os
import pathlib
import subprocess
import sys
import time

import jax
import pytest
from rich.console import Console

from cbjax import config as configs
from cbjax.cli import main
from cbjax.config import ConfigError
from cbjax.estimate import abstract_data, compile_table, tpu, tpu_programs
from cbjax.estimate import compile as compiling
from cbjax.estimate.compile import CompileError
from cbjax.parallel import sharding
from tests import own_nets

has_libtpu = importlib.util.find_spec("libtpu") is not None
needs_libtpu = pytest.mark.skipif(not has_libtpu, reason="needs the TPU compiler: pip install 'cbjax[tpu]'")
TRAIN = {
    "fits": True,
    "seconds": 100.0,
    "memory": {"arguments": 2**30, "outputs": 2**29, "shared": 2**29, "temporaries": 4 * 2**30, "program": 2**20},
    "flops": 3.084e12,
    "bytes": 50.6e9,
    "collectives": [
        {"kind": "all-reduce", "size": 102_402_208, "arrays": 256, "times": 1},
        {"kind": "all-reduce", "size": 4, "arrays": 1, "times": 3},
    ],
}
EVALUATION = {**TRAIN, "flops": 1e12, "bytes": 7.7e9, "collectives": [{**TRAIN["collectives"][1], "size": 16_004}]}
ANSWER = {
    "num_chips": 8,
    "batch_size": 1024,
    "image_shape": [224, 224, 3],
    "num_classes": 1000,
    "num_images": 1281167,
    "num_epochs": 90,
    "num_steps": 112603,
    "parameters": 25557032,
    "resident": False,
    "train": TRAIN,
    "evaluation": EVALUATION,
}
TOO_LARGE = {"fits": False, "seconds": 9.0, "needed": 33.5 * 2**30, "available": 15.75 * 2**30}


@pytest.fixture
def answers(monkeypatch):
    """Stands in for the compiler's process: what it is asked, and what it is to answer."""
    asked = []
    reply = {"stdout": json.dumps(ANSWER), "stderr": "", "returncode": 0}

    def run(command, *, input, env, **options):
        asked.append((command, json.loads(input), env))
        return subprocess.CompletedProcess(command, reply["returncode"], reply["stdout"], reply["stderr"])

    monkeypatch.setenv("XLA_FLAGS", "")  # so that nothing but the compiler starts a process
    monkeypatch.setattr(compiling.importlib.util, "find_spec", lambda name: "found")
    monkeypatch.setattr(compiling.subprocess, "run", run)
    return asked, reply


def shown(figures):
    output = io.StringIO()
    Console(width=200, file=output).print(compile_table.table(figures))
    return [" ".join(line.split()) for line in output.getvalue().splitlines()]


def test_without_the_compiler_the_message_names_the_extra(monkeypatch):
    monkeypatch.setattr(compiling.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CompileError, match=r"libtpu, is not installed: pip install 'cbjax\[tpu\]'"):
        compiling.compile_for("digits_lt", ["batch_size=64"], "v5e:2x4")


def test_mistakes_come_before_the_compiler(answers):
    with pytest.raises(tpu.TopologyError, match="v5e's slices"):
        compiling.compile_for("digits_lt", [], "v5e:2x5")
    with pytest.raises(
        ConfigError, match="must be a multiple of the number of chips of v5e:4x8, 32; got 100: use 96 or"
    ):
        compiling.compile_for("digits_lt", ["batch_size=100"], "v5e:4x8")
    with pytest.raises(ConfigError, match=r"evaluation.batch_size must be a multiple .* 8; got 4: use 8$"):
        compiling.compile_for("digits_lt", ["batch_size=64", "evaluation.batch_size=4"], "v5e:2x4")
    with pytest.raises(ConfigError, match=r"meta.batch_size must be a multiple .* 8; got 100: use 96 or 104$"):
        compiling.compile_for("digits_lt", ["batch_size=64", "method=l2rw"], "v5e:2x4")
    with pytest.raises(ConfigError, match="batch_sise is not a key"):
        compiling.compile_for("digits_lt", ["batch_sise=64"], "v5e:2x4")
    assert answers[0] == []


def test_a_mistake_in_a_users_network_is_told_and_no_traceback(monkeypatch, capsys):
    name = f"model.name={own_nets.__file__}:few_logits"
    sizes = dict.fromkeys(("num_classes", "num_images", "image_size"))
    request = {"config": "digits_lt", "overrides": ["batch_size=64", name], "topology": "v5e:2x4", "data": sizes}
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(request)))
    tpu_programs.main()
    told = json.loads(capsys.readouterr().out)["error"]
    assert "own_nets.py:few_logits': the network must return logits [B, 10], floating point; got" in told


def test_the_compilers_process_has_its_environment(answers, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/mine")
    figures = compiling.compile_for("digits_lt", ["batch_size=64"], "v5e:2x4", num_classes=7, num_images=90)
    ((_, request, environment),) = answers[0]
    assert request["data"] == {"num_classes": 7, "num_images": 90, "image_size": None}
    assert (request["config"], request["overrides"]) == ("digits_lt", ["batch_size=64"])
    assert environment["JAX_PLATFORMS"] == "cpu" and environment["TPU_SKIP_MDS_QUERY"] == "1"
    assert environment["PYTHONPATH"].endswith(":/mine") and "JAX_COMPILATION_CACHE_DIR" not in environment
    # 50.6 GB at 819 GB/s, of 1,024 images, 112,603 times.
    assert figures["fits"] and figures["model"] == "digits_cnn"
    assert figures["bound"]["step"] == pytest.approx(61.7827e-3, rel=1e-5)
    assert figures["images_per_second"] == pytest.approx(16574.2, rel=1e-5)
    assert figures["run_seconds"] == pytest.approx(6956.9, rel=1e-4)


@pytest.mark.parametrize(
    ("returncode", "message"),
    [
        (-11, r"died of SIGSEGV; a deep network needs a large stack: `ulimit -Hs unlimited`.*\n  the last words"),
        (-9, r"died of SIGKILL; it may have run out of this machine's memory"),
        (1, r"failed\n  the last words"),
    ],
)
def test_a_compiler_that_dies_says_how(answers, returncode, message):
    answers[1].update(returncode=returncode, stdout="", stderr="the last words\n")
    with pytest.raises(CompileError, match=message):
        compiling.compile_for("digits_lt", ["batch_size=64"], "v5e:2x4")


@pytest.mark.usefixtures("answers")
def test_a_long_compilation_says_each_minute_that_it_goes_on(monkeypatch):
    monkeypatch.setattr(compiling, "MINUTE", 0.02)
    quick, told = compiling.subprocess.run, []

    def slow(*arguments, **options):
        while len(told) < 2:
            time.sleep(0.01)
        return quick(*arguments, **options)

    monkeypatch.setattr(compiling.subprocess, "run", slow)
    compiling.compile_for("digits_lt", [], "v5e:2x4", tell=told.append)
    assert told[:2] == ["still compiling after 1 min", "still compiling after 2 min"]


def test_the_table_of_what_fits(answers, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    answers[1]["stdout"] = "a word of libtpu\n" + answers[1]["stdout"]
    arguments = ["--config=digits_lt", "--topology=v5e:2x4", "--save=~/figures.json"]
    assert main(["compile", *arguments, "--config.batch_size=64"]) == 0
    output = capsys.readouterr().out
    assert output.startswith(
        "fits: digits_cnn (25,557,032 parameters, 1,000 classes), 1,024 images of 224x224x3 a step"
    )
    assert "128 a chip, on v5e:2x4 (8 chips)" in output
    assert "bound: at most 16,574 images/s" in output
    assert "112,603 steps (90 epochs of 1,281,167 images) x 61.78 ms = at least 1.93 hours" in output
    figures = json.loads((tmp_path / "figures.json").read_text())
    lines = shown(figures)
    for line in (
        "on each chip training step evaluation step",
        "HBM, of 15.75 GiB for programs 5.00 GiB 5.00 GiB",  # an output in an argument's place counts once
        "outputs 0 bytes 0 bytes",
        "temporaries 4.00 GiB 4.00 GiB",
        "computed 3,084.00 GFLOP 1,000.00 GFLOP",
        "bytes moved 50.60 GB 7.70 GB",
        "all-reduce of 102.40 MB 1 x",
        "all-reduce of 16.00 kB 3 x",
        "all-reduce of 4 B 3 x",
        "least time: FLOPs / peak 15.65 ms 5.08 ms",
        "bound: a step takes at least 61.78 ms 9.40 ms",
    ):
        assert line in lines, "\n".join(lines)


@pytest.mark.parametrize(
    ("largest", "last"),
    [
        ({"images_per_chip": 56, **TRAIN}, "and compiled: 56 images a chip (batch_size=448) fits"),
        ({"images_per_chip": 56, **TOO_LARGE}, "56 images a chip (batch_size=448); compiled, that does not fit either"),
        ({"images_per_chip": 0}, "not even one image a chip fits"),
    ],
)
def test_what_does_not_fit(answers, capsys, largest, last):
    answer = {**ANSWER, "train": TOO_LARGE, "largest": largest}
    del answer["evaluation"]
    answers[1]["stdout"] = json.dumps(answer)
    assert main(["compile", "--config=digits_lt", "--topology=v5e:2x4", "--config.batch_size=64"]) == 1
    output = capsys.readouterr().out
    assert output.startswith("does not fit: digits_cnn") and "33.50 GiB" in output
    assert last in output


def test_an_evaluation_that_does_not_fit(answers, capsys):
    answers[1]["stdout"] = json.dumps({**ANSWER, "evaluation": TOO_LARGE})
    assert main(["compile", "--config=digits_lt", "--topology=v5e:2x4", "--config.batch_size=64"]) == 1
    assert "set evaluation.batch_size lower" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--topology=v5e:2x5"], "must be one of v5e's slices"),
        (["--topology=v5e:2x4", "--classes=0"], "--classes: must be a whole number from 1 to 1000000; got '0'"),
        (["--topology=v5e:2x4", "--config.model.name=resnet21"], "did you mean"),
        ([], "--topology"),
    ],
)
def test_mistakes_are_one_message(answers, capsys, arguments, message):
    try:
        status = main(["compile", "--config=digits_lt", *arguments])
    except SystemExit as stop:
        status = stop.code
    output = capsys.readouterr()
    assert status == 2 and message in output.err and output.out == "" and "Traceback" not in output.err


@pytest.mark.parametrize("resident", [True, False])
def test_programs_are_built_from_shapes(resident):
    """On one CPU device: what holds data and what is streamed both lower, with the FLOPs of the model."""
    config = configs.load("digits_lt", ["batch_size=32", "data.test=20"])
    data = dataclasses.replace(abstract_data.describe(config), resident=resident)
    mesh = sharding.make_mesh(1)
    lower, state = tpu_programs.train_program(config, data, mesh)
    train = tpu_programs.measure(lower)
    evaluation = tpu_programs.measure(tpu_programs.evaluation_program(config, data, mesh))
    assert train["fits"] and evaluation["fits"]
    # One mean of gradients and loss, whatever the number of devices.
    assert train["collectives"][0]["size"] == 4 * (sum(leaf.size for leaf in jax.tree.leaves(state.params)) + 1)
    assert train["flops"] > 2 * evaluation["flops"] > 0
    # The new state lies where the old one was.
    state_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in (state.params["head"]["kernel"],))
    assert train["memory"]["shared"] > state_bytes


@pytest.mark.parametrize("method", [("mix.name=cmo",), ("meta.name=l2rw", "data.meta=2", "meta.batch_size=20")])
def test_streamed_programs_take_the_images_of_all_streams(method):
    config = configs.load("digits_lt", ["model.name=linear", "batch_size=32", "data.test=20", *method])
    data = dataclasses.replace(abstract_data.describe(config), resident=False)
    lower, _ = tpu_programs.train_program(config, data, sharding.make_mesh(1))
    shape = "20x8x8x1xui8" if config.mix.name == "none" else "32x8x8x1xui8"
    assert lower().as_text().count(f": tensor<{shape}>") >= 1


@pytest.mark.slow
@needs_libtpu
def test_chips_and_memory_of_each_generation(tmp_path):
    """The compiler itself says how many chips a slice has, and how much memory: it refuses a program for all of it."""
    program = (
        "import json, sys, jax, jax.numpy as jnp\n"
        "from cbjax.estimate import roofline, tpu\n"
        "from cbjax.parallel import sharding\n"
        "facts = {}\n"
        "for topology in sys.argv[1:]:\n"
        "    mesh = sharding.make_topology_mesh(topology, **tpu.topology_options(topology))\n"
        "    large = sharding.abstract((200 * 1024, 1024, 1024), jnp.uint8, mesh)\n"
        "    try:\n"
        "        jax.jit(lambda x: x + 1).lower(large).compile()\n"
        "    except jax.errors.JaxRuntimeError as error:\n"
        "        facts[topology] = mesh.devices.size, roofline.read_out_of_memory(str(error))[1] / 2**30\n"
        "print(json.dumps(facts))\n"
    )
    slices = ["v4:2x2x2", "v5e:1x1", "v5e:2x4", "v5e:4x8", "v5p:2x2x2", "v5p:4x8x8", "v6e:2x4", "v6e:16x16"]
    facts = json.loads(_with_the_compiler(program, *slices).splitlines()[-1])
    assert set(facts) == set(slices)
    for topology, (num_chips, gibibytes) in facts.items():
        chip, expected = tpu.parse_topology(topology)
        assert num_chips == expected
        assert gibibytes == chip.usable_bytes / tpu.GIB, topology
    assert [facts[name][1] for name in ("v4:2x2x2", "v5e:2x4", "v5p:2x2x2", "v6e:2x4")] == [30.75, 15.75, 95.74, 31.25]


@pytest.mark.slow
@needs_libtpu
def test_collectives_of_a_real_program():
    """One all-reduce carries the gradients; no other grows faster than the number of classes."""
    classes = 100
    overrides = [
        *("batch_size=64", "data.name=arrays", "data.file=mine.npz", "data.longtail=natural", "data.imbalance=1"),
        *("weights.name=class_balanced", "loss.name=focal"),
    ]
    figures = compiling.compile_for(
        "digits_lt", overrides, "v5e:2x4", num_classes=classes, num_images=5000, image_size=8
    )
    assert figures["fits"] and figures["num_chips"] == 8
    gradients, *others = [one for one in figures["train"]["collectives"] for _ in range(one["times"])]
    assert gradients["kind"] == "all-reduce"
    # The compiler may put the loss, or another few numbers, into the same message.
    assert 4 * figures["parameters"] <= gradients["size"] <= 4 * figures["parameters"] + 64
    for one in others + figures["evaluation"]["collectives"]:
        assert one["kind"] == "all-reduce" and one["size"] <= 4 * 16 * classes < 4 * classes**2
    assert 0 < figures["bound"]["step"] < 1e-2


@pytest.mark.slow
@needs_libtpu
def test_the_largest_batch_that_fits(capsys):
    assert main(["compile", "--config=digits_lt", "--topology=v5e:2x2", "--config.batch_size=33554432"]) == 1
    output = capsys.readouterr().out
    assert "does not fit" in output and "and compiled:" in output


def _with_the_compiler(program, *arguments):
    folder = str(pathlib.Path(compiling.__file__).parent.parent)
    environment = {**os.environ, **compiling.ENVIRONMENT, "PYTHONPATH": folder}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    command = [sys.executable, "-P", "-c", program, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
