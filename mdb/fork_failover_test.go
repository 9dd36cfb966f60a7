package mdb_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/mdb"
)

// allFailovers is the environment variable that makes the tests try every number of lost
// messages in every way.
const allFailovers = "MDB_TEST_FAILOVERS"

// A loss is what a failover takes away.
type loss struct {
	messages int
	// left is how many values of the sequence are logged already when the first of the lost
	// messages is written. If they are enough, no position of a lost message is used again.
	left int
	// busy says that new messages are written before any subscription reaches the new
	// primary. Otherwise they are written after all have noticed the fork.
	busy bool
	// past says that these new messages have the positions of all lost ones, and later ones.
	past bool
	// foreign says that no filter selects any of the lost messages.
	foreign bool
	// always says that the loss is not only tried with allFailovers.
	always bool
}

func (l loss) String() string {
	when := "quiet"
	if l.busy {
		when = "busy"
	}
	if l.past {
		when = "busy until all positions are used again"
	}
	what := "lost"
	if l.foreign {
		what = "lost that no filter selects"
	}
	return fmt.Sprintf("%d %s, %d positions left, %s", l.messages, what, l.left, when)
}

var losses = []loss{
	{messages: 0, left: 30, busy: true, always: true},
	{messages: 0, left: 3},
	{messages: 20, left: 30, always: true},
	{messages: 20, left: 30, busy: true},
	{messages: 20, left: 3},
	{messages: 20, left: 3, busy: true},
	{messages: 20, left: 3, busy: true, past: true, always: true},
	{messages: 20, left: 3, busy: true, foreign: true, always: true},
	{messages: 150, left: 3, busy: true, always: true}, // by procedures, several statements ask about them
	{messages: 500, left: 3},
	{messages: 500, left: 3, busy: true},
}

// TestFailover checks that subscriptions of all kinds deliver every message of the promoted
// standby, in order and once, report a fork once if messages that they have handled are
// lost, and list exactly these.
func TestFailover(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	for _, l := range losses {
		if !l.always && os.Getenv(allFailovers) == "" {
			continue
		}
		t.Run(l.String(), func(t *testing.T) {
			t.Parallel()
			testFailover(t, l)
		})
	}
}

func testFailover(t *testing.T, l loss) {
	f := newFailover(t)
	f.watch(t, nil)
	f.write(t, f.old, 60)
	f.align(t, f.old, l.left)
	f.catchUp(t)
	f.Hold(t)
	switch {
	case l.foreign:
		f.writeForeign(t, f.old, l.messages)
		f.arriveAtEnd(t)
	case l.messages > 0:
		f.write(t, f.old, l.messages)
	}
	f.catchUp(t)
	before := f.remember(t, f.old)
	f.promote(t)
	kept := f.remember(t, f.next)
	lost := without(before[ofAccount], kept[ofAccount])
	if len(lost) != l.messages || len(before[ofAccount]) != 60+l.messages {
		t.Fatalf("the new primary lacks %d of %d messages, want %d", len(lost), len(before[ofAccount]), l.messages)
	}

	// New messages: fewer than are lost, and then more.
	if l.busy {
		n := 1 + l.messages/2
		if l.past {
			n = 30 + l.messages
		}
		f.write(t, f.next, n)
		f.arrive()
	} else {
		f.arrive()
		for _, w := range f.witnesses {
			if len(without(before[w.selects], kept[w.selects])) > 0 {
				w.until(t, "informed of the fork", func() bool { return len(w.forks) > 0 })
			}
		}
		f.write(t, f.next, 1+l.messages/2)
	}
	f.receive(t, before, kept)
	if reused := selected(t, f.next, ofAccount)[len(kept[ofAccount])].Global <= before[ofAccount][len(before[ofAccount])-1].Global; l.messages > 0 && reused != (l.messages > l.left) {
		t.Fatalf("positions of lost messages are used again: %t", reused)
	}
	f.write(t, f.next, 30+l.messages)
	f.receive(t, before, kept)
	f.compare(t, before, kept)
}

// receive waits until each subscription has handled what it wants of the new primary.
func (f *failover) receive(t testing.TB, before, kept past) {
	t.Helper()
	for _, w := range f.witnesses {
		want := len(before[w.selects]) + len(f.wanted(t, w)) - len(kept[w.selects])
		w.until(t, fmt.Sprintf("%d messages", want), func() bool { return len(w.handled) >= want })
	}
}

// compare checks what subscriptions have received that ran during the failover.
func (f *failover) compare(t testing.TB, before, kept past) {
	t.Helper()
	f.write(t, f.next, 10) // what is delivered twice shows up before these
	f.receive(t, before, kept)
	for _, w := range f.witnesses {
		w.stop(t)
		fresh := without(f.wanted(t, w), kept[w.selects])
		w.compareDelivered(t, placesOf(w.handled), append(slices.Clone(before[w.selects]), fresh...))
		w.compareForks(t, before[w.selects], kept[w.selects], kept[w.reads()])
		compareProgress(t, w.name, w.progress, w.stream, before[w.reads()], selected(t, f.next, w.reads()))
	}
}

