package ledger

import (
	"fmt"
	"math/rand/v2"
	"slices"
)

// A mutant is a rule of the protocol that is broken on purpose.
type mutant int

const (
	none mutant = iota
	noMember
	noEpoch
	noPosition
	readBeforeClaim
	releaseUndrained
	noWoke
	deadlineFromAnswer
	clientClock
	passBeforeParked
	oldID
	robNewCategory
	parkUnfenced
	parkWithoutMove
	twinsRejoin
	noTimeline
	timelineInAnswer
	wokeInFuture
	seenInFuture
	judgeFromFuture
	claimUnready
	confirmBusy
	confirmSilently
	sameEpoch
	setBackUnsaid
)

func (b mutant) has(rule mutant) bool { return b == rule }

// A world is a database, its processes and their clocks. One step after the other happens
// to it, as a random number says. Everything else follows from the number it begins with.
type world struct {
	database
	standby   *database
	processes [4]process
	late      []*request // nobody waits for these any more, and the server may execute them

	b             mutant
	random        *rand.Rand
	operator      *rand.Rand // for what an operator does; nil: nothing
	faults        bool
	transactional bool // the form: effects are in the database

	time, offset int64 // microseconds that have passed, and what the server's clock shows more
	start        int64
	external     [maxMessages]bool // the effects elsewhere, by a message's number

	numbers, ids, parkedRows int
	overlap                  bool // the promise of one owner for effects elsewhere is suspended, see step
	stepped                  int64
	failed                   int // failovers
	resizes                  int
	back                     bool            // the server's clock has been set back
	epochs                   [rowCount]int64 // the highest
	fault                    string          // what is broken, or empty
	diary                    func(string, ...any)
	mirror                   *mirror // does the same on a server, or nil
}

const never = -1 << 60

func newWorld(seed uint64, b mutant) *world {
	w := &world{b: b, random: rand.New(rand.NewPCG(seed, 18)), faults: true, stepped: never}
	if seed%4 == 3 { // the others remain as they are, whatever it does
		w.operator = rand.New(rand.NewPCG(seed, 19))
	}
	w.time, w.timeline = 100_000*second, 1
	w.transactional = w.intn(2) == 0
	w.start = int64(-w.intn(2))
	for i := range w.processes {
		p := &w.processes[i]
		p.instance = [...]int{1, 1, 2, 0}[i] // two are twins by mistake
		p.reads = 1 + w.intn(categories)
		p.skew = [...]int64{-2 * lease, 0, 2 * lease}[w.intn(3)]
	}
	return w
}

func (w *world) intn(n int) int { return w.random.IntN(n) }

func (w *world) now() int64 { return w.time + w.offset }

// note writes down what happens, for who looks for the reason of a fault.
func (w *world) note(format string, args ...any) {
	if w.diary != nil {
		w.diary("%.1f s: "+format, append([]any{float64(w.time)/float64(second) - 100_000}, args...)...)
	}
}

func (w *world) failf(format string, args ...any) {
	if w.fault == "" {
		w.fault = fmt.Sprintf(format, args...)
	}
}

// step lets one thing happen.
func (w *world) step() {
	if w.operator != nil && w.operator.IntN(48) == 0 {
		w.doResize()
		return
	}
	switch n := w.intn(24); {
	case n < 2:
		w.write()
	case n < 4:
		w.time += [...]int64{second / 10, second, beat, 5 * second, 9 * second, 11 * second}[w.intn(6)]
	case n == 4 && len(w.late) > 0:
		i := w.intn(len(w.late))
		r := w.late[i]
		w.late = slices.Delete(w.late, i, i+1)
		w.execute(r)
	case n == 5 && w.intn(6) == 0:
		// Whoever joins next has not shared the step, so it removes members that live.
		// Their effects elsewhere may overlap with its own until their next tick.
		d := [...]int64{second, 20 * second, 3600 * second, -second, -20 * second, -3600 * second}[w.intn(6)]
		if (d > 0 || w.failed == 0) && (w.stepped == never || d < -second || d > second) {
			w.offset, w.stepped = w.offset+d, w.time
			w.back = w.back || d < 0
			w.note("the clock steps by %d s", d/second)
		}
	case n == 6 && w.intn(3) == 0:
		c := w.clone()
		w.standby = &c
		w.note("replicated")
	case n == 7 && w.standby != nil && !w.back && w.intn(3) == 0:
		w.failover()
	default:
		w.pAct(&w.processes[w.intn(len(w.processes))])
	}
}

func (w *world) write() {
	if w.numbers < maxMessages {
		w.note("message %d", len(w.log)+1)
		w.log = append(w.log, message{w.numbers, w.intn(categories), w.intn(4)})
		w.numbers++
		if w.mirror != nil {
			w.mirror.write(w)
		}
	}
}

// failover promotes a standby that lacks what was committed since its copy was made. What
// is on its way breaks, except answers. No clock is set back in the same schedule: then a new
// epoch can be the same as a lost one.
func (w *world) failover() {
	timeline, claims := w.timeline, w.claims
	w.database = *w.standby
	w.timeline, w.claims, w.standby = timeline+1, claims, nil
	w.late, w.overlap = nil, true
	w.failed++
	w.time += second
	if w.mirror != nil {
		w.mirror.restore(w)
	}
	w.note("failover to timeline %d, rows %+v", w.timeline, w.rows)
	for i := range w.processes {
		p := &w.processes[i]
		for _, r := range p.requests() {
			r.broken = true
		}
		p.replaced = false
	}
}

// execute is the server's half of a request.
func (w *world) execute(r *request) {
	r.executed = true
	switch {
	case r.broken:
	case r.park != nil:
		w.doPark(r)
	case r.numbers != nil:
		w.doCommit(r)
	default:
		w.doTick(r)
	}
}
