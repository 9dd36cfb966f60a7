package consumer

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/internal/source"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// A hall is the server of a consumer, without a server: the protocol's functions on rows in
// memory. mu guards its fields.
type hall struct {
	t *testing.T

	mu         sync.Mutex
	partitions int
	layout     int64
	rows       map[partition]*hallRow
	members    map[uuid.UUID]*hallMember
	parked     []ledger.Parked
	changes    int64
	epochs     int64
	name       string // empty: the consumer was deleted
	paused     bool
	barrier    *int64
	timeline   string
	session    int64
	last       int64 // the end of the category
	calls      map[string]int
	log        []string // the statements, with the instances that have sent them
	locked     map[partition]bool
	moves      []ledger.Move // that were made, by whichever statement
	claimed    []partition   // that have got another member, by whichever statement

	down   error                        // of each attempt to send something
	silent bool                         // there is no answer
	before func(statement string) error // of a statement that does nothing then
	after  func(statement string) error // of one that has done something, and breaks the connection
	rings  []func()                     // of processes that listen
}

type hallRow struct {
	position, epoch int64
	member          uuid.UUID
}

type hallMember struct {
	instance   string
	joined     int64
	at         time.Time // when it has joined
	seen, woke time.Time
	lease      time.Duration
	layout     int64
}

func newHall(t *testing.T, partitions int) *hall {
	t.Helper()
	h := &hall{
		t: t, partitions: partitions, rows: make(map[partition]*hallRow), members: make(map[uuid.UUID]*hallMember),
		name: "consumer", timeline: "00000001", session: 1, calls: make(map[string]int), epochs: 1, locked: make(map[partition]bool),
	}
	for n := range partitions {
		h.rows[partition{Category: "category", Number: n}] = &hallRow{}
	}
	return h
}

var errNoAnswer = errors.New("the connection was lost")

// do is memberConfig.do.
func (h *hall) do(ctx context.Context, f func(int64, protocol) error) (int64, error) {
	h.mu.Lock()
	down, silent, session := h.down, h.silent, h.session
	h.mu.Unlock()
	if down != nil {
		return 0, down
	}
	if silent {
		<-ctx.Done()
		h.mu.Lock()
		defer h.mu.Unlock()
		h.session++
		return session, ctx.Err()
	}
	return session, f(session, h)
}

// statement runs a statement.
func (h *hall) statement(name, instance string, f func() error) error {
	h.mu.Lock()
	before, after := h.before, h.after
	h.mu.Unlock()
	if before != nil {
		if err := before(name); err != nil {
			return err
		}
	}
	h.mu.Lock()
	h.calls[name]++
	h.log = append(h.log, strings.TrimSpace(instance+" "+name))
	err := f()
	h.mu.Unlock()
	if err == nil && after != nil {
		if err = after(name); err != nil {
			h.mu.Lock()
			h.session++
			h.mu.Unlock()
		}
	}
	return err
}

func (h *hall) ring() {
	h.changes++
	for _, ring := range h.rings {
		ring()
	}
}

func (h *hall) version(context.Context) (int, error) { return schema.ConsumersVersion, nil }

func (h *hall) join(_ context.Context, p ledger.JoinParams) (j ledger.Joined, err error) {
	return j, h.statement("join", p.Instance, func() error {
		if p.Former != 0 && h.name == "" {
			return &pgconn.PgError{Severity: "ERROR", Code: ledger.NoConsumer}
		}
		if p.Name != h.name && p.Former == 0 {
			h.t.Errorf("a process joins %q instead of %q", p.Name, h.name)
		}
		if p.Partitions != 0 && p.Partitions != h.partitions {
			return &pgconn.PgError{Severity: "ERROR", Code: ledger.Partitions}
		}
		var old []uuid.UUID
		for id, m := range h.members {
			if p.Instance != "" && m.instance == p.Instance {
				if (p.Former != 0 || !p.Since.IsZero() && m.at.After(p.Since)) && id != p.Member {
					return &pgconn.PgError{Severity: "ERROR", Code: ledger.Gone}
				}
				old = append(old, id)
				delete(h.members, id)
			}
		}
		for id, row := range h.rows {
			if slices.Contains(old, row.member) {
				h.give(id, p.Member)
			}
		}
		for _, category := range p.Categories {
			for n := range h.partitions {
				if id := (partition{Category: category, Number: n}); h.rows[id] == nil {
					h.rows[id] = &hallRow{position: h.last}
					if p.Start != nil {
						h.rows[id].position = *p.Start
					}
				}
			}
		}
		h.epochs++
		h.members[p.Member] = &hallMember{instance: p.Instance, joined: h.epochs, at: time.Now(), seen: time.Now(), lease: p.Lease, layout: h.layout}
		h.ring()
		j = ledger.Joined{Consumer: 1, Partitions: h.partitions, Layout: h.layout, Changes: h.changes, Timeline: h.timeline, At: time.Now()}
		return nil
	})
}

