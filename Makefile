# The commands people type. `make help` lists them; each installs what it needs and finds missing.

CARGO ?= cargo
export CARGO
MAKEFLAGS += --no-print-directory

# Where cargo builds.
OUT := $(abspath $(or $(CARGO_TARGET_DIR),$(CARGO_BUILD_TARGET_DIR),target))

# Where `install` puts things; DESTDIR is a root to put before all of them, as packagers use it.
PREFIX ?= /usr/local
BINDIR ?= $(PREFIX)/bin
LIBDIR ?= $(PREFIX)/lib
CMAKEDIR ?= $(LIBDIR)/cmake/broker
INCLUDEDIR ?= $(PREFIX)/include
MANDIR ?= $(PREFIX)/share/man
DOCDIR ?= $(PREFIX)/share/doc/broker
DESTDIR ?=
STRIP ?= strip
# What it puts there; the tests name the builds they have.
BUILT_BINARY ?= $(OUT)/release/broker
BUILT_LIBRARY ?= $(OUT)/libbroker
INSTALL = PREFIX='$(PREFIX)' BINDIR='$(BINDIR)' LIBDIR='$(LIBDIR)' CMAKEDIR='$(CMAKEDIR)' \
    INCLUDEDIR='$(INCLUDEDIR)' MANDIR='$(MANDIR)' DOCDIR='$(DOCDIR)' DESTDIR='$(DESTDIR)' STRIP='$(STRIP)' \
    BUILT_BINARY='$(BUILT_BINARY)' BUILT_LIBRARY='$(BUILT_LIBRARY)' scripts/install

# The packages: of which revision, and where they are put.
REVISION ?= 1
DEB ?= $(OUT)/deb

# How long the long runs take, and what they begin with: by chance, unless SEED is given.
SECONDS ?= 60
SEED ?=
LONG_RUN = BROKER_TEST_SECONDS=$(SECONDS) $(if $(SEED),BROKER_TEST_SEED=$(SEED))

.PHONY: help demo test build library install install-library uninstall abi_library abi abi-check deb c-examples twin \
    soak sim fuzz mutants deps build-deps library-deps deb-deps demo-deps clean

help: ## Say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

# Its options: make demo DEMO="--children 200".
DEMO ?=

# One build for all of it, rather than one more with the features of `build`.
demo: demo-deps ## Build the release and show it at work: a private Redis, a broker, client processes
	$(CARGO) build --release --features demo
	$(MAKE) -C c-examples TREE=$(OUT)/release/libbroker.a
	$(OUT)/release/broker-demo $(DEMO)

# The tests of the library are those of a build without the program and without `sabotage`; all others need both. The
# suite builds the examples, checks the ABI and makes the packages beside what only waits, so it runs more tests at once
# than there are processors. It comes last, so that the output ends with its summary.
test: deps ## Check format and lints, run all tests: of the code, the ABI, the examples, packages and pages
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets --all-features -- -D warnings
	$(CARGO) test --lib --no-default-features
	$(CARGO) test --features sabotage --doc
	$(CARGO) test --features sabotage --bins --test tree --test soak --test twin
	RUST_TEST_THREADS=$(or $(RUST_TEST_THREADS),$(shell expr 2 '*' $$(nproc))) $(CARGO) test --features sabotage --test suite

sim: deps ## Play random schedules of the core for SECONDS=60, from SEED=n on
	@$(LONG_RUN) BROKER_SUMMARY=$(OUT)/sim.summary $(CARGO) test --profile sim --lib random_schedules -- --nocapture
	@cat $(OUT)/sim.summary

fuzz: deps ## Feed the parsers and the core mutations of tests/corpus for SECONDS=60, by SEED=n
	@$(LONG_RUN) BROKER_SUMMARY=$(OUT)/fuzz.summary $(CARGO) test --profile sim --lib any_bytes -- --nocapture
	@cat $(OUT)/fuzz.summary

build: build-deps ## Build target/release/broker
	$(CARGO) build --release

library: library-deps $(OUT)/libbroker/libbroker.so ## Build target/libbroker/libbroker.so and libbroker.a

# Make compares times itself, so that `sudo make install` does not run cargo when there is nothing to build.
SOURCES = $(shell find src -type f) $(wildcard build.rs cbindgen.toml) Cargo.toml Cargo.lock

$(OUT)/release/broker: $(SOURCES)
	$(CARGO) build --release
	@touch $@

# Only an archive: beside an rlib, cargo leaves link-time optimisation out. Both libraries are made of it.
$(OUT)/libbroker/libbroker.so: $(SOURCES) scripts/library scripts/names
	$(CARGO) rustc --lib --no-default-features --profile library --crate-type staticlib -- \
	    --print native-static-libs=$(OUT)/library/native-static-libs
	@scripts/library $(OUT)/library $(OUT)/libbroker

install: $(BUILT_BINARY) $(BUILT_LIBRARY)/libbroker.so ## Install to PREFIX=/usr/local, below DESTDIR
	@$(INSTALL) install

install-library: $(BUILT_LIBRARY)/libbroker.so ## Install what C and C++ programs need, without the program
	@$(INSTALL) install library

uninstall: ## Remove what install has put there
	@$(INSTALL) uninstall

# Not the library that is installed: optimisation makes one of two functions whose code is the same, and the debug
# information of only one is left.
abi_library:
	$(CARGO) rustc --lib --no-default-features --profile abi --crate-type cdylib

abi: abi_library ## Describe the library's ABI in abi/broker.abi and dist/deb/symbols
	@scripts/abi write

abi-check: abi_library ## Compare the library's ABI with abi/broker.abi and dist/deb/symbols
	@scripts/abi check

deb: deb-deps $(BUILT_BINARY) $(BUILT_LIBRARY)/libbroker.so ## Build Debian packages in target/deb, as REVISION=1
	@BUILT_BINARY='$(BUILT_BINARY)' BUILT_LIBRARY='$(BUILT_LIBRARY)' REVISION='$(REVISION)' scripts/deb '$(DEB)'

twin: deps ## Compare random commands with Redis itself for SECONDS=60, by SEED=n
	@$(LONG_RUN) BROKER_SUMMARY=$(OUT)/twin.summary \
	    $(CARGO) test --release --test twin -- --nocapture
	@cat $(OUT)/twin.summary

soak: deps ## Soak with faults: make soak SECONDS=n SEED=s TARGET=replies
	$(LONG_RUN) \
	    $(if $(TARGET),BROKER_SOAK_TARGET=$(TARGET)) \
	    $(CARGO) test --release --test soak -- --exact soak --nocapture

c-examples: demo-deps build ## Build the C and C++ examples in c-examples/build
	$(MAKE) -C c-examples TREE=$(OUT)/release/libbroker.a

mutants: deps ## Break each invariant on purpose and see its test fail; MUTANTS="words" for some
	@scripts/mutants $(MUTANTS)

deps: ## Install what the tests need and is missing (as root), or say what to install
	@scripts/deps test

# What less than that needs.
build-deps library-deps deb-deps demo-deps:
	@scripts/deps $(@:-deps=)

clean: ## Remove everything built
	$(CARGO) clean
	$(MAKE) -C c-examples clean
