"""Times what importing cbjax adds to importing JAX, as whole processes in turns.

Run by hand: python tests/benchmarks/import_time.py [--rounds=11]
"""

import argparse
import statistics
import subprocess
import sys
import time

PROGRAMS = {
    "jax": "import jax",
    "cbjax": "import jax, cbjax",
    "cbjax with losses, weights, difficulty": "import jax, cbjax.losses, cbjax.weights, cbjax.difficulty",
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=11)
    rounds = parser.parse_args().rounds
    seconds = {name: [] for name in PROGRAMS}
    for _ in range(rounds):
        for name, program in PROGRAMS.items():
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", program], check=True)
            seconds[name].append(time.perf_counter() - started)
    for name, times in seconds.items():
        added = statistics.median(mine - jax for mine, jax in zip(times, seconds["jax"], strict=True))
        print(f"import {name}: median {statistics.median(times):.3f} s of {rounds}, {added:+.3f} s against jax alone")


if __name__ == "__main__":
    main()
