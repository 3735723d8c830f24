"""Run in a process of its own: load a GGUF file through xllamacpp, which logs its buffers. FILE N_CTX."""

import os
import sys

import xllamacpp

params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.n_ctx = int(sys.argv[2])
params.n_parallel = 1
params.n_gpu_layers = 0
params.verbosity = 4
params.warmup = False
server = xllamacpp.Server(params)
sys.stdout.flush()
# The log is out. Destroying a server that has only just started can wait forever: in a run that hung, its
# destructor waited for the end of a main loop that started after it.
os._exit(0)
