"""How one of several processes hears of the others, with a store that needs no processes."""

import subprocess
import sys
import time

import jax
import pytest

from cbjax.parallel.watch import Watch

LAST = "import os, sys; from cbjax.parallel.watch import Witness; w = Witness(); "
LAST += "w.remember('cbjax: process 0\\nwas lost'); "


class Store:
    """JAX's key-value store, for watches in one process."""

    def __init__(self):
        self.values = {}

    def key_value_set(self, key, value, allow_overwrite=False):
        if key in self.values and not allow_overwrite:
            raise jax.errors.JaxRuntimeError("ALREADY_EXISTS")
        self.values[key] = value

    def key_value_dir_get(self, folder):
        return [(key, value) for key, value in list(self.values.items()) if key.startswith(folder + "/")]

    def blocking_key_value_get(self, key, milliseconds):
        if key not in self.values:
            time.sleep(milliseconds / 1000)
            raise jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED")
        return self.values[key]


class NoWitness:
    def remember(self, words):
        self.words = words

    def close(self):
        pass


@pytest.fixture
def store():
    return Store()


def test_a_process_that_shows_no_life_is_named(store):
    watches = [Watch(store, index, 3, NoWitness()) for index in (0, 2)]
    assert watches[0].silent() == [1]
    for one in watches:
        one.close()


def test_processes_that_live_or_left_in_order_are_not_lost(store):
    watches = [Watch(store, index, 3, NoWitness()) for index in range(3)]
    watches[2].close()
    assert watches[0].silent() is None
    for one in watches[:2]:
        one.close()


def test_the_first_of_two_failures_is_told(store):
    watch = Watch(store, 1, 2, NoWitness())
    store.key_value_set("cbjax/gone/0", "1")
    watch.tell("cbjax: process 1 failed, so all end: bad data", 2)
    watch.tell("another", 2)
    assert "bad data" in store.values["cbjax/end/0"]
    watch.close()


@pytest.mark.parametrize(("end", "words"), [("os.abort()", "cbjax: process 0 was lost\n"), ("os._exit(3)", "")])
def test_the_last_words_are_said_after_a_crash_alone(end, words):
    done = subprocess.run([sys.executable, "-c", LAST + end], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == words
