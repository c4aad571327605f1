# The commands people type. `make help` lists them; each installs what it needs and finds missing.

CARGO ?= cargo
export CARGO
MAKEFLAGS += --no-print-directory

.PHONY: help demo test build c-examples deps clean

help: ## Say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: build c-examples ## Build the release and show it at work: a private Redis, a broker, client processes
	target/release/broker demo

# The tests come last, so that the output ends with their own summary.
test: deps ## Check format and lints, build the C example with warnings denied, run all tests
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets --all-features -- -D warnings
	$(CARGO) build --lib --no-default-features
	$(CARGO) test --lib --no-default-features
	$(MAKE) -C c-examples --always-make WERROR=-Werror
	$(CARGO) test --features sabotage

build: deps ## Build target/release/broker
	$(CARGO) build --release

c-examples: deps ## Build the C example
	$(MAKE) -C c-examples

deps: ## Install what is missing (as root), or say what to install
	@scripts/deps

clean: ## Remove everything built
	$(CARGO) clean
	$(MAKE) -C c-examples clean
