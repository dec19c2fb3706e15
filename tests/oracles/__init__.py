"""The formulas again, in float64 NumPy; nothing here imports cbjax."""
