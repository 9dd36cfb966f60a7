package mdb_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// A ledger records what workers have handled, by global position, over all runs of a
// subscription.
type ledger struct {
	mu      sync.Mutex
	handled map[int64]bool
	last    map[string]int64 // in this run, by cardinal id
	busy    map[string]bool  // cardinal ids with a running handler
}

func (l *ledger) begin(t testing.TB, m mdb.Message) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	id := m.Stream.CardinalID()
	if l.busy[id] || m.GlobalPosition <= l.last[id] {
		t.Errorf("got message %d after %d of cardinal ID %q, which is busy: %t", m.GlobalPosition, l.last[id], id, l.busy[id])
	}
	l.busy[id], l.last[id] = true, m.GlobalPosition
}

func (l *ledger) end(m mdb.Message, handled bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.busy[m.Stream.CardinalID()] = false
	if handled {
		l.handled[m.GlobalPosition] = true
	}
}

// missing returns the positions up to kept that were not handled.
func (l *ledger) missing(want []mdb.Message, kept int64) (positions []int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range want {
		if p := want[i].GlobalPosition; p <= kept && !l.handled[p] {
			positions = append(positions, p)
		}
	}
	return positions
}

// TestWorkersLosesNothing checks that no message is lost while handlers of different
// speed fail, contexts end and messages are written, if each run begins at the position
// that was kept. It does so in both ways and with all filters.
func TestWorkersLosesNothing(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	const streams, rounds = 25, 4
	failure := errors.New("refused")
	for way, s := range bothWays(t, mdb.WithConditions()) {
		for name, opts := range map[string][]mdb.CategoryOption{
			"all":        nil,
			"member":     {mdb.AsConsumerGroup(1, 2)},
			"correlated": {mdb.WithCorrelation("origin")},
			"condition":  {mdb.WithCondition("position % 3 = 0")},
		} {
			t.Run(way+", "+name, func(t *testing.T) {
				t.Parallel()
				category := mdbtest.Category("loses")
				writeRounds := func() {
					for range rounds {
						for i := range streams {
							stream := category.Stream(mdb.CompoundID(fmt.Sprint(i/2), fmt.Sprint(i%2)))
							if i == 0 {
								stream = mdb.StreamName(category)
							}
							m := mdb.NewMessage("Happened", nil)
							m.Metadata = map[string]string{"correlationStreamName": []string{"origin", "other"}[i%3/2] + "-1"}
							write(t, s, stream, m)
						}
					}
				}
				writeRounds()
				var writing sync.WaitGroup
				defer writing.Wait()
				writing.Go(writeRounds)
				l := &ledger{handled: make(map[int64]bool)}
				kept := int64(0)
				// run returns why it ended, which is errStopped when n messages have
				// begun, the end has been kept, or nothing is left that may fail.
				run := func(mayFail bool, begin int, end int64) error {
					l.last, l.busy = make(map[string]int64), make(map[string]bool)
					ctx, stop := context.WithCancelCause(t.Context())
					defer stop(nil)
					handler := func(_ context.Context, m mdb.Message) error {
						l.begin(t, m)
						<-time.After(rand.N(3 * time.Millisecond))
						l.mu.Lock()
						if begin--; begin == 0 {
							stop(errStopped)
						}
						l.mu.Unlock()
						fails := mayFail && rand.IntN(40) == 0
						l.end(m, !fails)
						if fails {
							return failure
						}
						return nil
					}
					all := []mdb.CategorySubscribeOption{
						mdb.WithWorkers(4), mdb.WithBatchSize(1 + rand.IntN(50)), mdb.AfterGlobalPosition(kept),
						mdb.OnLive(func(live bool) {
							if live && mayFail {
								stop(errStopped)
							}
						}),
						onPosition(func(_ context.Context, position int64) error {
							if position <= kept {
								t.Errorf("got progress %d after %d", position, kept)
							}
							if kept = position; position >= end {
								stop(errStopped)
							}
							return nil
						}),
					}
					for _, opt := range opts {
						all = append(all, opt)
					}
					return s.SubscribeToCategory(ctx, category, handler, all...)
				}
				check := func(err error) {
					t.Helper()
					messages, readErr := s.GetCategoryMessages(t.Context(), category, wanted(opts)...)
					if readErr != nil {
						t.Fatal(readErr)
					}
					if missing := l.missing(messages, kept); len(missing) > 0 {
						t.Fatalf("got %d kept, but %v have not been handled", kept, missing)
					}
					if h := new(mdb.HandlerError); errors.As(err, &h) && errors.Is(err, failure) {
						if kept >= h.GlobalPosition {
							t.Errorf("got %d kept, but %d has failed", kept, h.GlobalPosition)
						}
					} else if !errors.Is(err, errStopped) {
						t.Fatalf("subscription ended with %v", err)
					}
				}
				for range 15 {
					check(run(true, 1+rand.IntN(60), farAway))
				}
				writing.Wait()
				messages, err := s.GetCategoryMessages(t.Context(), category, mdb.Unlimited())
				if err != nil {
					t.Fatal(err)
				}
				end := messages[len(messages)-1].GlobalPosition
				if kept < end { // otherwise OnProgress is not called
					check(run(false, -1, end))
				}
				if kept != end || len(l.handled) == 0 {
					t.Errorf("got %d kept with %d messages handled, want %d", kept, len(l.handled), end)
				}
			})
		}
	}
}

