package mdb_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// seed writes n messages to a stream.
func seed(t testing.TB, s *mdb.Store, stream mdb.StreamName, n int) []mdb.Written {
	t.Helper()
	w, err := s.WriteMessages(t.Context(), stream, proposals(n))
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func streamPositions(ms []mdb.Message) (p []int64) {
	for _, m := range ms {
		p = append(p, m.Position)
	}
	return p
}

func globalPositions(ms []mdb.Message) (p []int64) {
	for _, m := range ms {
		p = append(p, m.GlobalPosition)
	}
	return p
}

// TestReadInTxSeesItsWrites checks that a transaction reads its own uncommitted writes,
// and that others do not.
func TestReadInTxSeesItsWrites(t *testing.T) {
	t.Parallel()
	s := mdbtest.SharedStore(t)
	stream := mdbtest.Category("own").Stream("1")
	tx := begin(t, s.Pool())
	mtx := s.WithTx(tx)
	write(t, mtx, stream, mdb.NewMessage("Happened", nil))
	for c, want := range map[calls]int64{mtx: 0, s: mdb.NoStream} {
		if got, err := c.StreamVersion(t.Context(), stream); err != nil || got != want {
			t.Errorf("%T: got version %d, error %v, want %d", c, got, err, want)
		}
	}
}

// TestRequireStream checks that reads with RequireStream tell a stream that does not exist
// from one without messages after the position, in one round trip.
func TestRequireStream(t *testing.T) {
	t.Parallel()
	for way, opts := range map[string][]mdb.StoreOption{"procedures": nil, "direct": {mdb.WithDirectSQL()}} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			var w wire
			s := newStore(t, newPool(t, testdb.Shared(t), oneConnection, w.attach), append(opts, mdb.WithConditions(), often)...)
			stream := mdbtest.Category("required").Stream("1")
			absent := stream + "x"
			seed(t, s, stream, 2)
			isAbsent := func(err error) bool {
				return errors.Is(err, mdb.ErrNoStream) && strings.HasSuffix(err.Error(), string(absent))
			}
			check := func(t *testing.T, c calls) {
				t.Helper()
				for name, tt := range map[string]struct {
					opts mdb.StreamOptions
					want int
				}{
					"all":              {nil, 2},
					"from 0":           {mdb.StreamOptions{mdb.FromPosition(0)}, 2},
					"after the last":   {mdb.StreamOptions{mdb.AfterPosition(1)}, 0},
					"condition":        {mdb.StreamOptions{mdb.WithCondition("false")}, 0},
					"condition, after": {mdb.StreamOptions{mdb.WithCondition("true"), mdb.AfterPosition(0)}, 1},
				} {
					for range 2 { // the first time prepares the statements
						ms, err := c.GetStreamMessages(t.Context(), stream, tt.opts, mdb.RequireStream())
						if err != nil || len(ms) != tt.want {
							t.Errorf("%s: got %d messages, error %v, want %d", name, len(ms), err, tt.want)
						}
						if _, err := c.GetStreamMessages(t.Context(), absent, tt.opts, mdb.RequireStream()); !isAbsent(err) {
							t.Errorf("%s: got error %v of a stream that does not exist", name, err)
						}
					}
					before := w.trips.Load()
					_, _ = c.GetStreamMessages(t.Context(), absent, tt.opts, mdb.RequireStream())
					if n := w.trips.Load() - before; n != 1 {
						t.Errorf("%s: got %d round trips, want 1", name, n)
					}
					if ms, err := collect(c.StreamMessages(t.Context(), stream, tt.opts, mdb.RequireStream(), mdb.WithBatchSize(1))); err != nil || len(ms) != tt.want {
						t.Errorf("%s: got a sequence of %d messages, error %v, want %d", name, len(ms), err, tt.want)
					}
					if ms, err := collect(c.StreamMessages(t.Context(), absent, tt.opts, mdb.RequireStream())); !isAbsent(err) || len(ms) > 0 {
						t.Errorf("%s: got a sequence of %d messages, error %v", name, len(ms), err)
					}
					if _, ok := c.(*mdb.Store); !ok {
						continue
					}
					err := s.SubscribeToStream(t.Context(), absent, func(context.Context, mdb.Message) error { return nil }, tt.opts, mdb.RequireStream())
					if !isAbsent(err) {
						t.Errorf("%s: got error %v of a subscription", name, err)
					}
				}
			}
			t.Run("Store", func(t *testing.T) { check(t, s) })
			t.Run("Tx", func(t *testing.T) { check(t, s.WithTx(begin(t, s.Pool()))) })
			err := s.SubscribeToStream(t.Context(), absent, func(context.Context, mdb.Message) error { return nil }, mdb.FromEnd(), mdb.RequireStream())
			if !isAbsent(err) {
				t.Errorf("from the end: got error %v of a subscription", err)
			}
			// It is required when the subscription starts, and not later.
			r := receiveStream(t, s, stream, mdb.AfterPosition(0), mdb.RequireStream(), mdb.WithBatchSize(1))
			r.next(t, 1)
			r.untilLive(t)
			r.stop(t)
		})
	}
}

