package chaos

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// A tally is the result of a workload, or the sum of several.
type tally struct {
	faults, messages, acked, unknown, resolved int
	redelivered, bound                         int // of subscriptions
	repeated, kills, takeovers, resizes        int // of durable consumers
	violations                                 map[string]int
	recovery                                   []time.Duration // from a fault to the end of each acknowledged write that it interrupted, unless its outcome was unknown
	leaked                                     int
}

func (a *tally) add(b tally) {
	a.faults += b.faults
	a.messages += b.messages
	a.acked += b.acked
	a.unknown += b.unknown
	a.resolved += b.resolved
	a.redelivered += b.redelivered
	a.bound += b.bound
	a.repeated += b.repeated
	a.kills += b.kills
	a.takeovers += b.takeovers
	a.resizes += b.resizes
	a.leaked += b.leaked
	a.recovery = append(a.recovery, b.recovery...)
	for name, n := range b.violations {
		if a.violations == nil {
			a.violations = make(map[string]int)
		}
		a.violations[name] += n
	}
}

// recovered returns a percentile of the times of recovery.
func (a *tally) recovered(percent int) time.Duration {
	if len(a.recovery) == 0 {
		return 0
	}
	slices.Sort(a.recovery)
	return a.recovery[(len(a.recovery)-1)*percent/100].Round(time.Millisecond)
}

func (a *tally) lost() int       { return a.violations["Durable"] }
func (a *tally) ghosts() int     { return a.violations["NoGhost"] }
func (a *tally) duplicates() int { return a.violations["Once"] }
func (a *tally) holes() int {
	return a.violations["Reliable"] + a.violations["Resumable"] + a.violations["NoHole"]
}

func (a *tally) disorder() int {
	return a.violations["Ordered"] + a.violations["Isolation"] + a.violations["OneOwner"]
}

// line returns the report line.
func (a *tally) line() string {
	return fmt.Sprintf("faults=%d msgs=%d acked=%d unknown=%d(resolved %d) lost=%d ghost=%d dup_rows=%d holes=%d order=%d redelivered=%d (bound %d) repeated=%d kills=%d takeovers=%d resizes=%d recovery p50/p99/max %v/%v/%v leaked=%d seed=%d",
		a.faults, a.messages, a.acked, a.unknown, a.resolved, a.lost(), a.ghosts(), a.duplicates(), a.holes(), a.disorder(),
		a.redelivered, a.bound, a.repeated, a.kills, a.takeovers, a.resizes, a.recovered(50), a.recovered(99), a.recovered(100), a.violations["Leak"], *seedFlag)
}

// results are the results of this run of the tests.
var results tallies

// tallies has a tally for each row of the matrix.
type tallies struct {
	mu   sync.Mutex
	rows map[string]*tally
}

func (g *tallies) add(row string, x tally) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.rows == nil {
		g.rows = make(map[string]*tally)
	}
	if g.rows[row] == nil {
		g.rows[row] = new(tally)
	}
	g.rows[row].add(x)
}

// sum returns the sum of all rows.
func (g *tallies) sum() (all tally) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, x := range g.rows {
		all.add(*x)
	}
	return all
}

// evaluate fails the test for each violation, and adds the workload's results to the
// row.
func (w *workload) evaluate(t *testing.T, row string, faults int, violations map[string][]string) {
	t.Helper()
	x := tally{faults: faults, messages: len(w.store), violations: make(map[string]int)}
	for name, found := range violations {
		x.violations[name] = len(found)
		t.Errorf("%s: %d violations (seed %d):\n%s", name, len(found), *seedFlag, strings.Join(found[:min(len(found), 5)], "\n"))
	}
	if w.stuck != nil {
		t.Errorf("not everything was received: %v (seed %d)", w.stuck, *seedFlag)
	}
	for _, o := range w.ops {
		if o.outcome == acked {
			x.acked += len(o.ids)
		}
		if o.unknown {
			x.unknown++
			if o.outcome != pending {
				x.resolved++
			}
		}
		for _, fault := range w.faults {
			if o.outcome == acked && !o.unknown && o.sent.Before(fault) && fault.Before(o.done) {
				x.recovery = append(x.recovery, o.done.Sub(fault))
				break
			}
		}
	}
	for _, s := range w.subscribers {
		for i, n := range s.redelivered() {
			x.redelivered += n
			if s.crashes && i > 0 {
				x.bound += s.Batch
			}
		}
	}
	for _, err := range w.errors {
		checkCanaries(t, fmt.Sprintf("%v %+v", err, err))
	}
	checkCanaries(t, w.log.String())
	t.Log(x.line())
	results.add(row, x)
}

