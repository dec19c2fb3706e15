"""Devices and processes: the mesh and what lies where on it; how processes meet, agree, and notice that one is lost.

Begin with `sharding.py`, the only file that knows devices. What a step computes is in `training/step.py`.
"""
