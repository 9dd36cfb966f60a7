SHELL   := bash
GO      ?= go
FUZZTIME ?= 100000x
REF     ?= HEAD
ROUNDS  ?= 6
CASE    ?= Write 1 message
DURATION ?= 1h
VERSIONS ?= 14 15 16 17 18
SHORT   ?=
TOOL    := $(GO) tool -modfile=$(CURDIR)/tools/go.mod

# Evaluated where it is used, as make demo and make test work without git.
MODULES = $(or $(sort $(dir $(shell git ls-files '*go.mod'))),$(error the list of modules comes from git: use a clone))

# Most tests wait more than they compute.
PARALLEL = -parallel $$((2 * $$(getconf _NPROCESSORS_ONLN)))

.DEFAULT_GOAL := help
.PHONY: help demo demo-recording trace-picture test test-short test-all test-modules lint fix verify test-official test-shards test-web screenshots test-containers test-matrix fuzz bench-quick bench-compare bench-polls profile nightly test-faults test-failover soak stress-notify stress-all test-moves test-archive test-promotions test-consumers test-mutants bench bench-report bench-notify bench-replica bench-consumers bench-groups bench-archive bench-capacity bench-gate compatibility test-fresh vuln release-check release release-publish

help: ## list the targets
	@awk -F ':.*## ' '/^##@ /{printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## /{printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ To try it

demo: ## run a demo of half a minute, on a PostgreSQL of its own (with DATABASE_URL, YES=1: on yours)
	@echo "Building the demo …"
	@cd demo && ../scripts/with-postgres DATABASE_URL $(GO) run .

test: ## run the short tests with the race detector, in a few minutes
	@scripts/with-postgres MDB_TEST_DATABASE_URL $(MAKE) --no-print-directory test-short

test-short: # on a PostgreSQL that is there
	@begin=$$SECONDS; $(GO) list -race -test -export ./... >/dev/null || exit; compiled=$$SECONDS; \
	$(GO) test -race -short $(PARALLEL) ./...; status=$$?; \
	echo "compile $$((compiled - begin)) s, tests $$((SECONDS - compiled)) s"; exit $$status

##@ To contribute

test-all: ## run all tests of all modules, except those that need a container engine or a browser
	@scripts/with-postgres MDB_TEST_DATABASE_URL $(MAKE) --no-print-directory test-modules

# These count the transactions of WriteEach without groups, or end a context when its query ends, before the group tells its writes.
UNGROUPED = ^Test(ContextEndsAfterSuccess|WriteEach($$|ContextEnds|CancelledOnce|AnsweredByErrors))
GROUPED = ^Test(Conformance|Write|Settle|Unsettled|Idempotent|Expect|ContextEnds|Terminated|NothingSent|Server|Hook|LostRace|StoreOfSnapshots|WrongVersion|Duplicate)

test-modules: # on a PostgreSQL that is there
	@for module in $(filter-out tools/ mdbcontainer/ webtest/,$(MODULES)); do \
		echo "# $$module" && (cd $$module && $(GO) test -race -timeout 20m $(PARALLEL) ./...) || exit 1; \
	done
	@# WithGroupCommit changes nothing but what is sent, so these tests pass with each write as a group, too.
	MDB_TEST_GROUPS=1 $(GO) test -race -short $(PARALLEL) -run '$(GROUPED)' -skip '$(UNGROUPED)' ./mdb
	@# The race detector changes how much is allocated. It makes the others slow, and finds nothing in their one goroutine.
	$(GO) test -run 'Alloc|^Test(Model(Mutants)?|LargeCall)$$' ./internal/scan ./internal/ledger ./mdb

lint: ## run the linters on the Go code, the scripts and the workflows
	@for module in $(filter-out tools/,$(MODULES)); do \
		echo "# $$module" && (cd $$module && $(TOOL) golangci-lint run --allow-parallel-runners --config $(CURDIR)/.golangci.yml ./...) || exit 1; \
	done
	@if command -v shellcheck >/dev/null; then shellcheck --severity=warning $$(scripts/list-scripts); \
	else echo "shellcheck is not installed, so the scripts are not checked"; fi
	$(TOOL) actionlint

fix: ## let the linters correct and format what they can
	@for module in $(filter-out tools/,$(MODULES)); do \
		(cd $$module && $(TOOL) golangci-lint run --fix --allow-parallel-runners --config $(CURDIR)/.golangci.yml ./...) || exit 1; \
	done
	$(TOOL) golangci-lint fmt ./...

verify: ## check modules, format, dependencies, the API, the words and the README
	@for module in $(MODULES); do (cd $$module && $(GO) mod tidy -diff) || exit 1; done
	$(TOOL) golangci-lint fmt --diff ./...
	@if grep -n '^replace' go.mod; then echo "go.mod replaces a module"; exit 1; fi
	scripts/check-deps
	scripts/check-api
	$(GO) test -run README ./examples
	scripts/check-words

screenshots: ## take the pictures of mdb web in docs/web, in light and dark, by Chromium
	cd webtest && $(GO) run ./screenshots ../docs/web

demo-recording: ## record the demo as docs/demo.svg, by asciinema and termtosvg
	scripts/demo-recording docs/demo.svg

trace-picture: ## record the trace of an order through two processes as docs/trace.svg
	cd mdbotel && $(GO) test -count=1 -run '^TestTraceOfAnOrder$$' ./examples -args -picture $(CURDIR)/docs/trace.svg

# The race detector makes tests slow, and depends little on the server: make test and make test-all have it. So with SHORT=-short, the
# targets for other servers leave it out.
RACE = $(if $(SHORT),,-race)

test-official: ## run the tests on Message DB's own SQL, fetched with npm, and compare the two
	MDB_TEST_MESSAGE_DB="$$(scripts/fetch-message-db)" && export MDB_TEST_MESSAGE_DB && \
		packages="$$(scripts/list-server-packages -tags official ./mdb/... ./mdbweb ./internal/gate)" && \
		MDB_TEST_ONLY=server $(GO) test $(RACE) $(SHORT) $(PARALLEL) -tags official $$packages

test-shards: ## test proxies of several shards, with PL/Proxy (Debian: postgresql-15-plproxy)
	$(GO) test -race -count=1 $(PARALLEL) -run '^TestPLProxy' ./mdb ./mdb/archive ./mdb/consumer ./cmd/mdb

test-web: ## test the pages of mdb web in Chromium (MDB_TEST_LARGE=1: with a million messages)
	cd webtest && MDB_TEST_LARGE=$(MDB_TEST_LARGE) $(GO) test -race -count=1 $(PARALLEL) ./...
	@# Without a million messages, make test has done this.
	[ -z "$(MDB_TEST_LARGE)" ] || MDB_TEST_LARGE=1 $(GO) test -count=1 -run TestBounded ./mdbweb

# What a container changes, the tests of the store meet. So with SHORT=-short, only they run there.
test-containers: ## test mdbcontainer, and run the tests of the root module on a container of MDB_TEST_IMAGE
	cd mdbcontainer && $(GO) test -race -count=1 ./...
	@$(if $(SHORT),echo "SHORT=-short leaves out the packages other than ./mdb ./mdb/schema ./mdb/mdbtest/...",:)
	packages="$$(scripts/list-server-packages $(if $(SHORT),./mdb ./mdb/schema ./mdb/mdbtest/...,./...))" && cd mdbcontainer && \
		MDB_TEST_ONLY=server $(GO) run ./with-messagedb $(if $(MDB_TEST_IMAGE),-image "$(MDB_TEST_IMAGE)",-tmpfs /var/lib/postgresql/data) -- $(GO) test -C .. $(RACE) $(SHORT) $(PARALLEL) $$packages

test-matrix: ## run the tests of the root module on each of VERSIONS, fetched with npm (SHORT=-short)
	$(GO) run ./scripts/matrix $(SHORT) $(VERSIONS)

fuzz: ## fuzz each target for FUZZTIME, a count or a time
	@grep -r --include='*_test.go' -o '^func Fuzz[[:alnum:]]*' . | sort | while IFS=: read -r file target; do \
		package=$${file%/*} target=$${target#func } && \
		echo "# $$package $$target" && \
		$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "$$package" || exit 1; \
	done

bench-quick: ## compare the most important calls with other clients, in under two minutes
	cd bench && $(GO) run . -quick -rounds $(ROUNDS) -turn 30ms

bench-compare: ## compare the speed with another commit, REF=main
	scripts/bench-compare "$(REF)"

bench-polls: ## compare empty polls of subscriptions with another commit, REF=main
	scripts/bench-polls "$(REF)"

profile: ## show the functions that take time and memory, CASE="Write 1 message"
	scripts/profile "$(CASE)"

##@ To maintain

nightly: ## run what takes too long for CI, one after the other
	$(MAKE) test-faults
	$(MAKE) test-failover
	$(MAKE) soak
	$(MAKE) stress-notify
	$(MAKE) stress-all
	$(MAKE) test-moves
	$(MAKE) test-archive
	$(MAKE) test-promotions
	$(MAKE) test-consumers
	$(MAKE) test-mutants
	$(MAKE) test-matrix
	$(MAKE) test-web MDB_TEST_LARGE=1
	$(MAKE) fuzz FUZZTIME=5000000x

test-faults: ## inject faults, and write docs/reliability.md (SEED: that of an earlier run)
	MDB_TEST_PGBOUNCER="$${MDB_TEST_PGBOUNCER-$$(scripts/fetch-pgbouncer)}" && export MDB_TEST_PGBOUNCER && \
		$(GO) test -C internal/chaos -timeout 40m -args -size ci -seed $(or $(SEED),0) -page $(CURDIR)/docs/reliability.md && \
		$(GO) test -count=1 -run 'BehindPgBouncer$$' ./mdb/consumer

test-failover: ## fail over with Patroni, etcd and HAProxy, and write docs/reliability.md (FAULT: crash, SEED)
	$(GO) test -C internal/chaos -count=1 -timeout 40m -run 'TestFailover$(if $(FAULT),/$(FAULT))' -args -failover -seed $(or $(SEED),0) $(if $(FAULT),,-page $(CURDIR)/docs/reliability.md)

soak: ## inject faults for DURATION, with one seed after the other, then load for ten minutes at most (FAULT: groups, SEED)
	MDB_TEST_PGBOUNCER="$${MDB_TEST_PGBOUNCER-$$(scripts/fetch-pgbouncer)}" && export MDB_TEST_PGBOUNCER && \
		$(GO) test -C internal/chaos -v -timeout 0 -run '$(if $(FAULT),TestSoak/($(FAULT)),TestSoak|TestLoad|TestReadWhileWritten)' -args -size soak -duration $(DURATION) -seed $(or $(SEED),0)

# What a commit waits for depends on the server's version, too.
PROMOTIONS = ^Test(Failover|Acknowledged|WriteWaits|FindMessages|FrozenPrimary)

test-promotions: ## promote standbys that lack messages, in every way, on VERSIONS and on Message DB's own SQL
	MDB_TEST_PGBOUNCER="$${MDB_TEST_PGBOUNCER-$$(scripts/fetch-pgbouncer)}" && export MDB_TEST_PGBOUNCER && \
		for version in $(VERSIONS); do \
			echo "# PostgreSQL $$version" && \
			MDB_TEST_FAILOVERS=all MDB_TEST_POSTGRES=$$version $(GO) test -count=1 -timeout 20m -run '$(PROMOTIONS)' ./mdb || exit 1; \
		done && \
		MDB_TEST_MESSAGE_DB="$$(scripts/fetch-message-db)" && export MDB_TEST_MESSAGE_DB && \
		MDB_TEST_FAILOVERS=all $(GO) test -count=1 -timeout 20m -tags official -run '$(PROMOTIONS)' ./mdb

# Sessions whose statements have a few thousand orders run in all of them. Others run in all orders with few interruptions, and in 300 random ones.
test-consumers: ## check the consumers' protocol in a million schedules, and in thousands of orders of its statements on VERSIONS
	MDB_TEST_SCHEDULES=1000000 $(GO) test -count=1 -timeout 1h -run '^TestModel$$' ./internal/ledger
	@set -o pipefail; for version in $(VERSIONS); do \
		echo "# PostgreSQL $$version" && { \
			MDB_TEST_SCHEDULES=20000 MDB_TEST_POSTGRES=$$version $(GO) test -v -count=1 -timeout 2h -run '^Test(Model|Walk|Lock|Held|Claims)' ./internal/ledger && \
			MDB_TEST_WALKS=all MDB_TEST_POSTGRES=$$version $(GO) test -v -count=1 -timeout 1h -run '^Test(UnknownOutcomes|ReplayWalk)' ./mdb/consumer; \
		} | grep -Ev '^ *(===|---) ?(RUN|PAUSE|CONT|PASS)' || exit 1; \
	done

test-mutants: ## break each rule of subscriptions, failovers and consumers, and check that a test notices it
	$(GO) run ./scripts/mutants

stress-notify: ## run the tests that try to lose a notification a hundred times
	$(GO) test -race -run 'TestNotifyStress|TestInterleavings' -count=100 -timeout 3h ./mdb ./internal/doorbell
	MDB_TEST_WALKS=all $(GO) test -race -count=1 -timeout 1h -run TestInterleavingsOfMoves ./internal/doorbell

stress-all: ## run the tests that try to lose a message of all categories a hundred times
	$(GO) test -race -run 'TestAllStress|TestInterleavings' -count=100 -timeout 3h ./mdb ./internal/barrier

test-moves: ## move a category 20 times through PL/Proxy while it is written to
	$(GO) test -race -v -count=1 -run 'TestMove|TestAbort|TestDeleteOld|TestPLProxy' ./mdb/archive

test-archive: ## export and import a million messages, and check that this needs no more memory than a few
	MDB_TEST_LARGE=1 $(GO) test -v -count=1 -run '^TestMemory$$' ./mdb/archive

bench: ## compare all calls with other clients, also on Message DB's own SQL
	MDB_TEST_MESSAGE_DB="$$(scripts/fetch-message-db)" && export MDB_TEST_MESSAGE_DB && cd bench && $(GO) run .
	$(GO) test -run '^$$' -bench 'BenchmarkEach$$|BenchmarkForms$$' -benchtime 10x ./mdb/consumer
	$(GO) test -run '^$$' -bench 'BenchmarkBeat$$' -benchtime 2000x ./internal/ledger
	$(GO) test -run '^$$' -bench 'Benchmark(No)?Hooks$$' ./mdb
	cd bench && $(GO) run ./consumers
	$(MAKE) --no-print-directory bench-groups

bench-report: ## write bench/results/DATE, and the README's tables and charts
	scripts/bench-report

bench-notify: ## measure the cost and the latency of the NOTIFY trigger
	cd bench && $(GO) run ./notify

bench-replica: ## measure how long a message takes to a handler that reads from a standby, beside the time of the replay
	$(GO) test -run '^$$' -bench 'BenchmarkReplica$$' -benchtime 500x ./mdb

bench-consumers: ## measure the forms of consumers, and put the table into docs/consumers.md
	cd bench && $(GO) run ./consumers -doc ../docs/consumers.md

bench-groups: ## measure how groups of processes hand over and take over, and what they cost (eight minutes)
	$(GO) test -run '^$$' -bench 'BenchmarkHandover$$' -benchtime 20x ./mdb/consumer
	$(GO) test -run '^$$' -bench 'BenchmarkTakeover$$' -benchtime 7x -timeout 20m ./mdb/consumer
	$(GO) test -run '^$$' -bench 'BenchmarkRollingRestart$$' -benchtime 2x ./mdb/consumer
	$(GO) test -run '^$$' -bench 'Benchmark(IdleGroup|LongTransaction)$$' -benchtime 1x ./mdb/consumer
	$(GO) test -run '^$$' -bench 'Benchmark(GroupReads|Followers)$$' -benchtime 3x ./mdb/consumer

bench-archive: ## measure how fast messages are exported and imported
	$(GO) test -run '^$$' -bench . -benchtime 3x ./mdb/archive

bench-capacity: ## measure what messages and shards take, and put the tables into docs/scaling.md (minutes)
	cd bench && $(GO) run ./capacity -doc ../docs/scaling.md

bench-gate: ## measure what the gate of a shard adds to an insert
	$(GO) test -run '^$$' -bench BenchmarkGate -benchtime 200x ./internal/gate

compatibility: ## run test-matrix, and record the results in docs/compatibility.md
	$(GO) run ./scripts/matrix -record docs/compatibility.json $(VERSIONS)

test-fresh: ## check make demo and make test in clean Debian roots, as root (FRESH: names of some)
	scripts/test-fresh $(FRESH)

vuln: ## look for known vulnerabilities, where their database can be reached
	@if out="$$($(TOOL) govulncheck ./... 2>&1)"; then echo "$$out"; \
	elif grep -q 'fetching vulnerabilities' <<<"$$out"; then \
		echo "govulncheck cannot reach its database, so nothing is known about vulnerabilities"; \
	else echo "$$out"; exit 1; fi

release-check: ## check the last commit as a release, with its modules from a proxy, without publishing anything (VERSION, QUICK=1: in a minute)
	QUICK="$(QUICK)" scripts/release-check "$(VERSION)"

release: ## build the programs and notes of a release in dist (VERSION=v1.2.3)
	scripts/release "$(VERSION)"

release-publish: release ## publish them on GitHub, with its command gh
	gh release create "$(VERSION)" --verify-tag --title "$(VERSION)" --notes-file dist/notes.md dist/mdb_*.tar.gz dist/SHA256SUMS
