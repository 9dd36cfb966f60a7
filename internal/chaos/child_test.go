package chaos

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/mdb"
)

// childVariable is the environment variable that makes the test program a child
// process with the task in it.
const childVariable = "MDB_CHAOS_CHILD"

// A childTask is what a child process does: write to streams, subscribe, or run a durable
// consumer.
type childTask struct {
	URL     string
	Writes  []mdb.StreamName
	Writers int
	Options struct{ Grouped, Direct bool } // of the store
	Sub     *subscriber
	From    int64
	Durable *durableTask
}

// A childReport is a line that a child prints about each step. The child waits for an
// answer before it goes on, so that the parent knows of everything it did.
type childReport struct {
	Name     string // of the write
	Sent     *sentOp
	Acked    []mdb.Written
	Failed   string
	Handled  *handled
	Progress *int64
}

type sentOp struct {
	Stream   mdb.StreamName
	IDs      []uuid.UUID
	Expected *int64
}

type handled struct {
	ID               uuid.UUID
	Stream           mdb.StreamName
	Position, Global int64
}

// child runs until it is killed.
func child(text string) int {
	var o childTask
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	if o.Durable != nil {
		return durableChild(o.Durable)
	}
	ctx := context.Background()
	var opts []mdb.ConnectOption
	if o.Options.Grouped {
		opts = append(opts, mdb.WithGroupCommit())
	}
	if o.Options.Direct {
		opts = append(opts, mdb.WithDirectSQL())
	}
	s, err := mdb.Connect(ctx, o.URL, opts...)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	answers, lines := bufio.NewReader(os.Stdin), json.NewEncoder(os.Stdout)
	var mu sync.Mutex
	send := func(r childReport) {
		mu.Lock()
		defer mu.Unlock()
		if err := lines.Encode(r); err == nil {
			_, err = answers.ReadByte()
			if err == nil {
				return
			}
		}
		os.Exit(3) // the parent has ended
	}
	if o.Sub != nil {
		err = consumeByMDB(ctx, s, o.Sub, o.From, func(_ context.Context, m mdb.Message) error {
			send(childReport{Handled: &handled{m.ID, m.Stream, m.Position, m.GlobalPosition}})
			return nil
		}, func(_ context.Context, p int64) error {
			send(childReport{Progress: &p})
			return nil
		})
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	failed := make(chan error)
	for range o.Writers {
		go func() { failed <- childWrites(ctx, s, o.Writes, send) }()
	}
	fmt.Fprintln(os.Stderr, <-failed)
	return 2
}

// childWrites writes to the streams, and reports each step.
func childWrites(ctx context.Context, s *mdb.Store, streams []mdb.StreamName, send func(childReport)) error {
	for {
		x := &op{name: uuid.NewString(), stream: streams[rand.IntN(len(streams))]}
		for range 1 + rand.IntN(5) {
			x.ids = append(x.ids, uuid.New())
		}
		if rand.IntN(2) == 0 {
			version, err := s.StreamVersion(ctx, x.stream)
			if err != nil {
				return err
			}
			x.expected = &version
		}
		send(childReport{Name: x.name, Sent: &sentOp{x.stream, x.ids, x.expected}})
		written, err := writeByMDB(ctx, s, x)
		if err != nil {
			send(childReport{Name: x.name, Failed: err.Error()})
			continue
		}
		send(childReport{Name: x.name, Acked: written})
	}
}

// runChild runs a child until it has sent the given number of reports, or onReport
// returns true, and then kills it. Reports that it sent after that still count.
func runChild(ctx context.Context, o childTask, lines int, onReport func(childReport) (enough bool)) error {
	text, err := json.Marshal(o)
	if err != nil {
		return err
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, program)
	cmd.Env = append(os.Environ(), childVariable+"="+string(text))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	answers, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	var end error
	reports := json.NewDecoder(out)
	for n := 1; ; n++ {
		var r childReport
		if reports.Decode(&r) != nil {
			if n <= lines {
				end = fmt.Errorf("a child ended before it was killed: %s", stderr.String())
			}
			break
		}
		enough := onReport(r)
		if n > lines {
			continue
		}
		_, _ = answers.Write([]byte("\n"))
		if n == lines || enough {
			lines = n
			_ = cmd.Process.Kill() // while it continues
		}
	}
	if err := cmd.Wait(); end == nil && ctx.Err() != nil {
		return errors.Join(context.Cause(ctx), err)
	}
	return end
}

// killedConsumer returns a consumer that runs in a child process, which is killed after
// a random number of reports as long as kills is positive.
func killedConsumer(url string, rng *rand.Rand, kills *atomic.Int64) consumer {
	var mu sync.Mutex
	return func(ctx context.Context, _ *mdb.Store, sub *subscriber, from int64, h mdb.Handler, progress func(context.Context, int64) error) error {
		mu.Lock()
		lines := 1 + rng.IntN(4*sub.Batch)
		mu.Unlock()
		if kills.Add(-1) < 0 {
			lines = 1 << 30
		}
		err := runChild(ctx, childTask{URL: url, Sub: sub, From: from}, lines, func(r childReport) bool {
			switch {
			case r.Handled != nil:
				m := r.Handled
				_ = h(ctx, mdb.Message{ID: m.ID, Stream: m.Stream, Position: m.Position, GlobalPosition: m.Global})
			case r.Progress != nil:
				_ = progress(ctx, *r.Progress)
			}
			return false
		})
		if err != nil {
			return err
		}
		return &mdb.HandlerError{} // killed: the next incarnation may start
	}
}

// TestKilledConsumers checks that killed consumers resume without a gap, and receive at
// most one page of messages a second time.
func TestKilledConsumers(t *testing.T) { killedConsumers(t, *seedFlag) }

func killedConsumers(t *testing.T, seed uint64) {
	url := database(t)
	w := newWorkload(url, url, seed)
	w.messages, w.chain, w.categories = scaled(600, 20_000), false, 1
	w.crashes = true
	kills := int64(scaled(10, 100))
	var left atomic.Int64
	left.Store(kills)
	w.consume = killedConsumer(url, w.rng, &left)
	violations := w.run(t, nil)
	if n := left.Load(); n > kills/2 {
		t.Errorf("%d of %d kills were not needed", n, kills)
	}
	w.evaluate(t, "T8", int(min(kills, kills-left.Load())), violations)
}

// TestKilledWriters checks that the outcomes of writes whose writer was killed can be
// found out.
func TestKilledWriters(t *testing.T) {
	pgtest.NeedTime(t)
	killedWriters(t, *seedFlag)
}

func killedWriters(t *testing.T, seed uint64) {
	url := database(t)
	w := newWorkload(url, url, seed)
	w.messages, w.writers = 0, 1
	kills := 0
	violations := w.run(t, func(ctx context.Context) error {
		for ; kills < scaled(10, 100); kills++ {
			stream := w.names[0].Stream(fmt.Sprint(w.rng.IntN(w.streams)))
			task := childTask{URL: url, Writes: []mdb.StreamName{stream}, Writers: 1}
			if _, err := w.killWriters(ctx, task, 1+w.rng.IntN(60)); err != nil {
				return err
			}
		}
		return nil
	})
	w.evaluate(t, "T8", kills, violations)
}

// killWriters runs a child that writes, kills it after the given number of reports, and returns its writes.
func (w *workload) killWriters(ctx context.Context, task childTask, lines int) ([]*op, error) {
	ops := make(map[string]*op)
	err := runChild(ctx, task, lines, func(r childReport) bool {
		switch o := ops[r.Name]; {
		case r.Sent != nil:
			ops[r.Name] = w.send(&op{name: r.Name, stream: r.Sent.Stream, ids: r.Sent.IDs, expected: r.Sent.Expected})
		case r.Acked != nil:
			w.end(o, acked, r.Acked)
		default:
			w.end(o, failed, nil)
		}
		return false
	})
	for _, o := range ops {
		if o.outcome == pending {
			o.unknown = true
		}
	}
	return slices.Collect(maps.Values(ops)), err
}