// compareForks checks that a subscription that has handled the messages reports those that
// are not kept, by one fork, and that nothing new was handled before.
func (w *witness) compareForks(t testing.TB, handled, kept, keptOfAll []place) {
	t.Helper()
	lost := without(handled, kept)
	stats := w.store.Stats()
	if want := (mdb.Stats{Forks: int64(len(w.forks)), Missing: int64(len(lost))}); stats != want {
		t.Errorf("%s: got %+v after %d forks, want %+v", w.name, stats, len(w.forks), want)
	}
	if logged := strings.Count(w.journal.String(), "level=WARN"); len(lost) > 0 && logged == 0 {
		t.Errorf("%s: no warning was logged", w.name)
	}
	if len(lost) == 0 {
		// What a filter leaves out may be lost too, and only the checkpoint knows it.
		quiet := !w.filtered() || w.stream != ""
		if len(w.forks) > 0 && quiet || len(w.forks) > 1 || len(w.forks) == 1 && len(w.forks[0].Missing) > 0 {
			t.Errorf("%s: got forks %+v, want none", w.name, w.forks)
		}
		return
	}
	if len(w.forks) != 1 {
		t.Errorf("%s: got %d forks, want 1", w.name, len(w.forks))
		return
	}
	fork := w.forks[0]
	if w.forkedAt[0] != len(handled) {
		t.Errorf("%s: the fork was reported after %d messages, want %d", w.name, w.forkedAt[0], len(handled))
	}
	if want := map[bool]mdb.Category{false: "account"}[w.all != nil]; fork.Category != want || fork.Stream != w.stream {
		t.Errorf("%s: a fork of %q, %q", w.name, fork.Category, fork.Stream)
	}
	want := make([]mdb.MissingMessage, len(lost))
	for i, m := range lost {
		want[i] = mdb.MissingMessage{Position: w.position(m), ID: m.ID, Time: m.Time}
	}
	if !slices.Equal(fork.Missing, want) {
		t.Errorf("%s: %d messages are missing, want these %d:\n%v\n%v", w.name, len(fork.Missing), len(want), fork.Missing, want)
	}
	// With a filter, the newest known message may be one that the filter leaves out.
	last := w.position(kept[len(kept)-1])
	if !w.filtered() && fork.After != last || fork.After < last ||
		!slices.ContainsFunc(keptOfAll, func(m place) bool { return w.position(m) == fork.After && (w.stream == "" || m.Stream == w.stream) }) {
		t.Errorf("%s: the subscription continues after %d, want %d or a later message that is there", w.name, fork.After, last)
	}
}

// TestFailoverBetweenRuns checks that a subscription that starts from a stored checkpoint
// after a failover delivers everything that the earlier one has not handled, and that it
// reports a fork only if the checkpoint knows a message that is lost.
func TestFailoverBetweenRuns(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	for _, l := range losses {
		if !l.busy || l.messages == 0 || l.foreign || !l.always && os.Getenv(allFailovers) == "" {
			continue
		}
		t.Run(l.String(), func(t *testing.T) {
			t.Parallel()
			testFailoverBetweenRuns(t, l)
		})
	}
}

func testFailoverBetweenRuns(t *testing.T, l loss) {
	f := newFailover(t)
	f.watch(t, nil)
	f.write(t, f.old, 60)
	f.align(t, f.old, l.left)
	f.catchUp(t)
	early := make(map[string]string) // checkpoints of messages that are kept
	for _, w := range f.witnesses {
		w.until(t, "informed of its progress", func() bool { return w.checkpoint != "" })
		w.mu.Lock()
		early[w.name] = w.checkpoint
		w.mu.Unlock()
	}
	f.Hold(t)
	f.write(t, f.old, l.messages)
	f.catchUp(t)
	before := f.remember(t, f.old)
	late := f.stopAll(t)
	f.promote(t)
	kept := f.remember(t, f.next)
	f.write(t, f.next, l.messages/2)
	f.write(t, f.next, l.messages) // beyond all lost positions
	f.arrive()
	f.restart(t, early)
	for _, w := range f.witnesses {
		if len(w.handled) > 0 {
			repeated := len(w.handled) - len(w.compareRestart(t, f.wanted(t, w), before))
			if len(w.forks) != 0 || repeated > len(kept[w.selects]) {
				t.Errorf("%s, before the loss: got forks %+v, want none", w.name, w.forks)
			}
		}
	}
	f.restart(t, late)
	f.compareRestarts(t, before, kept)
}

