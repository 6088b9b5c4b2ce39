# turboquant: `make run` shows it, `make test` proves it. Everything slow happens once; its results
# live in build/ and in ${TURBOQUANT_CACHE:-~/.cache/turboquant}.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory --no-builtin-rules

PROMPT ?= Explain in simple words what the key-value cache of a language model is and why it grows.
KV ?= balanced
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
RELEASE_DIR := build/release

.PHONY: help setup packages llama_cpp model build run test bench clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z_]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "  Variables: PROMPT=... KV=... JOBS=n TURBOQUANT_CACHE=dir TURBOQUANT_LLAMA_CPP_DIR=checkout"

packages:
	@tools/setup/packages

llama_cpp: packages
	@tools/setup/llama_cpp

model: packages
	@tools/setup/model >/dev/null

setup: packages llama_cpp model ## Install packages, build llama.cpp, fetch the small model (once)

# $(call configure_and_build,PRESET,EXTRA CMAKE OPTIONS)
define configure_and_build
	@echo "[build] preset $(1)"
	@cmake --preset $(1) --log-level=WARNING \
	  -DTURBOQUANT_LLAMA_CPP_DIR="$$(tools/setup/llama_cpp --print-source)" $(2)
	@cmake --build --preset $(1) -j $(JOBS)
endef

build: setup ## Build the plugin and the command line tool into build/release
	$(call configure_and_build,release,)

run: build ## Generate text on stock llama.cpp with a compressed KV cache; memory, speed, loss next to f16
	@echo "[run] stock llama.cpp, SmolLM2-135M-Instruct, KV cache: $(KV)"
	@$(RELEASE_DIR)/cli/turboquant run -m "$$(tools/setup/model --print-path)" \
	  --llama-bin "$$(tools/setup/llama_cpp --print-bin)" \
	  --kv "$(KV)" -n 160 -c 4096 -p "$(PROMPT)"
	@echo
	@echo "[run] loss on 1024 tokens of README.md: KL divergence (KLD) from f16, 0 is none; beside stock q4_0"
	@bench/quality.py -m "$$(tools/setup/model --print-path)" \
	  --llama-bin "$$(tools/setup/llama_cpp --print-bin)" \
	  --corpus README.md -c 1024 --chunks 1 "$(KV)" q4_0

test: setup ## Build everything and run all tests
	$(call configure_and_build,ci,-DTURBOQUANT_REQUIRE_HOST=ON)
	@ctest --preset ci -j $(JOBS)

bench: build ## Measure the kernels and one layer's attention beside f16
	@$(RELEASE_DIR)/cli/turboquant bench kernels
	@$(RELEASE_DIR)/cli/turboquant bench attention

clean: ## Remove build/ (the cache of llama.cpp and models stays)
	rm -rf build
