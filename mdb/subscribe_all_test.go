package mdb_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/poll"
)

func receiveAll(t testing.TB, s *mdb.Store, opts ...mdb.AllSubscribeOption) *recipient {
	t.Helper()
	return receive(t, func(ctx context.Context, h mdb.Handler, live mdb.SubscribeOption) error {
		return s.SubscribeToAll(ctx, h, append(opts, live)...)
	})
}

// TestSubscribeToAll checks that a subscription delivers existing and new messages of all
// categories in order, and waits for a transaction that has drawn an earlier position.
func TestSubscribeToAll(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, open func() *mdb.Store) {
		for _, opts := range [][]mdb.AllSubscribeOption{
			nil,
			{mdb.WithBatchSize(2)},
			{mdb.WithWorkers(1)},
			{mdb.InCategories("a", "b", "c")},
			{mdb.OfTypes("Happened"), mdb.WithBatchSize(2)},
			{mdb.OfTypes("Happened"), mdb.InCategories("c", "b", "a")},
		} {
			s := open()
			var want []int64
			for i := range 5 {
				want = append(want, write(t, s, mdb.StreamName(fmt.Sprintf("%c-1", 'a'+i%3)), mdb.NewMessage("Happened", nil)).GlobalPosition)
				draw(t, s.Pool(), i)
			}
			r := receiveAll(t, s, opts...)
			if got := globalPositions(r.next(t, 5)); !slices.Equal(got, want) {
				t.Errorf("got %d, want %d", got, want)
			}
			r.untilLive(t)
			want = want[:0]
			tx := begin(t, s.Pool())
			for i := range 3 {
				var c calls = s
				if i == 1 {
					c = s.WithTx(tx)
				}
				want = append(want, write(t, c, mdb.StreamName(fmt.Sprintf("%c-1", 'a'+i)), mdb.NewMessage("Happened", nil)).GlobalPosition)
			}
			write(t, s, "c-1", mdb.NewMessage("Other", nil))
			got := globalPositions(r.next(t, 1))
			looking(t, s.Pool())
			if err := tx.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got = append(got, globalPositions(r.next(t, 2))...); !slices.Equal(got, want) {
				t.Errorf("got %d, want %d", got, want)
			}
			r.stop(t)
		}
	})
}

// TestSubscribeToCategories checks that a subscription to some categories delivers their
// messages and no others, and that it starts where it should.
func TestSubscribeToCategories(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, open func() *mdb.Store) {
		s := open()
		positions := make(map[string][]int64)
		writeAll := func() {
			for i := range 9 {
				name := string(rune('a' + i%3))
				positions[name] = append(positions[name], write(t, s, mdb.StreamName(name+"-1"), mdb.NewMessage("Happened", nil)).GlobalPosition)
			}
		}
		writeAll()
		want := slices.Concat(positions["a"], positions["c"])
		slices.Sort(want)
		receiveSome := func(opts ...mdb.AllSubscribeOption) *recipient {
			return receive(t, func(ctx context.Context, h mdb.Handler, live mdb.SubscribeOption) error {
				return s.SubscribeToCategories(ctx, []mdb.Category{"c", "a"}, h, append(opts, live)...)
			})
		}
		if got := globalPositions(receiveSome().next(t, 6)); !slices.Equal(got, want) {
			t.Errorf("got %d, want %d", got, want)
		}
		if got := globalPositions(receiveSome(mdb.AfterGlobalPosition(want[2])).next(t, 3)); !slices.Equal(got, want[3:]) {
			t.Errorf("got %d after a position, want %d", got, want[3:])
		}
		end := receiveSome(mdb.FromEnd())
		end.untilLive(t)
		positions = make(map[string][]int64)
		writeAll()
		if got := globalPositions(end.next(t, 1)); got[0] != positions["a"][0] {
			t.Errorf("got %d from the end, want %d", got, positions["a"][0])
		}
		head, err := s.Head(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		err = s.SubscribeToAll(t.Context(), func(context.Context, mdb.Message) error { return nil }, mdb.AfterGlobalPosition(head+1))
		if ahead := wantError[*mdb.AheadError](t, err); ahead.Position != head+1 || ahead.Last != head || ahead.Category != "" {
			t.Errorf("got %v", ahead)
		}
	})
}

