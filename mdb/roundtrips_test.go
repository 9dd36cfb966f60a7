package mdb_test

import (
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// TestRoundTrips checks how many round trips each call makes once the statement is
// prepared.
func TestRoundTrips(t *testing.T) {
	t.Parallel()
	for _, mode := range execModes {
		for way, opts := range map[string][]mdb.StoreOption{
			"procedures": {mdb.WithConditions()},
			"direct":     {mdb.WithConditions(), mdb.WithDirectSQL()},
		} {
			t.Run(mode.String()+" "+way, func(t *testing.T) {
				t.Parallel()
				var w wire
				s := newStore(t, newPool(t, testdb.Shared(t), execMode(mode), oneConnection, w.attach), opts...)
				want := int64(1)
				if mode == pgx.QueryExecModeDescribeExec {
					want = 2 // the mode describes, then executes
				}
				t.Run("Store", func(t *testing.T) { countRoundTrips(t, &w, want, s) })
				t.Run("Tx", func(t *testing.T) { countRoundTrips(t, &w, want, s.WithTx(begin(t, s.Pool()))) })
				if n := w.dials.Load(); n != 1 {
					t.Errorf("got %d connections, want 1", n)
				}
			})
		}
	}
}

func countRoundTrips(t *testing.T, w *wire, want int64, c calls) {
	category := mdbtest.Category("trips")
	stream := category.Stream("1")
	ctx := t.Context()
	expected := mdb.NoStream // of a new stream
	operations := []struct {
		name string
		call func() error
	}{
		{"WriteMessage", func() error {
			_, err := c.WriteMessage(ctx, stream, mdb.NewMessage("Happened", 1))
			return err
		}},
		{"WriteMessage, ExpectVersion", func() error {
			_, err := c.WriteMessage(ctx, category.Stream("2"), mdb.NewMessage("Happened", 1), mdb.ExpectVersion(expected))
			expected++
			return err
		}},
		{"WriteMessage, ExpectStream", func() error {
			_, err := c.WriteMessage(ctx, stream, mdb.NewMessage("Happened", 1), mdb.ExpectStream())
			return err
		}},
		{"WriteMessages, ExpectStream", func() error {
			_, err := c.WriteMessages(ctx, stream, proposals(2), mdb.ExpectStream())
			return err
		}},
		{"WriteMessages of 100", func() error {
			_, err := c.WriteMessages(ctx, stream, proposals(100))
			return err
		}},
		{"WriteMessages of 2", func() error {
			_, err := c.WriteMessages(ctx, stream, proposals(2))
			return err
		}},
		{"GetStreamMessages", func() error {
			_, err := c.GetStreamMessages(ctx, stream)
			return err
		}},
		{"GetStreamMessages, none", func() error {
			_, err := c.GetStreamMessages(ctx, stream+"x")
			return err
		}},
		{"GetCategoryMessages", func() error {
			_, err := c.GetCategoryMessages(ctx, category)
			return err
		}},
		{"GetCategoryMessages, filtered", func() error {
			_, err := c.GetCategoryMessages(ctx, category, mdb.WithCorrelation("c"), mdb.AsConsumerGroup(0, 2), mdb.AfterGlobalPosition(1), mdb.WithBatchSize(5))
			return err
		}},
		{"GetCategoryMessages, WithCondition", func() error {
			_, err := c.GetCategoryMessages(ctx, category, mdb.WithCondition("position > 1"))
			return err
		}},
		{"GetLastStreamMessage", func() error {
			_, err := c.GetLastStreamMessage(ctx, stream)
			return err
		}},
		{"GetLastStreamMessage, OfType", func() error {
			_, err := c.GetLastStreamMessage(ctx, stream, mdb.OfType("Happened"))
			return err
		}},
		{"StreamVersion", func() error {
			_, err := c.StreamVersion(ctx, stream)
			return err
		}},
		{"MessageStoreVersion", func() error {
			_, err := c.MessageStoreVersion(ctx)
			return err
		}},
	}
	if tx, ok := c.(*mdb.Tx); ok {
		type operation = struct {
			name string
			call func() error
		}
		operations = append(operations,
			operation{"LockCategories", func() error { return tx.LockCategories(ctx, "a", "b", category, "a") }},
			operation{"WriteMessage, InSavepoint", func() error {
				_, err := c.WriteMessage(ctx, stream, mdb.NewMessage("Happened", 1), mdb.InSavepoint())
				return err
			}},
			operation{"WriteMessages of 2, InSavepoint", func() error {
				_, err := c.WriteMessages(ctx, stream, proposals(2), mdb.InSavepoint(), mdb.Idempotent())
				return err
			}})
	}
	// The statements that set and reset conditions are the same for all reads.
	for range 2 {
		for _, o := range operations {
			if err := o.call(); err != nil {
				t.Fatalf("%s: %v", o.name, err)
			}
		}
	}
	for _, o := range operations {
		before := w.trips.Load()
		if err := o.call(); err != nil {
			t.Fatalf("%s: %v", o.name, err)
		}
		if got := w.trips.Load() - before; got != want {
			t.Errorf("%s: got %d round trips, want %d", o.name, got, want)
		}
	}
}

// TestLostRaceKeepsStatement checks that a write with a wrong version costs the next write
// nothing. Without the client's help pgx would prepare the statement again.
func TestLostRaceKeepsStatement(t *testing.T) {
	t.Parallel()
	for way, opts := range map[string][]mdb.StoreOption{"procedures": nil, "direct": {mdb.WithDirectSQL()}} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			var w wire
			s := newStore(t, newPool(t, testdb.Shared(t), oneConnection, w.attach), opts...)
			stream := mdbtest.Category("race").Stream("1")
			first := write(t, s, stream, mdb.NewMessage("Happened", 1))
			seed(t, s, stream, 2)
			trip := func(what string, call func() error) {
				t.Helper()
				before := w.trips.Load()
				_ = call()
				if got := w.trips.Load() - before; got != 1 {
					t.Errorf("%s: got %d round trips, want 1", what, got)
				}
			}
			for range 3 {
				trip("losing a race", func() error {
					_, err := s.WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", 1), mdb.ExpectNoStream())
					wantError[*mdb.WrongVersionError](t, err)
					return err
				})
				trip("a duplicate", func() error {
					_, err := s.WriteMessage(t.Context(), stream, mdb.ProposedMessage{ID: first.ID, Type: "Happened"})
					wantError[*mdb.DuplicateIDError](t, err)
					return err
				})
				trip("the next write", func() error {
					_, err := s.WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", 1))
					return err
				})
				trip("losing a race with a batch", func() error {
					_, err := s.WriteMessages(t.Context(), stream, proposals(2), mdb.ExpectNoStream())
					wantError[*mdb.WrongVersionError](t, err)
					return err
				})
				trip("the next batch", func() error {
					_, err := s.WriteMessages(t.Context(), stream, proposals(2))
					return err
				})
			}
			if n := value[int](t, s.Pool(), `SELECT count(*) FROM message_store.messages WHERE stream_name = $1`, string(stream)); n != 12 {
				t.Errorf("got %d messages, want 12", n)
			}
		})
	}
}
