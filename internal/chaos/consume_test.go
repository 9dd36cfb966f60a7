package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// TestFailingHandlers checks subscriptions whose handlers and progress callbacks return
// errors and panic.
func TestFailingHandlers(t *testing.T) { failingHandlers(t, *seedFlag) }

func failingHandlers(t *testing.T, seed uint64) {
	url := database(t)
	w := newWorkload(url, url, seed)
	w.messages = scaled(1000, 10_000)
	w.crashes = true // after a failure to keep its progress a subscription receives messages again
	w.chain = false
	rng, faults := rand.New(rand.NewPCG(seed, 4)), 0
	var mu sync.Mutex
	maybeFail := func(chance int) error {
		mu.Lock()
		defer mu.Unlock()
		if rng.IntN(chance) > 0 {
			return nil
		}
		faults++
		if rng.IntN(2) == 0 {
			panic(payload)
		}
		return errInjected
	}
	w.failHandler = func(*subscriber) error { return maybeFail(60) }
	w.failProgress = func() error { return maybeFail(20) }
	violations := w.run(t, nil)
	w.evaluate(t, "T10", faults, violations)
}

// TestLostNotifications checks that subscriptions miss no message when half of all
// notifications are lost, the listening connection ends, and the trigger is removed for
// a while.
func TestLostNotifications(t *testing.T) { lostNotifications(t, *seedFlag) }

