"""The notebooks: each holds what its source says, is light, and runs from its first cell to its last."""

import importlib.util
import json
import os
import pathlib

import pytest

NOTEBOOKS = pathlib.Path(__file__).parent.parent / "notebooks"
SOURCES = sorted(NOTEBOOKS.glob("[0-9]*.py"))
HEAVIEST = 3_000_000  # bytes of the folder
STOPPED = """
# %%
import os, pathlib, signal, threading, time
import cbjax

def stop():
    while not (pathlib.Path("run/metrics.jsonl").exists() and pathlib.Path("run/metrics.jsonl").stat().st_size):
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=stop).start()
try:
    cbjax.train(cbjax.config.load("digits_lt", ["num_epochs=100000"]), "run")
except KeyboardInterrupt as error:
    print(error)

# %%
run = cbjax.load("run")
assert run.memory.step > 0
run.show()
"""


@pytest.fixture(scope="module")
def maker():
    found = importlib.util.spec_from_file_location("execute", NOTEBOOKS / "execute.py")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.fixture
def as_a_user(monkeypatch):
    """Without the settings of the tests' own process: one device, and programs as users have them."""
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.delenv("JAX_DISABLE_MOST_OPTIMIZATIONS", raising=False)
    monkeypatch.delenv("MPLBACKEND", raising=False)


def outputs(made):
    return [output for cell in made["cells"] if cell["cell_type"] == "code" for output in cell["outputs"]]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_a_notebook_is_its_source_with_outputs(maker, path):
    made = json.loads(path.with_suffix(".ipynb").read_text())
    kept = [(cell["cell_type"], "".join(cell["source"])) for cell in made["cells"]]
    assert kept == maker.cells(path.read_text()), "python notebooks/execute.py makes it again"
    assert all(cell["execution_count"] for cell in made["cells"] if cell["cell_type"] == "code")
    assert not [
        output for output in outputs(made) if output["output_type"] == "error" or output.get("name") == "stderr"
    ]
    assert "on a CPU**" in kept[0][1], "the first cell says how long it takes"


def test_the_notebooks_are_light():
    assert sum(path.stat().st_size for path in NOTEBOOKS.iterdir() if path.is_file()) < HEAVIEST


@pytest.mark.parametrize("path", [pytest.param(path, id=path.stem, marks=pytest.mark.slow) for path in SOURCES])
def test_a_notebook_runs(maker, as_a_user, path, tmp_path):
    pytest.importorskip("pandas")
    made = maker.execute(path.read_text(), tmp_path, quick=True, seconds=600)
    assert not [output for output in outputs(made) if output.get("name") == "stderr"]


@pytest.mark.slow
def test_an_interrupt_saves_and_the_report_of_what_there_is_is_shown(maker, as_a_user, tmp_path):
    shown = outputs(maker.execute(STOPPED, tmp_path, seconds=300))
    text = "".join("".join(output.get("text", "")) for output in shown)
    assert "stopped by SIGINT" in text and "is saved, the same command goes on from there" in text
    data = [output["data"] for output in shown if "data" in output]
    assert any(one.get("text/plain", "").startswith("step ") for one in data), "the bar left its line"
    assert any("# digits" in one.get("text/markdown", "") for one in data) and any("image/png" in one for one in data)
    assert not [output for output in shown if output.get("name") == "stderr"]
    assert os.listdir(tmp_path / "run" / "checkpoints")
