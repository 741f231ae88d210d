# make demo | test | test-fast | bench | lint | lock        (see README.md)
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO_STAMP := $(VENV)/.installed-demo
ARGS ?=
# Two tests at a time; the guest and the browser take one of the two places each.
PARALLEL ?= -n 2 --dist worksteal

.PHONY: demo test test-fast bench lint lock setup apt-test clean

setup: $(STAMP)

# $(call install,LOCK): a virtual environment with what a lock file names, and this checkout in it.
define install
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Outrider needs Python 3.11 or newer; set PYTHON=/path/to/python3" >&2; exit 69; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || tests/tools/apt-install python3-venv
	@echo "installing $(1) into $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r $(1)
	@$(BIN)/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e . --config-settings editable_mode=compat
	@touch $@
endef

$(STAMP): requirements/dev.txt pyproject.toml
	$(call install,requirements/dev.txt)
	@touch $(DEMO_STAMP)

$(DEMO_STAMP): requirements/all.txt pyproject.toml
	$(call install,requirements/all.txt)

demo: $(DEMO_STAMP)
	@$(BIN)/python -m outrider demo $(ARGS)

apt-test:
	@tests/tools/apt-install user-mode-linux can-utils iproute2 kmod chromium chromium-driver \
		qemu-system-x86 busybox-static \
		qemu-system-arm u-boot-qemu u-boot-tools device-tree-compiler libubootenv-tool mtools dosfstools fdisk e2fsprogs \
		erofs-utils grub-common softhsm2 zstd

test: setup apt-test lint
	OUTRIDER_GUEST=1 OUTRIDER_BROWSER=1 $(BIN)/python -m pytest $(PARALLEL) $(ARGS)

test-fast: setup
	OUTRIDER_FAST=1 $(BIN)/python -m pytest -m "not guest and not kernel_isotp and not car and not browser and not slow" $(PARALLEL) $(ARGS)

bench: setup apt-test
	$(BIN)/python -m bench $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Needs the uv command; the lock files name no index.
LOCK := uv pip compile -q --generate-hashes --universal --python-version 3.11 --no-emit-index-url --no-header pyproject.toml
lock:
	$(LOCK) --all-extras -o requirements/dev.txt
	$(LOCK) -c requirements/dev.txt -o requirements/vehicle.txt
	$(LOCK) --extra build --extra cloud --extra sim --extra dbc --extra tester -c requirements/dev.txt -o requirements/all.txt

clean:
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
