"""Kills a run at random moments, many of them in the second after a commit, and checks that nothing of it is lost.

Run by hand: python -m tests.benchmarks.kills --kills=40 --after_commit=15 [--seed=0]
Each start after a kill must go on from the newest checkpoint that was there at the kill, with none set aside, and each
run must end with the metrics and parameters of one that was left alone, to the bit. A kill takes some ten seconds.
"""

import argparse
import pathlib
import random
import re
import tempfile
import time

import jax
import numpy as np

import cbjax
from cbjax.host.writers import read_rows
from cbjax.workdir.memory import timeless
from tests import processes

SETTINGS = (
    *("train", "--config=digits_lt", "--config.num_epochs=400", "--config.checkpoint.every_epochs=8"),
    *("--config.weights.name=difficulty", "--config.data.crop_padding=1", "--config.log.tensorboard=false"),
)
KILLS_OF_A_RUN = 5


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--after_commit", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    kinds = [n < arguments.after_commit for n in range(arguments.kills)]
    chance.shuffle(kinds)
    with tempfile.TemporaryDirectory() as folder:
        whole = pathlib.Path(folder, "whole")
        begun = time.perf_counter()
        done = processes.run(*SETTINGS, f"--workdir={whole}", timeout=900)
        assert done.returncode == 0, done.stderr
        seconds = time.perf_counter() - begun
        print(f"left alone: {seconds:.0f} s", flush=True)
        faults = killed = 0
        for first in range(0, len(kinds), KILLS_OF_A_RUN):
            workdir = pathlib.Path(folder, f"run{first}")
            for after_commit in kinds[first : first + KILLS_OF_A_RUN]:
                faults += _start_and_kill(workdir, after_commit, seconds, chance)
                killed += 1
            faults += _start_to_the_end(workdir, whole)
            print(f"{killed} kills, {faults} faults", flush=True)
    raise SystemExit(faults > 0)


def _start_and_kill(workdir, after_commit, seconds, chance):
    before = processes.checkpoints(workdir)
    process = processes.start(*SETTINGS, f"--workdir={workdir}")
    if after_commit:
        processes.wait_for_checkpoint(process, workdir, before[-1] + 1 if before else 1)
        time.sleep(chance.uniform(0, 1))
    else:
        time.sleep(chance.uniform(0, seconds / 2))
    process.kill()
    return _faults(workdir, before, process.communicate()[0], f"{after_commit=}")


def _start_to_the_end(workdir, whole):
    before = processes.checkpoints(workdir)
    done = processes.run(*SETTINGS, f"--workdir={workdir}", timeout=900)
    if done.returncode:
        print(f"status {done.returncode}: {done.stderr}", flush=True)
        return 1
    faults = _faults(workdir, before, done.stdout, "end")
    for log in ("metrics", "per_class", "class_weights"):
        rows = [[timeless(row) for row in read_rows(place / f"{log}.jsonl")] for place in (workdir, whole)]
        faults += rows[0] != rows[1]
    states = [cbjax.load(place).state for place in (workdir, whole)]
    leaves = [jax.tree.leaves((state.params, state.opt_state, state.class_weights)) for state in states]
    return faults + any(np.asarray(a).tobytes() != np.asarray(b).tobytes() for a, b in zip(*leaves, strict=True))


def _faults(workdir, before, output, what):
    """Counts what is wrong with a start that found the checkpoints `before`: where it went on, what it set aside."""
    went_on = re.search(r"(?:resumed at|restored) step (\d+)", output)
    expected = before[-1] if before else None
    found = int(went_on[1]) if went_on else None
    # Killed before it came to its first line, or it had nothing to go on from.
    lost = found != expected and ("training in" in output or went_on is not None)
    remains = [path.name for path in (workdir / "damaged").iterdir()] if (workdir / "damaged").is_dir() else []
    if lost or remains or "damaged" in output or "not finished" in output:
        print(f"fault: {what}, before {before}, went on at {found}, damaged {remains}: {output}", flush=True)
        return 1
    return 0


if __name__ == "__main__":
    main()