func (h *hall) beat(_ context.Context, m ledger.Member, _ string, moves []ledger.Move) (t ledger.Tick, err error) {
	return t, h.statement("beat", m.Instance, func() error {
		me := h.members[m.ID]
		if t.Timeline, t.Name = h.timeline, h.name; t.Name != "" {
			t.Partitions, t.Layout = h.partitions, h.layout
		}
		if me == nil {
			for _, other := range h.members {
				t.Replaced = t.Replaced || m.Instance != "" && other.instance == m.Instance
			}
			return nil
		}
		now := time.Now()
		if now.Sub(me.seen) > me.lease/2 {
			me.woke = now
		}
		me.seen = now
		for i, mv := range moves {
			if h.move(m.ID, mv) {
				t.Moved = append(t.Moved, i)
			} else {
				t.Refused = append(t.Refused, i)
			}
		}
		for _, p := range h.held(m).Parked {
			t.Due = t.Due || p.Due != nil && !p.Due.After(now)
		}
		for _, other := range h.members {
			t.Suspects = t.Suspects || now.Sub(other.seen) > other.lease
		}
		t.Alive, t.Changes, t.Paused, t.Barrier = true, h.changes, h.paused, h.barrier
		return nil
	})
}

func (h *hall) move(member uuid.UUID, mv ledger.Move) bool {
	row := h.rows[mv.Partition]
	if row == nil || row.member != member || row.epoch != mv.Epoch || row.position != mv.From || mv.To < mv.From {
		return false
	}
	row.position = mv.To
	h.moves = append(h.moves, mv)
	return true
}

func (h *hall) rebalance(_ context.Context, m ledger.Member, forgotten []ledger.Row) (b ledger.Balance, held ledger.Held, err error) {
	return b, held, h.statement("balance", m.Instance, func() error {
		me := h.members[m.ID]
		if me == nil {
			return &pgconn.PgError{Severity: "ERROR", Code: ledger.Gone}
		}
		if m.Partitions != h.partitions || m.Layout != h.layout {
			return &pgconn.PgError{Severity: "ERROR", Code: ledger.Partitions}
		}
		b.Paused, b.Barrier, b.Changes, b.Timeline = h.paused, h.barrier, h.changes, h.timeline
		now := time.Now()
		confirmed := me.layout != h.layout
		me.layout = h.layout
		evicted := false
		for id, other := range h.members {
			if id != m.ID && now.Sub(other.seen) > other.lease && (me.woke.IsZero() || now.Sub(me.woke) > other.lease) {
				delete(h.members, id)
				evicted = true
			}
		}
		for i, known := range forgotten {
			if row := h.rows[known.Partition]; row != nil && row.member == m.ID && row.epoch <= known.Epoch && !h.locked[known.Partition] {
				h.epochs++
				row.epoch = h.epochs
				b.Renewed = append(b.Renewed, i)
			}
		}
		n := make(map[uuid.UUID]int)
		var free []partition
		for p, row := range h.rows {
			if h.members[row.member] == nil {
				free = append(free, p)
			} else {
				n[row.member]++
			}
		}
		ranked := slices.SortedFunc(maps.Keys(h.members), func(x, y uuid.UUID) int {
			return cmp.Or(cmp.Compare(n[y], n[x]), cmp.Compare(h.members[x].joined, h.members[y].joined))
		})
		b.Members, b.Held = len(ranked), n[m.ID]
		b.Quota = h.partitions / len(ranked)
		if slices.Index(ranked, m.ID) < h.partitions%len(ranked) {
			b.Quota++
		}
		slices.SortFunc(free, func(x, y partition) int { return cmp.Compare(x.Number, y.Number) })
		ready := true
		for _, other := range h.members {
			ready = ready && other.layout == h.layout
		}
		if !ready {
			free = nil
		}
		for _, p := range free[:max(0, min(len(free), b.Quota-b.Held))] {
			h.give(p, m.ID)
			b.Claimed++
		}
		switch {
		case evicted, b.Claimed > 0 && b.Claimed < len(free), confirmed && ready:
			h.ring()
		case b.Claimed > 0:
			h.changes++
		}
		held = h.held(m)
		return nil
	})
}

