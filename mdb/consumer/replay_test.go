package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
)

// A clinic runs a consumer whose handler fails for some streams until they are healed. It records what was handled.
type clinic struct {
	*testing.T

	store *mdb.Store
	c     *consumer.Consumer

	mu      sync.Mutex
	ill     map[mdb.StreamName]bool
	handled map[string][]string // by cardinal ID, in order
	again   []string            // those of which FromContext says that they are replayed
	changed chan struct{}
}

var errIll = errors.New("ill\x00 \xff" + strings.Repeat("é", 2000))

func (c *clinic) handle(ctx context.Context, m mdb.Message) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer func() {
		select {
		case c.changed <- struct{}{}:
		default:
		}
	}()
	if c.ill[m.Stream] {
		return consumer.Permanent(errIll)
	}
	name := fmt.Sprintf("%s/%d", m.Stream, m.Position)
	key := m.Stream.CardinalID()
	c.handled[key] = append(c.handled[key], name)
	if consumer.FromContext(ctx).Replayed {
		c.again = append(c.again, name)
	}
	return nil
}

func (c *clinic) heal(streams ...mdb.StreamName) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range streams {
		delete(c.ill, s)
	}
}

func (c *clinic) of(key string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.handled[key])
}

// until waits until something is true after a message was handled, or a parked row has changed.
func (c *clinic) until(what string, done func() bool) {
	c.Helper()
	late := time.After(time.Minute)
	for !done() {
		select {
		case <-c.changed:
		case <-time.After(20 * time.Millisecond): // for what only the database shows
		case <-late:
			c.mu.Lock()
			defer c.mu.Unlock()
			c.Fatalf("%s does not happen: %v, %+v", what, c.handled, c.c.Stats())
		}
	}
}

func (c *clinic) write(streams ...mdb.StreamName) {
	c.Helper()
	for _, s := range streams {
		if _, err := c.store.WriteMessage(c.Context(), s, mdb.NewMessage("Came", nil)); err != nil {
			c.Fatal(err)
		}
	}
}

// rows returns what is parked, as text.
func (c *clinic) rows() (rows []string) {
	c.Helper()
	r, _ := c.store.Pool().Query(c.Context(), `
		SELECT stream || ' ' || position || ' ' || attempts || ' ' || replays || ' ' || coalesce(round(extract(epoch FROM due - tried) / 60)::text, '-')
		FROM message_store_consumers.parked ORDER BY stream, position`)
	rows, err := pgx.CollectRows(r, pgx.RowTo[string])
	if err != nil {
		c.Fatal(err)
	}
	return rows
}

// forms returns handlers of all forms that call f.
func forms(f func(ctx context.Context, m mdb.Message) error) map[string]consumer.Handler {
	return map[string]consumer.Handler{
		"Each":   consumer.Each(f),
		"EachTx": consumer.EachTx(func(ctx context.Context, _ pgx.Tx, m mdb.Message) error { return f(ctx, m) }),
		"Batch": consumer.Batch(func(ctx context.Context, ms []mdb.Message) error {
			for i := range ms {
				if err := f(ctx, ms[i]); err != nil {
					return &consumer.BatchError{Index: i, Err: err}
				}
			}
			return nil
		}),
		"BatchTx": consumer.BatchTx(func(ctx context.Context, _ pgx.Tx, ms []mdb.Message) error {
			for i := range ms { // the effects of those before a failure are undone
				if err := f(ctx, ms[i]); err != nil {
					return &consumer.BatchError{Index: i, Err: err}
				}
			}
			return nil
		}),
	}
}

func newClinic(t *testing.T, form string, opts ...consumer.Option) *clinic {
	t.Helper()
	c := &clinic{T: t, store: withConsumers.Store(t, mdb.WithNotify()), ill: make(map[mdb.StreamName]bool), handled: make(map[string][]string), changed: make(chan struct{}, 1)}
	var err error
	if c.c, err = consumer.New(c.store, "clinic", "patient", forms(c.handle)[form], append([]consumer.Option{
		consumer.WithPartitions(2), consumer.WithWorkers(3), consumer.WithLease(time.Hour),
	}, opts...)...); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *clinic) run() {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(c.Context()))
	ended := make(chan error, 1)
	go func() { ended <- c.c.Run(ctx) }()
	errDone := errors.New("done")
	c.Cleanup(func() {
		cancel(errDone)
		if err := <-ended; !errors.Is(err, errDone) {
			c.Errorf("Run returns %v", err)
		}
	})
}

