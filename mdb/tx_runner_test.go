package mdb_test

import (
	"context"
	"database/sql"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// A bareTransaction has the methods that WithTx requires, and no others.
type bareTransaction struct{ tx pgx.Tx }

func (b bareTransaction) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	return b.tx.Exec(ctx, sql, args...)
}

func (b bareTransaction) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	return b.tx.Query(ctx, sql, args...)
}

func (b bareTransaction) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	return b.tx.QueryRow(ctx, sql, args...)
}

func (b bareTransaction) SendBatch(ctx context.Context, batch *pgx.Batch) pgx.BatchResults {
	return b.tx.SendBatch(ctx, batch)
}

// A wrappedTransaction embeds a transaction, as wrappers for tracing do.
type wrappedTransaction struct{ pgx.Tx }

// A mockTransaction has no connection.
type mockTransaction struct{ pgx.Tx }

func (mockTransaction) Conn() *pgx.Conn { return nil }

// TestTransactionTypes checks that a Tx works on everything that can hold a transaction, in
// every mode: it writes, reads, loses a race in a savepoint, finds a repetition, and is
// rolled back with the transaction.
func TestTransactionTypes(t *testing.T) {
	t.Parallel()
	inEveryMode(t, func(t *testing.T, s *mdb.Store, _ *wire) {
		acquire := func() *pgxpool.Conn {
			conn, err := s.Pool().Acquire(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(conn.Release) // if the test ends before it rolls back
			return conn
		}
		for name, open := range map[string]func() (tx mdb.Transaction, rollback func()){
			"pgxpool.Tx": func() (mdb.Transaction, func()) {
				tx := begin(t, s.Pool())
				return tx, func() { _ = tx.Rollback(t.Context()) }
			},
			"a transaction of a connection": func() (mdb.Transaction, func()) {
				conn := acquire()
				tx, err := conn.Conn().Begin(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				return tx, func() { _ = tx.Rollback(t.Context()); conn.Release() }
			},
			"a savepoint": func() (mdb.Transaction, func()) {
				outer := begin(t, s.Pool())
				tx, err := outer.Begin(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				return tx, func() { _ = outer.Rollback(t.Context()) }
			},
			"*pgx.Conn": func() (mdb.Transaction, func()) {
				conn := acquire()
				exec(t, conn, "BEGIN")
				return conn.Conn(), func() { exec(t, conn, "ROLLBACK"); conn.Release() }
			},
			"*pgxpool.Conn": func() (mdb.Transaction, func()) {
				conn := acquire()
				exec(t, conn, "BEGIN")
				return conn, func() { exec(t, conn, "ROLLBACK"); conn.Release() }
			},
			"a wrapper": func() (mdb.Transaction, func()) {
				tx := begin(t, s.Pool())
				return wrappedTransaction{tx}, func() { _ = tx.Rollback(t.Context()) }
			},
			"the four methods": func() (mdb.Transaction, func()) {
				tx := begin(t, s.Pool())
				return bareTransaction{tx}, func() { _ = tx.Rollback(t.Context()) }
			},
			"Tx.Tx": func() (mdb.Transaction, func()) {
				tx := begin(t, s.Pool())
				return s.WithTx(tx).Tx(), func() { _ = tx.Rollback(t.Context()) }
			},
		} {
			t.Run(name, func(t *testing.T) {
				stream := mdbtest.Category("types").Stream("1")
				for range 2 { // the second time statements are prepared
					tx, rollback := open()
					in := s.WithTx(tx)
					if err := in.LockCategories(t.Context(), stream.Category()); err != nil {
						t.Fatal(err)
					}
					m := mdb.NewMessage("Happened", map[string]int{"n": 1})
					write(t, in, stream, m)
					if _, err := in.WriteMessages(t.Context(), stream, proposals(2)); err != nil {
						t.Fatal(err)
					}
					_, err := in.WriteMessage(t.Context(), stream, mdb.NewMessage("Lost", nil), mdb.ExpectNoStream(), mdb.InSavepoint())
					wantError[*mdb.WrongVersionError](t, err)
					if got := write(t, in, stream, m, mdb.InSavepoint(), mdb.Idempotent()); !got.Duplicate || got.Position != 0 {
						t.Errorf("got %+v, want a duplicate at position 0", got)
					}
					ms, err := in.GetCategoryMessages(t.Context(), stream.Category())
					if err != nil || !slices.Equal(streamPositions(ms), []int64{0, 1, 2}) {
						t.Errorf("got messages %v, error %v, want positions 0 to 2", streamPositions(ms), err)
					}
					rollback()
					if got := positions(t, s.Pool(), stream); len(got) != 0 {
						t.Fatalf("got %d messages after the rollback, want none", len(got))
					}
				}
			})
		}
	})
}

// TestTransactionFaults checks that each call on a transaction in which nothing can be done
// returns an ArgumentError and sends nothing.
func TestTransactionFaults(t *testing.T) {
	t.Parallel()
	var w wire
	s := newStore(t, newPool(t, testdb.Shared(t), w.attach, oneConnection), mdb.WithConditions())
	conn, err := s.Pool().Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	const want = "a pgx.Tx, or a connection that is in a transaction"
	idle := mdb.Fault{Argument: "transaction", Given: "a connection that is not in a transaction", Allowed: "one that is, because WithTx does not begin one"}
	for name, tt := range map[string]struct {
		tx    mdb.Transaction
		fault mdb.Fault
	}{
		"nil":                                   {nil, mdb.Fault{Argument: "transaction", Given: "nil", Allowed: want}},
		"a nil *pgx.Conn":                       {(*pgx.Conn)(nil), mdb.Fault{Argument: "transaction", Given: "nil", Allowed: want}},
		"a nil *pgxpool.Conn":                   {(*pgxpool.Conn)(nil), mdb.Fault{Argument: "transaction", Given: "nil", Allowed: want}},
		"a nil *pgxpool.Tx":                     {(*pgxpool.Tx)(nil), mdb.Fault{Argument: "transaction", Given: "nil", Allowed: want}},
		"a nil *pgxpool.Pool":                   {(*pgxpool.Pool)(nil), mdb.Fault{Argument: "transaction", Given: "nil", Allowed: want}},
		"a pool":                                {s.Pool(), mdb.Fault{Argument: "transaction", Given: "a pool", Allowed: want}},
		"a mock without a connection":           {mockTransaction{}, mdb.Fault{Argument: "transaction", Given: "one whose method Conn returns nil", Allowed: want}},
		"a *pgx.Conn without a transaction":     {conn.Conn(), idle},
		"a *pgxpool.Conn without a transaction": {conn, idle},
	} {
		t.Run(name, func(t *testing.T) {
			before := w.sent.Load()
			for what, call := range everyTxCall(s.WithTx(tt.tx), "account-1") {
				err := call(t.Context())
				if fault := wantError[*mdb.ArgumentError](t, err).Faults; !slices.Equal(fault, []mdb.Fault{tt.fault}) {
					t.Errorf("%s: got faults %+v, want %+v", what, fault, tt.fault)
				}
			}
			_, err := s.WithTx(tt.tx).WriteMessage(t.Context(), "account-1", mdb.NewMessage("Happened", nil), mdb.InSavepoint(), mdb.Idempotent())
			wantError[*mdb.ArgumentError](t, err)
			if sent := w.sent.Load() - before; sent != 0 {
				t.Errorf("got %d bytes sent, want none", sent)
			}
		})
	}
	if tx := s.WithTx(conn).Tx(); tx != nil {
		t.Errorf("got transaction %v of a connection, want nil", tx)
	}
	if tx := s.WithTx(nil).Tx(); tx != nil {
		t.Errorf("got transaction %v of nil, want nil", tx)
	}
}

// TestConditionInUnknownTx checks that a Tx rejects a condition if it cannot see the settings
// of the connection.
func TestConditionInUnknownTx(t *testing.T) {
	t.Parallel()
	s := newStore(t, newPool(t, testdb.Shared(t)), mdb.WithConditions())
	tx := begin(t, s.Pool())
	_, err := s.WithTx(bareTransaction{tx}).GetStreamMessages(t.Context(), "account-1", mdb.WithCondition("true"))
	wantError[*mdb.SetupError](t, err)
	// The transaction is unchanged.
	if _, err := s.WithTx(tx).GetStreamMessages(t.Context(), "account-1", mdb.WithCondition("true")); err != nil {
		t.Error(err)
	}
}

// TestModeOfOtherConnection checks that a connection of another pool gets its own mode: where
// it prepares nothing, a Tx prepares nothing.
func TestModeOfOtherConnection(t *testing.T) {
	t.Parallel()
	s := mdbtest.SharedStore(t)
	pool := newPool(t, testdb.Shared(t), execMode(pgx.QueryExecModeExec), oneConnection)
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	exec(t, conn, "BEGIN")
	in := s.WithTx(conn)
	stream := mdbtest.Category("mode").Stream("1")
	write(t, in, stream, mdb.NewMessage("Happened", nil))
	if _, err := in.WriteMessages(t.Context(), stream, proposals(2), mdb.InSavepoint()); err != nil {
		t.Fatal(err)
	}
	if n := value[int](t, conn, `SELECT count(*) FROM pg_prepared_statements`); n != 0 {
		t.Errorf("got %d prepared statements, want none", n)
	}
	exec(t, conn, "ROLLBACK")
}

// TestDatabaseSQL checks that messages are part of a transaction of database/sql, which
// begins and ends it without a warning of the server.
func TestDatabaseSQL(t *testing.T) {
	t.Parallel()
	var notices []string
	s := newStore(t, newPool(t, testdb.Shared(t), func(cfg *pgxpool.Config) {
		cfg.ConnConfig.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { notices = append(notices, n.Message) }
	}, oneConnection))
	db := stdlib.OpenDBFromPool(s.Pool())
	defer db.Close()
	stream := mdbtest.Category("sql").Stream("1")
	for _, commit := range []bool{false, true} {
		func() {
			conn, err := db.Conn(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			tx, err := conn.BeginTx(t.Context(), &sql.TxOptions{})
			if err != nil {
				t.Fatal(err)
			}
			err = conn.Raw(func(driver any) error {
				in := s.WithTx(driver.(*stdlib.Conn).Conn())
				if _, err := in.WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", nil), mdb.ExpectNoStream()); err != nil {
					return err
				}
				_, err := in.WriteMessage(t.Context(), stream, mdb.NewMessage("Lost", nil), mdb.ExpectNoStream(), mdb.InSavepoint())
				wantError[*mdb.WrongVersionError](t, err)
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			end := tx.Rollback
			if commit {
				end = tx.Commit
			}
			if err := end(); err != nil {
				t.Error(err)
			}
		}()
		want := 0
		if commit {
			want = 1
		}
		if got := positions(t, s.Pool(), stream); len(got) != want {
			t.Errorf("commit %t: got %d messages, want %d", commit, len(got), want)
		}
	}
	if len(notices) != 0 {
		t.Errorf("got warnings %q, want none", notices)
	}
}
