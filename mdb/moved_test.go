package mdb_test

import (
	"context"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/gate"
	"github.com/messagedb-go/messagedb/mdb"
)

// setGate closes or opens the gate of a shard for the category account.
func setGate(t testing.TB, pool *pgxpool.Pool, closed bool) {
	t.Helper()
	err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		if closed {
			return gate.Close(t.Context(), tx, "account", 1, false)
		}
		return gate.Open(t.Context(), tx, "account")
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestMoved checks that each way to write to a category that a shard does not write any more is retried, and succeeds
// when the shard accepts it again. If it does not, the error is a MovedError, and nothing was written. Other categories are not held up.
func TestMoved(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	proposal := func() mdb.ProposedMessage { return mdb.NewMessage("Happened", nil) }
	for name, way := range map[string]struct {
		opts  []mdb.StoreOption
		write func(*mdb.Store) error
	}{
		"WriteMessage": {nil, func(s *mdb.Store) error {
			_, err := s.WriteMessage(ctx, "account-1", proposal())
			return err
		}},
		"WriteMessage, Idempotent": {nil, func(s *mdb.Store) error {
			_, err := s.WriteMessage(ctx, "account-1", proposal(), mdb.Idempotent(), mdb.ExpectNoStream())
			return err
		}},
		"WriteMessages": {nil, func(s *mdb.Store) error {
			_, err := s.WriteMessages(ctx, "account-1", proposals(3))
			return err
		}},
		"direct SQL": {[]mdb.StoreOption{mdb.WithDirectSQL()}, func(s *mdb.Store) error {
			_, err := s.WriteMessages(ctx, "account-1", proposals(3))
			return err
		}},
		"group commit": {[]mdb.StoreOption{mdb.WithGroupCommit()}, func(s *mdb.Store) error {
			_, err := s.WriteMessage(ctx, "account-1", proposal())
			return err
		}},
		"group commit, direct SQL": {[]mdb.StoreOption{mdb.WithGroupCommit(), mdb.WithDirectSQL()}, func(s *mdb.Store) error {
			_, err := s.WriteMessage(ctx, "account-1", proposal())
			return err
		}},
		"WriteEach": {nil, func(s *mdb.Store) error {
			results := s.WriteEach(ctx, []mdb.Write{
				{Stream: "other-1", Message: proposal()}, {Stream: "account-1", Message: proposal()}, {Stream: "other-2", Message: proposal()},
			})
			for _, i := range []int{0, 2} {
				if results[i].Err != nil {
					t.Errorf("another category: %v", results[i].Err)
				}
			}
			return results[1].Err
		}},
		"Atomically": {nil, func(s *mdb.Store) error {
			return s.Atomically(ctx, []mdb.Category{"account"}, func(tx *mdb.Tx) error {
				_, err := tx.WriteMessage(ctx, "account-1", proposal())
				return err
			})
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := newShard(t, 0)
			if err := gate.Install(ctx, pool); err != nil {
				t.Fatal(err)
			}
			setGate(t, pool, true)
			var logged journal
			s := newStore(t, pool, append(way.opts, logged.option(), forAWhile())...)
			moved := wantError[*mdb.MovedError](t, way.write(s))
			if wantCode(t, moved, "MD001"); !strings.Contains(moved.Error(), "moved to another shard") || !mdb.IsTransient(moved) || logged.retries() < 1 {
				t.Errorf("got %v after %d retries", moved, logged.retries())
			}
			if n := value[int](t, pool, `SELECT count(*) FROM message_store.messages WHERE message_store.category(stream_name) = 'account'`); n > 0 {
				t.Errorf("%d messages were written", n)
			}

			opened := false
			again := journal{}
			again.onRecord = func() {
				if !opened {
					opened = true
					setGate(t, pool, false)
				}
			}
			if err := way.write(newStore(t, pool, append(way.opts, again.option())...)); err != nil || !opened {
				t.Errorf("got %v with a gate that is opened, retried: %t", err, opened)
			}
		})
	}
}

// TestMovedInTransaction checks the error in a transaction of the caller.
func TestMovedInTransaction(t *testing.T) {
	t.Parallel()
	pool := newShard(t, 0)
	if err := gate.Install(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	setGate(t, pool, true)
	_, err := newStore(t, pool).WithTx(begin(t, pool)).WriteMessage(context.WithoutCancel(t.Context()), "account-1", mdb.NewMessage("Happened", nil))
	wantError[*mdb.MovedError](t, err)
}
