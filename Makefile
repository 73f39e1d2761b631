# One virtual environment, .venv, made and filled on demand. Every path is relative, and nothing runs through a
# script of .venv/bin (their first lines break on a blank), so the checkout may lie in a directory named "like this".

PYTHON ?= python3
VENV := .venv/bin/python
INPUTS := pyproject.toml constraints.txt Makefile
ENGINE := setup.py $(wildcard fastap/backends/native/*.[ch])
OUT ?= bench/out
# One process a core, which takes over what another has not begun.
SIDE_BY_SIDE := --numprocesses auto --dist worksteal

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo experiment test test-all test-emulated test-oldest test-newest lint types check-full docs bench bench-gpu dist clean

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s%s\n", $$1, $$2 }' Makefile

demo: .venv/demo.stamp  ## train two models on wrong labels; a table and demo.png at the end
	$(VENV) -m examples.digits_label_noise

experiment: .venv/demo.stamp  ## run one of docs/experiments.md: STUDY=label_noise ARGS="--data DIR"
	$(VENV) -m examples.$(STUDY) $(ARGS)

test: .venv/test.stamp  ## run the tests, every promise once
	$(VENV) -m pytest $(SIDE_BY_SIDE) -m "not full and not whole"

test-all: .venv/test.stamp  ## run all tests there are, but for most of those on the emulated GPU
	$(VENV) -m pytest $(SIDE_BY_SIDE) -m "not whole"

test-emulated: .venv/test.stamp  ## run every loss, type, size and path on emulated sm_80, sm_90 and sm_100; some 40 minutes of one core
	$(VENV) -m pytest $(SIDE_BY_SIDE) tests/test_emulator.py tests/test_device_checks.py

# Both ends of the supported range: give the oldest and the newest Python as PYTHON, too. Before a release.
test-oldest:  ## run the tests with the oldest packages that pyproject.toml allows
	$(PYTHON) -m venv --clear .venv-oldest
	grep -oE '"[a-z-]+>=[0-9.]+' pyproject.toml | tr -d '"' | sed 's/>=\(.*\)/==\1.*/' > .venv-oldest/constraints.txt
	.venv-oldest/bin/python -m pip install --quiet -c .venv-oldest/constraints.txt -e ".[test]"
	.venv-oldest/bin/python -m pytest $(SIDE_BY_SIDE) -m "not whole"

test-newest:  ## run the tests with the newest packages there are
	$(PYTHON) -m venv --clear .venv-newest
	.venv-newest/bin/python -m pip install --quiet --upgrade -e ".[test]"
	.venv-newest/bin/python -m pytest $(SIDE_BY_SIDE) -m "not whole"

lint: .venv/test.stamp  ## check style and formatting
	$(VENV) -m ruff check .
	$(VENV) -m ruff format --check .

types: .venv/test.stamp  ## check types
	$(VENV) -m mypy

# Not quietly: that hides the warnings which --strict counts. The variable is of mkdocs-material, whose next version is another program.
docs: .venv/docs.stamp  ## build the documentation into site/, warnings as errors
	NO_MKDOCS_2_WARNING=1 $(VENV) -m mkdocs build --strict

check-full: .venv/test.stamp  ## compare 20,000 random problems with the dynamic program; ARGS="--measure ndcg --k 10"
	$(VENV) -m tests.exactness --problems 20000 $(ARGS)

# OUT=bench/results names the maintainers' own figures, of which `python -m bench.page` makes the page of the documentation.
bench: .venv/bench.stamp  ## measure suites and peers on the CPU; bench/out/benchmarks.md at the end
	$(VENV) -m pytest bench --out $(OUT)
	$(VENV) -m bench.peers --out $(OUT)
	$(VENV) -m bench.page --results $(OUT) --out $(if $(filter bench/results,$(OUT)),docs,$(OUT))

# Not in .venv, whose pinned PyTorch may be one without CUDA: PYTHON is to have PyTorch, Triton, NumPy and pytest.
bench-gpu:  ## test and time the kernels on a GPU, with the packages of PYTHON
	$(PYTHON) -m bench.gpu --out bench/results

# The wheel is built from the sdist, and has what a newcomer needs: it runs the README's first example where nothing else is.
dist: .venv/release.stamp  ## build sdist and wheel, check both, and try the wheel in an empty environment
	rm -rf dist build
	$(VENV) -m build
	$(VENV) -m twine check --strict dist/*
	tar -tzf dist/*.tar.gz | grep -q '/tests/conftest.py$$'  # whoever packages it can run the tests
	$(PYTHON) -m venv build/empty
	build/empty/bin/python -m pip install --quiet -c constraints.txt dist/*.whl
	cd build && empty/bin/python -I ../tests/first_example.py ../README.md
	rm -rf build

# Not results/: an experiment may be hours of work.
clean:  ## remove environments, caches and what the programs wrote, but for results/
	rm -rf .venv .venv-oldest .venv-newest build dist site *.egg-info demo.png bench/out .benchmarks .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
	rm -f fastap/backends/native/*.so

.venv/pip.stamp: $(INPUTS)
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("Python 3.10 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(VENV) -m pip install --quiet -c constraints.txt pip setuptools
	@touch $@

# The requirements that libauc states (torchvision, transformers and more) are not what its losses import.
.venv/bench.stamp: .venv/pip.stamp $(ENGINE)
	$(VENV) -m pip install -c constraints.txt --no-build-isolation -e ".[bench]"
	$(VENV) -m pip install -c constraints.txt --no-deps libauc
	@touch $@

# .venv/demo.stamp, .venv/test.stamp: the package, editable, with the extra of that name
.venv/%.stamp: .venv/pip.stamp $(ENGINE)
	$(VENV) -m pip install -c constraints.txt --no-build-isolation -e ".[$*]"
	@touch $@
