"""Estimates what a config needs before it is run: memory and time on a TPU slice, and the arithmetic of a sweep.

Begin with `compile.py` (`cbjax compile`, which asks the TPU compiler without a TPU) or `cost.py` (the estimate of a
sweep's dry run).
"""
