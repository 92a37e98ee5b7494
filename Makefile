# Each target does its own set-up: a virtual environment in .venv, every dependency, and the native library.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
SETUP := $(VENV)/.installed
NATIVE := $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')
EMULATOR := $(wildcard tests/cuda_on_cpu/*.cpp tests/cuda_on_cpu/*.h tests/cuda_on_cpu/*.cu tests/cuda_on_cpu/*.cuh)
# The CUDA library is built for the GPUs present. The tests look into it without one too: for one architecture then.
ifeq ($(shell nvidia-smi --list-gpus 2>/dev/null),)
export TORCH_CUDA_ARCH_LIST ?= 8.0+PTX
endif

.DEFAULT_GOAL := help
CASES ?= 20000
.PHONY: help setup emulator demo reproduce test test-slow test-torch test-torches wheels compare-wheels test-wheels \
        test-wheel fuzz sanitize sanitize-slow sanitized-libraries \
        lint format docs benchmark bench-report gpu-check clean

help:
	@echo "make demo       train and compare detectors on a synthetic data set; writes runs/demo/report"
	@echo "make reproduce  which of the paper's findings show in synthetic worlds; writes docs/findings.md (2 cores: hours)"
	@echo "make test       the test suite (make test-slow: the tests that take minutes too)"
	@echo "make test-torch TORCH=2.10.0  build against another torch and run the op tests there (make test-torches: three)"
	@echo "make wheels     sdist and wheels in dist (make compare-wheels: twice, the same bytes; make test-wheels: try them)"
	@echo "make lint       ruff, mypy, clang-format (make format: apply)"
	@echo "make fuzz       random calls of every op against float64 (CASES=20000)"
	@echo "make sanitize   the op tests under AddressSanitizer and UndefinedBehaviorSanitizer (make sanitize-slow: all of them)"
	@echo "make docs       the site of docs/: build/site/index.html"
	@echo "make benchmark  time the ops beside their peers"
	@echo "make bench-report  one page of them with plots, and ratios to earlier ones (QUICK=1: seconds)"
	@echo "make gpu-check  on a machine with a GPU, no set-up needed: checks and timings there (MINUTES=15)"
	@echo "make setup      only the set-up: .venv, dependencies, native library"

setup: $(SETUP)

# pip's isolated builds do not see the installed torch, so the build's own requirements are installed first.
$(SETUP): pyproject.toml setup.py $(NATIVE)
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet "torch>=2.10" "setuptools>=77" "ninja>=1.11"
	$(RUN) -m pip install --quiet --no-build-isolation --editable ".[train,export,test,lint,docs,wheels]"
	$(RUN) -m mdnkernels
	touch $(SETUP)

# The CUDA kernels for the CPU, which many tests run: built on all cores before the tests, where a source changed.
emulator: setup
	$(RUN) -m tests.cuda_on_cpu

demo: setup
	$(RUN) -m train demo

# What is trained already is not trained again: after an interruption the same command goes on.
reproduce: setup
	$(RUN) -m train reproduce
	mkdir -p docs/findings
	cp runs/reproduce/report/findings.md docs/findings.md
	cp runs/reproduce/report/findings/*.png docs/findings/

# A process for each core, of one thread each: threads that share a core wait for one another.
PYTEST := env OMP_NUM_THREADS=1 $(RUN) -m pytest -n auto --dist worksteal
test: setup emulator
	$(PYTEST) -m "not slow" --durations 10

test-slow: setup emulator
	MDNKERNELS_TESTS=slow $(PYTEST)

# The oldest torch, the oldest for CUDA 13, and the newest that pip finds. Each has its own environment and its own build
# of the CPU library in build/torch-VERSION, and runs the op tests on it. TORCH_TESTS chooses among them. Torch 2.10.0
# and what it needs take 7 GB.
TORCH ?= 2.10.0
TORCHES := 2.10.0 2.11.0 newest
TORCH_TESTS ?= tests/ops tests/native -k "not cuda_on_cpu"
TORCH_ROOM = build/torch-$(TORCH)
TORCH_RUN = $(TORCH_ROOM)/venv/bin/python
$(TORCH_ROOM)/.installed: Makefile
	test -x $(TORCH_RUN) || $(PYTHON) -m venv $(TORCH_ROOM)/venv
	$(TORCH_RUN) -m pip install --quiet torch$(if $(filter newest,$(TORCH)),,==$(TORCH)) "numpy>=1.24" "setuptools>=77" "ninja>=1.11" \
	    "hypothesis>=6.100" "mpmath>=1.3" "pybind11>=2.12" "pytest>=8.0" "pytest-xdist>=3.5"
	touch $@

test-torch: $(TORCH_ROOM)/.installed
	MDNKERNELS_BUILD_CUDA=0 $(TORCH_RUN) setup.py -q build_ext --build-lib $(TORCH_ROOM) --build-temp $(TORCH_ROOM)/objects
	MDNKERNELS_LIBRARY=$(CURDIR)/$(TORCH_ROOM)/mdnkernels/native/libmdnkernels_cpu.so $(TORCH_RUN) -c \
	    'import torch, mdnkernels.native as native; assert native.problem is None, native.problem; print("torch", torch.__version__)'
	MDNKERNELS_LIBRARY=$(CURDIR)/$(TORCH_ROOM)/mdnkernels/native/libmdnkernels_cpu.so OMP_NUM_THREADS=1 \
	    $(TORCH_RUN) -m pytest -n auto --dist worksteal -m "not slow" $(TORCH_TESTS)

test-torches:
	for version in $(TORCHES); do $(MAKE) test-torch TORCH=$$version || exit 1; done

# What is handed on, in dist: the CUDA library for all GPUs, where nvcc is. Each wheel is tried in a fresh environment of
# each Python with each torch, one at a time: 7 GB. `test-wheel` is quick: it takes torch from test-torch's environment.
KINDS ?= sdist cpu $(if $(shell command -v nvcc || ls /usr/local/cuda/bin/nvcc 2>/dev/null),cuda)
PYTHONS ?= python3.11 python3.12
ANY_GPU := $(if $(filter file,$(origin TORCH_CUDA_ARCH_LIST)),env -u TORCH_CUDA_ARCH_LIST)
wheels: setup
	rm -rf dist
	$(ANY_GPU) $(RUN) wheels/build.py $(KINDS) --check

compare-wheels: setup
	$(ANY_GPU) $(RUN) wheels/compare.py $(KINDS)

test-wheels:
	$(RUN) wheels/trial.py --python $(PYTHONS) --torch $(TORCHES) --train

test-wheel: setup $(TORCH_ROOM)/.installed
	rm -rf build/wheel
	$(RUN) wheels/build.py cpu --output build/wheel
	$(RUN) wheels/trial.py --wheels build/wheel --python $(TORCH_RUN) --packages $(TORCH_ROOM)/venv/lib/python*/site-packages \
	    --tests tests/ops/test_topk_peaks.py tests/native/test_memory.py --chosen "native or memory"

fuzz: setup
	$(RUN) -m tests.ops.fuzz --cases $(CASES)

# The native library, and the CUDA kernels on the CPU, with AddressSanitizer and UndefinedBehaviorSanitizer, under the
# tests of the ops and of the image kernels and some fuzzing. Leaks are not looked for: Python and torch keep much until
# they end. Memory is not recycled, so that each output has its borders. tests/cuda_on_cpu compiles its kernels with the
# flags that it finds. UNSANITIZED names the tests that run no native code, or none that others do not run too: graphs
# and their compilers, processes of one SIMD level, eager. `sanitize` also leaves out the CUDA kernels in other orders of
# threads, which reach the same memory; sanitize-slow has them, on all seeds, and all random cases.
SANITIZE := -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
SANITIZER_FLAGS := CXXFLAGS="$(SANITIZE) -g1 -O1" LDFLAGS="$(SANITIZE)"
SANITIZED := env $(SANITIZER_FLAGS) MDNKERNELS_LIBRARY=build/sanitize/mdnkernels/native/libmdnkernels_cpu.so ASAN_OPTIONS=detect_leaks=0 MDNKERNELS_CACHE_MB=0 \
	LD_PRELOAD="$$($${CXX:-c++} -print-file-name=libasan.so) $$($${CXX:-c++} -print-file-name=libstdc++.so)"
SANITIZED_TESTS := tests/ops tests/native tests/cuda_on_cpu tests/train/data/test_images.py tests/train/data/test_colour.py
UNSANITIZED := not compile and not export and not level and not whole_range and not ptxas and not -eager]
sanitize: sanitized-libraries
	$(SANITIZED) $(PYTEST) $(SANITIZED_TESTS) -m "not slow" -k "$(UNSANITIZED) and not every_order" --durations 10
	$(SANITIZED) $(RUN) -m tests.ops.fuzz --cases 2000

