package mdb

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/messagedb-go/messagedb/internal/pgtest"
)

// A witness watches a subscription with workers across its restarts. It checks that the
// messages of one cardinal ID stay in order, that no progress passes an unhandled message,
// and that no more messages than allowed are in progress.
type witness struct {
	*rehearsal
	most int // messages in progress

	handled []int            // how often each message was handled; the first has position 1
	last    map[string]int64 // in this run, by cardinal id
	busy    map[string]bool  // cardinal ids with a running handler
	running int
	peak    int   // most handlers running at the same time
	kept    int64 // the position that OnProgress was last called with
}

// handle handles m for the duration d.
func (w *witness) handle(m Message, d time.Duration, err error) error {
	id := m.Stream.CardinalID()
	w.mu.Lock()
	if w.busy[id] || m.GlobalPosition <= w.last[id] {
		w.t.Errorf("got message %d after %d of cardinal ID %q, which is busy: %t", m.GlobalPosition, w.last[id], id, w.busy[id])
	}
	w.busy[id], w.last[id] = true, m.GlobalPosition
	w.running++
	w.peak = max(w.peak, w.running)
	w.mu.Unlock()
	<-time.After(d)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.busy[id] = false
	w.running--
	if err == nil {
		w.handled[m.GlobalPosition]++
	}
	return err
}

// prefix returns the first message that passes the filter and has not been handled, and
// the last such message before it.
func (w *witness) prefix() (last, next int64) {
	for next = 1; next <= w.head(); next++ {
		if w.written[next-1] {
			if w.handled[next] == 0 {
				break
			}
			last = next
		}
	}
	return last, next
}

func (w *witness) progress(_ context.Context, position int64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, next := w.prefix(); position <= w.kept || position >= next {
		w.t.Errorf("got progress %d after %d, and %d has not been handled", position, w.kept, next)
	}
	if strings.Contains(string(debug.Stack()), ".work(") {
		w.t.Error("OnProgress is called by a worker")
	}
	w.kept = position
	return nil
}

// restart begins again at the position that was kept. Messages handled beyond it no longer
// count.
func (w *witness) restart() error {
	clear(w.handled[w.kept+1:])
	w.last, w.busy = map[string]int64{}, map[string]bool{}
	w.subscription.read.position = w.kept + 1
	return w.run()
}

// TestWorkersAgainstAll checks that no message is lost when handlers take random times
// and sometimes fail, reads fail, a filter leaves out messages, messages arrive at any
// moment, contexts end, and each run begins at the position that was kept.
func TestWorkersAgainstAll(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	peak := 0
	for seed := range uint64(60) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 0)) // for the handlers, under the lock
			fate := rand.New(rand.NewPCG(seed, 1))   // for the loop
			workers, batch := 2+fate.IntN(6), 1+fate.IntN(40)
			ids := 1 + fate.IntN(20)
			r := rehearse(t, 0, WithBatchSize(batch), WithWorkers(workers))
			w := &witness{rehearsal: r, most: max(2*batch, batch+16*workers), handled: make([]int, 2000)}
			streams := make([]StreamName, 2000)
			for i := range streams {
				streams[i] = "category"
				if id := fate.IntN(ids + 1); id < ids {
					streams[i] = Category("category").Stream(CompoundID(fmt.Sprint(id), fmt.Sprint(fate.IntN(3))))
				}
			}
			r.stream = func(p int64) StreamName { return streams[p] }
			arrive := func() {
				w.mu.Lock()
				defer w.mu.Unlock()
				for range min(fate.IntN(50), 1000-len(r.written)) {
					r.written = append(r.written, fate.IntN(3) > 0)
				}
			}
			failing := true
			r.handler = func(_ context.Context, m Message) error {
				w.mu.Lock()
				d := time.Duration(random.IntN(30)) * time.Millisecond
				var err error
				if failing && random.IntN(100) == 0 {
					err = errHandler
				} else if failing && random.IntN(200) == 0 {
					r.end(errEnd)
				}
				w.mu.Unlock()
				return w.handle(m, d, err)
			}
			r.onProgress = positions(w.progress)
			r.subscription.page = pages(func(_ context.Context, c readConfig) ([]Message, int64, error) {
				if fate.IntN(5) == 0 {
					return nil, 0, errors.New("connection lost")
				}
				head := r.head()
				arrive()
				page := r.read(c)
				w.mu.Lock()
				defer w.mu.Unlock()
				inHand := 0
				for p := w.kept + 1; p < c.position; p++ {
					if r.written[p-1] {
						inHand++
					}
				}
				if inHand+len(page) > w.most {
					t.Errorf("got %d messages in progress, want at most %d", inHand+len(page), w.most)
				}
				return page, head, nil
			})
			for restart := 0; ; restart++ {
				failing = restart < 20
				r.arrivals = make([]int, 50)
				err := w.restart()
				last, next := w.prefix()
				if w.running > 0 || w.kept < last || w.kept >= next {
					t.Errorf("got %d kept with %d running, want at least %d, and less than %d", w.kept, w.running, last, next)
				}
				var h *HandlerError
				switch {
				case errors.Is(err, errEnd):
				case !errors.As(err, &h) || !errors.Is(err, errHandler):
					t.Errorf("got error %v", err)
				case w.handled[h.GlobalPosition] > 1 || w.kept >= h.GlobalPosition:
					t.Errorf("message %d failed, but got %d kept", h.GlobalPosition, w.kept)
				}
				if !failing && w.head() == w.kept {
					break
				}
				if restart > 100 {
					t.Fatalf("seed %d: message %d is never handled", seed, next)
				}
			}
			peak = max(peak, w.peak)
		})
		if t.Failed() {
			t.Fatalf("with seed %d", seed)
		}
	}
	if peak < 4 {
		t.Errorf("got at most %d handlers at the same time, which is too few to prove anything", peak)
	}
}
