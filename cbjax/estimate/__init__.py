"""What a config needs before it is run: of a TPU slice, by the TPU compiler without a TPU, and in images and time.

Begin with `compile.py` (`cbjax compile`) or `cost.py` (the estimate of a sweep's dry run).
"""
