package consumer

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/internal/backoff"
	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/internal/source"
	"github.com/messagedb-go/messagedb/mdb"
)

var (
	errFence   = &pgconn.PgError{Severity: "ERROR", Code: ledger.Fenced, Message: "fenced"}
	errBroken  = errors.New("broken")
	errDropped = errors.New("dropped")
)

// A world is what an engine works with: messages, rows, and handlers that record what they
// are called with. It checks after each step that nothing is lost, twice or out of order.
type world struct {
	t    *testing.T
	e    *engine
	tx   bool // handlers' effects commit together with the move of their row
	most int

	alone int // messages of a key that are parked alone

	mu      sync.Mutex
	random  *rand.Rand
	log     map[partition][]mdb.Message
	rows    map[partition]*worldRow
	fate    map[int64]*fate // of messages, by global position
	active  map[string]int  // calls, by key
	calls   int             // calls of handlers
	parks   int             // calls of park
	ticks   int
	healed  bool  // all handlers succeed
	last    int64 // the position of the last message
	paused  bool
	barrier int64
	upto    int64 // no handler is called for a message after it
	broken  map[string]bool

	unparked int
	late     []func() // statements whose answers were lost
}

type worldRow struct {
	position, epoch int64
	claimed         bool
	parked          []ledger.Parked
	cursor          int64
	surrendered     bool
	zombie          bool // the engine has it, and another member too
}

// A fate is what happens to a message.
type fate struct {
	kind       string
	failures   int // before it succeeds
	tries      int
	effects    int
	skipped    bool
	repeatable bool // a lost claim allows another effect
}

var kinds = []string{"flaky", "poison", "permanent", "skip", "panic", "goexit", "conflict", "loss", "patient"}

func newWorld(t *testing.T, seed uint64, partitions, keys, messages int) *world {
	t.Helper()
	w := &world{
		t: t, random: rand.New(rand.NewPCG(seed, 1)), most: 1,
		log: make(map[partition][]mdb.Message), rows: make(map[partition]*worldRow), fate: make(map[int64]*fate),
		active: make(map[string]int), broken: make(map[string]bool), barrier: math.MaxInt64, upto: math.MaxInt64,
	}
	for n := range partitions {
		w.rows[orders(n)] = &worldRow{}
	}
	positions := map[mdb.StreamName]int64{}
	gp := int64(0)
	for range messages {
		gp += 1 + w.random.Int64N(3)
		key := fmt.Sprint("k", w.random.IntN(keys))
		stream := mdb.StreamName("order-" + key)
		if w.random.IntN(4) == 0 {
			stream += "+b"
		}
		p := orders(int(uint64(mdb.Hash64(key)) % uint64(partitions)))
		w.log[p] = append(w.log[p], mdb.Message{
			ID: uuid.NewSHA1(uuid.Nil, fmt.Append(nil, gp)), Stream: stream, Type: "T",
			Position: positions[stream], GlobalPosition: gp, Data: []byte("{}"), Time: time.UnixMicro(gp),
		})
		positions[stream]++
		f := &fate{failures: 1 + w.random.IntN(8)}
		if w.random.IntN(4) == 0 {
			f.kind = kinds[w.random.IntN(len(kinds))]
		}
		w.fate[gp] = f
	}
	w.last = gp
	return w
}

// run runs the engine until stop is called, which returns its error.
func (w *world) run() (ctx context.Context, stop func() error) {
	ctx, cancel := context.WithCancelCause(w.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.e.run(ctx) }()
	return ctx, sync.OnceValue(func() error {
		cancel(errEnd)
		return <-ended
	})
}

func orders(n int) partition { return partition{Category: "order", Number: n} }

func (w *world) fail(what string, args ...any) {
	text := fmt.Sprintf(what, args...)
	if !w.broken[text] && len(w.broken) < 10 {
		w.broken[text] = true
		w.t.Error(text)
	}
}

// done reports whether a message is done with: it has its effect, was skipped, or waits in a
// row.
func (w *world) done(p partition, m *mdb.Message) bool {
	f := w.fate[m.GlobalPosition]
	return f.effects > 0 || f.skipped || w.rowOf(p, m) != nil
}

func (w *world) rowOf(p partition, m *mdb.Message) *ledger.Parked {
	for i, r := range w.rows[p].parked {
		if r.Stream == string(m.Stream) && r.Position <= m.Position && (isOpen(r) || m.Position <= *r.Upto) {
			return &w.rows[p].parked[i]
		}
	}
	return nil
}

