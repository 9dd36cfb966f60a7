SHELL   := bash
GO      ?= go
FUZZTIME ?= 100000x
REF     ?= HEAD
ROUNDS  ?= 6
CASE    ?= Write 1 message
DURATION ?= 1h
VERSIONS ?= 14 15 16 17 18
SHORT   ?=
MODULES := $(dir $(wildcard go.mod */go.mod))
TOOL    := $(GO) tool -modfile=$(CURDIR)/tools/go.mod

.DEFAULT_GOAL := help
.PHONY: help demo test test-modules test-official test-containers test-matrix compatibility test-fresh test-faults soak fuzz bench bench-quick bench-report bench-compare profile bench-notify stress-notify lint fix verify vuln

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "%-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## run the main job on a PostgreSQL that is found or started (DATABASE_URL: on yours)
	scripts/with-postgres DATABASE_URL $(GO) run ./examples/bank

test: ## run all tests with the race detector, but for those of containers
	@scripts/with-postgres MDB_TEST_DATABASE_URL $(MAKE) --no-print-directory test-modules

test-modules: # on a PostgreSQL that is there
	@for module in $(filter-out tools/ mdbcontainer/,$(MODULES)); do \
		echo "# $$module" && (cd $$module && $(GO) test -race ./...) || exit 1; \
	done
	$(GO) test -run 'Alloc' ./internal/scan ./mdb

test-containers: ## test mdbcontainer, and run the tests of the root module on a container of MDB_TEST_IMAGE
	cd mdbcontainer && $(GO) test -race -count=1 ./...
	cd mdbcontainer && $(GO) run ./with-messagedb -image "$${MDB_TEST_IMAGE:-postgres:17}" -- $(GO) test -C .. -race $(SHORT) ./...

test-matrix: ## run the tests of the root module on each of VERSIONS, which npm provides (SHORT=-short: less long)
	$(GO) run ./scripts/matrix $(SHORT) $(VERSIONS)

compatibility: ## do so, and keep the results in docs/compatibility.md
	$(GO) run ./scripts/matrix -record docs/compatibility.json $(VERSIONS)

test-fresh: ## prove make demo and make test in clean Debian roots, as root (FRESH: in some of them)
	scripts/test-fresh $(FRESH)

test-official: ## run the tests on Message DB's own SQL, which npm provides, and compare the two
	MDB_TEST_MESSAGE_DB="$$(scripts/fetch-message-db)" && export MDB_TEST_MESSAGE_DB && \
		$(GO) test -race $(SHORT) -tags official ./mdb/...

test-faults: ## break everything that can break, and write docs/reliability.md (SEED: as an earlier run)
	MDB_TEST_PGBOUNCER="$${MDB_TEST_PGBOUNCER-$$(scripts/fetch-pgbouncer)}" && export MDB_TEST_PGBOUNCER && \
		$(GO) test -C internal/chaos -timeout 20m -args -size ci -seed $(or $(SEED),0) -page $(CURDIR)/docs/reliability.md

soak: ## the same for DURATION, in an endless order of seeds, and the load for ten minutes
	$(GO) test -C internal/chaos -timeout 0 -run 'TestSoak|TestLoad|TestReadWhileWritten' -args -size soak -duration $(DURATION) -seed $(or $(SEED),0)

fuzz: ## fuzz each target for FUZZTIME, a count or a time
	@$(GO) list ./... | while read -r package; do \
		$(GO) test -list '^Fuzz' "$$package" | grep '^Fuzz' | while read -r target; do \
			echo "# $$package $$target" && \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "$$package" || exit 1; \
		done || exit 1; \
	done

bench-quick: ## compare the most important calls with other clients, in under two minutes
	cd bench && $(GO) run . -quick -rounds $(ROUNDS) -turn 30ms

bench: ## compare all calls with other clients, also on Message DB's own SQL
	MDB_TEST_MESSAGE_DB="$$(scripts/fetch-message-db)" && export MDB_TEST_MESSAGE_DB && cd bench && $(GO) run .

bench-report: ## write bench/results/DATE, and the README's table and chart
	scripts/bench-report

bench-compare: ## compare the speed with another commit, REF=main
	scripts/bench-compare "$(REF)"

profile: ## show the functions that take time and memory, CASE="Write 1 message"
	scripts/profile "$(CASE)"

bench-notify: ## measure the cost and the latency of the NOTIFY trigger
	cd bench && $(GO) run ./notify

stress-notify: ## try a hundred times to lose a wake-up
	$(GO) test -race -run 'TestNotifyStress|TestInterleavings' -count=100 -timeout 3h ./mdb ./internal/doorbell

lint: ## run the linters
	@for module in $(filter-out tools/,$(MODULES)); do \
		echo "# $$module" && (cd $$module && $(TOOL) golangci-lint run --allow-parallel-runners --config $(CURDIR)/.golangci.yml ./...) || exit 1; \
	done

fix: ## let the linters mend and format what they can
	$(TOOL) golangci-lint run --fix ./...
	$(TOOL) golangci-lint fmt ./...

verify: ## check that go.mod is tidy, the code is formatted, and the library needs nothing but pgx and uuid
	@for module in $(MODULES); do (cd $$module && $(GO) mod tidy -diff) || exit 1; done
	$(TOOL) golangci-lint fmt --diff ./...
	@if grep -n '^replace' go.mod; then echo "go.mod replaces a module"; exit 1; fi
	scripts/check-deps
	$(GO) test -run README ./examples

vuln: ## look for known vulnerabilities, where their database can be reached
	@if out="$$($(TOOL) govulncheck ./... 2>&1)"; then echo "$$out"; \
	elif grep -q 'fetching vulnerabilities' <<<"$$out"; then \
		echo "govulncheck cannot reach its database, so nothing is known about vulnerabilities"; \
	else echo "$$out"; exit 1; fi
