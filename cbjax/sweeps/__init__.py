"""Many runs: the file that names them, the plan of which are trained together, their training, their figures.

What runs may differ in is `cbjax/variants.py`; tables and pictures are in `report/`. Begin with `sweep.py`.
"""
