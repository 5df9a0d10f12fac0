# Two commands matter: `make demo` and `make test`. Each sets up the environment in .venv when it is not there yet.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test long-test cluster-test check audit format lock clean

demo: $(READY)
	$(BIN)/lookbeyond demo

test: $(READY)
	$(BIN)/python -m pytest -m "not long" --numprocesses 2 --dist loadfile --no-loadscope-reorder

# Whole scenarios of trainings on Ray, of which `make test` has the shorter ones: ten minutes more.
long-test: $(READY)
	$(BIN)/python -m pytest -m long

# Real clusters: jobs, three hosts from `ray up` to `ray down`, an autoscaled one, the demo on S3. Root and three quarters of an hour.
cluster-test: $(READY)
	@tests/cluster_lab/apart $(BIN)/python -m pytest -s tests/cluster_lab/lab_jobs.py || [ $$? = 77 ]
	@tests/cluster_lab/apart $(BIN)/python -m pytest -s tests/cluster_lab/lab_aws.py || [ $$? = 77 ]
	@tests/cluster_lab/apart $(BIN)/python -m pytest -s tests/cluster_lab/lab_hosts.py || [ $$? = 77 ]
	@tests/cluster_lab/apart $(BIN)/python -m pytest -s tests/cluster_lab/lab_autoscaling.py || [ $$? = 77 ]
	@tests/cluster_lab/apart $(BIN)/python -m pytest -s tests/cluster_lab/lab_s3.py || [ $$? = 77 ]

# An advisory appears without a change of the code, so it is shown and fails only `make audit`.
check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	@.ci/audit $(BIN)/python || echo "known vulnerabilities, or the audit failed: see above"

audit: $(READY)
	.ci/audit $(BIN)/python

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Written anew when pyproject.toml changes; names no registry, so it works with any mirror. The second is what a machine
# of a cluster runs: the same versions, without what only develops.
lock: $(READY)
	$(BIN)/python -m uv pip compile pyproject.toml --extra dev --extra offline --extra onnx --universal --python-version 3.11 --no-header \
		--generate-hashes --no-emit-index-url --no-emit-find-links --quiet --output-file requirements.lock
	$(BIN)/python -m uv pip compile pyproject.toml --extra gpu --extra aws --extra gcp --constraint requirements.lock \
		--python-version 3.11 --python-platform x86_64-manylinux_2_28 --no-header --generate-hashes --no-emit-index-url \
		--no-emit-find-links --no-annotate --quiet --output-file clusters/requirements.lock

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache
