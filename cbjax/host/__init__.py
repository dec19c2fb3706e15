"""What cbjax asks of the machine that it runs on: memory, files, buckets, the terminal, signals.

Nothing here knows about training. Begin with `writers.py` (files are written whole or not at all), `storage.py` (a
folder or a bucket) and `output.py` (the only place that prints).
"""
