package mdb_test

import (
	"flag"
	"fmt"
	"maps"
	"os"
	osexec "os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest/conformance"
)

var updatePage = flag.Bool("update", false, "write docs/proxies.md")

// proxyVariable has the URL of the proxy for TestConformanceOfProxy.
const proxyVariable = "MDB_TEST_PROXY"

// TestConformanceOfProxy is the suite on a proxy. TestPLProxyConformance runs it in a process of its own, because
// some of it fails.
func TestConformanceOfProxy(t *testing.T) {
	url := os.Getenv(proxyVariable)
	if url == "" {
		t.Skip("a part of TestPLProxyConformance")
	}
	conformance.Run(t, func(t testing.TB, opts ...mdb.StoreOption) *mdb.Store {
		t.Helper()
		return newStore(t, newPool(t, url), opts...)
	})
}

// A proxyDifference is a reason for which a proxy behaves otherwise than Message DB. It shows in each line that the suite logs
// for such a behaviour.
type proxyDifference struct {
	reason string
	logged *regexp.Regexp
	// differs reports whether a line is about the reason although it matches. nil: no line is not.
	differs func(match []string) bool
	// some says that it depends on the random names of categories.
	some []string
}

const conditionsOff = `Retrieval with SQL condition is not activated`

// proxyDifferences are in the order in which they are tried.
var proxyDifferences = []proxyDifference{
	{
		reason: "Conditions do not work: the setting that allows them does not reach the shard, which rejects them.",
		logged: regexp.MustCompile(`REMOTE ERROR: ` + conditionsOff + `|get messages of (category|stream) \S+: ERROR: exception raised by a function \(SQLSTATE P0001\)`),
	},
	{
		reason:  "The text of an error begins with the name of the function and of the shard's database, and goes on as that of the shard. Its code is the same. A `Store` returns the same typed errors.",
		logged:  regexp.MustCompile(`^got "message_store\.\w+\(\d\): \[\w+\] REMOTE ERROR: (.*)", want "(.*)"$`),
		differs: func(match []string) bool { return match[1] != match[2] },
	},
	{
		reason: "An error has no name of a constraint or of a column. A `Store` finds the constraint in the text.",
		logged: regexp.MustCompile(`^got (constraint|column) "", want`),
	},
	{
		reason: "Settings for debugging do not reach the shard.",
		logged: regexp.MustCompile(`^\w+: got 0 notices, want some: true$`),
	},
	{
		reason: "The table, its sequence, the views, and their indexes and privileges are on the shards. The role `message_store` has there what it has in Message DB, and on the proxy only what it needs to call the functions.",
		logged: regexp.MustCompile(`relation "message_store\.\w+" does not exist|lacks (SELECT|INSERT) on messages$|cannot (delete from|update) view "messages"|^SELECT pg_stat_get_xact_tuples_returned`),
	},
	{
		reason: "`acquire_lock` fails, because the lock would be released immediately. `write_message` holds it on the shard until its message is committed there.",
		logged: regexp.MustCompile(`acquire_lock is not possible through PL/Proxy|^another session gets the lock$|: lock categories: write_message is a function of PL/Proxy`),
	},
	{
		reason: "The write of a transaction with an old snapshot does not fail, because the transaction on the shard has a new one.",
		logged: regexp.MustCompile(`^SQL: got <nil>, want 23505 of messages_stream$`),
	},
	{
		reason: "Each write is a transaction of its own on the shard. A rollback of the transaction on the proxy does not undo it, and messages of that transaction have different times.",
		logged: regexp.MustCompile(`^after the rollback the category has 1 messages, want 0$|^two messages of a transaction have 2 times, want 1$`),
	},
	{
		reason: "An ID is unique on each shard only.",
		logged: regexp.MustCompile(`^other categories have accepted the id, want 23505$`),
	},
	{
		reason: "Writes of a `Tx` are rejected with `ErrProxied`.",
		logged: regexp.MustCompile(`mdb: write in a transaction: write_message is a function of PL/Proxy`),
	},
	{
		reason: "Reads that no function of Message DB does on one shard are rejected with `ErrProxied`.",
		logged: regexp.MustCompile(`mdb: (read backwards|read all categories|get a message by its ID|find the messages since a time): write_message is a function of PL/Proxy`),
	},
	{
		reason: "Global positions are not comparable between categories of different shards, so what is after the position of another category's message is chance.",
		logged: regexp.MustCompile(`^[^:]+: got \[.*\], want \[.*\]$`),
		some: []string{
			"get_category_messages: position: of a message of another category",
			"get_category_messages: correlation: with a position and a batch size",
		},
	},
}

// TestPLProxyConformance checks that the page lists all behaviours in which a proxy differs from Message DB, each because of the
// reason that it says. Every other behaviour is the same.
func TestPLProxyConformance(t *testing.T) {
	t.Parallel()
	shards := []int{2, 4}
	if testing.Short() {
		shards = shards[:1]
	}
	for _, n := range shards {
		t.Run(fmt.Sprintf("%d shards", n), func(t *testing.T) {
			t.Parallel()
			p := &plproxy{Proxy: testdb.NewProxy(t, n, nil)}
			p.url = p.URL
			testdb.ViewShards(t, p.url) // the suite itself looks at the table
			cmd := osexec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestConformanceOfProxy$", "-test.v")
			cmd.Env = append(os.Environ(), proxyVariable+"="+p.url)
			output, _ := cmd.CombinedOutput() // some of it fails
			wantDifferences(t, string(output))
		})
	}
}