// TestAllProgress checks that progress is reported past messages that a filter leaves out, and
// that a subscription continues after a checkpoint.
func TestAllProgress(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, open func() *mdb.Store) {
		for _, opts := range [][]mdb.AllSubscribeOption{{mdb.OfTypes("Rare")}, nil, {mdb.WithBatchSize(3)}} {
			s := open()
			for i := range 20 {
				write(t, s, mdb.StreamName(fmt.Sprintf("c%d-1", i%5)), mdb.NewMessage([]string{"Rare", "Common"}[min(i, 1)], nil))
			}
			var checkpoint mdb.AllCheckpoint
			ctx, end := context.WithCancelCause(t.Context())
			handle := func(context.Context, mdb.Message) error { return nil }
			err := s.SubscribeToAll(ctx, handle, append(opts, mdb.OnAllProgress(func(_ context.Context, c mdb.AllCheckpoint) error {
				if checkpoint = c; c.Position() == 20 {
					end(errStopped)
				}
				return nil
			}))...)
			if !errors.Is(err, errStopped) {
				t.Fatal(err)
			}
			var again mdb.AllCheckpoint
			if err := again.UnmarshalText([]byte(checkpoint.String())); err != nil || again.String() != checkpoint.String() {
				t.Errorf("got %v, %v", again, err)
			}
			r := receiveAll(t, s, append(opts, mdb.AfterAllCheckpoint(again))...)
			r.untilLive(t)
			w := write(t, s, "c1-1", mdb.NewMessage("Rare", nil))
			if got := r.next(t, 1)[0]; got.ID != w.ID {
				t.Errorf("got %v", got)
			}
			r.stop(t)
		}
	})
}

// An overtaken store has a message that was committed after one with a greater position, and
// loses it: a failover to a standby that has received everything up to the other message.
type overtaken struct {
	*lossy

	ids map[string]uuid.UUID
}

// newOvertaken writes before, then slow, which commits last, and fast.
func newOvertaken(t *testing.T, s *mdb.Store, l *lossy) *overtaken {
	t.Helper()
	o := &overtaken{l, make(map[string]uuid.UUID)}
	note := func(name string, c calls, stream mdb.StreamName) {
		o.ids[name] = write(t, c, stream, mdb.NewMessage("Happened", nil)).ID
	}
	note("before", s, "slow-1")
	tx := begin(t, l.pool)
	note("slow", s.WithTx(tx), "slow-1")
	note("fast", s, "fast-1")
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	return o
}

// allForks runs a subscription to all categories, and records what it is called with.
func allForks(t *testing.T, s *mdb.Store, from string, opts ...mdb.AllSubscribeOption) *subscriber {
	t.Helper()
	r := &subscriber{dropped: make(chan error, 1), checkpoint: from}
	var c mdb.AllCheckpoint
	if err := c.UnmarshalText([]byte(from)); err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancelCause(context.Background())
	r.end = end
	t.Cleanup(func() { end(errStopped) })
	opts = append(slices.Clone(opts), mdb.AfterAllCheckpoint(c),
		mdb.OnAllProgress(func(_ context.Context, c mdb.AllCheckpoint) error {
			r.locked(func() { r.checkpoint, r.progress = c.String(), append(r.progress, c.Position()) })
			return nil
		}),
		mdb.OnFork(func(_ context.Context, f mdb.Fork) error {
			r.locked(func() { r.forks = append(r.forks, f) })
			return nil
		}))
	go func() { r.dropped <- s.SubscribeToAll(ctx, r.handle, opts...) }()
	return r
}

var allFilters = map[string][]mdb.AllSubscribeOption{
	"all":        nil,
	"categories": {mdb.InCategories("slow", "fast", "account")},
	"types":      {mdb.OfTypes("Happened", "Selected", "Foreign")},
}

