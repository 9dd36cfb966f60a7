package ledger

import (
	"os"
	"strconv"
	"testing"

	"github.com/messagedb-go/messagedb/internal/pgtest"
)

const stepsOfSchedule = 120

// schedule runs one random schedule, and then lets everything heal.
func schedule(seed uint64, b mutant, diary func(string, ...any)) *world {
	w := newWorld(seed, b)
	w.diary = diary
	return w.run()
}

func (w *world) run() *world {
	for range stepsOfSchedule {
		if w.fault != "" {
			return w
		}
		w.step()
	}
	w.heal()
	return w
}

// heal ends all faults and checks that nothing is free and nothing unhandled for ever: after
// a few leases, all partitions have living owners, which have handled everything.
func (w *world) heal() {
	w.faults = false
	for _, r := range w.late {
		if w.intn(2) == 0 {
			w.execute(r)
		}
	}
	w.late = nil
	for i := range w.processes {
		p := &w.processes[i]
		if w.intn(3) == 0 {
			*p = process{ended: true} // killed
		}
	}
	if w.processes[3].ended { // one that no twin can replace
		w.processes[3] = process{reads: categories}
	}
	for range 24 {
		w.time += beat
		for i := range w.processes {
			w.turn(&w.processes[i])
		}
	}
	w.checkHealed()
}

// turn lets a process do everything that it can do now.
func (w *world) turn(p *process) {
	if p.ended || w.fault != "" {
		return
	}
	if p.id == 0 {
		w.pJoin(p)
	}
	for range 3 {
		w.pTick(p)
		if p.id == 0 {
			return
		}
	}
	for p.ticking != nil {
		w.pTick(p)
	}
	if p.id == 0 {
		return
	}
	p.busy = [rowCount]bool{}
	if p.rebalance {
		for !p.claimed {
			w.pBalance(p)
			if p.id == 0 {
				return
			}
		}
	}
	if p.claimed {
		w.pRead(p)
	}
	for row := range p.holds {
		for range 6 * maxMessages {
			if p.holds[row].held {
				w.pWork(p, row)
			}
		}
	}
	for part := range partitions {
		w.pRelease(p, part)
	}
	if p.stopping { // and starts again in the next turn
		w.pLeave(p)
	}
}

func (w *world) checkHealed() {
	for i, r := range w.rows[:w.known*partitions] {
		if w.member(r.member) == nil {
			w.failf("row %d has no owner that lives", i)
		}
	}
	reads := 0
	for _, m := range w.members {
		reads = max(reads, m.categories)
		if s := w.share(m.id); s.held != s.quota {
			w.failf("member %d holds %d partitions, and its share is %d", m.id, s.held, s.quota)
		}
	}
	for i, m := range w.log {
		if m.category < min(w.known, reads) && w.rows[m.row()].position <= int64(i) {
			w.failf("message %d is not handled", i+1)
		}
	}
}

// TestModel checks the protocol in random schedules of four processes.
func TestModel(t *testing.T) {
	t.Parallel()
	pgtest.NeedNoServer(t)
	resizes := 0
	for seed := range schedules(t) {
		w := schedule(seed, none, nil)
		if w.fault != "" {
			schedule(seed, none, t.Logf)
			t.Fatalf("schedule %d: %s", seed, w.fault)
		}
		resizes += w.resizes
	}
	if t.Logf("%d changes of the layout", resizes); resizes == 0 {
		t.Error("no schedule changes the layout")
	}
}

func schedules(t testing.TB) uint64 {
	t.Helper()
	switch n, err := strconv.ParseUint(os.Getenv("MDB_TEST_SCHEDULES"), 10, 64); {
	case err == nil:
		return n
	case testing.Short(), pgtest.Race: // make test-all also runs it without the race detector
		return 1_000
	default:
		return 5_000
	}
}

// TestModelMutants checks that TestModel can fail: each mutant breaks one rule.
func TestModelMutants(t *testing.T) {
	t.Parallel()
	pgtest.NeedNoServer(t)
	pgtest.NeedTime(t)
	if pgtest.Race {
		t.Skip("a schedule is one goroutine; make test-all runs it without the race detector, which takes a tenth of the time")
	}
	for b, name := range map[mutant]string{
		noMember:           "the fence does not compare the member",
		noEpoch:            "the fence does not compare the epoch",
		noPosition:         "the fence does not compare the position",
		readBeforeClaim:    "positions are read before the claim",
		releaseUndrained:   "a partition is released while a handler has a message of it",
		noWoke:             "a member judges others for a silence that it has shared",
		deadlineFromAnswer: "a lease counts from the answer of the tick",
		clientClock:        "a member writes the time of its own clock",
		passBeforeParked:   "the checkpoint passes a message before it is parked",
		oldID:              "a member that was evicted joins by its old ID",
		robNewCategory:     "a partition is free if one of its rows is",
		parkWithoutMove:    "a transaction that parks a message does not move the checkpoint past it",
		parkUnfenced:       "anybody may park",
		twinsRejoin:        "a member that was replaced joins again",
		noTimeline:         "rows are read again only if messages are missing",
		wokeInFuture:       "a member that woke in the future judges nobody until then",
		seenInFuture:       "a member that was seen in the future is no suspect",
		judgeFromFuture:    "a member that has not ticked since the clock was set back judges others",
		timelineInAnswer:   "a tick moves checkpoints, and says then that the timeline is another one",
		claimUnready:       "a partition is claimed while handlers of an earlier layout run in another process",
		confirmBusy:        "a member confirms a layout while handlers of an earlier one run",
		confirmSilently:    "the last member that confirms a layout does not say so",
		sameEpoch:          "a member reads rows again that have the same epochs",
		setBackUnsaid:      "a member that ticks after the clock was set back does not say so",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// Few schedules show these.
			first := map[mutant]uint64{judgeFromFuture: 452_000, seenInFuture: 12_700, parkWithoutMove: 8_900, confirmBusy: 270_300, sameEpoch: 16_000, setBackUnsaid: 1_962_000}[b]
			for seed := range uint64(200_000) {
				if w := schedule(first+seed, b, nil); w.fault != "" {
					t.Logf("schedule %d: %s", first+seed, w.fault)
					return
				}
			}
			t.Error("no schedule fails, want the mutant to be caught")
		})
	}
}
