"""Devices and processes: the mesh and what lies where on it, how several processes meet, agree and notice a loss.

What a step computes is not here: `training/step.py`. Begin with `sharding.py`, the one file that speaks of devices.
"""
