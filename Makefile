# The two commands of the README: make demo, make test. Both create .venv and install what constraints.txt pins.
PYTHON ?= python3
# Extra options for pip when it installs torch, for example the index of CPU-only builds (README, "Installing").
TORCH_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
export ORT_DISABLE_TELEMETRY := 1

.PHONY: demo test lint slow conformance conformance-mil zoo legacy android swift fuzz faults mutations distil segmentation bench bench-rebuild \
	bench-efficientnet bench-huggingface bench-conversion bench-latency bench-latency-statistics bench-peers clean

demo: $(VENV)/.demo
	$(BIN)/edgepack demo --out pack

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist worksteal

# Longer suites than the default run.
slow: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto -m slow

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy demo_app/raspberry_pi/classify.py
	$(BIN)/mypy demo_app/android/check.py

# Compiles the Android template and runs its unit tests; needs Java 17, npm and apt.
android: $(VENV)/.dev
	$(BIN)/python demo_app/android/check.py

# The iPhone app's package, built and tested with the swift on the PATH, or with Debian's, unpacked into the cache.
swift:
	demo_app/ios/check.sh

# ONNX's own operator cases through both converters; tables in docs/conformance.md. JOBS children at a time.
JOBS ?= 2
conformance: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.conformance.node_suite --jobs $(JOBS) --write docs/conformance.md

# Node suite and random graphs through TensorFlow Lite 2.14.
legacy: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.conformance.node_suite --format tflite@2.14 --jobs $(JOBS)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz.run --graphs 2000 --seed $(SEED) --jobs $(JOBS) --format tflite@2.14

# Apple's operator tests, from the coremltools wheel, on the MIL interpreter.
conformance-mil: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.conformance_mil.apple --jobs $(JOBS) --write

# Architectures of transformers' and by hand, with small random weights, through both converters; table in docs/zoo.md.
zoo: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.zoo.run --jobs $(JOBS) --write docs/zoo.md

# Random graphs of supported operators through every backend, against float64 and onnxruntime. SEED chooses which.
SEED ?= 1
fuzz: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz.run --graphs 2000 --seed $(SEED) --jobs $(JOBS)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz.run --graphs 500 --seed $(SEED) --jobs $(JOBS) --scheme w8a8

# Faults into builds (kill -9, full disk, damaged store, hung steps, builds side by side): nothing wrong, nothing finished lost, no hang.
FAULTS ?= 220
faults: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults.run --faults $(FAULTS) --seed $(SEED) --jobs $(JOBS)

# Mutations of packs, models and manifests from strangers into inspect, run and verify: one-line errors only, nothing written outside.
MUTATIONS ?= 5000
mutations: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.mutations.run --count $(MUTATIONS) --seed $(SEED) --jobs $(JOBS)

# Retrain the digits student from scratch, deterministically.
distil: $(VENV)/.dev
	$(BIN)/python demo_app/students/digits/distil.py

# Retrain the scenes student from scratch: about 12 CPU-minutes, deterministic.
segmentation: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python demo_app/students/digit_scenes/distil.py

# What the README claims about cost: CPU-seconds of start-up and of the demo.
bench: $(VENV)/.dev
	$(BIN)/python benchmarks/cost.py

# A build of EfficientNet-Lite0 for three targets, cold and unchanged, against their bars.
bench-rebuild: $(VENV)/.dev
	$(BIN)/python benchmarks/rebuild.py

# False alarms and found slowdowns of latency comparisons on this machine; RESUME names a file that an interrupted run goes on from.
TRIALS ?= 300
bench-latency: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/latency_trials.py --trials $(TRIALS) $(if $(RESUME),--resume $(RESUME))

# Coverage of latency intervals and false alarms of the detectors, simulated: a few CPU-minutes.
bench-latency-statistics: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/latency_statistics.py

# EfficientNet-Lite0 on real photographs: what each target keeps of it, and int8 against onnxruntime's own quantization.
bench-efficientnet: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/efficientnet.py

# Exporters of Hugging Face folders compared, and what a conversion of MiniLM costs.
bench-huggingface: $(VENV)/.dev
	OMP_NUM_THREADS=1 PYTHONPATH=. $(BIN)/python benchmarks/huggingface_exporters.py

bench-conversion: $(VENV)/.dev
	OMP_NUM_THREADS=1 PYTHONPATH=. $(BIN)/python benchmarks/conversion_cost.py demo_app/students/minilm/student.py:student

# Speed of EfficientNet-Lite0 against litert-torch and litert-quantizer, which get an environment of their own (2.2 GB).
PEERS := .venv-peers
bench-peers: $(VENV)/.dev $(PEERS)/.done
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/peers/compare.py --peers $(PEERS)/bin/python

$(PEERS)/.done: benchmarks/peers/requirements.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet $(TORCH_ARGS) torch==2.13.0
	$(PEERS)/bin/python -m pip install --quiet --requirement $<
	touch $@

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
	rm -rf $(VENV) $(PEERS) pack
