"""The shape that the design promises: imports go downhill, maths stays pure, files stay short."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "cbjax"

# From the ground up; each may import the ones below it, and itself, never its own floor or above.
FLOORS = [
    {"types"},
    {"losses", "weights", "difficulty", "metrics", "optim"},
    {"models", "data", "parallel"},
    {"objectives"},
    {"workdir"},
    {"report"},
    {"training", "variants"},
    {"sweeps", "estimate", "landscape"},
    {"cli"},
    {"__main__"},
]
# These stand beside: what a config says, and what is asked of the machine. The first may read the second.
BESIDE = {"config": {"host"}, "host": set()}
WITHOUT_CONFIG = {"models", "objectives", "data"}
PURE = {"losses", "weights", "difficulty", "optim", "metrics"}
RANK = {name: rank for rank, floor in enumerate(FLOORS) for name in floor}


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
            assert RANK[other] < RANK[part], f"{part} may not import {other}: it is not below it"
        elif other == "config":
            assert part not in PURE | WITHOUT_CONFIG, f"{part} takes arguments, not a config"


@pytest.mark.parametrize("part", sorted(PURE))
def test_the_maths_imports_only_array_libraries(part):
    standard = {"collections", "dataclasses", "functools", "math", "operator", "typing"}
    allowed = {"jax", "numpy", "optax", "cbjax"} | standard
    for path in (path for other, path in modules() if other == part):
        assert {name.split(".")[0] for name in imported(path)} <= allowed
        assert parts_imported(path) <= {"types", part}


def test_only_models_import_flax_modules():
    for part, path in modules():
        if part != "models":
            assert not [name for name in imported(path) if name.startswith(("flax.linen", "flax.nnx"))], path


def test_only_sharding_speaks_of_devices():
    for _, path in modules():
        if path.name != "sharding.py":
            text = path.read_text()
            assert "jax.devices" not in text and "shard_map(" not in text and "jax.pmap" not in text, path


def test_only_output_prints():
    """Names in what is printed must not command a terminal, and a terminal must not end a run."""
    for _, path in modules():
        if path.name not in {"output.py", "tpu_programs.py"}:  # the second answers the process that started it
            calls = (node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
            assert not [call for call in calls if isinstance(call, ast.Name) and call.id == "print"], path


def test_files_are_short_and_named_for_a_topic():
    for _, path in modules():
        assert len(path.read_text().splitlines()) <= 320, path
        assert path.stem not in {"utils", "common", "helpers", "misc"}


def test_rooms_are_few_and_each_says_what_it_holds():
    rooms = {PACKAGE / part for part, path in modules() if path.parent != PACKAGE}
    corners = {path.parent for _, path in modules()} - {PACKAGE} - rooms  # data/clips
    assert {room.name for room in rooms} <= RANK.keys() | BESIDE.keys()
    assert len([*PACKAGE.glob("*.py"), *rooms]) <= 22
    for room in rooms | corners:
        told = ast.get_docstring(ast.parse((room / "__init__.py").read_text())) or ""
        assert told.count(".") >= 2, (
            f"{room.name}/__init__.py must say what is in here, what is not, and where to begin"
        )


def test_tests_stand_in_the_room_of_what_they_test():
    for path in (ROOT / "tests").rglob("test_*.py"):
        room = path.parent.name
        assert room == "tests" or (PACKAGE / room / "__init__.py").exists(), path
