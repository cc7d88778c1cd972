# Two commands for a newcomer: `make demo` and `make test`.

CARGO ?= cargo
# The version of cargo-deny that lint expects; installed from source when it is not there.
CARGO_DENY_VERSION := 0.20.2

.PHONY: demo test lint bench bench-peers gate fuzz-smoke build packages schemas help

help: ## What there is
	@sed -n 's/^\([a-z-]*\):.*## /  make \1 \t/p' $(MAKEFILE_LIST) | expand -t 20

demo: ## Build, then show the whole product in one terminal (needs Rust and a C compiler)
	@scripts/needs cargo cc
	$(CARGO) build --release -p countersign -p countersign-proxy -p countersign-control-plane
	@target/release/countersign demo $(DEMO_ARGS)

build: ## All binaries, release profile
	$(CARGO) build --release -p countersign -p countersign-proxy -p countersign-control-plane -p countersign-broker -p countersign-init

packages: ## The Debian packages that tests, lint and benchmarks need
	@scripts/packages

test: packages ## All tests
	$(CARGO) build --workspace --bins
	$(CARGO) test --workspace --no-fail-fast

lint: packages ## Formatting, clippy, licences and sources of dependencies
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	@$(CARGO) deny --version 2>/dev/null | grep -qF '$(CARGO_DENY_VERSION)' || $(CARGO) install cargo-deny --version $(CARGO_DENY_VERSION) --locked
	$(CARGO) deny --log-level error check --hide-inclusion-graph bans licenses sources

bench: packages build ## Benchmarks: instruction counts (gated), then CPU time ratios and latencies (reported)
	$(CARGO) build --profile bench -p countersign-benches --bins
	@scripts/bench

bench-peers: build ## Beside nginx, HAProxy and Envoy, which it installs: as root, half an hour (PEERS_ARGS=--quick: minutes)
	@scripts/bench-peers $(PEERS_ARGS)

gate: packages ## Only the instruction counts, against benches/limits.txt
	$(CARGO) build --profile bench -p countersign-benches --bins
	@scripts/bench counts

fuzz-smoke: ## Each fuzz target for a few seconds, on the stable compiler
	@scripts/fuzz-smoke $(FUZZ_SECONDS)

schemas: ## Write config/schema from the Rust types
	COUNTERSIGN_WRITE_SCHEMAS=1 $(CARGO) test -q -p countersign-config --test files