const (
	differencesBegin = "<!-- Written by go test ./mdb -run TestPLProxyConformance -update -->\n"
	differencesEnd   = "<!-- The end of what is written. -->\n"
)

func wantDifferences(t *testing.T, output string) {
	t.Helper()
	failed := make([]map[string]bool, len(proxyDifferences))
	for i, d := range proxyDifferences {
		failed[i] = make(map[string]bool)
		for _, name := range d.some {
			failed[i][name] = true
		}
	}
	outcomes := make(map[string]string)
	for _, match := range outcomeLine.FindAllStringSubmatch(output, -1) {
		outcomes[match[2]] = match[1]
	}
	passed := 0
	logged := suiteLog(output)
	for name, behaviour := range behaviours(t) {
		switch outcome := outcomes[name]; outcome {
		case "PASS":
			passed++
		case "FAIL":
			if i := differenceOf(t, behaviour, logged[name]); i >= 0 {
				failed[i][behaviour] = true
			}
		default:
			t.Errorf("%s was not run: %q", behaviour, outcome)
		}
	}
	if passed == 0 {
		t.Fatalf("nothing has passed:\n%s", output)
	}
	var text strings.Builder
	for i, d := range proxyDifferences {
		fmt.Fprintf(&text, "\n%s\n\n", d.reason)
		for _, name := range slices.Sorted(maps.Keys(failed[i])) {
			often := ""
			if slices.Contains(d.some, name) {
				often = " (sometimes)"
			}
			fmt.Fprintf(&text, "- %s%s\n", name, often)
		}
	}
	wantInPage(t, "../docs/proxies.md", text.String()+"\n")
}

// differenceOf returns the index of the reason for which a behaviour differs, or -1 after it has reported that there is none.
func differenceOf(t *testing.T, behaviour string, lines []string) (found int) {
	t.Helper()
	found = -1
	for _, line := range lines {
		i := slices.IndexFunc(proxyDifferences, func(d proxyDifference) bool {
			match := d.logged.FindStringSubmatch(line)
			return match != nil && (d.differs == nil || !d.differs(match)) && (d.some == nil || slices.Contains(d.some, behaviour))
		})
		if i < 0 {
			t.Errorf("%s: no reason is known for %s", behaviour, line)
			return -1
		}
		if found < 0 || i < found {
			found = i
		}
	}
	if found < 0 {
		t.Errorf("%s: failed without a log", behaviour)
	}
	return found
}

// behaviours returns the behaviours of the suite by the names of their tests, from the page that lists them.
func behaviours(t *testing.T) map[string]string {
	t.Helper()
	page, err := os.ReadFile("../docs/conformance.md")
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]string)
	section := ""
	for line := range strings.Lines(string(page)) {
		line = strings.TrimSuffix(line, "\n")
		if name, ok := strings.CutPrefix(line, "## "); ok {
			section = name
		} else if name, ok := strings.CutPrefix(line, "- "); ok {
			all[strings.ReplaceAll(section+"/"+name, " ", "_")] = section + ": " + name
		}
	}
	return all
}

var (
	outcomeLine = regexp.MustCompile(`(?m)^ *--- (PASS|FAIL|SKIP): TestConformanceOfProxy/(\S+) \([0-9.]+s\)$`)
	namedLine   = regexp.MustCompile(`^=== (?:RUN|CONT|NAME|PAUSE) +TestConformanceOfProxy/(.*)$`)
	loggedLine  = regexp.MustCompile(`^    \w+\.go:\d+: (.*)$`)
)

// suiteLog returns what each subtest has logged, each as one line.
func suiteLog(output string) map[string][]string {
	all := make(map[string][]string)
	name, logging := "", false
	for line := range strings.Lines(output) {
		line = strings.TrimSuffix(line, "\n")
		if match := namedLine.FindStringSubmatch(line); match != nil {
			name, logging = match[1], false
		} else if match := loggedLine.FindStringSubmatch(line); match != nil {
			all[name], logging = append(all[name], match[1]), true
		} else if last := len(all[name]) - 1; logging && strings.HasPrefix(line, "        ") && last >= 0 {
			all[name][last] += " " + strings.TrimSpace(line)
		} else {
			logging = false
		}
	}
	return all
}

// wantInPage compares the part of the page that a test writes.
func wantInPage(t *testing.T, name, text string) {
	t.Helper()
	page, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, begun := strings.Cut(string(page), differencesBegin)
	got, after, ended := strings.Cut(rest, differencesEnd)
	if !begun || !ended {
		t.Fatalf("%s has no part that this test writes", name)
	}
	if got == text {
		return
	}
	if *updatePage {
		if err := os.WriteFile(name, []byte(before+differencesBegin+text+differencesEnd+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Errorf("%s says\n%s\nwant\n%s\nwrite it with -update", name, got, text)
}
