# Two commands do everything: `make up` and `make test`. Both install what is missing first.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help up build engine test test-full fuzz bench bench-planner bench-gateway tidy

export PATH := $(HOME)/.cargo/bin:$(PATH)

# Flags for `galerne up`, for example: make up ARGS="--listen 127.0.0.1:9000"
ARGS ?=

# The C++ of the engine is the longest part of a build: ccache keeps it across `cargo clean` and clones.
ifneq ($(shell command -v ccache 2>/dev/null),)
export CMAKE_C_COMPILER_LAUNCHER ?= ccache
export CMAKE_CXX_COMPILER_LAUNCHER ?= ccache
endif

# Of the engine's fourteen CPU variants, the eight that workers use: 507 instead of 823 seconds of CPU time for this part.
export CMAKE_PROJECT_INCLUDE ?= $(CURDIR)/make/engine-variants.cmake

# Its make and ninja take this many jobs; cargo's own parallelism does not reach them.
export CMAKE_BUILD_PARALLEL_LEVEL ?= $(shell nproc)

help:
	@echo "make up          install what is missing, build, start Galerne with a model served (ARGS=\"…\" for flags)"
	@echo "make test        install what is missing, check, build, run all tests"
	@echo "make test-full   the same, and what takes long"
	@echo "make bench       the promised figures, measured here; fails if one is missed"
	@echo "make bench-planner  the planner against published figures and peers (DATA=folder OUT=folder ONLY=b1,b3, all optional)"
	@echo "make bench-gateway  the gateway against its peers, in one run (ONLY=plain,killed PEERS=galerne,smg ROUNDS=5 SECONDS=3 PROMPTS=1000000 OUT=folder)"
	@echo "make build       build the release programs without starting them"
	@echo "make fuzz        bad input for each parser that strangers reach (SECONDS=60 for each, ONLY=chunked for one)"
	@echo "make tidy        only the rules of structure; seconds"

up: build
	@exec target/release/galerne up $(ARGS)

build: engine
	cargo build --release --locked --package galerne

# By itself, and with the same words as in xtask: other packages beside it would change the features of what it is built
# with, and compile its C++ again. The engine's build script puts links beside the programs and fails when it is run
# again and finds them: they are not needed, so they go first.
engine:
	@sh make/install.sh build
	@find target/release -maxdepth 2 -type l -name 'lib*.so' -delete 2>/dev/null || true
	cargo build --release --locked --package galerne-worker --features llama
	@install -m 755 target/release/galerne-worker target/release/engine/galerne-worker

test:
	@sh make/install.sh test
	@cargo xtask test

test-full:
	@sh make/install.sh test
	@cargo xtask test --full

fuzz:
	@sh make/install.sh build
	@cargo xtask fuzz $(or $(SECONDS),60) $(ONLY)

bench:
	@sh make/install.sh build
	@cargo xtask bench

# Without DATA it reads ../shared/data; without OUT it writes to target/bench-planner; without ONLY it runs everything.
bench-planner:
	@sh make/install.sh build
	@cargo build --release --locked --quiet --package galerne-planner-bench
	@target/release/galerne-planner-bench $(if $(DATA),--data "$(DATA)") $(if $(OUT),--out "$(OUT)") $(if $(ONLY),--only "$(ONLY)")

# Peers that are not here are installed; those that cannot be are named and left out.
bench-gateway:
	@sh make/install.sh build
	@sh make/install.sh gateway-peers
	@cargo build --release --locked --quiet --package galerne
	@cargo build --release --locked --quiet --package galerne-gateway-bench
	@target/release/galerne-gateway-bench run --rounds $(or $(ROUNDS),5) --seconds $(or $(SECONDS),3) \
		$(if $(OUT),--out "$(OUT)") $(if $(ONLY),--only "$(ONLY)") $(if $(PEERS),--peers "$(PEERS)") $(if $(PROMPTS),--prompts "$(PROMPTS)")

tidy:
	@cargo xtask tidy
