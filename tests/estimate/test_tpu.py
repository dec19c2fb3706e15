"""The table of chips, and which slices there are."""

import pytest

from cbjax.estimate import tpu


@pytest.mark.parametrize(
    ("topology", "chips"),
    [
        ("v5e:1x1", 1),
        ("v5e:2x4", 8),
        ("v5e:16x16", 256),
        ("v6e:4x8", 32),
        ("v4:2x2x1", 4),
        ("v5p:4x8x8", 256),
        ("v5p:8x12x16", 1536),
    ],
)
def test_slices(topology, chips):
    chip, number = tpu.parse_topology(topology)
    assert number == chips
    assert chip.name == topology.split(":")[0]


def test_published_figures():
    # TFLOP/s in bfloat16, GiB, GB/s of memory and of all links one way, as Cloud TPU's pages print them.
    printed = {
        "v4": (275, 32, 1200, 300),
        "v5e": (197, 16, 819, 200),
        "v5p": (459, 95, 2765, 600),
        "v6e": (918, 32, 1638, 400),
    }
    assert set(tpu.CHIPS) == set(printed)
    for name, (flops, memory, bandwidth, links) in printed.items():
        chip = tpu.CHIPS[name]
        assert chip.flops == flops * 1e12
        assert int(chip.hbm_bytes / tpu.GIB) == memory
        assert 0.95 * chip.hbm_bytes < chip.usable_bytes <= chip.hbm_bytes
        assert (chip.hbm_bandwidth, chip.link_bandwidth) == (bandwidth * 1e9, links * 1e9)


@pytest.mark.parametrize("topology", ["v9:2x2", "2x4", "", "V5E:2x4", "v5litepod-8"])
def test_an_unknown_generation_lists_the_known_ones(topology):
    with pytest.raises(tpu.TopologyError, match=r"GENERATION:SHAPE.*v4: 2x2x1.*v5e: 1x1.*v5p: 2x2x1.*v6e: 1x1"):
        tpu.parse_topology(topology)


@pytest.mark.parametrize(
    "topology", ["v5e:3x5", "v5e:", "v5e:8", "v5e:2x2x2", "v4:2x2", "v5p:6x8x8", "v5p:8x4x16", "v4:4x4xx", "v5e:4x2"]
)
def test_a_slice_that_is_not_offered(topology):
    generation, shape = topology.split(":")
    with pytest.raises(tpu.TopologyError, match=rf"one of {generation}'s slices \([12]x.*got '{shape}'"):
        tpu.parse_topology(topology)