// begin checks that a handler may be called with a message now.
func (w *world) begin(d *delivery, first int64) *fate {
	w.mu.Lock()
	defer w.mu.Unlock()
	m := &d.message
	w.calls++
	key := m.Stream.CardinalID()
	if d.key != key || m.Type != "T" || string(m.Data) != "{}" {
		w.fail("message %d was changed: %v", m.GlobalPosition, m)
	}
	if w.active[key]++; w.active[key] > 1 {
		w.fail("key %s has two calls", key)
	}
	if m.GlobalPosition > w.upto {
		w.fail("message %d is handled although only those up to %d may be", m.GlobalPosition, w.upto)
	}
	f := w.fate[m.GlobalPosition]
	f.tries++
	if f.effects > 0 && !f.repeatable {
		w.fail("message %d of %v is handled twice", m.GlobalPosition, d.partition)
	}
	if d.replayed != nil {
		w.beginReplayed(d, first)
		return f
	}
	for i := range w.log[d.partition] {
		before := &w.log[d.partition][i]
		if before.GlobalPosition >= first { // those of the same call come in order
			break
		}
		if (w.tx || before.Stream.CardinalID() == key) && !w.done(d.partition, before) {
			w.fail("message %d is handled before %d of the same lane", m.GlobalPosition, before.GlobalPosition)
		}
	}
	for _, r := range w.rows[d.partition].parked {
		if r.Key == key && isOpen(r) {
			w.fail("message %d is handled, although its key is parked", m.GlobalPosition)
		}
	}
	return f
}

func (w *world) end(d *delivery) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.active[d.message.Stream.CardinalID()]--
}

// handle is a handler of one message.
func (w *world) handle(ctx context.Context, d *delivery, first int64) error {
	f := w.begin(d, first)
	defer w.end(d)
	w.mu.Lock()
	pause := time.Duration(0)
	if w.random.IntN(3) == 0 {
		pause = time.Duration(w.random.IntN(200)) * time.Millisecond
	}
	healed := w.healed
	failing := f.tries <= f.failures
	w.mu.Unlock()
	if pause > 0 {
		if err := backoff.Sleep(ctx, pause); err != nil {
			return err
		}
	}
	switch {
	case healed:
	case f.kind == "permanent":
		return Permanent(errBroken)
	case f.kind == "skip":
		return Skip(errBroken)
	case f.kind == "poison":
		return errBroken
	case !failing:
	case f.kind == "panic":
		panic("broken")
	case f.kind == "goexit":
		runtime.Goexit()
	case f.kind == "conflict":
		return &pgconn.PgError{Severity: "ERROR", Code: "40001"}
	case f.kind == "loss":
		return fmt.Errorf("lost: %w", &pgconn.PgError{Severity: "FATAL", Code: "57P01"})
	case f.kind == "patient":
		return Transient(errBroken)
	case f.kind == "flaky":
		return errBroken
	}
	if w.tx {
		return nil // when it commits
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.effect(f, d.message.GlobalPosition)
	f.repeatable = f.repeatable || d.replayed != nil // until it is recorded
	return nil
}

func (w *world) effect(f *fate, gp int64) {
	if f.effects++; f.effects > 1 && !f.repeatable {
		w.fail("message %d has two effects", gp)
	}
}

// decided records what the engine skips.
func (w *world) decided(f Failure, a Action) {
	if a.what == toSkip {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.fate[f.Message.GlobalPosition].skipped = true
	}
}

// call is the form's.
func (w *world) call(ctx context.Context, c call) (int, error) {
	first := c.deliveries[0].message.GlobalPosition
	again := func() bool { return ctx.Err() != nil || c.isReplay() }
	for i := range c.deliveries {
		// If this one panics, those before it in the call are repeated.
		w.setRepeatable(c.deliveries[:i], func() bool { return true })
		if i > 0 && c.deliveries[i].message.GlobalPosition <= c.deliveries[i-1].message.GlobalPosition {
			w.fail("a call is not in order")
		}
		if !c.mayBegin(i) {
			if i == 0 {
				return 0, errNotBegun
			}
			if c.deliveries = c.deliveries[:i]; !c.isReplay() {
				c.from = c.move()
			}
			break
		}
		if err := w.handle(ctx, &c.deliveries[i], first); err != nil {
			if !w.tx {
				w.setRepeatable(c.deliveries[:i], again)
				return i, err
			}
			if i%2 == 0 {
				return 0, err // whose it is remains unknown
			}
			return 0, &BatchError{i, err}
		}
	}
	w.setRepeatable(c.deliveries, func() bool { return again() && !w.tx })
	if !w.tx {
		return len(c.deliveries), nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.commit(c)
}

// setRepeatable asks with the lock held, so that a claim that is lost meanwhile is noted
// afterwards.
func (w *world) setRepeatable(ds []delivery, repeatable func() bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range ds {
		w.fate[ds[i].message.GlobalPosition].repeatable = repeatable()
	}
}

func (w *world) commit(c call) (int, error) {
	m := c.from
	r := w.rows[m.Partition]
	if r.epoch != m.Epoch {
		return 0, errFence
	}
	if r.position != m.From {
		w.fail("a transaction moves %v from %d, want %d", m.Partition, m.From, r.position)
		return 0, errFence
	}
	if c.isReplay() {
		t := replayTurn{}
		for i := range c.deliveries {
			t.take(&c.deliveries[i], true)
		}
		if !w.step(m.Partition, m.To, t.steps) {
			return 0, errFence
		}
	}
	for i := range c.deliveries {
		gp := c.deliveries[i].message.GlobalPosition
		w.effect(w.fate[gp], gp)
	}
	w.moveRow(m)
	return len(c.deliveries), nil
}

// moveRow checks that everything up to the end of a move is done with, and makes it.
func (w *world) moveRow(m ledger.Move) {
	for i := range w.log[m.Partition] {
		message := &w.log[m.Partition][i]
		if message.GlobalPosition <= m.To && !w.done(m.Partition, message) {
			w.fail("the checkpoint of %v moves to %d, and %d is not done with", m.Partition, m.To, message.GlobalPosition)
		}
	}
	w.rows[m.Partition].position = m.To
}

func (w *world) park(ctx context.Context, d *delivery, f Failure, move *ledger.Move) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.parks++
	r := w.rows[d.partition]
	switch {
	case r.epoch != d.epoch:
		return errFence
	case w.random.IntN(3) == 0:
		w.late = append(w.late, w.parking(d, f, move))
		return errBroken
	case w.tx != (move != nil):
		w.fail("message %d is parked with the move %v", d.message.GlobalPosition, move)
	}
	if w.rowOf(d.partition, &d.message) != nil {
		w.fail("message %d is parked twice", d.message.GlobalPosition)
	}
	if ofKey := slices.DeleteFunc(slices.Clone(r.parked), func(r ledger.Parked) bool { return r.Key != d.key }); f.alone != (len(ofKey) < w.alone && !slices.ContainsFunc(ofKey, isOpen)) {
		w.fail("message %d is parked alone: %t, beside %v", d.message.GlobalPosition, f.alone, ofKey)
	}
	if move != nil && (move.From != r.position || move.To != d.message.GlobalPosition) {
		w.fail("message %d is parked with the move %v from %d", d.message.GlobalPosition, move, r.position)
	}
	w.parking(d, f, move)()
	return ctx.Err() // sometimes the answer is lost
}

// deliver lets statements arrive whose answers were lost.
func (w *world) deliver() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.late) > 0 && w.random.IntN(3) > 0 {
		i := w.random.IntN(len(w.late))
		w.late[i]()
		w.late = slices.Delete(w.late, i, i+1)
	}
}

