# Everything runs in .venv, which the first command makes. PYTHON picks the interpreter: 3.11 or newer.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready

.PHONY: demo test test-fast lint benchmarks clean

demo: $(READY)
	$(RUN) examples/form_digits.py $(ARGS)

test: $(READY)
	$(RUN) -m pytest $(ARGS)

test-fast: $(READY)
	$(RUN) -m pytest -m "not slow" $(ARGS)

lint: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

benchmarks: $(READY)
	$(RUN) benchmarks/optimizers.py
	$(RUN) benchmarks/decoder.py

# torch and torchvision come in the same step as all else, so that pip picks releases that match.
$(READY): setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "blackvip needs Python 3.11 or newer; found $$($(PYTHON) --version). Use: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $(READY)

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache
