package chaos

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// A matrixRow is a kind of fault with the tests that inject it: those of this package,
// and those elsewhere, after their folder.
type matrixRow struct {
	number, fault string
	here          []string
	elsewhere     []string
	notRun        string // what no test covers, and why
}

func (r matrixRow) tests() string {
	return strings.Join(append(append([]string{}, r.here...), r.elsewhere...), ", ")
}

var matrix = []matrixRow{
	{"T1", "the connection breaks at each message of a write", []string{"TestCutWrites"}, []string{"mdb.TestSettle", "mdb.TestSettleAgain", "mdb.TestSettleWithOthers", "mdb.TestUnsettled", "mdb.TestContextEndsDuringWrite"}, ""},
	{"T2", "the connection breaks at each row of a read", []string{"TestCutReads"}, []string{"mdb.TestCutReads", "mdb.TestSubscriptionCutPages"}, ""},
	{"T3", "every connection is cut after 50 ms to 1.5 s", []string{"TestChaos"}, nil, ""},
	{"T4", "the server ends sessions", []string{"TestTerminations"}, []string{"mdb.TestTerminatedWrite", "mdb.TestTerminatedIdle", "mdb.TestSubscriptionsOutliveTermination"}, ""},
	{"T5", "the server restarts or is killed", []string{"TestRestarts"}, []string{"mdb.TestSubscriptionsOutliveRestarts", "mdb.TestNotifyRestart"}, ""},
	{"T6", "the server becomes a read-only standby and is promoted", []string{"TestStandby"}, nil, ""},
	{"T7", "connections become black holes", []string{"TestBlackHole", "TestOutage", "TestLongOutages"}, []string{"mdb.TestSilentConnection"}, "outages of 15 s to a minute, which only `make soak` has"},
	{"T8", "consumers and writers are killed", []string{"TestKilledConsumers", "TestKilledWriters"}, nil, ""},
	{"T9", "the listening connection ends, notifications are lost, the trigger is removed", []string{"TestLostNotifications"}, []string{"mdb.TestNotifyKilled", "mdb.TestNotifyDisabled", "mdb.TestNotifyStress"}, "the delay that a lost notification causes, because no test asserts a time; that the message is delivered is tested"},
	{"T10", "handlers and progress callbacks fail and panic", []string{"TestFailingHandlers"}, []string{"mdb.TestSubscriptionCallbackErrors", "mdb.TestSubscriptionPanics", "mdb.TestSubscriptionHoldsNoConnection"}, ""},
	{"T11", "long transactions, rollbacks, transactions across categories", []string{"TestVisibility"}, []string{"mdb.TestSubscriptionAgainstWriters", "mdb.TestAllStress"}, ""},
	{"T12", "inserts that bypass write_message, a sequence with a cache", []string{"TestBypass"}, []string{"mdb.TestCheckAll"}, ""},
	{"T13", "deadlocks, lock timeouts, stricter isolation", nil, []string{"mdb.TestNoDeadlock", "mdb.TestDeadlock", "mdb.TestLockTimeout", "mdb.TestLostRaceOfSnapshots", "mdb.TestStoreOfSnapshots", "mdb.TestAtomicallyDeadlock"}, ""},
	{"T14", "Message DB is upgraded", nil, []string{"mdb.TestSubscriptionsOutliveUpgrades", "mdb.TestOutdatedStatements", "mdb.TestForgottenStatements"}, ""},
	{"T15", "PgBouncer in transaction mode", []string{"TestPgBouncer"}, nil, ""},
	{"T16", "one connection, too few connections, a slow network", []string{"TestFewConnections", "TestSlowNetwork"}, []string{"mdb.TestSubscriptionsShareOneConnection", "mdb.TestNotifyExhaustedPool"}, "loss of packets, which needs rights on the machine's network; a delay of each message is tested instead"},
	{"T17", "subscriptions start and stop", nil, []string{"mdb.TestSubscriptionsStartAndStop", "mdb.TestNotifyConnections"}, ""},
	{"T18", "years without messages, long retries", nil, []string{"mdb.TestSubscriptionIdle", "mdb.TestSubscriptionRetries", "internal/doorbell.TestSleep", "mdb/poll.FuzzStrategies"}, "a jump of the wall clock, which has no effect, because timers are monotonic"},
	{"T19", "random operations, compared with a model", []string{"TestModel"}, []string{"internal/names.FuzzNames"}, ""},
	{"T20", "the primary fails, and a standby takes over: see the table of failovers", []string{"TestFailover"}, []string{"mdb.TestFailover", "mdb.TestFrozenPrimary", "mdb.TestAcknowledgedSurvivesFailover"}, ""},
	{"T21", "processes of durable consumers are killed", []string{"TestKilledProcesses", "TestKilledProcess"}, []string{"mdb/consumer.TestTakeover", "mdb/consumer.TestInstance"}, ""},
	{"T22", "the connection breaks at each message of a durable consumer", []string{"TestCutConsumers"}, []string{"mdb/consumer.TestUnknownOutcomes"}, ""},
	{"T23", "connections of durable consumers become black holes, the server restarts or is killed", []string{"TestSilentProcesses", "TestProcessesOutliveRestarts", "TestGroupOutages"}, nil, ""},
	{"T24", "processes of a durable consumer join, leave, are replaced and are killed all the time", []string{"TestChangingGroups"}, []string{"mdb/consumer.TestGroupMoves", "mdb/consumer.TestGroupMovesLeast", "mdb/consumer.TestGroupReturns"}, ""},
	{"T25", "processes of a durable consumer are frozen, also for longer than their lease", []string{"TestFrozenGroups"}, []string{"mdb/consumer.TestMemberSuspended"}, "freezes of 5 s to a minute, which only `make soak` has, and a suspended machine; a clock that stood still is tested instead"},
	{"T26", "durable consumers whose processes have one connection, through PgBouncer in transaction mode, whose connections are cut", []string{"TestPooledGroups"}, []string{"mdb/consumer.TestGroupOfOneConnection"}, ""},
	{"T27", "handlers of durable consumers fail, streams are parked and replayed, beside a long transaction", []string{"TestPoisonedGroups"}, nil, ""},
	{"T28", "the number of partitions of a durable consumer changes, while processes join, leave and are killed", []string{"TestResizedGroups"}, []string{"mdb/consumer.TestSteered", "mdb/consumer.TestAdminResize"}, ""},
	{"T29", "operators pause durable consumers, move them back and forward, and replay and skip parked messages", []string{"TestOperatedGroups"}, []string{"mdb/consumer.TestAdminSeek", "mdb/consumer.TestAdminSkip", "mdb/consumer.TestAdminReplay"}, ""},
	{"T30", "the primary is killed and its standby promoted, with and without the last transactions, while processes of a durable consumer are killed", []string{"TestPromotedGroups"}, []string{"mdb/consumer.TestHistoryFailover"}, ""},
	{"T31", "the connection breaks at each message of writes that are sent together, the server is restarted and killed, connections become black holes, the writers are killed", []string{"TestCutGroup", "TestCutGroupedWrites", "TestGroupedRestarts", "TestGroupedOutages", "TestGroupedBlackHole", "TestKilledGroups"}, []string{"mdb.TestGroupSettles", "mdb.TestGroupRefused", "mdb.TestGroupContexts"}, ""},
	{"T32", "the standby that serves reads lags, cancels them, is frozen, killed and promoted", nil, []string{"mdb.TestReplicaLags", "mdb.TestReplicaReplayConflict", "mdb.TestReplicaFails", "mdb.TestReplicaFrozen", "mdb.TestReplicaUnderLoad", "mdb.TestReplicaPromoted", "mdb.TestReplicaWithoutLost", "mdb.TestReplicaOfOldPrimary", "mdb/consumer.TestReplica"}, ""},
	{"Inputs", "arguments that the server rejects or changes", []string{"TestInputs", "TestInjection"}, []string{"mdb.TestPayloadRefused", "mdb.TestStreamArguments", "mdb.FuzzErrors", "mdb.FuzzJSONGuard"}, ""},
	{"Load", "64 writers and 64 subscriptions on 8 connections", []string{"TestLoad", "TestReadWhileWritten"}, nil, ""},
}

// TestMatrix checks that the tests that the matrix names exist, that its rows are numbered
// without a gap, and that docs/reliability.md has these rows.
func TestMatrix(t *testing.T) {
	found := make(map[string]bool)
	declaration := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	for _, folder := range []string{"internal/chaos", "internal/doorbell", "internal/names", "mdb", "mdb/consumer", "mdb/poll"} {
		files, err := filepath.Glob(filepath.Join("../..", folder, "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range declaration.FindAllStringSubmatch(string(text), -1) {
				found[folder+"."+m[1]] = true
			}
		}
	}
	writesPage := *page != "" // at the end of this run
	page, err := os.ReadFile("../../docs/reliability.md")
	if err != nil {
		t.Fatal(err)
	}
	for i, row := range matrix {
		if want := fmt.Sprint("T", i+1); strings.HasPrefix(row.number, "T") && row.number != want {
			t.Errorf("row %d: got number %s, want %s", i+1, row.number, want)
		}
		onPage := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(fmt.Sprintf("| %s | %s |", row.number, row.fault)) +
			`[ \d|]*` + regexp.QuoteMeta("| "+row.tests()+" |") + `$`)
		if !writesPage && !onPage.Match(page) {
			t.Errorf("docs/reliability.md has no row %s with the fault %q and the tests %s", row.number, row.fault, row.tests())
		}
		for _, name := range row.here {
			if !found["internal/chaos."+name] {
				t.Errorf("%s names %s, which does not exist", row.number, name)
			}
		}
		for _, name := range row.elsewhere {
			if !found[name] {
				t.Errorf("%s names %s, which does not exist", row.number, name)
			}
		}
		if len(row.here)+len(row.elsewhere) == 0 && row.notRun == "" {
			t.Errorf("%s has no test and no reason", row.number)
		}
	}
}
