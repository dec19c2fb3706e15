"""The files of a run: config, facts about data and machine, checkpoints, logs, and the images that were skipped.

Begin with `files.py`. Pages and pictures made from these files are in `report/`.
"""
