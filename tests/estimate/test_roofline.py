"""Collectives from a program's text, least times by hand, the largest batch, the compiler's complaint."""

import pytest

from cbjax.estimate import roofline, tpu
from cbjax.estimate.roofline import Collective

# Lines as libtpu 0.0.42 writes them, shortened, with what must not be counted between them.
PROGRAM = """
HloModule jit_step, is_scheduled=true
%region_1 (a: f32[], b: f32[]) -> f32[] {
  ROOT %add.1 = f32[]{:T(128)} add(%a, %b)
}
%body (p: (s32[], f32[64])) -> (s32[], f32[64]) {
  %psum.1 = (f32[64]{0:T(128)}, f32[7,7,3,64]{3,2,1,0:T(8,128)S(1)}, /*index=2*/f32[]{:T(128)}) all-reduce(%x)
  %psum.2 = s32[]{:T(128)} all-reduce(%count), channel_id=2, replica_groups={{0,1}}
  ROOT %psum.3 = s32[]{:T(128)} all-reduce(%right), channel_id=3, replica_groups=[1,8]<=[8]
}
  %all-reduce-start.4 = bf16[1000,2048]{1,0:T(8,128)(2,1)} all-reduce-start(%g), channel_id=4
  %all-reduce-done.4 = bf16[1000,2048]{1,0:T(8,128)(2,1)} all-reduce-done(%all-reduce-start.4)
  %all-gather-start.5 = (f32[8,16]{1,0}, f32[64,16]{1,0}) all-gather-start(%part), channel_id=5
  %all-gather-done.5 = f32[64,16]{1,0} all-gather-done(%all-gather-start.5)
  %permute-start = (pred[32]{0}, pred[32]{0}, u32[], u32[]) collective-permute-start(%flags), channel_id=6
  %scattered = bf16[32,512]{1,0:T(8,128)(2,1)} reduce-scatter(%copy-done), channel_id=7, dimensions={0}
  %fusion = f32[64]{0} fusion(%psum.1), kind=kLoop, calls=%all-reduce-like
"""


def test_collectives_are_counted_once_and_sized_by_their_results():
    assert roofline.read_collectives(PROGRAM) == [
        Collective("all-reduce", 1000 * 2048 * 2, 1, 1),
        Collective("all-reduce", 4 * (64 + 7 * 7 * 3 * 64 + 1), 3, 1),
        Collective("reduce-scatter", 32 * 512 * 2, 1, 1),
        Collective("all-gather", 64 * 16 * 4, 1, 1),
        Collective("collective-permute", 32, 1, 1),
        Collective("all-reduce", 4, 1, 2),
    ]


def test_a_program_for_one_device_has_none():
    assert roofline.read_collectives("  %a = f32[8]{0} add(%x, %y)\n") == []


def test_least_times_of_resnet50_by_hand():
    # v5e: 197 TFLOP/s, 819 GB/s, 200 GB/s of links one way. Each of 8 chips sends 2 * 7/8 of the gradients.
    gradients = [Collective("all-reduce", 102_400_000, 160, 1), Collective("all-reduce", 4, 1, 2)]
    times = roofline.bound(tpu.CHIPS["v5e"], 8, flops=3.084e12, bytes_accessed=50.6e9, collectives=gradients)
    assert times.compute == pytest.approx(15.6548e-3, rel=1e-4)
    assert times.memory == pytest.approx(61.7827e-3, rel=1e-4)
    assert times.links == pytest.approx(1.75 * 102_400_008 / 200e9, rel=1e-9)
    assert times.step == times.memory
    assert times.not_overlapped == pytest.approx(61.7827e-3 + 0.896e-3, rel=1e-4)


@pytest.mark.parametrize(
    ("kind", "sent"),
    [
        ("all-reduce", 1.5),  # of 4 chips: 2 * 3/4 of the result
        ("all-gather", 0.75),
        ("reduce-scatter", 3.0),  # the result is a quarter
        ("all-to-all", 0.75),
        ("collective-permute", 1.0),
    ],
)
def test_what_a_chip_sends(kind, sent):
    chip = tpu.CHIPS["v5p"]
    times = roofline.bound(chip, 4, flops=0, bytes_accessed=0, collectives=[Collective(kind, 6_000_000, 1, 2)])
    assert times.links == pytest.approx(2 * sent * 6e6 / 600e9)


def test_one_chip_sends_nothing():
    times = roofline.bound(
        tpu.CHIPS["v4"], 1, flops=1, bytes_accessed=1, collectives=[Collective("all-reduce", 8, 1, 1)]
    )
    assert times.links == 0


def test_largest_batch():
    # 10 bytes an image beside 100: 0.95 * (600 - 100) / 10 = 47.5 images, in eights 40.
    assert roofline.largest_batch(100 + 10 * 64, 100, 600, 64) == 40
    assert roofline.largest_batch(100 + 10 * 64, 100, 600, 64, multiple=3) == 24
    assert roofline.largest_batch(100 + 10 * 64, 100, 180, 64) == 7  # fewer than eight: as many as there are
    assert roofline.largest_batch(100 + 10 * 64, 100, 180, 64, multiple=4) == 4
    assert roofline.largest_batch(100 + 10 * 64, 100, 105, 64) == 0
    assert roofline.largest_batch(100 + 10 * 64, 100, 90, 64) == 0  # not even what does not depend on the batch
    assert roofline.largest_batch(101, 100, 100.99, 1) == 0
    assert roofline.largest_batch(1000, 100, 999, 64) == 56  # below what is known not to fit


def test_the_compilers_complaint():
    message = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (240.00G) exceeds "
        "available HBM (15.75G)."
    )
    assert roofline.read_out_of_memory(message) == (240 * 2**30, 15.75 * 2**30)
    other = (
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. "
        "Used 912.50M of 0.50G hbm. Exceeded hbm capacity by 400.5M."
    )
    assert roofline.read_out_of_memory(other) == (912.5 * 2**20, 0.5 * 2**30)
    assert roofline.read_out_of_memory("INTERNAL: the compiler has a fault") is None
    assert roofline.read_out_of_memory("RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem.") is None
