"""The files of a run: what was run and on what, checkpoints, logs, the images that were skipped.

Pages and pictures made from them are in `report/`. Begin with `files.py`.
"""
