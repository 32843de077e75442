# Two commands on a machine with only Python 3.11, make and the package index: make demo, make test.
PYTHON ?= python3.11
VENV ?= .venv
RUN := $(VENV)/bin/python
# python3.11 where there is one, else whatever python3 is: setup.cfg refuses what is too old.
ANY := $$(command -v $(PYTHON) || command -v python3)
# Two processes; a file's tests stay together, which makes its fixtures once. Compiled tests are kept: each process has
# to read all of them, and to compile them takes as long as all imports.
PYTEST := PYTHONDONTWRITEBYTECODE= $(RUN) -m pytest --numprocesses 2 --dist loadfile
INSTALL := $(RUN) -m pip install --no-compile --quiet --disable-pip-version-check --constraint constraints.txt
# pip compiles on one core, a minute and a half of it; some packages hold files that are for other versions of Python.
COMPILE := $(RUN) -m compileall -q -j 0 $(VENV)/lib > $(VENV)/compileall.log || true

.PHONY: help demo quick test soak gpu lint clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile

demo: $(VENV)/demo.stamp  ## train the demo classifier and detector, predict, print the table
	$(RUN) examples/demo.py

quick: $(VENV)/dev.stamp lint  ## before a commit: style, types and the quick tests, in about two minutes
	$(PYTEST) -m "not slow and not gpu"

test: $(VENV)/dev.stamp lint  ## before a push: all that needs no GPU, in a quarter of an hour
	$(PYTEST) -m "not ray and not soak and not gpu" --durations=10
	@# each of these wants all cores, so they run one after the other
	$(RUN) -m pytest -m "ray and not soak and not gpu" --durations=10

soak: $(VENV)/dev.stamp  ## the long tests that CI runs after `make test`: kills, jobs, searches, full-size networks
	$(RUN) -m pytest -m "soak" --durations=10

lint: $(VENV)/dev.stamp  ## style, formatting, types
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	@# mypy does not see folders that are mapped into a package, so it gets a copy; its cache saves nine tenths of the time
	rm -rf $(VENV)/typed && mkdir $(VENV)/typed
	cp -rp raydet $(VENV)/typed && cp -rp ops search_spaces $(VENV)/typed/raydet
	cd $(VENV)/typed && $(CURDIR)/$(RUN) -m mypy --cache-dir ../mypy --config-file $(CURDIR)/pyproject.toml -p raydet

# Ten minutes is what a borrowed machine gives: the benchmark begins nothing new after five, the tests take three.
gpu: THIS = $(if $(wildcard $(RUN)),$(RUN),$(ANY))
gpu:  ## benchmarks and GPU tests, with the Python at hand (torch, torchvision, cupy, numpy, pytest); writes docs/benchmarks
	$(THIS) -m raydet bench gpu --rounds 10 --out docs/benchmarks; code=$$?; $(THIS) -m pytest -m gpu tests/gpu && exit $$code

$(VENV)/bin/python:
	$(ANY) -m venv $(VENV)

$(VENV)/demo.stamp: $(VENV)/bin/python setup.cfg constraints.txt
	@echo "installing raydet and what it needs into $(VENV): some minutes and 7 GB, once"
	$(INSTALL) --editable ".[demo]"
	$(COMPILE)
	touch $@

$(VENV)/dev.stamp: $(VENV)/bin/python setup.cfg constraints.txt
	@echo "installing raydet, what it needs and its test tools into $(VENV): some minutes and 7 GB, once"
	$(INSTALL) --editable ".[dev]"
	$(COMPILE)
	touch $@ $(VENV)/demo.stamp

clean:  ## all that was built or trained here
	rm -rf $(VENV) build dist *.egg-info runs .pytest_cache .mypy_cache .ruff_cache
