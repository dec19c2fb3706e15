"""The recipe `egtea` at reduced size, as a user meets it: frames extracted, trained, killed, in the paper's tables."""

import json
import re

import jax
import numpy as np
import pytest

import cbjax
from cbjax.cli import main
from cbjax.host.writers import read_rows
from cbjax.report.read import read_run
from cbjax.report.table import describe_data
from cbjax.workdir.memory import timeless
from tests import clips, own_nets, processes

REDUCED = (
    *("data.frames=3", "data.image_size=16", "data.resize=16", "batch_size=8", "devices=1", "data.threads=2"),
    *("num_epochs=2", "log.tensorboard=false"),
)


def command(name, config, root, workdir, *more):
    overrides = [f"--config.{one}" for one in (f"data.root={root}", *REDUCED, *more)]
    return [name, f"--config={config}", f"--workdir={workdir}", *overrides]


def test_a_run_of_the_recipe_stands_in_the_papers_tables(tmp_path, capsys):
    root, sweep = tmp_path / "egtea", tmp_path / "sweep"
    clips.write_egtea(root, "frames", clips.EGTEA_VERBS, clips.small_egtea())
    own = (f"model.name={own_nets.__file__}:linear", "log.report=false")
    assert main(command("train", "egtea", root, sweep / "CDB-CE" / "seed_0", *own)) == 0
    assert "- 3 frames are taken from each clip." in describe_data(read_run(sweep / "CDB-CE/seed_0"))
    run = json.loads((sweep / "CDB-CE/seed_0/results.json").read_text())
    test = run["last"]["test"]
    recalls, precisions = np.array(run["per_class"]["last"]), np.array(run["confusion"]["last"]).T
    majority = [0, 1, 2, 3, 5]  # Read, Open, Take, Cut, Put
    minority = [verb for verb in range(19) if verb not in majority]
    shares = np.diag(precisions) / np.maximum(precisions.sum(axis=1), 1)
    for name, verbs in (("majority", majority), ("minority", minority)):
        assert test[f"{name}_accuracy"] == pytest.approx(recalls[verbs].mean())
        assert test[f"{name}_precision"] == pytest.approx(shares[verbs].mean())
    assert main([*command("sweep", "cdb_table6", root, sweep, *own), "--shard=10/12"]) == 0  # the run that is there
    assert main(["report", str(sweep)]) == 0
    capsys.readouterr()
    lines = (sweep / "report.md").read_text().splitlines()
    header = next(line for line in lines if line.startswith("| method"))
    assert [cell.strip() for cell in header.split("|")[2:-1]] == [
        *("top-1", "top-5", "recall", "precision", "majority recall", "majority precision"),
        *("minority recall", "minority precision"),
    ]
    ours = [test[key] for key in ("accuracy", "top5_accuracy", "macro_recall", "macro_precision")]
    ours += [test[f"{group}_{what}"] for group in ("majority", "minority") for what in ("accuracy", "precision")]
    paper = ("69.14", "96.84", "66.24", "63.86", "74.42", "73.51", "63.31", "60.42")
    expected = [f"{100 * share:.2f} (1) [{printed}]" for share, printed in zip(ours, paper, strict=True)]
    line = next(line for line in lines if line.startswith("| CDB-CE |"))
    assert [cell.strip() for cell in line.split("|")[2:-1]] == expected
    assert "![Training clips and accuracy of each class](classes.png)" in lines


@pytest.mark.slow
def test_a_killed_run_on_extracted_frames_ends_the_same_to_the_bit(tmp_path):
    root = tmp_path / "egtea"
    clips.write_egtea(root, "videos", clips.EGTEA_VERBS, clips.small_egtea())
    assert processes.run("datasets", "frames", root / "cropped_clips", root / "extracted_frames").returncode == 0
    long = (f"model.name={own_nets.__file__}:motion", "num_epochs=12", "checkpoint.every_epochs=1")
    killed, whole = (command("train", "egtea", root, tmp_path / name, *long) for name in ("killed", "whole"))
    process = processes.start(*killed)
    assert processes.wait_for_checkpoint(process, tmp_path / "killed", 20)
    process.kill()
    process.communicate()
    last = processes.checkpoints(tmp_path / "killed")[-1]
    done = processes.run(*killed)
    assert done.returncode == 0, done.stderr
    assert int(re.search(r"resumed at step (\d+) of", done.stdout)[1]) == last
    assert processes.run(*whole).returncode == 0
    states = [cbjax.load(tmp_path / name, trust_code=True).state for name in ("killed", "whole")]
    kept = [(one.step, one.params, one.opt_state, one.batch_stats, one.class_weights) for one in states]
    parts = map(jax.tree.leaves, kept)
    assert all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in zip(*parts, strict=True))
    for log in ("metrics.jsonl", "class_weights.jsonl"):
        found = [[timeless(row) for row in read_rows(tmp_path / name / log)] for name in ("killed", "whole")]
        assert found[0] == found[1] and found[0]
