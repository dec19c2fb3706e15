"""What cbjax asks of the machine that it runs on: memory, files, buckets, the terminal, signals.

Nothing here knows of training. Begin with `writers.py` (files that are whole or not there), `storage.py` (a folder or
a bucket) and `output.py` (the only place that prints).
"""
