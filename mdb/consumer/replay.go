package consumer

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/mdb"
)

// # Replay
//
// A parked key is replayed by its partition's owner, in turns with the live flow. A turn is a call of
// the lane that the key's messages are in, so no two calls have messages of the key, and the lane does not advance
// during a turn: what the key's rows say is complete then, and changes by the turn only.
//
// Messages of the key that come meanwhile are passed over, as long as the key is parked. They may be passed over
// before the checkpoint reaches them. If the rows were deleted at the checkpoint, these would be lost. So the key stays parked until everything is
// replayed that was passed over, and the lane is held meanwhile.
//
// Nor is a message replayed that the stored checkpoint has not reached. After a crash the key's messages come
// again from the checkpoint on, and are passed over only if the rows are still there.
// If the rows could be deleted when the checkpoint is before a message that was replayed, it would be handled twice. A
// form that moves the checkpoint moves it in the transaction of the replay, to where everything is done with. For the
// others, a turn begins with such a move if it is needed.

const (
	// turnMessages and turnTime limit a turn of a form that handles messages one by one.
	turnMessages = 100
	turnTime     = 50 * time.Millisecond
)

// replays are the statements of replays.
type replays interface {
	// beginTurn makes the move, unless it is nil, and returns what is parked of the key.
	beginTurn(ctx context.Context, k ledger.Key, mv *ledger.Move) ([]ledger.Parked, error)
	// reading returns how the messages up to the one of an anchor are read.
	reading(upto ledger.Anchor) readStream
	// record makes the move, unless it is nil, and lets parked streams move on. failed, unless it is nil, is
	// postponed, after that.
	record(ctx context.Context, mv *ledger.Move, p partition, epoch int64, steps []step, failed *ledger.Postponed) error
	// unpark moves the checkpoint, and deletes what is parked of the key except for single messages.
	unpark(ctx context.Context, mv ledger.Move, key string) error
}

// A readStream reads messages of a stream from a position on. unreadable is why the last one cannot be read, or nil.
type readStream func(ctx context.Context, stream string, from int64, most int) (ms []mdb.Message, unreadable *mdb.UnreadableError, err error)

// A step says that a stream that is parked from one position on is parked from the next on.
type step struct {
	stream     string
	from, next int64
	ends       bool // it is no longer parked then
}

// blocked is what is parked of a key. The engine's mu guards it.
type blocked struct {
	rows   []ledger.Parked
	passed int64   // the global position of the last message that was passed over since the claim
	replay *replay // nil: none
}

// A replay is that of a key, until nothing is left or it fails. The engine's mu guards it.
type replay struct {
	part  *part
	key   string
	timer *time.Timer // while it waits before its next turn

	streaks
	repeats   int   // calls with the next message that did not count
	single    int   // that many messages are handled alone
	exhausted bool  // nothing up to the checkpoint is left
	after     int64 // messages that are parked alone have failed up to this global position
}

// replay begins to replay keys.
func (e *engine) replay(keys []ledger.Key) {
	e.mu.Lock()
	defer e.unlock()
	if e.config.replays == nil || e.still {
		return
	}
	for _, k := range keys {
		p := e.parts[k.Partition]
		if p == nil || p.surrendered || !e.mayReplay(p) {
			continue
		}
		if b := p.blocked[k.Key]; b != nil && b.replay == nil {
			b.replay = &replay{part: p, key: strings.Clone(k.Key)}
			e.schedule(b.replay)
		}
	}
}

// schedule queues the next turn of a replay.
func (e *engine) schedule(r *replay) {
	l := e.laneOf(r.part, &delivery{partition: r.part.id, epoch: r.part.epoch, key: r.key})
	l.replays = append(l.replays, r)
	if l.state == laneIdle {
		e.enqueue(l)
	}
}

// scheduleLater queues it after a time.
func (e *engine) scheduleLater(r *replay, d time.Duration) {
	var timer *time.Timer
	timer = time.AfterFunc(d, func() {
		e.mu.Lock()
		defer e.unlock()
		if r.timer == timer {
			r.timer = nil
			e.schedule(r)
		}
	})
	r.timer = timer
}

// dropReplays ends all replays of a partition. What is due is found again by ticks.
func (e *engine) dropReplays(p *part) {
	for _, b := range p.blocked {
		if r := b.replay; r != nil && r.timer != nil {
			r.timer.Stop()
			r.timer = nil
		}
		b.replay = nil
	}
	p.waits = nil
	for l := range e.lanesOf(p) {
		before := len(l.replays)
		l.replays = slices.DeleteFunc(l.replays, func(r *replay) bool { return r.part == p })
		if len(l.replays) < before && l.state == laneHeld {
			e.proceed(l)
		}
	}
}

// goesOn reports whether a replay was not dropped.
func (r *replay) goesOn() bool {
	b := r.part.blocked[r.key]
	return !r.part.gone && !r.part.fenced && b != nil && b.replay == r
}

// beginReplay gives a worker the next turn of a lane, if it may begin.
func (e *engine) beginReplay(w *worker, l *lane) bool {
	r := l.replays[0]
	p := r.part
	b := p.blocked[r.key]
	l.turn = true
	if e.paused(p) || r.exhausted && p.offered {
		e.set(l, laneHeld)
		return false
	}
	if r.exhausted && p.done.position < b.passed {
		p.waits = append(p.waits, l)
		e.set(l, laneHeld)
		return false
	}
	l.replays[0] = nil
	l.replays = l.replays[1:]
	l.turn = false
	if p.ctx == nil {
		p.ctx, p.cancel = context.WithCancelCause(e.ctx)
	}
	e.set(l, laneRunning)
	p.running++
	e.counters.running++
	w.lane, w.part, w.ctx, w.item, w.pending, w.busy = l, p, p.ctx, nil, nil, true
	w.replay = r
	w.replayTurn = replayTurn{move: p.move()}
	switch {
	case e.config.form.moves:
	case b.passed > p.stored && !p.offered && w.move.To > w.move.From:
		p.offered, w.offers = true, true
	default:
		w.move.To = w.move.From
	}
	return true
}

// endWaits lets replays continue that wait until more is done with.
func (e *engine) endWaits(p *part) {
	waits := p.waits
	p.waits = nil
	for _, l := range waits {
		if l.state == laneHeld {
			e.enqueue(l)
		}
	}
}