// give lets a member have a partition.
func (h *hall) give(p partition, member uuid.UUID) {
	h.epochs++
	h.rows[p].member, h.rows[p].epoch = member, h.epochs
	h.claimed = append(h.claimed, p)
}

func (h *hall) held(m ledger.Member) (held ledger.Held) {
	for p, row := range h.rows {
		if row.member == m.ID {
			held.Rows = append(held.Rows, ledger.Row{Partition: p, Position: row.position, Epoch: row.epoch})
		}
	}
	for _, p := range h.parked {
		if h.rows[p.Partition].member == m.ID {
			held.Parked = append(held.Parked, p)
		}
	}
	return held
}

func (h *hall) read(_ context.Context, m ledger.Member) (held ledger.Held, err error) {
	return held, h.statement("read", m.Instance, func() error {
		held = h.held(m)
		return nil
	})
}

func (h *hall) release(_ context.Context, m ledger.Member, moves []ledger.Move) (released []int, err error) {
	return released, h.statement("release", m.Instance, func() error {
		for i, mv := range moves {
			if !h.locked[mv.Partition] && h.move(m.ID, mv) {
				h.rows[mv.Partition].member = uuid.Nil
				released = append(released, i)
			}
		}
		h.ring()
		return nil
	})
}

func (h *hall) leave(_ context.Context, m ledger.Member, moves []ledger.Move) error {
	return h.statement("leave", m.Instance, func() error {
		delete(h.members, m.ID)
		for _, mv := range moves {
			h.move(m.ID, mv)
		}
		for _, row := range h.rows {
			if row.member == m.ID {
				row.member = uuid.Nil
			}
		}
		h.ring()
		return nil
	})
}

func (h *hall) due(_ context.Context, m ledger.Member) (keys []ledger.Key, err error) {
	return keys, h.statement("due", m.Instance, func() error {
		for _, p := range h.held(m).Parked {
			if p.Due != nil && !p.Due.After(time.Now()) {
				keys = append(keys, ledger.Key{Partition: p.Partition, Key: p.Key})
			}
		}
		return nil
	})
}

func (h *hall) ends(_ context.Context, categories []string) ([]int64, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Repeat([]int64{h.last}, len(categories)), nil
}

func (h *hall) reached(_ context.Context, _ int64, _ []string, positions []int64) (yes bool, err error) {
	return yes, h.statement("reached", "", func() error {
		yes = true
		for _, row := range h.rows {
			yes = yes && row.position >= positions[0]
		}
		return nil
	})
}

// set changes something under the lock.
func (h *hall) set(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
}

// count returns how often a statement was sent, and forgets it.
func (h *hall) count(statement string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := h.calls[statement]
	delete(h.calls, statement)
	return n
}

// size returns the number of members.
func (h *hall) size() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.members)
}

// positions returns the checkpoints, in ascending order.
func (h *hall) positions() (positions []int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, row := range h.rows {
		positions = append(positions, row.position)
	}
	slices.Sort(positions)
	return positions
}

// owned returns how many partitions each member has, in ascending order, without those that
// have none.
func (h *hall) owned() []int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := make(map[uuid.UUID]int)
	for _, row := range h.rows {
		n[row.member]++
	}
	return slices.Sorted(maps.Values(n))
}

// A worker's handler and what it was called with. mu guards handled.
type clerk struct {
	*member

	hall    *hall
	shelf   *shelf
	engine  *engine
	cancel  context.CancelCauseFunc
	ended   chan error
	mu      sync.Mutex
	handled []int64
	causes  []error // with which handlers' contexts have ended
}

// A clerkOption changes the configuration of a clerk.
type clerkOption func(*memberConfig, *engineConfig)

// cutting lets a process not reach the server while cut is true.
func cutting(cut *atomic.Bool) clerkOption {
	return func(mc *memberConfig, _ *engineConfig) {
		do := mc.do
		mc.do = func(ctx context.Context, f func(int64, protocol) error) (int64, error) {
			if cut.Load() {
				return 0, errNoAnswer
			}
			return do(ctx, f)
		}
	}
}

var errClosing = errors.New("the office closes")

// endings returns the causes with which handlers' contexts have ended.
func (c *clerk) endings() []error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.causes)
}

