# Every target works from a fresh clone. PYTHON chooses the interpreter: make test PYTHON=python3.12
PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2

# One thread a process: pytest-xdist already uses the cores. Where there is a compiler, the compiled
# operators must be the ones that are tested.
HAVE_CXX := $(shell command -v "$${CXX:-g++}" >/dev/null 2>&1 && echo 1 || echo 0)
TEST_ENV = OMP_NUM_THREADS=1 MASKRCNN_REQUIRE_OPS=$(HAVE_CXX)
BIN = $(VENV)/bin

.PHONY: help demo ablation test test-slow test-all test-compat lint format asan docs licences wheel release clean

help:
	@echo "make demo         install into $(VENV), train and evaluate a small model (under 10 minutes)"
	@echo "make ablation     RoIPool, RoIWarp, RoIAlign at strides 16 and 32, 3 seeds (under an hour); FULL=1: every row"
	@echo "make test         the test suite; make test-slow the full-size checks, make test-all both"
	@echo "make lint         ruff, mypy --strict, clang-format; make format applies the formatters"
	@echo "make asan         the operator tests under AddressSanitizer"
	@echo "make docs         the site, in build/site, without a network; make licences the table of docs/licences.md"
	@echo "make wheel        one wheel for every Python >= 3.10 and torch >= 2.10, in dist/"
	@echo "make test-compat  build against the oldest torch, run the operator tests in newer ones"
	@echo "make release      sdist and wheel, each tried beside the oldest and the newest torch"
	@echo "make clean        remove what the other targets made"

# A stamp per set of extras; pip runs again only when the package's declaration changes.
$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml setup.py | $(BIN)/python
	$(BIN)/python -m pip install -e .
	@touch $@

$(VENV)/.installed-%: pyproject.toml setup.py | $(BIN)/python
	$(BIN)/python -m pip install -e '.[$*]'
	$(if $(filter test,$*),-$(BIN)/python -m pip install --no-deps openvino)
	@touch $@ $(VENV)/.installed

demo: $(VENV)/.installed
	$(BIN)/maskrcnn demo

# Table 2c's core rows and table 2d of the Mask R-CNN paper on generated shapes.
ablation: $(VENV)/.installed
	$(BIN)/maskrcnn ablate table2c_demo $(if $(FULL),--full)
	$(BIN)/maskrcnn ablate table2d_demo $(if $(FULL),--full)

test: $(VENV)/.installed-test
	$(TEST_ENV) $(BIN)/python -m pytest -n $(JOBS) -m "not slow"

# The large ones one after the other, each with all cores: a comparison in float64 at full size takes up to 14 GB.
test-slow: $(VENV)/.installed-test
	failed=0; \
	$(TEST_ENV) $(BIN)/python -m pytest -n $(JOBS) -m "slow and not large" || failed=1; \
	MASKRCNN_REQUIRE_OPS=$(HAVE_CXX) $(BIN)/python -m pytest -n 0 -m "slow and large" || failed=1; \
	exit $$failed

test-all: test test-slow

lint: $(VENV)/.installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict maskrcnn
	find csrc -type f | xargs $(BIN)/clang-format --dry-run -Werror

format: $(VENV)/.installed-lint
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .
	find csrc -type f | xargs $(BIN)/clang-format -i

# AddressSanitizer must be the first library of the process, hence LD_PRELOAD. Python leaks on purpose.
asan: $(VENV)/.installed-test
	MASKRCNN_SANITIZE=address MASKRCNN_CACHE=$(CURDIR)/.cache/asan MASKRCNN_REQUIRE_OPS=1 \
	ASAN_OPTIONS=detect_leaks=0:strict_init_order=1 \
	LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so)" \
	$(BIN)/python -m pytest tests/layers tests/modeling/roi/test_mask_targets.py tests/native/test_library.py -m "not slow"

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

licences: $(VENV)/.installed-test $(VENV)/.installed-docs $(VENV)/.installed-lint
	$(BIN)/python tools/licences.py docs/licences.md

wheel: $(VENV)/.installed
	PYTHON=$(BIN)/python tools/build_wheel.sh

test-compat:
	PYTHON=$(PYTHON) tools/test_compat.sh

release:
	PYTHON=$(PYTHON) tools/release.sh

clean:
	rm -rf $(VENV) build dist .cache *.egg-info maskrcnn/native/_ops_*