// parking returns what the statement of park does, whenever it arrives.
func (w *world) parking(d *delivery, f Failure, move *ledger.Move) func() {
	p, epoch, message := d.partition, d.epoch, d.message.Clone() // the delivery's memory is used again
	key := message.Stream.CardinalID()
	if move != nil {
		mv := *move
		move = &mv
	}
	return func() {
		r := w.rows[p]
		if r.epoch != epoch || move != nil && r.position != move.From || w.rowOf(p, &message) != nil {
			return
		}
		row := ledger.Parked{
			Due: &time.Time{}, Partition: p, Key: key, Stream: string(message.Stream), Position: message.Position, Attempts: f.Attempt,
			GlobalPosition: message.GlobalPosition,
		}
		if f.alone {
			row.Upto = &message.Position
		} else {
			r.parked = slices.DeleteFunc(r.parked, func(r ledger.Parked) bool { return r.Stream == row.Stream && r.Position > row.Position })
		}
		r.parked = append(r.parked, row)
		if move != nil {
			w.moveRow(*move)
		}
	}
}

// claim claims a partition.
func (w *world) claim(p partition) {
	w.mu.Lock()
	r := w.rows[p]
	if r.claimed {
		w.mu.Unlock()
		return
	}
	lost := r.zombie
	r.claimed, r.surrendered, r.zombie = true, false, false
	r.epoch++
	r.cursor = r.position
	row := ledger.Row{Partition: p, Position: r.position, Epoch: r.epoch}
	parked := slices.Clone(r.parked)
	w.mu.Unlock()
	w.e.claim(row, parked)
	if lost {
		w.lose(p)
	}
}

