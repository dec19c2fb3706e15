"""The surface of the loss around finished runs, for all images, for frequent and rare classes and for each class.

`random`, `line`, `plane` and `trajectory` measure it, `curvature` the eigenvalues of its Hessian; `read` gives back
what is kept in a work directory, and `draw` draws it anew. Training and evaluation are not in here: a landscape reads a
run and changes nothing of it. Begin with `surfaces.py`, then `directions.py` and `points.py`.
"""

from cbjax.landscape.curvature import curvature, read_curvature
from cbjax.landscape.folder import read
from cbjax.landscape.pictures import draw
from cbjax.landscape.spectrum import Curvature, Spectrum
from cbjax.landscape.subject import Subject, open_run
from cbjax.landscape.surface import Surface
from cbjax.landscape.surfaces import Options, line, plane, random, trajectory

__all__ = [
    "Curvature",
    "Options",
    "Spectrum",
    "Subject",
    "Surface",
    "curvature",
    "draw",
    "line",
    "open_run",
    "plane",
    "random",
    "read",
    "read_curvature",
    "trajectory",
]