// TestAllForkOfOvertaken checks that a subscription reports the loss of a message that was
// followed by one which is not lost, whether it is running or starts from a checkpoint, and that
// it delivers nothing twice.
func TestAllForkOfOvertaken(t *testing.T) {
	t.Parallel()
	for name, opts := range allFilters {
		for _, restarts := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, %t", name, restarts), func(t *testing.T) {
				t.Parallel()
				l := newLossy(t)
				s := newStore(t, l.pool, often)
				o := newOvertaken(t, s, l)
				r := allForks(t, s, "", opts...)
				r.until(t, l.pool, "before the loss", 3, nil)
				lose := func() { exec(t, l.pool, `DELETE FROM message_store.messages WHERE id = $1`, o.ids["slow"]) }
				want := []uuid.UUID{o.ids["before"], o.ids["slow"], o.ids["fast"]}
				if restarts {
					r.stop(t)
					lose()
					r, want = allForks(t, s, r.checkpoint, opts...), nil
				} else {
					lose()
				}
				after := write(t, s, "slow-1", mdb.NewMessage("Happened", nil))
				r.until(t, l.pool, "after the loss", after.GlobalPosition, func() bool { return len(r.forks) > 0 })
				r.stop(t)
				if got := r.ids(); !slices.Equal(got, append(want, after.ID)) {
					t.Errorf("got %d messages, want %d", len(got), len(want)+1)
				}
				if len(r.forks) != 1 || !slices.Equal(missingIDs(r.forks[0]), []uuid.UUID{o.ids["slow"]}) || r.forks[0].After != 3 || r.forks[0].Category != "" {
					t.Errorf("got forks %+v, want one with the message that is lost", r.forks)
				}
			})
		}
	}
}

// TestAllFork checks that a subscription goes back if the last messages are lost, delivers all
// new ones once, and reports exactly those that it has handled and that are lost.
func TestAllFork(t *testing.T) {
	t.Parallel()
	for name, opts := range allFilters {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLossy(t)
			for _, batch := range []int{1, 1000} {
				for _, others := range []int{3, 12, 30} {
					exec(t, l.pool, `TRUNCATE message_store.messages RESTART IDENTITY`)
					l.write(30)
					s := newStore(t, l.pool, often)
					r := allForks(t, s, "", append(slices.Clone(opts), mdb.WithBatchSize(batch))...)
					r.until(t, l.pool, "before the loss", 30, nil)
					all := forkKind{selected: "true"}
					before := l.stored(all)
					l.lose(12, others)
					after := l.stored(all)
					want := slices.Concat(before, after[18:])
					r.until(t, l.pool, "after the loss", int64(18+others), func() bool { return len(r.forks) > 0 && len(r.handled) >= len(want) })
					r.stop(t)
					if got := r.ids(); !slices.Equal(got, want) {
						t.Errorf("batch %d, %d others: got %d messages, want %d", batch, others, len(got), len(want))
					}
					if len(r.forks) != 1 || !slices.Equal(missingIDs(r.forks[0]), before[18:]) || r.forks[0].After != 18 {
						t.Errorf("batch %d, %d others: got forks %+v, want one with %v", batch, others, r.forks, before[18:])
					}
				}
			}
		})
	}
}

// TestAllForkOfEverything checks that a subscription ends if nothing that it knows is there.
func TestAllForkOfEverything(t *testing.T) {
	t.Parallel()
	l := newLossy(t)
	s := newStore(t, l.pool, often)
	l.write(10)
	r := allForks(t, s, "")
	r.until(t, l.pool, "before the loss", 10, nil)
	l.lose(10, 3)
	fork := wantError[*mdb.ForkError](t, <-r.dropped)
	if len(fork.Missing) != 10 || fork.Error() == "" || fork.Category != "" {
		t.Errorf("got %v", fork)
	}
}

// seldom is for tests in which no poll comes in time.
var seldom = mdb.WithPolling(poll.Constant(time.Hour))

// TestAllWakes checks that writes of the same store wake a subscription that would not poll.
func TestAllWakes(t *testing.T) {
	t.Parallel()
	s := newStore(t, newPool(t, testdb.New(t)), seldom)
	for _, opts := range [][]mdb.AllSubscribeOption{{mdb.FromEnd()}, {mdb.FromEnd(), mdb.InCategories("account")}} {
		r := receiveAll(t, s, opts...)
		r.untilLive(t)
		w := write(t, s, "account-1", mdb.NewMessage("Happened", nil))
		if got := r.next(t, 1)[0]; got.ID != w.ID {
			t.Errorf("got %v", got)
		}
		r.stop(t)
	}
}
