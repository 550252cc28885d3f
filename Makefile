# make demo: the whole job on real data.  make test: everything that must hold.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test check setup clean

demo: $(VENV)/ready
	"$(BIN)/saekit" demo

test: $(VENV)/ready-dev
	"$(BIN)/ruff" check .
	"$(BIN)/basedpyright" --pythonpath "$(BIN)/python"
	OMP_NUM_THREADS=1 "$(BIN)/python" -m pytest -q -n auto

setup: $(VENV)/ready-dev

$(VENV)/ready: pyproject.toml constraints.txt
	test -x "$(BIN)/python" || "$(PYTHON)" -m venv "$(VENV)"
	"$(BIN)/python" -m pip install -q -c constraints.txt -e ".[lm]"
	touch "$@"

$(VENV)/ready-dev: $(VENV)/ready
	"$(BIN)/python" -m pip install -q -c constraints.txt -e ".[dev]"
	touch "$@"

clean:
	rm -rf "$(VENV)" demo .pytest_cache .ruff_cache *.egg-info