func lostNotifications(t *testing.T, seed uint64) {
	url := testdb.New(t)
	admin := connect(t, url)
	if err := schema.InstallNotify(context.WithoutCancel(t.Context()), admin); err != nil {
		t.Fatal(err)
	}
	p := newProxy(t, url)
	w := newWorkload(url, p.url(), seed)
	w.messages = scaled(1000, 20_000)
	w.options = []mdb.StoreOption{mdb.WithNotify(mdb.Fallback(100 * time.Millisecond))}
	rng := rand.New(rand.NewPCG(seed, 5))
	p.onMessage(func(_ side, message string) verdict {
		if message == "NotificationResponse" && rng.IntN(2) == 0 {
			return verdict{do: drop}
		}
		return verdict{}
	})
	faults := 0
	violations := w.run(t, func(ctx context.Context) error {
		return every(ctx, w.rng, 50*time.Millisecond, func() (err error) {
			ctx := context.WithoutCancel(ctx)
			w.noteFault()
			faults++
			switch w.rng.IntN(4) {
			case 0:
				err = schema.UninstallNotify(ctx, admin)
			case 1:
				err = schema.InstallNotify(ctx, admin)
			default:
				_, err = admin.Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND application_name LIKE '%message_store notify'`)
			}
			return err
		})
	})
	w.evaluate(t, "T9", faults+int(p.injected.Load()), violations)
}

// TestVisibility checks that subscriptions miss nothing while transactions take long,
// roll back, or write to several categories. A reader of all categories by one global
// position does miss messages, which proves that the test creates the problem.
func TestVisibility(t *testing.T) {
	url := database(t)
	w := newWorkload(url, url, *seedFlag)
	w.messages = 0
	var admin *pgxpool.Pool
	var s *mdb.Store
	seen := make(map[int64]bool)
	last := int64(0)
	read := func(ctx context.Context) error {
		store, err := readStore(ctx, admin, w.categoriesWith(w.names[0]))
		for _, m := range store {
			if m.global > last {
				seen[m.global] = true
			}
		}
		if len(store) > 0 {
			last = store[len(store)-1].global
		}
		return err
	}
	write := func(ctx context.Context, tx *mdb.Tx, stream mdb.StreamName, name string) (*op, error) {
		o := w.send(&op{name: name, stream: stream, ids: []uuid.UUID{uuid.New()}})
		var err error
		if tx != nil {
			o.written, err = tx.WriteMessages(ctx, stream, o.messages())
		} else {
			o.written, err = s.WriteMessages(ctx, stream, o.messages())
		}
		return o, err
	}
	rollBack := errors.New("roll back")
	faults := 0
	violations := w.run(t, func(ctx context.Context) (err error) {
		admin = openPool(t, url, 4, configure)
		defer admin.Close()
		if s, err = mdb.New(admin); err != nil {
			return err
		}
		for ; faults < scaled(30, 500); faults++ {
			long := faults%2 == 0
			categories := w.names[:1]
			if !long {
				categories = w.names
			}
			var ops []*op
			err := s.Atomically(ctx, categories, func(tx *mdb.Tx) error {
				ops = nil
				for i, c := range categories {
					o, err := write(ctx, tx, c.Stream("0"), fmt.Sprintf("transaction %d-%d", faults, i))
					if err != nil {
						return err
					}
					ops = append(ops, o)
				}
				if long {
					o, err := write(ctx, nil, w.names[1].Stream("0"), fmt.Sprint("concurrent ", faults))
					if err != nil {
						return err
					}
					w.end(o, acked, o.written)
					if err := read(ctx); err != nil {
						return err
					}
				}
				if w.rng.IntN(4) == 0 {
					return rollBack
				}
				return nil
			})
			result := acked
			if errors.Is(err, rollBack) {
				result, err = failed, nil
			}
			for _, o := range ops {
				w.end(o, result, o.written)
			}
			if err != nil {
				return err
			}
		}
		return read(ctx)
	})
	if n := len(w.store) - len(seen); n <= 0 {
		t.Errorf("a reader of all categories by one position missed %d messages, so the test proves nothing", n)
	}
	w.evaluate(t, "T11", faults, violations)
}

// TestBypass checks that the validators notice an INSERT that bypasses write_message,
// which makes positions visible out of order, and that Check reports a sequence with
// the same effect.
func TestBypass(t *testing.T) {
	url := database(t)
	admin := connect(t, url)
	s, err := mdb.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	stream := mdbtest.Category("bypass").Stream("1")
	tx, err := admin.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = tx.Exec(t.Context(), `INSERT INTO message_store.messages (id, stream_name, type, position, data)
VALUES (gen_random_uuid(), $1, 'Happened', 0, '{"op": "bypass", "index": 0}')`, string(stream)+"2")
	if err != nil {
		t.Fatal(err)
	}
	h := newHistory()
	sub := &subscriber{Name: "category", Category: stream.Category(), Batch: 10}
	h.subscribers = []*subscriber{sub}
	inc := h.begin(sub, 0)
	o := h.send(&op{name: "through", stream: stream, ids: []uuid.UUID{uuid.New()}})
	written, err := writeByMDB(t.Context(), s, o)
	if err != nil {
		t.Fatal(err)
	}
	h.end(o, acked, written)
	ctx, stop := context.WithCancel(t.Context())
	var committed error
	err = consumeByMDB(ctx, s, sub, 0, func(_ context.Context, m mdb.Message) error {
		h.deliver(sub, inc, delivery{m.ID, m.Stream, m.Position, m.GlobalPosition})
		return nil
	}, func(ctx context.Context, _ int64) error {
		committed = tx.Commit(ctx)
		stop()
		return nil
	})
	if !errors.Is(err, context.Canceled) || committed != nil {
		t.Fatal(err, committed)
	}
	store, err := readStore(t.Context(), s.Pool(), []string{string(stream.Category())})
	if err != nil {
		t.Fatal(err)
	}
	found := validate(h, store)
	if len(found["Reliable"]) != 1 || len(found["NoGhost"]) != 1 {
		t.Errorf("the validators find %v, want a hole and a ghost", found)
	}
	if err := s.Check(t.Context()); err != nil {
		t.Error(err)
	}
	execute(t, admin, `ALTER SEQUENCE message_store.messages_global_position_seq CACHE 10`)
	if setup := (*mdb.SetupError)(nil); !errors.As(s.Check(t.Context()), &setup) {
		t.Error("Check does not report the sequence's cache")
	}
	results.add("T12", tally{faults: 2, messages: len(store)})
}
