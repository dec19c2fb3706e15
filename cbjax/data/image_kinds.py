"""The kinds of image files that cbjax reads, told by their first bytes and not by the file's name."""

import re

# The usual endings. A file with one of them counts as an image without being opened.
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2")
VIDEOS = (".mp4", ".avi", ".mkv", ".webm", ".mov")  # the endings of videos
HEAD = 32  # first bytes of a file, enough to tell the kind

_STARTS = {
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "GIF": (b"GIF87a", b"GIF89a"),
    "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    "JPEG2000": (b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  \r\n\x87\n"),
}
# A text may begin with P1 and a blank. So width and height must follow, or a comment.
_PPM = re.compile(rb"P[1-6]\s+(?:#|[0-9]+\s+[0-9#])")
# Pillow opens many other kinds, some by starting another program (EPS). cbjax reads only these.
NAMES = (*_STARTS, "WEBP", "BMP", "PPM", "AVIF")
AN_IMAGE = f"a file that is {', '.join(NAMES[:-1])} or {NAMES[-1]}"  # for messages


def kind_of(head: bytes) -> str | None:
    """Returns Pillow's name for the kind, one of `NAMES`; None for any other kind.

    Args:
      head: at least the first `HEAD` bytes of a file, or all of a shorter one.
    """
    for kind, starts in _STARTS.items():
        if head.startswith(starts):
            return kind
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    # Two letters are not enough: a text may begin with BM. So the size of the next header is checked as well.
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in (12, 40, 52, 56, 64, 108, 124):
        return "BMP"
    if _PPM.match(head):
        return "PPM"
    if head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis"):
        return "AVIF"
    return None
