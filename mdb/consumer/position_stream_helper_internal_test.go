package consumer

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/mdb"
)

// A tape is a position stream in memory, and the server that has it. mu guards its fields.
type tape struct {
	mu       sync.Mutex
	records  []positionRecord
	timeline string
	session  int64
	end      int64              // of the category
	lost     map[uuid.UUID]bool // messages that the server does not have
	moved    int                // stores that were rejected
	looks    int

	down   error                        // of each attempt to send something
	before func(statement string) error // of a statement that does nothing then; called without the lock
	after  func(statement string) error // of one that has done something, and breaks the connection
}

func newTape() *tape {
	return &tape{timeline: "00000001/5", session: 1, lost: make(map[uuid.UUID]bool)}
}

// do is memberConfig.do.
func (p *tape) do(s *positionStream) func(context.Context, func(int64, protocol) error) (int64, error) {
	return func(_ context.Context, f func(int64, protocol) error) (int64, error) {
		p.mu.Lock()
		down, session := p.down, p.session
		p.mu.Unlock()
		if down != nil {
			return 0, down
		}
		return session, f(session, s.on(p))
	}
}

func (p *tape) statement(name string, f func()) (err error) {
	p.mu.Lock()
	before, after := p.before, p.after
	p.mu.Unlock()
	if before != nil {
		if err := before(name); err != nil {
			return err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
	if after != nil {
		if err = after(name); err != nil {
			p.session++
		}
	}
	return err
}

func (p *tape) last(context.Context, string, bool) (r positionRecord, timeline string, err error) {
	return r, timeline, p.statement("last", func() {
		p.looks++
		r, timeline = positionRecord{version: -1}, p.timeline
		if n := len(p.records); n > 0 {
			r = p.records[n-1]
		}
	})
}

func (p *tape) has(_ context.Context, _ string, r positionRecord) (has bool, err error) {
	return has, p.statement("has", func() {
		has = r.version < 0 || r.version < int64(len(p.records)) && p.records[r.version].id == r.id
	})
}

func (p *tape) store(_ context.Context, s positionToStore) (outcome storedPosition, err error) {
	return outcome, p.statement("store", func() {
		switch {
		case s.timeline != p.timeline || p.lost[s.anchor.ID]:
			outcome = positionRejected
			p.moved++
		case s.expected != int64(len(p.records))-1:
			outcome = positionOutdated
		default:
			p.records = append(p.records, positionRecord{version: s.expected + 1, id: s.id.String(), position: s.position})
		}
	})
}

func (p *tape) ends(context.Context, []string) ([]int64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return []int64{p.end}, nil
}

func (p *tape) used(context.Context) (int64, error) { return 1 << 40, nil }

// set changes something under the lock.
func (p *tape) set(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
}

// recorded returns the positions that the stream says, in its order.
func (p *tape) recorded() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	positions := make([]int64, 0, len(p.records))
	for _, r := range p.records {
		positions = append(positions, r.position)
	}
	return fmt.Sprint(positions)
}

// engage starts a process whose position is in the stream. See hire.
func engage(t *testing.T, p *tape, partitions int, messages []mdb.Message, handle func(ctx context.Context, m mdb.Message) error, opts ...clerkOption) *clerk {
	t.Helper()
	start := int64(0)
	var done atomic.Int64
	s := &positionStream{
		consumer: "consumer", category: "category", name: "category:position-x", partitions: partitions, start: &start,
		flushing: flushing{DefaultFlushInterval, DefaultFlushMessages}, logger: slog.New(slog.DiscardHandler), run: uuid.New(),
		released: make(map[int]ledger.Move), handled: done.Load,
	}
	stream := func(mc *memberConfig, ec *engineConfig) {
		mc.join.Partitions, ec.maxParked = partitions, 0
		mc.do, mc.fatal = p.do(s), func(err error) error { return s.fatal(func(_ string, err error) error { return err }, err) }
		handle := ec.form.call
		ec.form.call = func(ctx context.Context, k call) (int, error) {
			n, err := handle(ctx, k)
			done.Add(int64(n))
			return n, err
		}
	}
	c := hire(t, newHall(t, partitions), messages, handle, append([]clerkOption{stream}, opts...)...)
	t.Cleanup(func() { p.set(func() { p.down, p.before, p.after = nil, nil, nil }) })
	return c
}
