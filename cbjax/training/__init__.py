"""One run, from its config to its results: steps, programs, the loop, what follows an epoch, evaluation, predictions.

Many runs are in `sweeps/`, the mathematics in `losses/` and its neighbours. Begin with `run.py` (`cbjax.train`), then
`build.py`, which makes the parts of a run from its config, and `loop.py`.
"""
