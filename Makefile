# make demo, make test: each alone on a fresh clone. PYTHON chooses the interpreter that .venv/ is made from.
PYTHON ?= python3
BIN := .venv/bin
# The tests that run once per instruction set.
KERNEL_TESTS = $(shell grep -rlw isa --include='test_*.py' tests)
CLANG_FORMATTED = $(shell git ls-files '*.cpp' '*.h' '*.cu' '*.cuh')
# The gpu-* targets run on the interpreter named by PYTHON=, as it is, or else on .venv/; results go to OUT=.
OUT ?= benchmarks/results
GPU_PYTHON := $(if $(filter file,$(origin PYTHON)),$(BIN)/python,$(PYTHON))
GPU_READY := $(if $(filter file,$(origin PYTHON)),.venv/requirements-dev)

.PHONY: demo test wheel test-installed test-integrations docs notebooks bench build lint format fuzz kill kernels kernels-arm cross sanitize peers gpu gpu-device gpu-build gpu-test \
  gpu-bench gpu-sanitize gpu-compile clean

demo: build
	$(BIN)/python -m sparsekern demo

test: build .venv/requirements-dev
	$(BIN)/python -m pytest -n 2

bench: build .venv/requirements-dev
	$(BIN)/python -m benchmarks.cpu
	$(BIN)/python -m pytest benchmarks

# ---- set-up

build: .venv/requirements build/extension $(BIN)/sparsekern

.venv/requirements: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "sparsekern needs Python 3.10 or newer: make PYTHON=...")'
	$(PYTHON) -m venv .venv
	@echo "Installing PyTorch and what else requirements.txt names into .venv/: some minutes, 6 GB"
	$(BIN)/python -m pip install -q -r $<
	touch $@

.venv/requirements-dev: requirements-dev.txt .venv/requirements
	$(BIN)/python -m pip install -q -r $<
	touch $@

# Incremental: ninja recompiles what changed.
build/extension: .venv/requirements setup.py $(shell find csrc -type f)
	$(BIN)/python setup.py -q build_ext --inplace
	touch $@

# The kernels lie in the checkout already, so they are not compiled again here.
$(BIN)/sparsekern: .venv/requirements pyproject.toml Makefile
	SPARSEKERN_CPP=0 $(BIN)/python -m pip install -q --no-build-isolation --no-deps \
	  --config-settings editable_mode=compat -e .
	touch $@

# ---- checks

lint: .venv/requirements-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/clang-format --dry-run -Werror $(CLANG_FORMATTED)

format: .venv/requirements-dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/clang-format -i $(CLANG_FORMATTED)

# An environment on top of .venv/, made anew.
define environment
rm -rf $(1)
$(BIN)/python -m venv $(1)
$(BIN)/python -c 'import site; print(site.getsitepackages()[0])' > $$(echo $(1)/lib/python3*/site-packages)/below.pth
endef