// farAway is a position that is never reached.
const farAway = 1 << 62

func wanted(opts []mdb.CategoryOption) []mdb.CategoryOption {
	return append([]mdb.CategoryOption{mdb.Unlimited()}, opts...)
}

// TestWorkersSleeps checks a subscription that sleeps while one worker is busy:
// notifications wake it, the other workers go on, and the end of the work is reported
// without a read.
func TestWorkersSleeps(t *testing.T) {
	t.Parallel()
	url := testdb.Notifying(t)
	s, writer := notifyStore(t, url), newStore(t, newPool(t, url))
	category := mdbtest.Category("sleeps")
	one, two := category.Stream("1"), category.Stream("2") // one for each of two workers
	if hash := func(s mdb.StreamName) int64 { return mdb.Hash64(s.CardinalID()) & 1 }; hash(one) == hash(two) {
		t.Fatal("the streams have the same worker")
	}
	goOn, others := make(chan struct{}), make(chan mdb.Message)
	told := make(chan string, 10)
	ctx, end := context.WithCancelCause(t.Context())
	dropped := make(chan error, 1)
	go func() {
		dropped <- s.SubscribeToCategory(ctx, category, func(ctx context.Context, m mdb.Message) error {
			if m.Stream == one {
				<-goOn
				return nil
			}
			others <- m
			return nil
		}, mdb.WithWorkers(2), mdb.FromEnd(),
			mdb.OnLive(func(live bool) { told <- fmt.Sprint("live ", live) }),
			onPosition(func(_ context.Context, position int64) error { told <- fmt.Sprint("progress ", position); return nil }))
	}()
	settled(t, s)
	const messages = 20
	received := s.NotifyStats().Notifications
	write(t, writer, one, mdb.NewMessage("Happened", nil))
	last := int64(0)
	for range messages {
		last = write(t, writer, two, mdb.NewMessage("Happened", nil)).GlobalPosition
		if m := <-others; m.GlobalPosition != last {
			t.Errorf("got message %d, want %d", m.GlobalPosition, last)
		}
	}
	// The read after a notification may find the next message, whose own one then leads to a read that finds nothing.
	wantNotified(t, s.Pool(), func() int64 { return s.NotifyStats().Notifications }, received+1+messages)
	settled(t, s)
	reads := s.NotifyStats().Reads
	close(goOn)
	for _, want := range []string{"progress 0", "live true"} {
		if got := <-told; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	// The other worker may still be finishing the last message, whose handler has
	// returned.
	for want := fmt.Sprint("progress ", last); <-told != want; {
	}
	if n := s.NotifyStats().Reads; n != reads {
		t.Errorf("got %d reads while nothing was written, want none", n-reads)
	}
	end(errStopped)
	if err := <-dropped; err != errStopped { //nolint:errorlint // the cause itself
		t.Errorf("got error %v, want the cause", err)
	}
}

// TestWorkersAlone checks that with one worker the caller's goroutine does everything.
func TestWorkersAlone(t *testing.T) {
	t.Parallel()
	s := newStore(t, newPool(t, testdb.Shared(t), oneConnection))
	category := mdbtest.Category("alone")
	for i := range 10 {
		write(t, s, category.Stream(fmt.Sprint(i)), mdb.NewMessage("Happened", nil))
	}
	ctx, end := context.WithCancelCause(t.Context())
	handled := 0 // by one goroutine, or the race detector would report it
	err := s.SubscribeToCategory(ctx, category, func(context.Context, mdb.Message) error {
		if handled++; handled == 10 {
			end(errStopped)
		}
		return nil
	}, mdb.WithWorkers(1), onPosition(func(context.Context, int64) error { handled += 100; return nil }))
	if err != errStopped || handled != 110 { //nolint:errorlint // the cause itself
		t.Errorf("got error %v after %d messages", err, handled)
	}
}
