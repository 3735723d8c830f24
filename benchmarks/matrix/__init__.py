"""The matrix of `bench_matrix.py`: its cells, how each is run, and how the results are shown."""
