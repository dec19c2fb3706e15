"""Many runs: the file that names them, the plan of which train together, their training, their figures.

`cbjax/variants.py` says what runs may differ in. Tables and pictures are in `report/`. Begin with `sweep.py`.
"""
