package consumer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/internal/source"
	"github.com/messagedb-go/messagedb/mdb"
)

// A rig is an engine whose handlers follow a script, and the list of what happened.
type rig struct {
	*testing.T
	*engine

	mu       sync.Mutex
	diary    []string
	handlers map[int64]func(ctx context.Context, d *delivery) error // by global position
	position map[mdb.StreamName]int64
	parks    func(d *delivery, f Failure) error
	changes  int
	ended    chan error
	cancel   context.CancelCauseFunc
}

// newRig starts an engine. Its form handles one message by key, unless the config has
// another one.
func newRig(t *testing.T, c engineConfig) *rig {
	t.Helper()
	r := &rig{
		T: t, handlers: make(map[int64]func(context.Context, *delivery) error),
		position: make(map[mdb.StreamName]int64), ended: make(chan error, 1),
	}
	if c.form.call == nil {
		if c.form.most == 0 {
			c.form.lane = func(d *delivery) string { return d.key }
		}
		c.form.call = func(ctx context.Context, c call) (int, error) {
			for i := range c.deliveries {
				if err := r.handle(ctx, &c.deliveries[i]); err != nil {
					return i, err
				}
			}
			return len(c.deliveries), nil
		}
	}
	if c.park == nil {
		c.park = func(_ context.Context, d *delivery, f Failure, _ *ledger.Move) error {
			r.note("park %d after %d", d.message.GlobalPosition, f.Attempt)
			r.mu.Lock()
			defer r.mu.Unlock()
			if r.parks != nil {
				return r.parks(d, f)
			}
			return nil
		}
		if c.maxParked == 0 {
			c.maxParked = 100
		}
	}
	c.changed = func() { r.mu.Lock(); defer r.mu.Unlock(); r.changes++ }
	r.engine = newEngine(c)
	ctx, cancel := context.WithCancelCause(context.WithValue(t.Context(), rigKey{}, r))
	r.cancel = cancel
	go func() { r.ended <- r.run(ctx) }()
	return r
}

type rigKey struct{}

func (r *rig) note(what string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.diary = append(r.diary, fmt.Sprintf(what, args...))
}

func (r *rig) handle(ctx context.Context, d *delivery) error {
	r.note("%d", d.message.GlobalPosition)
	r.mu.Lock()
	h := r.handlers[d.message.GlobalPosition]
	r.mu.Unlock()
	if h == nil {
		return nil
	}
	return h(ctx, d)
}

// do changes what handlers and parks use.
func (r *rig) do(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
}

// on sets the handler of a message.
func (r *rig) on(gp int64, h func(ctx context.Context, d *delivery) error) {
	r.do(func() { r.handlers[gp] = h })
}

// heal lets the handlers of all messages succeed.
func (r *rig) heal() { r.do(func() { clear(r.handlers) }) }

// fails lets a message fail n times.
func (r *rig) fails(gp int64, n int, err error) {
	r.on(gp, func(context.Context, *delivery) error {
		if n--; n >= 0 {
			return err
		}
		return nil
	})
}

// blocks lets the handler of a message wait for a value or the end of its context.
func (r *rig) blocks(gp int64) chan error {
	release := make(chan error)
	r.on(gp, func(ctx context.Context, _ *delivery) error {
		select {
		case err := <-release:
			return err
		case <-ctx.Done():
			r.note("%d ends: %v", gp, context.Cause(ctx))
			return ctx.Err()
		}
	})
	return release
}

// give feeds partition n with messages of the streams, "a" for order-a. Their global
// positions begin after from, and end is the last one.
func (r *rig) give(n int, from int64, ids ...string) {
	r.giveTo(n, from, from+int64(len(ids)), ids...)
}

func (r *rig) giveTo(n int, from, end int64, ids ...string) {
	ms := make([]mdb.Message, len(ids))
	for i, id := range ids {
		s := mdb.StreamName("order-" + id)
		gp := from + 1 + int64(i)
		ms[i] = mdb.Message{ID: idOf(gp), Stream: s, Position: r.position[s], GlobalPosition: gp, Time: time.UnixMicro(gp).UTC()}
		r.position[s]++
	}
	r.feed(orders(n), 1, ms, source.At(end))
}

func idOf(gp int64) uuid.UUID { return uuid.NewSHA1(uuid.Nil, fmt.Append(nil, gp)) }

func (r *rig) begin(partitions int, parked ...ledger.Parked) {
	for n := range partitions {
		r.claim(ledger.Row{Partition: orders(n), Epoch: 1}, parked)
	}
}

// wants checks the diary after everything has settled, and clears it. Time passes only if
// the test lets it.
func (r *rig) wants(want ...string) {
	r.Helper()
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Equal(r.diary, want) {
		r.Errorf("got  %s\nwant %s", strings.Join(r.diary, ", "), strings.Join(want, ", "))
	}
	r.diary = nil
}

// wantsTogether is like wants for what several workers do at the same time: it may have
// happened in any order.
func (r *rig) wantsTogether(want ...string) {
	r.Helper()
	synctest.Wait()
	r.do(func() { slices.Sort(r.diary) })
	r.wants(slices.Sorted(slices.Values(want))...)
}

// count returns how often something is in the diary.
func (r *rig) count(what string) (n int) {
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.diary {
		if s == what {
			n++
		}
	}
	return n
}

// at checks the offered moves, "0: 0-5" for partition 0 from 0 to 5, and settles them.
func (r *rig) at(want ...string) {
	r.Helper()
	synctest.Wait()
	moves := r.progress()
	r.isAt(moves, want...)
	r.stored(moves)
}

func (r *rig) isAt(moves []ledger.Move, want ...string) {
	r.Helper()
	got := make([]string, len(moves))
	for i, m := range moves {
		got[i] = fmt.Sprintf("%d: %d-%d", m.Number, m.From, m.To)
		if m.ID != uuid.Nil && (m.ID != idOf(m.To) || !m.Time.Equal(time.UnixMicro(m.To))) {
			r.Errorf("the anchor of %v is another message's", m)
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		r.Errorf("got moves %q, want %q", got, want)
	}
}

// pass lets time pass.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// stops ends the engine, and checks what run returns.
func (r *rig) stops() {
	r.Helper()
	r.cancel(errEnd)
	if err := <-r.ended; !errors.Is(err, errEnd) {
		r.Errorf("run returned %v", err)
	}
}

// inBubble runs a test without a real clock.
func inBubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, f)
}
