SHELL   := bash
GO      ?= go
FUZZTIME ?= 30s
MODULES := $(dir $(shell git ls-files '*go.mod' 'go.mod'))
TOOL    := $(GO) tool -modfile=$(CURDIR)/tools/go.mod

.DEFAULT_GOAL := help
.PHONY: help demo test test-official fuzz bench bench-quick bench-notify stress-notify lint fix verify vuln

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "%-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## run the main job on a PostgreSQL that is found or started (MDB_DATABASE_URL: on yours)
	$(GO) run ./examples/bank

test: ## run all tests, of nested modules too, with the race detector
	@for module in $(filter-out tools/,$(MODULES)); do \
		echo "# $$module" && (cd $$module && $(GO) test -race ./...) || exit 1; \
	done
	$(GO) test -run 'Alloc' ./internal/scan

test-official: ## run the tests on Message DB's own SQL, which npm provides, and compare the two
	MDB_TEST_MESSAGE_DB="$$(scripts/fetch-message-db)" && export MDB_TEST_MESSAGE_DB && \
		$(GO) test -race -tags official ./mdb/...

fuzz: ## fuzz each target for FUZZTIME
	@$(GO) list ./... | while read -r package; do \
		$(GO) test -list '^Fuzz' "$$package" | grep '^Fuzz' | while read -r target; do \
			echo "# $$package $$target" && \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "$$package" || exit 1; \
		done || exit 1; \
	done

bench-quick: ## measure against rivals and the floor, in under two minutes
	cd bench && $(GO) run . -rounds 10 -turn 30ms

bench: ## the same, for longer
	cd bench && $(GO) run .

bench-notify: ## measure what the NOTIFY trigger costs and brings
	cd bench && $(GO) run ./notify

stress-notify: ## try a hundred times to lose a wake-up
	$(GO) test -race -run 'TestNotifyStress|TestNotifyInterleavings' -count=100 -timeout 3h ./mdb

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
