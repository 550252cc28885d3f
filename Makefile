# make demo: the whole job on real data.  make test: what must hold, in minutes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# SAEBench pins numpy and datasets below what the others need, and works with theirs.
WITHOUT_PINS := sae-bench==0.6.0 tabulate==0.10.0
# The libraries that saekit is compared with pin other versions than saekit: an environment of their
# own, kept between clones, named by what it holds.
PEERS ?= $(HOME)/.cache/saekit/peers-$(shell { cat pyproject.toml constraints.txt; \
  echo $(WITHOUT_PINS); } | sha256sum | cut -c1-12)
# Tests start hundreds of processes: what they import is compiled once, whatever the environment says.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 "$(BIN)/python" -m pytest -q -n auto
# A file of tests stays in one process, which makes once what its tests share.
BY_FILE := --dist loadfile --no-loadscope-reorder
# Every function of saekit is checked at each call, plain types as well: twice the time.
TYPED := "--jaxtyping-packages=saekit,beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
CONTRACTS := saes metrics fits evals joint_evals analyses columns families
SHAPED := $(addprefix tests/,saes metrics kernels activations analysis core models golden) \
  $(patsubst %,tests/contracts/test_%.py,$(CONTRACTS)) \
  $(addprefix tests/studies/,truth structure causal faithful)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo docs test types fast shapes slow slow-share parity setup clean

demo: $(VENV)/ready
	"$(BIN)/saekit" demo

test: $(VENV)/ready-dev
	"$(BIN)/ruff" check .
	"$(BIN)/ruff" format --check --quiet .
	$(MAKE) --no-print-directory fast

# One process for a minute and a half, which CI runs next to the tests.
types: $(VENV)/ready-dev
	"$(BIN)/basedpyright" --pythonpath "$(BIN)/python"

fast: $(VENV)/ready-dev
	$(PYTEST) $(BY_FILE) --durations=20

# Functions that name the shape of an array are checked at each call, where arrays are computed.
shapes: $(VENV)/ready-dev
	$(PYTEST) $(BY_FILE) --shapes $(SHAPED)

# What takes more than a few seconds a test: the embedded model, kills at every file operation, fuzzing.
slow: $(VENV)/ready-dev
	$(PYTEST) $(TYPED) -m slow

# A fixed tenth of the long tables of kills and hurt inputs, and every other slow test: minutes.
slow-share: $(VENV)/ready-dev
	SAEKIT_SLOW_EVERY=10 $(PYTEST) --shapes -m slow -k "not of_four and not bit_for_bit_past \
	  and not killed_outright and not to_the_agent and not twenty_kills" \
	  --ignore=tests/docs/test_python.py --ignore=tests/docs/test_adding.py

# docs/ as a site in site/: its links, its navigation and the reference are checked on the way.
docs: $(VENV)/ready-docs
	NO_MKDOCS_2_WARNING=1 "$(BIN)/python" -m mkdocs build --strict --quiet

# The same weights and inputs in saekit and in its peers; skipped where they cannot be installed.
parity:
	@if test -e "$(PEERS)/ready" || $(MAKE) "$(PEERS)/ready"; then \
	  PYTHONPATH=src:. OMP_NUM_THREADS=1 "$(PEERS)/bin/python" -m pytest -q -n auto -m parity \
	    -p no:cacheprovider tests/parity; \
	else echo "parity: skipped, for the peers could not be installed (the reason is above)"; fi

$(PEERS)/ready:
	rm -rf "$(PEERS)"
	"$(PYTHON)" -m venv "$(PEERS)"
	"$(PEERS)/bin/python" -m pip install -q -c constraints.txt ".[dev,parity]"
	"$(PEERS)/bin/python" -m pip install -q --no-deps $(WITHOUT_PINS)
	# A torchvision that was built for another torch breaks every import of transformers; no test needs it.
	"$(PEERS)/bin/python" -m pip uninstall -q -y torchvision
	rm -rf build  # what installing from a folder leaves
	touch "$@"

setup: $(VENV)/ready-dev

$(VENV)/ready: pyproject.toml constraints.txt
	test -x "$(BIN)/python" || "$(PYTHON)" -m venv "$(VENV)"
	"$(BIN)/python" -m pip install -q -c constraints.txt -e ".[lm,web,native]"
	touch "$@"

$(VENV)/ready-dev: $(VENV)/ready
	"$(BIN)/python" -m pip install -q -c constraints.txt -e ".[dev]"
	touch "$@"

$(VENV)/ready-docs: $(VENV)/ready
	"$(BIN)/python" -m pip install -q -c constraints.txt -e ".[docs]"
	touch "$@"

clean:
	rm -rf "$(VENV)" demo site .pytest_cache .ruff_cache *.egg-info