// stopAll ends the subscriptions, and returns their checkpoints.
func (f *failover) stopAll(t testing.TB) map[string]string {
	t.Helper()
	checkpoints := make(map[string]string)
	for _, w := range f.witnesses {
		w.stop(t) // OnProgress has been called with all that is handled
		checkpoints[w.name] = w.checkpoint
	}
	return checkpoints
}

// restart starts subscriptions from the checkpoints, and ends them when each has handled the last
// message that it wants.
func (f *failover) restart(t testing.TB, from map[string]string) {
	t.Helper()
	f.witnesses = nil
	f.watch(t, func(k witnessKind) string { return from[k.name] })
	for _, w := range f.witnesses {
		want := f.wanted(t, w)
		last := want[len(want)-1]
		w.until(t, "at the last message", func() bool {
			return slices.ContainsFunc(w.handled, func(m mdb.Message) bool { return m.ID == last.ID })
		})
		w.stop(t)
	}
}

// compareRestart checks what a subscription has received that started after the failover: the
// end of what is there, which begins at or before the first message that the earlier run
// has not handled. It returns those messages.
func (w *witness) compareRestart(t testing.TB, want []place, before past) (fresh []place) {
	t.Helper()
	got := placesOf(w.handled)
	w.compareDelivered(t, got, want[max(0, len(want)-len(got)):])
	fresh = without(want, before[w.selects])
	if missed := without(fresh, got); len(missed) > 0 {
		t.Errorf("%s: %d of %d new messages are not delivered", w.name, len(missed), len(fresh))
	}
	return fresh
}

// compareRestarts checks subscriptions that started from checkpoints of lost messages.
func (f *failover) compareRestarts(t testing.TB, before, kept past) {
	t.Helper()
	for _, w := range f.witnesses {
		w.compareRestart(t, f.wanted(t, w), before)
		switch lost := without(before[w.selects], kept[w.selects]); {
		case len(lost) == 0:
		case len(w.forks) != 1:
			t.Errorf("%s, lost: got %d forks, want 1", w.name, len(w.forks))
		case w.forkedAt[0] != 0:
			t.Errorf("%s, lost: the fork was reported after %d messages, want none", w.name, w.forkedAt[0])
		default:
			w.compareMissing(t, lost, without(before[w.reads()], kept[w.reads()]))
		}
	}
}

// compareMissing checks that a fork lists messages that are lost, the newest among them.
func (w *witness) compareMissing(t testing.TB, lost, lostOfAll []place) {
	t.Helper()
	missing := w.forks[0].Missing
	for i, m := range missing {
		if !slices.ContainsFunc(lostOfAll, func(l place) bool {
			return m == mdb.MissingMessage{Position: w.position(l), ID: l.ID, Time: l.Time}
		}) {
			t.Errorf("%s: message %+v is not missing", w.name, m)
		}
		if i > 0 && missing[i-1].Position >= m.Position {
			t.Errorf("%s: the missing messages are not in ascending order: %v", w.name, missing)
		}
	}
	if last := lost[len(lost)-1]; len(missing) == 0 || missing[len(missing)-1].Position < w.position(last) {
		t.Errorf("%s: the missing messages %v do not contain the last one, %+v", w.name, missing, last)
	}
}

// TestFailoverFarBack checks a loss of more messages than a subscription remembers, as in a
// restore of a backup: it goes back to one of the older messages that it remembers, and
// delivers again what comes after that one.
func TestFailoverFarBack(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	if os.Getenv(allFailovers) == "" {
		t.Skipf("takes long, skipped without %s", allFailovers)
	}
	f := newFailover(t)
	f.large = true
	f.watch(t, nil)
	f.write(t, f.old, 1000)
	f.catchUp(t)
	f.Hold(t)
	for range 4 {
		f.write(t, f.old, 2000)
		f.catchUp(t)
	}
	before := f.remember(t, f.old)
	f.promote(t)
	kept := f.remember(t, f.next)
	f.write(t, f.next, 500)
	f.arrive()
	for _, w := range f.witnesses {
		want := f.wanted(t, w)
		last := want[len(want)-1]
		w.until(t, "at the last message", func() bool { return w.handled[len(w.handled)-1].ID == last.ID })
		w.stop(t)
		got, known := placesOf(w.handled), len(before[w.selects])
		if w.workers == 0 && !slices.Equal(got[:known], before[w.selects]) {
			t.Errorf("%s: the messages before the loss were not delivered once and in order", w.name)
		}
		again := got[known:]
		w.compareDelivered(t, again, want[max(0, len(want)-len(again)):])
		if missed := without(without(want, kept[w.selects]), again); len(missed) > 0 {
			t.Errorf("%s: %d new messages are not delivered", w.name, len(missed))
		}
		if len(w.forks) != 1 {
			t.Errorf("%s: got %d forks, want 1", w.name, len(w.forks))
			continue
		}
		w.compareMissing(t, without(before[w.selects], kept[w.selects]), without(before[w.reads()], kept[w.reads()]))
	}
}