// TestReplay checks with handlers of all forms that a parked key's messages wait, and that they are handled in order,
// once, after Replay, and that the key is live again then.
func TestReplay(t *testing.T) {
	t.Parallel()
	for form := range forms(nil) {
		t.Run(form, func(t *testing.T) {
			t.Parallel()
			c := newClinic(t, form)
			c.ill["patient-1"] = true
			c.write("patient-1", "patient-2", "patient-1+b", "patient-1", "patient-1+b", "patient-2", "patient-1+c")
			c.run()
			c.until("the other key", func() bool { return len(c.of("2")) == 2 })
			c.until("the parking", func() bool { return len(c.rows()) == 3 })
			want := []string{"patient-1 0 1 0 1", "patient-1+b 0 0 0 -", "patient-1+c 0 0 0 -"}
			if got := c.rows(); !slices.Equal(got, want) {
				t.Errorf("parked: got %v, want %v", got, want)
			}
			if got := c.of("1"); len(got) > 0 {
				t.Errorf("got %v, want that nothing of the key is handled", got)
			}

			// It fails again: the schedule has its next time.
			if err := c.c.Replay(t.Context(), "patient-1+b"); err != nil {
				t.Fatal(err)
			}
			c.until("the failure of a replay", func() bool { return c.rows()[0] == "patient-1 0 2 1 5" })
			if got := c.rows(); got[1] != "patient-1+b 0 0 0 -" {
				t.Errorf("parked: got %v, want that nothing else is due", got)
			}

			c.heal("patient-1")
			c.write("patient-1")
			if err := c.c.Replay(t.Context()); err != nil {
				t.Fatal(err)
			}
			c.until("the replay", func() bool { return len(c.rows()) == 0 })
			c.write("patient-1", "patient-1+b")
			c.until("the live flow", func() bool { return len(c.of("1")) == 8 })
			want = []string{
				"patient-1/0", "patient-1+b/0", "patient-1/1", "patient-1+b/1", "patient-1+c/0", "patient-1/2",
				"patient-1/3", "patient-1+b/2",
			}
			if got := c.of("1"); !slices.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			if len(c.again) < 5 || !slices.Equal(c.again, want[:len(c.again)]) {
				t.Errorf("replayed: got %v, want the first of %v", c.again, want)
			}
			if s := c.c.Stats(); s.Replayed != int64(len(c.again)) || s.Parked != 1 {
				t.Errorf("got %+v", s)
			}
		})
	}
}

// TestReplayConflicts checks that Replay is repeated if other transactions are in its way.
func TestReplayConflicts(t *testing.T) {
	t.Parallel()
	for _, code := range []string{"40P01", "40001"} {
		t.Run(code, func(t *testing.T) {
			t.Parallel()
			c := newClinic(t, "Each")
			if err := c.c.CatchUp(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, err := c.store.Pool().Exec(t.Context(), `
				CREATE SEQUENCE public.tries;
				ALTER FUNCTION message_store_consumers.replay RENAME TO undisturbed;
				CREATE FUNCTION message_store_consumers.replay(text, text[]) RETURNS bigint LANGUAGE plpgsql AS $$
					BEGIN
						IF nextval('public.tries') < 4 THEN
							RAISE EXCEPTION 'a conflict' USING ERRCODE = '`+code+`';
						END IF;
						RETURN message_store_consumers.undisturbed($1, $2);
					END$$;
				GRANT USAGE ON SEQUENCE public.tries TO PUBLIC`); err != nil {
				t.Fatal(err)
			}
			if err := c.c.Replay(t.Context()); err != nil {
				t.Errorf("Replay returned %v", err)
			}
		})
	}
}