// checkCanaries fails the test if the text contains the password or the payload.
func checkCanaries(t testing.TB, text string) {
	t.Helper()
	for _, canary := range []string{password, payload} {
		if i := strings.Index(text, canary); i >= 0 {
			t.Errorf("the text contains %q: …%s…", canary, text[max(0, i-200):min(len(text), i+200)])
		}
	}
}

// end prints the report line, and writes the page if -page is set.
func (g *tallies) end(ok bool) error {
	if len(g.rows) == 0 {
		return nil
	}
	all := g.sum()
	fmt.Println(all.line())
	if *page == "" || *failoverFlag || !ok {
		return nil
	}
	section, err := keepSection(*page)
	if err != nil {
		return err
	}
	return os.WriteFile(*page, []byte(g.markdown(all)+section), 0o644)
}

func (g *tallies) markdown(all tally) string {
	var b strings.Builder
	fmt.Fprintf(&b, `# Reliability

The faults that the tests inject, and what they found. `+"`make test-faults`"+` writes this page (size %s) after each successful
run, except the section on failovers; do not edit it.

    %s

In words:

- **Writes.** Of %d acknowledged messages, %d are missing from the store and %d are in it twice. %d messages of failed
  writes are in the store. %d writes ended with an unknown outcome; repeating them resolved %d.
- **Subscriptions.** They missed %d messages and received %d out of order. %d messages were delivered again, after a
  process was killed or could not keep its progress: at most a page each time, which allows %d in all.
- **Durable consumers.** %d of their processes were killed, others continued with a partition of these %d times, and the
  number of partitions changed %d times. They repeated %d messages of forms without a transaction, none after a checkpoint
  had passed it.
- **Recovery.** Of the writes that a fault interrupted, half were acknowledged within %v of the fault, 99 %% within %v,
  and all within %v. This does not count writes whose outcome was unknown first.

Each row of the table is a kind of fault. Tests without a folder are in internal/chaos; they give the figures. A row
without figures is tested in other folders only.

- Lost: acknowledged messages that are not in the store.
- Ghosts: messages in the store whose write failed, and writes whose outcome stayed unknown.
- Duplicates: messages that are in the store twice, and effects that are there twice although a consumer's transaction made them.
- Holes: messages that a subscription or consumer missed.
- Disorder: messages delivered in the wrong order, or to two members of a group or processes of a consumer.
- Redelivered: messages delivered again.

`, *sizeFlag, all.line(),
		all.acked, all.lost(), all.duplicates(), all.ghosts(), all.unknown, all.resolved,
		all.holes(), all.disorder(), all.redelivered, all.bound, all.kills, all.takeovers, all.resizes, all.repeated,
		all.recovered(50), all.recovered(99), all.recovered(100))
	b.WriteString("| # | Fault | Injected | Messages | Lost | Ghosts | Duplicates | Holes | Disorder | Redelivered | Tests |\n|---|---|--:|--:|--:|--:|--:|--:|--:|--:|---|\n")
	for _, row := range matrix {
		x := g.rows[row.number]
		if x == nil {
			fmt.Fprintf(&b, "| %s | %s | | | | | | | | | %s |\n", row.number, row.fault, row.tests())
			continue
		}
		fmt.Fprintf(&b, "| %s | %s | %d | %d | %d | %d | %d | %d | %d | %d | %s |\n", row.number, row.fault, x.faults, x.messages,
			x.lost(), x.ghosts(), x.duplicates(), x.holes(), x.disorder(), x.redelivered+x.repeated, row.tests())
	}
	b.WriteString("\nNot tested:\n\n")
	for _, row := range matrix {
		if row.notRun != "" {
			fmt.Fprintf(&b, "- %s: %s.\n", row.number, row.notRun)
		}
	}
	return b.String()
}

// The section on failovers is written by a run of its own, and between these marks.
const (
	sectionBegin = "<!-- The next section is written by make test-failover. -->\n"
	sectionEnd   = "<!-- Its end. -->\n"
)

// replaceSection writes a new section on failovers to the page.
func replaceSection(path, section string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, found := strings.Cut(string(text), sectionBegin)
	_, after, ended := strings.Cut(rest, sectionEnd)
	if !found || !ended {
		return fmt.Errorf("%s has no section between %q and %q", path, sectionBegin, sectionEnd)
	}
	return os.WriteFile(path, []byte(before+sectionBegin+section+sectionEnd+after), 0o644)
}

// keepSection returns the section of the page, with its marks.
func keepSection(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	_, rest, _ := strings.Cut(string(text), sectionBegin)
	section, _, found := strings.Cut(rest, sectionEnd)
	if !found {
		return "", fmt.Errorf("%s has no section that ends with %q", path, sectionEnd)
	}
	return sectionBegin + section + sectionEnd, nil
}