# The wheel of this Python on this Linux, in dist/, as cibuildwheel makes them (pyproject.toml): no CUDA kernels, no torch.
wheel: build build/wheels/ready
	rm -rf dist build/wheels/raw build/lib build/lib.*
	SPARSEKERN_CUDA=0 $(BIN)/python -m pip wheel -q --no-build-isolation --no-deps -w build/wheels/raw .
	PATH="$(CURDIR)/build/wheels/bin:$$PATH" auditwheel repair --exclude 'libtorch*' --exclude 'libc10*' -w dist build/wheels/raw/*.whl

# The package as it installs, seen from another folder: as a wheel, and without compiled kernels.
INSTALLED = cd build && installed/bin/python
test-installed: wheel .venv/requirements-dev
	$(call environment,build/installed)
	build/installed/bin/python -m pip install -q --no-deps --ignore-installed dist/*.whl
	$(INSTALLED) -c "from sparsekern import ops; print(ops.__file__); assert ops.extension and ops.backend.autograd_extension"
	cd build && installed/bin/sparsekern train --model lenet300 --epochs 1 --out installed/run
	$(INSTALLED) -m pytest -n 2 ../tests/nn/test_sparse_layer.py
	rm -rf build/plain build/lib build/lib.*
	SPARSEKERN_CPP=0 $(BIN)/python -m pip install -q --no-build-isolation --no-deps --target build/plain .
	cd build && PYTHONPATH=plain ../$(BIN)/python -c "from sparsekern import ops; print(ops.__file__); assert not ops.extension"
	SPARSEKERN_CPP=0 PYTHONPATH=build/plain $(BIN)/pytest -n 2 $(KERNEL_TESTS)

# Other packages beside ours.
test-integrations: build build/integrations/ready
	build/integrations/bin/python -m pytest tests/integrations

# The documentation as a site, in build/site/html: warnings are errors. Nothing is fetched once the packages are there.
docs: build build/docs/ready
	build/docs/bin/python -m docs.site
	cd build/site && ../docs/bin/zensical build --clean --strict

# The notebooks with their outputs, as they are committed.
notebooks: build build/docs/ready
	build/docs/bin/python -m docs.site.notebooks

# Such an environment with the packages of a requirements file of its name.
build/%/ready: requirements-%.txt .venv/requirements-dev
	$(call environment,$(@D))
	$(@D)/bin/python -m pip install -q -r $<
	touch $@

# The kernels, and the CUDA sources as serial code, under the address and undefined-behaviour sanitizers; then the
# kernels on threads of their own under the thread sanitizer, which finds no address space where it is randomized.
SANITIZED = $(filter-out tests/nn/test_crossovers.py,$(sort $(KERNEL_TESTS) $(wildcard tests/ops/test_window.py tests/ops/test_malformed.py tests/ops/test_*_sample.py tests/ops/test_random_subset.py tests/ops/test_sampled_*.py)))  # which may load MKL past the sanitizers
sanitize: .venv/requirements-dev
	SANITIZE=address,undefined $(BIN)/python setup.py -q build --build-lib build/address/lib --build-temp build/address/temp
	PYTHONPATH=build/address/lib ASAN_OPTIONS=detect_leaks=0 \
	LD_PRELOAD="$$(c++ -print-file-name=libasan.so) $$(c++ -print-file-name=libstdc++.so)" \
	SANITIZE=address,undefined $(BIN)/pytest -s -n 2 $(SANITIZED) tests/ops/test_cuda_serial.py
	SANITIZE=thread $(BIN)/python setup.py -q build --build-lib build/thread/lib --build-temp build/thread/temp
	PYTHONPATH=build/thread/lib OMP_NUM_THREADS=1 TSAN_OPTIONS=ignore_noninstrumented_modules=1 \
	LD_PRELOAD="$$(c++ -print-file-name=libtsan.so)" \
	setarch -R $(BIN)/pytest -s -n 2 $(SANITIZED)

# Generated cases against dense twins, until one fails: FOR= seconds, five minutes by default, or N= cases of each guard.
# Runs that are killed and resumed. Both end with the line that runs a failed case again.
FOR ?= 300
GUARDS = PYTHONPATH=$(CURDIR):$(CURDIR)/tests $(BIN)/python -m guards $(if $(N),--cases $(N),--seconds $(FOR))
fuzz: build .venv/requirements-dev
	$(GUARDS)

kill: build .venv/requirements-dev
	$(GUARDS) kills

# The vector kernels against plain loops, on every instruction set of this processor, and for aarch64 under emulation.
kernels:
	$(MAKE) -s -j2 -C tests/kernels

kernels-arm:
	.ci/aarch64 $(MAKE) -s -j2 -C tests/kernels BUILD=../../build/kernels-arm

# Everything for aarch64.
cross: .venv/requirements kernels-arm
	.ci/aarch64 .ci/cross $(BIN)/python

# ---- what the benchmarks compare with

peers: .venv/requirements
	$(BIN)/python -m pip install wheel==0.48.0 backpack-for-pytorch==1.7.1
	$(BIN)/python -m pip install --no-build-isolation --no-deps sparseprop==0.1.14 mkl==2026.2.0

# ---- on a machine with a GPU: PYTHON=python3 takes an interpreter that already has torch, and no network

gpu: gpu-device
	$(MAKE) gpu-build
	$(MAKE) gpu-test; tested=$$?; $(MAKE) gpu-bench && exit $$tested

gpu-device: $(GPU_READY)
	@$(GPU_PYTHON) -c 'import sys, torch; sys.exit(None if torch.cuda.is_available() else "there is no CUDA device")'

gpu-build: $(GPU_READY)
	$(GPU_PYTHON) setup.py -q build_ext --inplace

# What has passed is not run again until something changes.
gpu-test: gpu-device
	$(GPU_PYTHON) -m benchmarks.gpu_tests --out $(OUT)

gpu-bench: gpu-device
	$(GPU_PYTHON) -m benchmarks.gpu --out $(OUT)

# The samples of every kernel under compute-sanitizer.
gpu-sanitize: gpu-device
	@command -v compute-sanitizer >/dev/null || { echo "compute-sanitizer of the CUDA toolkit is not on the PATH"; false; }
	PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --target-processes all --error-exitcode 1 \
	$(GPU_PYTHON) -m pytest tests/ops/test_triton.py tests/ops/test_ops.py -k "against_dense and (test_triton or cuda)"

# Needs no GPU: every configuration of every Triton kernel, compiled for three generations of cards.
gpu-compile: $(GPU_READY)
	$(GPU_PYTHON) -m benchmarks.compilation --all --out benchmarks/results

clean:
	rm -rf .venv build dist sparsekern/_*.so *.egg-info