// reread does what a member does with partitions that a fence has stopped, after some late statements have arrived.
func (w *world) reread() {
	w.deliver()
	refused, stale := w.e.fenced()
	for _, p := range append(refused, stale...) {
		w.mu.Lock()
		r := w.rows[p]
		claimed, surrendered := r.claimed, r.surrendered
		if claimed && !surrendered {
			r.epoch++
		}
		r.cursor = r.position
		row := ledger.Row{Partition: p, Position: r.position, Epoch: r.epoch}
		parked := slices.Clone(r.parked)
		w.mu.Unlock()
		if claimed && !surrendered {
			w.e.claim(row, parked)
			w.lose(p)
		} else {
			w.drop(p)
		}
	}
}

// lose notes that what was not stored may be repeated. The engine has ended the contexts of
// the handlers before.
func (w *world) lose(p partition) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range w.log[p] {
		if m.GlobalPosition > w.rows[p].position {
			w.fate[m.GlobalPosition].repeatable = !w.tx
		}
	}
}

// drop loses a partition: another member may have it.
func (w *world) drop(p partition) {
	w.e.drop([]partition{p}, errDropped)
	w.mu.Lock()
	w.rows[p].claimed = false
	w.rows[p].epoch++
	w.mu.Unlock()
	w.lose(p)
}

// feed reads the next messages of a partition.
func (w *world) feed(p partition, most int) {
	if !w.e.room(p) {
		return
	}
	w.mu.Lock()
	r := w.rows[p]
	if w.paused || r.cursor >= w.barrier {
		w.mu.Unlock()
		return
	}
	var ms []mdb.Message
	end := r.cursor
	limit := int64(1 << 60)
	for _, m := range w.log[p] {
		if m.GlobalPosition <= r.cursor {
			continue
		}
		if len(ms) == most || m.GlobalPosition > w.barrier {
			limit = min(w.barrier, m.GlobalPosition-1)
			break
		}
		ms = append(ms, m)
		end = m.GlobalPosition
	}
	if limit < 1<<60 {
		end += w.random.Int64N(limit - end + 1)
	}
	epoch, claimed := r.epoch, r.claimed
	if claimed {
		r.cursor = end
	}
	w.mu.Unlock()
	if claimed {
		w.e.feed(p, epoch, ms, source.At(end))
	}
}

// tick stores progress. Time passes between the offer and its settlement.
func (w *world) tick(ctx context.Context, skips bool) {
	moves := w.e.progress()
	w.pause(ctx, 50)
	w.mu.Lock()
	w.ticks++
	var stored, kept, refused []ledger.Move
	for _, m := range moves {
		r := w.rows[m.Partition]
		switch {
		case skips && w.random.IntN(5) == 0:
			kept = append(kept, m)
		case r.epoch != m.Epoch:
			refused = append(refused, m)
		case r.position != m.From || m.To <= m.From:
			w.fail("the offered move of %v is from %d to %d, and the row is at %d", m.Partition, m.From, m.To, r.position)
			refused = append(refused, m)
		default:
			w.moveRow(m)
			stored = append(stored, m)
		}
	}
	w.mu.Unlock()
	w.e.stored(stored)
	w.e.kept(kept)
	w.e.refused(refused, errDropped)
}

// release frees the partitions that are drained.
func (w *world) release() {
	for _, m := range w.e.drained() {
		w.mu.Lock()
		r := w.rows[m.Partition]
		if r.epoch != m.Epoch { // another member has it
			r.claimed = false
			w.mu.Unlock()
			continue
		}
		if r.position != m.From {
			w.fail("the last move of %v is from %d, and the row is at %d", m.Partition, m.From, r.position)
		}
		w.moveRow(m)
		for i := range w.log[m.Partition] {
			gp := w.log[m.Partition][i].GlobalPosition
			switch f := w.fate[gp]; {
			case gp <= m.To || f.effects == 0 || f.repeatable:
			case !w.tx && (w.paused || gp > w.barrier): // those before it may not be handled now
				f.repeatable = true
			default:
				w.fail("%v is released at %d, and %d is handled", m.Partition, m.To, gp)
			}
		}
		r.claimed = false
		r.epoch++
		w.mu.Unlock()
	}
}

func (w *world) pause(ctx context.Context, most int) {
	w.mu.Lock()
	d := time.Duration(w.random.IntN(most)) * time.Millisecond
	w.mu.Unlock()
	_ = backoff.Sleep(ctx, d)
}

// caughtUp reports whether all rows are at the end of the log.
func (w *world) caughtUp() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for p, ms := range w.log {
		if w.rows[p].position < ms[len(ms)-1].GlobalPosition {
			return false
		}
	}
	return true
}
