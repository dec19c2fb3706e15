"""Videos whose classes differ by motion alone: what sees it, and what CDB does for the rarest class."""

import numpy as np
import pytest

from tests import clips
from tests.benchmarks import motion


@pytest.mark.slow
def test_motion_is_learned_by_3d_networks_alone_and_cdb_lifts_the_worst_class(tmp_path):
    # These are the first three seeds of tests/benchmarks/motion.py, whose ten do not tell the two methods apart.
    clips.write_motions(tmp_path / "clips", motion.SPLITS)

    def recalls(way, seed):
        return motion.recalls(tmp_path / "clips", way, seed, tmp_path / f"{way}_{seed}")

    table = {way: [recalls(way, seed) for seed in range(3)] for way in ("cross entropy", "CDB")}
    for way in ("frame", "order-blind"):
        assert abs(np.mean(recalls(way, 0)) - 1 / 3) < 0.1, way
    assert np.mean(table["CDB"]) > 0.85 and np.mean(table["cross entropy"]) > 0.7
    difference = motion.difference(table)
    assert difference.mean > 0.1 and min(difference.each) > -0.05, table


def test_classes_of_motion_show_the_same_places():
    """The frames of a class, without their order, are those of the others."""
    assert {tuple(sorted(order)) for order in clips.ORDERS.values()} == {tuple(range(8))}
