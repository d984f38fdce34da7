# make lab    an IPv6-only host uses an IPv4-only Internet through gate64, live, in network namespaces of its own
# make test   every test
# Each target first installs what it lacks (deploy/deps.sh); root or sudo is used where the kernel asks for it.

.PHONY: help deps build lab test test-rust test-conformance test-deploy test-lab bench bench-instructions bench-journal bench-peers bench-dns fuzz doc
.NOTPARALLEL:
.DEFAULT_GOAL := help

TARGET_DIR := $(abspath $(or $(CARGO_TARGET_DIR),target))
GATE64 := $(TARGET_DIR)/release/gate64
AS_ROOT := $(if $(filter-out 0,$(shell id -u)),sudo -E env "PATH=$$PATH")
# cargo builds as the caller and runs what it built as root.
HOST := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
RUN_AS_ROOT := $(if $(AS_ROOT),CARGO_TARGET_$(HOST)_RUNNER='sudo -E')

help:
	@sed -n '1,3s/^# //p' Makefile
	@echo 'also: deps build bench bench-instructions bench-journal bench-peers bench-dns fuzz doc'

deps:
	@./deploy/deps.sh all

build:
	@./deploy/deps.sh build
	cargo build --release --package gate64

lab:
	@./deploy/deps.sh lab
	cargo build --release --package gate64
	$(AS_ROOT) $(GATE64) lab

# All parts run even when one fails; make then fails.
test:
	@./deploy/deps.sh test
	@$(MAKE) --no-print-directory --keep-going test-rust test-conformance test-deploy test-lab

# Unit, RFC, model and namespace tests. The namespace tests need root and fail without it.
test-rust:
	@mkdir -p $(TARGET_DIR)
	@{ $(RUN_AS_ROOT) cargo test --workspace --no-fail-fast 2>&1; echo $$? >$(TARGET_DIR)/tests.status; } | tee $(TARGET_DIR)/tests.log
	@exit $$(cat $(TARGET_DIR)/tests.status)

# docs/src/conformance: each requirement of the RFCs against the results of its tests.
test-conformance: test-rust
	cargo run --quiet --package gate64-conformance -- $(TARGET_DIR)/tests.log

# What stands under deploy/ and docs/, against the running program, a real Prometheus and systemd.
test-deploy: build
	$(AS_ROOT) ./deploy/test/run $(GATE64)

# The machine's own programs through the embedded network.
test-lab: build
	$(AS_ROOT) $(GATE64) lab test

bench:
	@./deploy/deps.sh bench
	cargo build --release --package gate64
	$(GATE64) bench engine
	cargo bench --package gate64-benches

# The gate: instructions per established packet, at most 2 % above benches/instructions.json.
bench-instructions:
	@./deploy/deps.sh bench
	cargo bench --package gate64-benches --bench instructions

# Size and lookups of a year's journal: minutes, and gigabytes of disk.
bench-journal:
	@./deploy/deps.sh build
	cargo test --release --package gate64-log -- --ignored --nocapture a_year

# gate64 beside tayga, the kernel and a null forwarder, over veth in namespaces of its own. At most seven minutes, unless
# PEERS says more, such as PEERS='--minutes 60 --rounds 50 --seconds 2'.
PEERS ?=
bench-peers: build
	@./deploy/deps.sh bench
	$(AS_ROOT) ./deploy/test/bench_peers.py $(GATE64) $(PEERS)

# gate64, unbound and BIND as DNS64 in front of one nsd: CPU time for each answer, over the loopback interface.
ROUNDS ?= 5
bench-dns: build
	@./deploy/deps.sh bench
	./deploy/test/bench_dns.py $(GATE64) $(ROUNDS)

# Each of FUZZ_TARGETS for FUZZ_SECONDS, from the inputs that are kept. Those of DNS have a server with threads of its own, which
# frees when it likes: looking for leaks after each input would stop it and find none. The sanitizers are unstable options of
# the compiler: RUSTC_BOOTSTRAP lets the stable one take them, so that no nightly has to be there.
FUZZ_SECONDS ?= 600
FUZZ_TARGETS ?= v6_packets v4_packets inner_packets fragments operations dns_queries dns_upstream_answers
fuzz:
	@./deploy/deps.sh fuzz
	@for target in $(FUZZ_TARGETS); do \
		case $$target in dns_*) crate=dns64 leaks=0 ;; *) crate=dataplane leaks=1 ;; esac; \
		mkdir -p $$crate/fuzz/corpus/$$target && \
		(cd $$crate && PATH="$$PATH:$(CURDIR)/.cache/cargo/bin" RUSTC_BOOTSTRAP=1 \
			cargo fuzz run --target-dir $(TARGET_DIR)/fuzz $$target fuzz/corpus/$$target fuzz/inputs/$$target -- \
			-max_total_time=$(FUZZ_SECONDS) -max_len=512 -print_final_stats=1 -detect_leaks=$$leaks) || exit; \
	done

doc:
	@./deploy/deps.sh build
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps
	./deploy/test/test_book.py
