"""What cbjax asks of the machine: memory, files, buckets, the terminal, signals, packages, and users' own code.

Nothing here knows about training. Begin with `writers.py` (files are written whole or not at all), `storage.py` (a
folder or a bucket) and `output.py` (the only place that prints).
"""
