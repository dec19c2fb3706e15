"""The shape that the design promises: imports go downhill, maths stays pure, files stay short."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "cbjax"

# Each may import the ones below it, never its own level or above.
LEVELS = [
    {"cli"},
    {"sweep", "predictions", "eval_files"},
    {"plan", "sweep_start"},
    {"train_group", "modes"},
    {"run", "run_group", "tpu_programs", "cost"},
    {"restore"},
    {"results"},
    {"build"},
    {"inputs"},
    {"programs"},
    {"components"},
    {"workdir"},
    {"loop", "logs"},
    {"callbacks", "predict", "profile"},
    {"evaluate", "checkpoint", "resident", "streaming"},
    {"train_step", "abstract_data", "check_data", "bad_images"},
    {"losses", "weights", "difficulty", "metrics", "models", "data", "optim"}
    | {"sharding", "memory", "processes", "pretrained", "swings"},
    {"types"},
]
# These stand beside: any but the maths may import them.
BESIDE = {
    "sweep_file": {"config", "config_file", "config_rules", "config_schema", "storage", "sweep_table", "variants"},
    "variants": {"config_schema", "sweep_table"},
    "sweep_table": {"config", "config_schema"},
    "config": {"config_file", "config_rules", "config_schema", "config_kinds"},
    "config_file": {"config_schema", "config_kinds"},
    "config_test_time": {"config", "config_schema"},
    "config_rules": {"config_schema", "config_kinds"},
    "config_schema": {"config_kinds"},
    "config_kinds": set(),
    "writers": set(),
    "checksums": {"literal_path"},
    "records": {"writers"},
    "checkpoint_folder": {"checksums", "literal_path", "storage"},
    "report": {"metrics", "weights", "difficulty", "swings", "writers", "config", "groups", "rows", "sweep_table"}
    | {"class_tables", "output", "records", "text"},
    "groups": {"config", "config_schema"},
    "arguments": {"config_schema", "storage", "text"},
    "environment": {"host"},
    "host": set(),
    "npz": {"host"},
    "text": set(),
    "class_tables": {"text"},
    "output": {"text"},
    "progress": {"output", "text"},
    "rows": {"config", "records", "sweep_file", "sweep_table", "text", "variants", "writers"},
    "interrupts": set(),
    "literal_path": set(),
    "startup": {"config", "host", "output"},
    "storage": {"literal_path"},
    "tpu": set(),
    "lobby": set(),
    "watch": {"output", "text"},
    "roofline": {"tpu"},
    "compile": {"config", "roofline", "tpu"},
    "compile_table": {"roofline", "tpu"},
}
PURE = {"losses", "weights", "difficulty", "optim", "metrics"}
RANK = {name: rank for rank, level in enumerate(LEVELS) for name in level}


def modules():
    """Yields (part, path): the part is the file's name, or its folder's."""
    for path in sorted(PACKAGE.rglob("*.py")):
        relative = path.relative_to(PACKAGE)
        if str(relative) != "__init__.py" and "configs" not in relative.parts:
            yield relative.parts[0].removesuffix(".py"), path


def imported(path):
    """Yields the dotted names that a file imports, at its top and inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def parts_imported(path):
    return {name.split(".")[1] for name in imported(path) if name.startswith("cbjax.") and name.count(".")}


@pytest.mark.parametrize(("part", "path"), [pytest.param(*one, id=str(one[1].relative_to(ROOT))) for one in modules()])
def test_imports_go_downhill(part, path):
    for other in parts_imported(path) - {part, "__version__"}:
        if part in BESIDE:
            assert other in BESIDE[part], f"{part} stands beside and may not import {other}"
        elif other not in BESIDE:
            assert RANK[other] > RANK[part], f"{part} may not import {other}: it is not below it"


@pytest.mark.parametrize("part", sorted(PURE))
def test_the_maths_imports_only_array_libraries(part):
    allowed = {"jax", "numpy", "optax", "cbjax", "collections", "functools", "math", "typing", "dataclasses"}
    if part == "metrics":
        allowed |= {"clu", "flax"}
    for path in [PACKAGE / f"{part}.py"]:
        assert {name.split(".")[0] for name in imported(path)} <= allowed
        assert parts_imported(path) <= {"types"}


def test_only_models_import_flax_modules():
    for part, path in modules():
        if part != "models":
            assert not [name for name in imported(path) if name.startswith(("flax.linen", "flax.nnx"))], path


def test_only_sharding_speaks_of_devices():
    for part, path in modules():
        if part != "sharding":
            text = path.read_text()
            assert "jax.devices" not in text and "shard_map(" not in text and "jax.pmap" not in text, path


def test_only_output_prints():
    """Names in what is printed must not command a terminal, and a terminal must not end a run."""
    for part, path in modules():
        if part not in {"output", "tpu_programs"}:  # the second answers the process that started it
            calls = (node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
            assert not [call for call in calls if isinstance(call, ast.Name) and call.id == "print"], path


def test_every_module_has_its_tests_and_a_short_file():
    for part, path in modules():
        assert len(path.read_text().splitlines()) <= 320, path
        assert part not in {"utils", "common", "helpers", "misc"}
