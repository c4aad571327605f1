# The commands people type. `make help` lists them; each installs what it needs and finds missing.

CARGO ?= cargo
export CARGO
MAKEFLAGS += --no-print-directory

# Where `install` puts things; DESTDIR is a root to put before all of them, as packagers use it.
PREFIX ?= /usr/local
BINDIR ?= $(PREFIX)/bin
LIBDIR ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
MANDIR ?= $(PREFIX)/share/man
DOCDIR ?= $(PREFIX)/share/doc/broker
DESTDIR ?=
STRIP ?= strip
# What it puts there; the tests name the builds they have.
BUILT_BINARY ?= target/release/broker
BUILT_LIBRARY ?= target/library
INSTALL = PREFIX='$(PREFIX)' BINDIR='$(BINDIR)' LIBDIR='$(LIBDIR)' INCLUDEDIR='$(INCLUDEDIR)' MANDIR='$(MANDIR)' \
    DOCDIR='$(DOCDIR)' DESTDIR='$(DESTDIR)' STRIP='$(STRIP)' BUILT_BINARY='$(BUILT_BINARY)' \
    BUILT_LIBRARY='$(BUILT_LIBRARY)' scripts/install

# How long the long runs take, and what they begin with: by chance, unless SEED is given.
SECONDS ?= 60
SEED ?=
LONG_RUN = BROKER_TEST_SECONDS=$(SECONDS) $(if $(SEED),BROKER_TEST_SEED=$(SEED))

.PHONY: help demo test build library install uninstall abi_library abi abi-check deb c-examples twin soak sim fuzz \
    mutants deps clean

help: ## Say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: build c-examples ## Build the release and show it at work: a private Redis, a broker, client processes
	target/release/broker demo

# The tests come last, so that the output ends with their own summary.
test: deps ## Check format, lints and the ABI, build the examples with warnings denied, run all tests
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets --all-features -- -D warnings
	$(CARGO) build --lib --no-default-features
	$(CARGO) test --lib --no-default-features
	$(MAKE) abi-check
	$(MAKE) -C c-examples --always-make WERROR=-Werror BUILD=../target/c-examples TREE=../target/debug/libbroker.a
	$(CARGO) test --features sabotage

sim: deps ## Play random schedules of the core for SECONDS=60, from SEED=n on
	@$(LONG_RUN) BROKER_SUMMARY=target/sim.summary $(CARGO) test --profile sim --lib random_schedules -- --nocapture
	@cat target/sim.summary

fuzz: deps ## Feed the parsers and the core mutations of tests/corpus for SECONDS=60, by SEED=n
	@$(LONG_RUN) BROKER_SUMMARY=target/fuzz.summary $(CARGO) test --profile sim --lib any_bytes -- --nocapture
	@cat target/fuzz.summary

build: deps ## Build target/release/broker
	$(CARGO) build --release

library: deps target/library/libbroker.so ## Build target/library/libbroker.so and libbroker.a

# Make compares times itself, so that `sudo make install` does not run cargo when there is nothing to build.
SOURCES = $(shell find src -type f) $(wildcard build.rs cbindgen.toml) Cargo.toml Cargo.lock

target/release/broker: $(SOURCES)
	$(CARGO) build --release
	@touch $@

# Only these two crate types: beside an rlib, cargo leaves link-time optimisation out.
target/library/libbroker.so: $(SOURCES)
	$(CARGO) rustc --lib --no-default-features --profile library --crate-type cdylib,staticlib -- \
	    --print native-static-libs=target/library/native-static-libs
	@touch $@

install: $(BUILT_BINARY) $(BUILT_LIBRARY)/libbroker.so ## Install to PREFIX=/usr/local, below DESTDIR
	@$(INSTALL) install

uninstall: ## Remove what install has put there
	@$(INSTALL) uninstall

# Not the library that is installed: optimisation makes one of two functions whose code is the same, and the debug
# information of only one is left.
abi_library:
	$(CARGO) rustc --lib --no-default-features --profile abi --crate-type cdylib

abi: abi_library ## Describe the library's ABI in abi/broker.abi
	@scripts/abi write

abi-check: abi_library ## Compare the library's ABI with abi/broker.abi
	@scripts/abi check

deb: deps target/release/broker target/library/libbroker.so ## Build Debian packages in target/deb
	@scripts/deb

twin: deps ## Compare random commands with Redis itself for SECONDS=60, by SEED=n
	@$(LONG_RUN) BROKER_SUMMARY=target/twin.summary \
	    $(CARGO) test --release --test twin -- --nocapture
	@cat target/twin.summary

soak: deps ## Soak with faults: make soak SECONDS=n SEED=s TARGET=replies
	$(LONG_RUN) \
	    $(if $(TARGET),BROKER_SOAK_TARGET=$(TARGET)) \
	    $(CARGO) test --release --test soak -- --exact soak --nocapture

c-examples: build ## Build the C and C++ examples in c-examples/build
	$(MAKE) -C c-examples

mutants: deps ## Break each invariant on purpose and see its test fail; MUTANTS="words" for some
	@scripts/mutants $(MUTANTS)

deps: ## Install what is missing (as root), or say what to install
	@scripts/deps

clean: ## Remove everything built
	$(CARGO) clean
	$(MAKE) -C c-examples clean
