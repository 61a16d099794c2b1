# The two commands of the README: make demo, make test. Both create .venv and install what constraints.txt pins.
PYTHON ?= python3
# Extra options for pip when it installs torch, for example the index of CPU-only builds (README, "Installing").
TORCH_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
export ORT_DISABLE_TELEMETRY := 1

.PHONY: demo test lint slow conformance conformance-mil distil bench bench-efficientnet clean

demo: $(VENV)/.demo
	$(BIN)/edgepack demo --out pack

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto

# Longer suites than the default run.
slow: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto -m slow

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# ONNX's own operator cases through both converters; tables in docs/conformance.md. JOBS children at a time.
JOBS ?= 2
conformance: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.conformance.node_suite --jobs $(JOBS) --write docs/conformance.md

# Apple's operator tests, from the coremltools wheel, on the MIL interpreter.
conformance-mil: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.conformance_mil.apple --jobs $(JOBS) --write

# Retrain the digits student from scratch, deterministically.
distil: $(VENV)/.dev
	$(BIN)/python demo_app/students/digits/distil.py

# What the README claims about cost: CPU-seconds of start-up and of the demo.
bench: $(VENV)/.dev
	$(BIN)/python benchmarks/cost.py

# EfficientNet-Lite0 on real photographs: what each target keeps of it, and int8 against onnxruntime's own quantization.
bench-efficientnet: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/efficientnet.py

# torch comes first and exactly: any range lets pip choose a CUDA build of several GB.
$(VENV)/.torch: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet $(TORCH_ARGS) torch==2.13.0
	touch $@

$(VENV)/.demo: $(VENV)/.torch pyproject.toml
	$(PIP) install --quiet --constraint constraints.txt --editable '.[torch]'
	touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(PIP) install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) pack
