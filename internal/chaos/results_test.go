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

// A tally is what a run of a world, or of several, comes to.
type tally struct {
	faults, messages, acked, unknown, resolved int
	redelivered, bound                         int
	violations                                 map[string]int
	recovery                                   []time.Duration // of writes that a fault met, and that ended well at once
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
	a.leaked += b.leaked
	a.recovery = append(a.recovery, b.recovery...)
	for name, n := range b.violations {
		if a.violations == nil {
			a.violations = make(map[string]int)
		}
		a.violations[name] += n
	}
}

// line is the report line.
func (a *tally) line() string {
	slices.Sort(a.recovery)
	at := func(percent int) time.Duration {
		if len(a.recovery) == 0 {
			return 0
		}
		return a.recovery[(len(a.recovery)-1)*percent/100].Round(time.Millisecond)
	}
	v := a.violations
	return fmt.Sprintf("faults=%d msgs=%d acked=%d unknown=%d(resolved %d) lost=%d ghost=%d dup_rows=%d holes=%d order=%d redelivered=%d (bound %d) recovery p50/p99/max %v/%v/%v leaked=%d seed=%d",
		a.faults, a.messages, a.acked, a.unknown, a.resolved, v["Durable"], v["NoGhost"], v["Once"],
		v["Reliable"]+v["Resumable"], v["Ordered"]+v["Isolation"], a.redelivered, a.bound, at(50), at(99), at(100), v["Leak"], *seedFlag)
}

// results are those of this run of the tests.
var results gathering

// A gathering has tallies by row of the matrix.
type gathering struct {
	mu   sync.Mutex
	rows map[string]*tally
}

func (g *gathering) enter(row string, x tally) {
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

// judge fails the test for what a run has shown, and enters it in the row.
func (w *world) judge(t *testing.T, row string, faults int, violations map[string][]string) {
	t.Helper()
	x := tally{faults: faults, messages: w.stored, violations: make(map[string]int)}
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
	checkCanaries(t, w.log.text())
	t.Log(x.line())
	results.enter(row, x)
}

// checkCanaries fails for a password or payload where there should be none.
func checkCanaries(t testing.TB, text string) {
	t.Helper()
	for _, canary := range []string{password, payload} {
		if i := strings.Index(text, canary); i >= 0 {
			t.Errorf("it holds %q: …%s…", canary, text[max(0, i-200):min(len(text), i+200)])
		}
	}
}

// end prints the report line, and writes the page if one is wanted.
func (g *gathering) end(ok bool) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.rows) == 0 {
		return nil
	}
	var all tally
	for _, x := range g.rows {
		all.add(*x)
	}
	fmt.Println(all.line())
	if *page == "" || !ok {
		return nil
	}
	return os.WriteFile(*page, []byte(g.markdown(all)), 0o644)
}

func (g *gathering) markdown(all tally) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Reliability\n\nWhat broke, and what came of it. Written by `make test-faults` (size %s) at its last successful run; not to be edited.\n\n", *sizeFlag)
	fmt.Fprintf(&b, "    %s\n\n", all.line())
	fmt.Fprintf(&b, "Lost are acknowledged messages that are not in the store, ghosts those in it that were not acknowledged, holes messages\n"+
		"that a subscription has passed over. A message comes again (redelivered) only after a program was killed; a page bounds it.\n"+
		"Recovery is how long after a fault a write that it met was acknowledged; that of an unknown outcome is settled later.\n\n")
	b.WriteString("| # | Fault | Faults | Messages | Lost | Ghosts | Twice | Holes | Disorder | Again | By tests |\n|---|---|--:|--:|--:|--:|--:|--:|--:|--:|---|\n")
	for _, row := range matrix {
		x := g.rows[row.number]
		if x == nil {
			fmt.Fprintf(&b, "| %s | %s | | | | | | | | | %s |\n", row.number, row.fault, row.tests())
			continue
		}
		v := x.violations
		fmt.Fprintf(&b, "| %s | %s | %d | %d | %d | %d | %d | %d | %d | %d | %s |\n", row.number, row.fault, x.faults, x.messages,
			v["Durable"], v["NoGhost"], v["Once"], v["Reliable"]+v["Resumable"], v["Ordered"]+v["Isolation"], x.redelivered, row.tests())
	}
	b.WriteString("\nNot run, and why:\n\n")
	for _, row := range matrix {
		if row.lacks != "" {
			fmt.Fprintf(&b, "- %s: %s.\n", row.number, row.lacks)
		}
	}
	return b.String()
}
