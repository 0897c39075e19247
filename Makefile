# The README's commands: `make up` (a running mesh) and `make test`. Everything else is for developers.
VENV ?= .venv
BIN := $(VENV)/bin
# Tests of the parts wait more than they compute; of those of whole meshes two run at a time.
JOBS ?= 4
MESHES ?= 2
# In this order: most files of tests/cluster share a mesh, which works on until the last test once it is there.
WHOLE := tests/faults tests/attacks tests/gpu tests/cluster
FUZZ ?= 60
CASES ?= 100000
# Where `make compiled` puts the packages with their compiled modules, for the benches.
COMPILED ?= build/compiled
# Where `make install` links the commands: below $(PREFIX)/bin.
PREFIX ?= /usr/local
COMMANDS := bridgectl bridge-agent bridge-registry bridge-engine
export VENV
# Each of a mesh's twenty processes would translate a few hundred modules anew at its start.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help up down status install uninstall setup setup-dev compile pure check lint types layers dependencies audit protos-check protos etcd-protos test test-compiled wheel compiled unit fuzz policies mutants bench bench-quick package deb images audit-edits lock clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 16

setup: ## everything that runs the Bridge, into $(VENV)
	@tools/setup.sh run

setup-dev:
	@tools/setup.sh dev

compile: ## compile what runs for every request, for `make up` and `make install` here (a C compiler; minutes)
	@tools/setup.sh compiled

pure: ## run the sources as they are again
	@tools/setup.sh pure

up: setup ## set up, then start a mesh of three nodes on this machine
	@$(BIN)/bridgectl up $(UP)

down: ## stop what `make up` started
	@$(BIN)/bridgectl down $(UP)

status: ## how the mesh is, and what of it runs here
	@$(BIN)/bridgectl status $(UP)

install: setup ## put the four commands on PATH: links in $(PREFIX)/bin (PREFIX=/usr/local)
	@mkdir -p $(DESTDIR)$(PREFIX)/bin
	@for name in $(COMMANDS); do \
	  link=$(DESTDIR)$(PREFIX)/bin/$$name; \
	  if [ -e $$link ] && [ ! -L $$link ]; then \
	    echo "$$link is there and not a link of ours: move it away, then run this again" >&2; exit 1; fi; \
	  ln -sfn $(abspath $(BIN))/$$name $$link; echo "linked $$link to $(abspath $(BIN))/$$name"; \
	done

uninstall: ## remove the links that `make install` made
	@for name in $(COMMANDS); do \
	  link=$(DESTDIR)$(PREFIX)/bin/$$name; \
	  if [ "$$(readlink $$link)" = $(abspath $(BIN))/$$name ]; then rm $$link; echo "removed $$link"; fi; \
	done

# What failed is run once more, alone, and both results stay in the output (tests/README.md, "On a busy machine").
# `--last-failed` with nothing that had failed ends with 5: a run that broke off is no success.
define tested
$(BIN)/python -m pytest $(1) $(2) $(T) || { [ $$? -eq 1 ] && echo 'Once more, alone, what failed:' && \
  $(BIN)/python -m pytest --last-failed --last-failed-no-failures none $(2) $(T); }
endef

test: setup-dev ## set up, then run every test
	$(call tested,-n $(JOBS) --dist loadfile,tests/unit tests/contract tests/scenarios tests/browser)
	$(call tested,-n $(MESHES) --dist loadfile --no-loadscope-reorder,$(WHOLE))

wheel: setup-dev ## a wheel in dist/: compiled where a C compiler is (BRIDGE_COMPILE=yes: or none at all; no: pure)
	$(BIN)/python -m pip --disable-pip-version-check wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	@ls dist

# Made anew when a source is newer; fails where there is no compiler.
$(COMPILED)/.made: pyproject.toml tools/compile_hot_path.py tools/build_hook.py $(shell find agent core registry engine cli protos -name '*.py')
	rm -rf $(COMPILED) $(COMPILED)-wheel
	BRIDGE_COMPILE=yes $(BIN)/python -m pip --disable-pip-version-check wheel --quiet --no-deps --no-build-isolation --wheel-dir $(COMPILED)-wheel .
	$(BIN)/python -m zipfile -e $(COMPILED)-wheel/*.whl $(COMPILED)
	touch $@

compiled: setup-dev $(COMPILED)/.made ## the packages with their compiled modules, into $(COMPILED)

# Not a part of `make test`: compiling takes minutes.
test-compiled: compile ## every test on what `make compile` installs here; `make pure` goes back to the sources
	$(BIN)/bridge-agent --version | grep compiled
	$(MAKE) test

unit: setup-dev ## only the tests that start no process
	$(BIN)/python -m pytest tests/unit $(T)

check: setup-dev lint types layers dependencies protos-check ## style, types, layers, dependencies, generated code

lint:
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types:
	$(BIN)/mypy

layers:
	$(BIN)/lint-imports
	$(BIN)/python tools/import_cycles.py

dependencies:
	$(BIN)/python tools/audit_dependencies.py

audit: ## ask a database of advisories about the locked packages (needs pip-audit and a network)
	pip-audit --strict --require-hashes --disable-pip -r requirements/run.txt

fuzz: setup-dev ## hostile bytes at every decoder, FUZZ seconds each
	$(BIN)/python tools/fuzz.py --seconds $(FUZZ)

policies: setup-dev ## 100,000 random questions to the policies, beside a simple reference and Cedar
	BRIDGE_POLICY_CASES=$(CASES) $(BIN)/python -m pytest --timeout 1800 tests/unit/test_policy_reference.py tests/unit/test_policy_cedar.py $(T)

mutants: setup-dev ## change the rules, one comparison at a time: do the tests notice?
	$(BIN)/python tools/mutate.py $(M)

protos-check:
	tools/protos.sh --check
	tools/etcd_protos.sh --check

protos: setup-dev ## generate the protobuf, gRPC and Connect stubs
	tools/protos.sh

etcd-protos: setup-dev ## generate the stubs of etcd's API
	tools/etcd_protos.sh

bench: setup-dev ## measure against nginx and Envoy, into bench/RESULTS.md
	$(BIN)/python -m bench $(B)

bench-quick: setup-dev ## the headline figures beside Envoy, in turns (Q='--turns 3 --of before=DIR --of after=.')
	$(BIN)/python -m bench.quick $(Q)

package: setup-dev ## wheels (pure, and compiled where a compiler is), sdist, checksums of the last commit: dist/
	@tools/package.sh

deb: setup-dev ## a Debian package of the last commit in dist/, for the system's Python (PYTHON=/usr/bin/python3)
	@tools/deb.sh

images: ## container images of the last commit, by buildah, podman or docker (tools/images.sh: BASE=debian, COMPILE=no, …)
	@tools/images.sh

audit-edits: setup-dev ## edit every byte of an audit log, one at a time: is each edit found?
	$(BIN)/python -m bench audit-edits

lock: ## renew requirements/*.txt (needs uv)
	tools/lock.sh

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
