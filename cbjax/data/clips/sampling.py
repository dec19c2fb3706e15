"""Chooses which frames of a clip are used."""

from collections.abc import Sequence


def frames_at(num_frames: int, places: Sequence[float]) -> list[int]:
    """Returns the positions of T frames, in order: one from each of T segments of a clip.

    The lengths of the segments differ by at most one frame. If the clip has T frames or more, all positions are
    different. In a shorter clip some frames are taken several times in a row.

    Args:
      num_frames: of the clip, at least 1.
      places: [T] where in its segment each frame lies, in [0, 1). 0.5 for all gives equally spaced frames.

    Returns:
      [T] positions in [0, num_frames), never falling.

    Source: Wang et al. 2016 (TSN), as Sinha et al. 2020 use it: random in training, equally spaced in the test.
    """
    chosen, count = [], len(places)
    for segment, place in enumerate(places):
        first = segment * num_frames // count
        length = max((segment + 1) * num_frames // count - first, 1)
        chosen.append(first + min(int(place * length), length - 1))  # a place just below 1 may be rounded to 1
    return chosen


def centres(count: int) -> list[float]:
    """Returns the places of equally spaced frames, the middle of each of the segments."""
    return [0.5] * count
