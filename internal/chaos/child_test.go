package chaos

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/mdb"
)

// childVariable makes the test program a child, which does what the variable says.
const childVariable = "MDB_FAULTS_CHILD"

// An order is what a child is to do: to write to a stream, or to consume.
type order struct {
	URL    string
	Writes mdb.StreamName
	Sub    *subscriber
	From   int64
}

// A report is what a child says, in a line of its own, before it goes on. It waits
// for an answer, so that nothing that it has done goes unheard.
type report struct {
	Sent     *sentOp
	Acked    []mdb.Written
	Refused  string
	Handled  *handled
	Progress *int64
}

type sentOp struct {
	Name     string
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
	var o order
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	ctx := context.Background()
	s, err := mdb.Connect(ctx, o.URL)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	answers, lines := bufio.NewReader(os.Stdin), json.NewEncoder(os.Stdout)
	say := func(r report) {
		if err := lines.Encode(r); err == nil {
			_, err = answers.ReadByte()
			if err == nil {
				return
			}
		}
		os.Exit(3) // the parent is gone
	}
	if o.Sub != nil {
		err = consumeByMDB(ctx, s, o.Sub, o.From, func(_ context.Context, m mdb.Message) error {
			say(report{Handled: &handled{m.ID, m.Stream, m.Position, m.GlobalPosition}})
			return nil
		}, func(_ context.Context, p int64) error {
			say(report{Progress: &p})
			return nil
		})
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	for {
		x := &op{name: uuid.NewString(), stream: o.Writes}
		for range 1 + rand.IntN(5) {
			x.ids = append(x.ids, uuid.New())
		}
		if rand.IntN(2) == 0 {
			version, err := s.StreamVersion(ctx, o.Writes)
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 2
			}
			x.expected = &version
		}
		say(report{Sent: &sentOp{x.name, x.ids, x.expected}})
		written, err := writeByMDB(ctx, s, x)
		if err != nil {
			say(report{Refused: err.Error()})
			continue
		}
		say(report{Acked: written})
	}
}

// bear runs a child until it has said so many things, or hear has had
// enough, and kills it then. What it says after the last answer still counts.
func bear(ctx context.Context, o order, lines int, hear func(report) (enough bool)) error {
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
	var complaint strings.Builder
	cmd.Stderr = &complaint
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
	said := json.NewDecoder(out)
	for n := 1; ; n++ {
		var r report
		if said.Decode(&r) != nil {
			if n <= lines {
				end = fmt.Errorf("a child ended by itself: %s", complaint.String())
			}
			break
		}
		enough := hear(r)
		if n > lines {
			continue
		}
		_, _ = answers.Write([]byte("\n"))
		if n == lines || enough {
			lines = n
			_ = cmd.Process.Kill() // while it goes on to the next thing
		}
	}
	if err := cmd.Wait(); end == nil && ctx.Err() != nil {
		return errors.Join(context.Cause(ctx), err)
	}
	return end
}

// killedConsumer has a child consume, which is killed after a random number of
// things that it did, as long as there are kills left.
func killedConsumer(url string, rng *rand.Rand, kills *atomic.Int64) consumer {
	var mu sync.Mutex
	return func(ctx context.Context, _ *mdb.Store, sub *subscriber, from int64, h mdb.Handler, progress func(context.Context, int64) error) error {
		mu.Lock()
		lines := 1 + rng.IntN(4*sub.Batch)
		mu.Unlock()
		if kills.Add(-1) < 0 {
			lines = 1 << 30
		}
		err := bear(ctx, order{URL: url, Sub: sub, From: from}, lines, func(r report) bool {
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
		return &mdb.HandlerError{} // killed: the next life may begin
	}
}

// TestKilledConsumers kills consumers wherever they are.
func TestKilledConsumers(t *testing.T) { killedConsumers(t, *seedFlag) }

func killedConsumers(t *testing.T, seed uint64) {
	url := database(t)
	w := newWorld(url, url, seed)
	w.messages, w.chain, w.categories = scaled(600, 20_000), false, 1
	w.subscribe = func(w *world, category mdb.Category) []*subscriber {
		subs := w.allKinds(category)
		for _, s := range subs {
			s.crashes = true
		}
		return subs
	}
	kills := int64(scaled(10, 100))
	var left atomic.Int64
	left.Store(kills)
	w.consume = killedConsumer(url, w.rng, &left)
	violations := w.run(t, nil)
	if n := left.Load(); n > kills/2 {
		t.Errorf("%d of %d kills were not needed", n, kills)
	}
	w.judge(t, "T8", int(min(kills, kills-left.Load())), violations)
}

// TestKilledWriters kills writers wherever they are, and settles what they have left
// open.
func TestKilledWriters(t *testing.T) {
	pgtest.NeedTime(t)
	killedWriters(t, *seedFlag)
}

func killedWriters(t *testing.T, seed uint64) {
	url := database(t)
	w := newWorld(url, url, seed)
	w.messages, w.writers = 0, 1
	kills := 0
	violations := w.run(t, func(ctx context.Context) error {
		for ; kills < scaled(10, 100); kills++ {
			stream := w.names[0].Stream(fmt.Sprint(w.rng.IntN(w.streams)))
			var o *op
			err := bear(ctx, order{URL: url, Writes: stream}, 1+w.rng.IntN(60), func(r report) bool {
				switch {
				case r.Sent != nil:
					o = w.send(&op{name: r.Sent.Name, stream: stream, ids: r.Sent.IDs, expected: r.Sent.Expected})
				case r.Acked != nil:
					w.end(o, acked, r.Acked)
				default:
					w.end(o, refused, nil)
				}
				return false
			})
			if err != nil {
				return err
			}
			if o != nil && o.outcome == pending {
				o.unknown = true
			}
		}
		return nil
	})
	w.judge(t, "T8", kills, violations)
}