// hire starts a process that runs the consumer. handle may be nil. It ends with the test.
func hire(t *testing.T, h *hall, messages []mdb.Message, handle func(ctx context.Context, m mdb.Message) error, opts ...clerkOption) *clerk {
	t.Helper()
	c := &clerk{hall: h, shelf: newShelf(t), ended: make(chan error, 1)}
	c.shelf.messages = slices.Clone(messages)
	if n := len(messages); n > 0 {
		c.shelf.next = messages[n-1].GlobalPosition + 1
	}
	ec := engineConfig{
		workers: 4, maxParked: 100,
		form: form{most: 1, lane: func(d *delivery) string { return d.key }, call: func(ctx context.Context, call call) (int, error) {
			m := call.deliveries[0].message
			c.mu.Lock()
			c.handled = append(c.handled, m.GlobalPosition)
			c.mu.Unlock()
			if handle == nil {
				return 1, nil
			}
			err := handle(ctx, m)
			if ctx.Err() != nil {
				c.mu.Lock()
				c.causes = append(c.causes, context.Cause(ctx))
				c.mu.Unlock()
			}
			if err != nil {
				return 0, err
			}
			return 1, nil
		}},
		mayBegin: func() error { return c.mayBegin() },
		changed:  func() { c.changed() },
		park: func(_ context.Context, d *delivery, f Failure, _ *ledger.Move) error {
			h.set(func() {
				h.parked = append(h.parked, ledger.Parked{Partition: d.partition, Key: d.key, Stream: string(d.message.Stream), Position: d.message.Position})
			})
			return nil
		},
	}
	begun := time.Now()
	mc := memberConfig{
		join:  ledger.JoinParams{Name: "consumer", Lease: 10 * time.Second, Categories: []string{"category"}},
		drain: 25 * time.Second, logger: slog.New(slog.DiscardHandler),
		now:    func() instant { return instant{time.Since(begun), time.Now()} },
		random: func(most time.Duration) time.Duration { return most / 2 },
		do:     h.do, reconnect: func(bool) {},
		fatal: func(err error) error { return fatal("consumer", func(_ string, err error) error { return err }, err) },
	}
	mc.readers = func(partitions int) map[string]reading {
		return map[string]reading{"category": newReader(readerConfig{
			category: "category", partitions: partitions, batch: 10, open: c.shelf.open, sink: c,
			rewound: func(string, int64, []source.Anchor) { c.forked() }, live: mc.observer.read,
		})}
	}
	for _, opt := range opts {
		opt(&mc, &ec)
	}
	c.engine = newEngine(ec)
	mc.engine = c.engine
	c.member = newMember(mc)
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(t.Context()))
	c.cancel = cancel
	go func() { c.ended <- c.run(ctx) }()
	t.Cleanup(func() {
		h.set(func() { h.down, h.silent, h.before, h.after = nil, false, nil, nil })
		cancel(errClosing)
		c.wait()
	})
	return c
}

func (c *clerk) feed(p partition, epoch int64, ms []mdb.Message, end source.Checkpoint) {
	c.engine.feed(p, epoch, ms, end)
}

func (c *clerk) room(p partition) bool                                                { return c.engine.room(p) }
func (c *clerk) unreadable(partition, int64, *mdb.UnreadableError, source.Checkpoint) {}

// wait returns the error of run.
func (c *clerk) wait() error {
	err := <-c.ended
	c.ended <- err
	return err
}

// listen lets the process receive notifications.
func (c *clerk) listen() { c.hall.set(func() { c.hall.rings = append(c.hall.rings, c.ring) }) }

// take returns the positions of the messages that were handled, in ascending order, and
// forgets them.
func (c *clerk) take() []int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	handled := c.handled
	c.handled = nil
	slices.Sort(handled)
	return handled
}

// letters returns messages of all partitions.
func letters(t *testing.T, n, partitions int) []mdb.Message {
	t.Helper()
	s := newShelf(t)
	s.fill(n, partitions)
	return s.messages
}

// upTo returns 1 to n.
func upTo(n int64) (positions []int64) {
	for i := range n {
		positions = append(positions, i+1)
	}
	return positions
}

// write appends messages to the shelves of processes, in one step.
func write(n, partitions int, clerks ...*clerk) {
	streams := streamsOf(partitions)
	ms := make([]mdb.Message, n)
	for i := range ms {
		ms[i] = mdb.Message{ID: uuid.New(), Stream: streams[i%partitions], Time: time.Now()}
	}
	for _, c := range clerks {
		c.shelf.mu.Lock()
		for _, m := range ms {
			m.GlobalPosition = c.shelf.next
			c.shelf.next++
			c.shelf.messages = append(c.shelf.messages, m)
		}
		c.shelf.mu.Unlock()
		select {
		case c.shelf.rung <- struct{}{}:
		default:
		}
	}
}