sanitize-slow: sanitized-libraries
	MDNKERNELS_TESTS=slow $(SANITIZED) $(PYTEST) $(SANITIZED_TESTS) -k "$(UNSANITIZED) and not every_float32 and not spills and not test_large"
	$(SANITIZED) $(RUN) -m tests.ops.fuzz --cases $(CASES)

sanitized-libraries: setup
	MDNKERNELS_BUILD_CUDA=0 $(SANITIZER_FLAGS) $(RUN) setup.py -q build_ext --build-lib build/sanitize --build-temp build/sanitize-objects
	$(SANITIZED) $(RUN) -m tests.cuda_on_cpu

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/clang-format --dry-run --Werror $(NATIVE) $(EMULATOR)

format: setup
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .
	$(VENV)/bin/clang-format -i $(NATIVE) $(EMULATOR)

# Links, anchors and references that lead nowhere are errors. The blocks of code run in `make test` (tests/docs).
docs: setup
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --quiet
	@echo build/site/index.html

benchmark: setup
	$(RUN) -m pytest benchmarks --benchmark-only --benchmark-columns=median,min,rounds -s

# Ten minutes on two quiet cores. OUTPUT=DIR, QUICK=1; earlier reports of DIR are kept and compared with.
bench-report: setup
	$(RUN) -m benchmarks.report $(if $(QUICK),--quick) $(if $(OUTPUT),--output $(OUTPUT))

# Needs no set-up: it builds for the GPU at hand with the Python that is there, unless TORCH_CUDA_ARCH_LIST came from
# outside. MINUTES=8 OUTPUT=DIR.
MINUTES ?= 15
gpu-check:
	$(if $(filter file,$(origin TORCH_CUDA_ARCH_LIST)),env -u TORCH_CUDA_ARCH_LIST )$(if $(wildcard $(RUN)),$(RUN),$(PYTHON)) \
	    -m benchmarks.gpu_check --minutes $(MINUTES) $(if $(OUTPUT),--output $(OUTPUT))

clean:
	rm -rf $(VENV) build *.egg-info mdnkernels/native/*.so
