"""Clips, which are videos or folders of frames: finding them, EGTEA's files, and their frames as [T, H, W, 3].

Begin with `finding.py`. A clip's frames are chosen in `sampling.py`, read in `reading.py`, set upright in `pixels.py`,
and cut and turned in `transforms.py`. All else, such as splits and the order of training, is as for images, in the
folder above.
"""