// TestCategoryHead checks that CategoryHead returns the global position of the last message
// that is visible, and what it returns for a role that may not read the table.
func TestCategoryHead(t *testing.T) {
	t.Parallel()
	s := mdbtest.SharedStore(t)
	category := mdbtest.Category("head")
	head := func(c *mdb.Store) int64 {
		t.Helper()
		head, err := c.CategoryHead(t.Context(), category)
		if err != nil {
			t.Fatal(err)
		}
		return head
	}
	if got := head(s); got != 0 {
		t.Errorf("got head %d of an empty category, want 0", got)
	}
	seed(t, s, category.Stream("2"), 2)
	last := write(t, s, category.Stream("1"), mdb.NewMessage("Happened", nil)).GlobalPosition
	write(t, s, mdb.StreamName(category+"x-1"), mdb.NewMessage("Happened", nil))
	if got := head(s); got != last {
		t.Errorf("got head %d, want %d", got, last)
	}
	tx := s.WithTx(begin(t, s.Pool()))
	own := write(t, tx, category.Stream("1"), mdb.NewMessage("Happened", nil)).GlobalPosition
	if got, err := tx.CategoryHead(t.Context(), category); got != own || err != nil {
		t.Errorf("got head %d in the transaction, error %v, want %d", got, err, own)
	}
	if got := head(s); got != last {
		t.Errorf("got head %d outside of the transaction, want %d", got, last)
	}
	_, err := s.CategoryHead(t.Context(), "a-1")
	wantError[*mdb.ArgumentError](t, err)
	blind := newStore(t, newPool(t, s.Pool().Config().ConnString(), asRole(newRole(t, s.Pool()))))
	_, err = blind.CategoryHead(t.Context(), category)
	wantError[*mdb.SetupError](t, err)
	wantCode(t, err, "42501")
}

// TestNoMessageNamesTheStream checks that the error says which message there is not.
func TestNoMessageNamesTheStream(t *testing.T) {
	t.Parallel()
	onBoth(t, mdbtest.SharedStore(t), func(t *testing.T, c calls, _ database) {
		_, err := c.GetLastStreamMessage(t.Context(), "nothing-1")
		if !errors.Is(err, mdb.ErrNoMessage) || err.Error() != "mdb: no message in stream nothing-1" {
			t.Errorf("got error %v", err)
		}
		_, err = c.GetLastStreamMessage(t.Context(), "nothing-1", mdb.OfType("Closed"))
		if !errors.Is(err, mdb.ErrNoMessage) || err.Error() != "mdb: no message of type Closed in stream nothing-1" {
			t.Errorf("got error %v", err)
		}
	})
}
