"""What a model costs: pure functions, one formula each.

Workload variables may be ints, Fractions or numpy arrays of ints (many workloads at once); a scalar is the
one-row case. Nothing here imports numpy: the formulas use only `+ - * / // ** abs`.
"""
