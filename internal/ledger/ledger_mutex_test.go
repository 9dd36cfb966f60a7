package ledger_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/internal/testdb"
)

// TestHeldMutex checks that the functions that lock the consumer's row do not wait for it until their context ends: the
// server ends them before, on a connection that remains usable, and they succeed when they are repeated after
// the lock was released.
func TestHeldMutex(t *testing.T) {
	t.Parallel()
	for name, call := range map[string]func(ctx context.Context, g *group, a ledger.Member, held ledger.Held) error{
		"join": func(ctx context.Context, g *group, _ ledger.Member, _ ledger.Held) error {
			_, err := ledger.Join(ctx, g, g.params("one"))
			return err
		},
		"balance": func(ctx context.Context, g *group, a ledger.Member, _ ledger.Held) error {
			_, _, err := ledger.Rebalance(ctx, g, a)
			return err
		},
		"release": func(ctx context.Context, g *group, a ledger.Member, held ledger.Held) error {
			_, err := ledger.Release(ctx, g, a, moves(held.Rows, 5))
			return err
		},
		"leave": func(ctx context.Context, g *group, a ledger.Member, held ledger.Held) error {
			return ledger.Leave(ctx, g, a, moves(held.Rows, 5))
		},
	} {
		for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeSimpleProtocol} {
			t.Run(name+" "+mode.String(), func(t *testing.T) {
				t.Parallel()
				g := groupOn(t, testdb.SharedConsumers(t), func(cfg *pgxpool.Config) {
					cfg.MaxConns = 1
					cfg.ConnConfig.DefaultQueryExecMode = mode
				})
				a := g.join(g.params("one"))
				_, held := g.balance(a)
				holder, err := testdb.Session(t, testdb.SharedConsumers(t)).Begin(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = holder.Rollback(context.Background()) }()
				if _, err := holder.Exec(t.Context(), `SELECT FROM message_store_consumers.consumers WHERE id = $1 FOR UPDATE`, g.id); err != nil {
					t.Fatal(err)
				}
				pid := query[int32](g, `SELECT pg_backend_pid() WHERE $1 > 0`)
				ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second) // a third is for the lock
				defer cancel()
				wantCode(t, name, call(ctx, g, a, held), "55P03")
				if ctx.Err() != nil {
					t.Error("the context has ended")
				}
				equal(t, "session afterwards", query[int32](g, `SELECT pg_backend_pid() WHERE $1 > 0`), pid)
				equal(t, "limit of the session", query[string](g, `SELECT current_setting('lock_timeout') WHERE $1 > 0`), "20s")
				if err := holder.Rollback(t.Context()); err != nil {
					t.Fatal(err)
				}
				ctx, cancel = context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				if err := call(ctx, g, a, held); err != nil {
					t.Errorf("after the lock was released: %v", err)
				}
			})
		}
	}
}

// TestNoLimitWithoutDeadline checks that the functions wait as long as the session's setting allows, if their context
// has no deadline, and that a deadline which is near does not mean no limit.
func TestNoLimitWithoutDeadline(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	a := g.join(g.params("one"))
	tx, err := g.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	limit := func() (text string) {
		t.Helper()
		if err := tx.QueryRow(t.Context(), `SHOW lock_timeout`).Scan(&text); err != nil {
			t.Fatal(err)
		}
		return text
	}
	if err := ledger.Leave(t.Context(), tx, ledger.Member{Consumer: a.Consumer, ID: uuid.New()}, nil); err != nil {
		t.Fatal(err)
	}
	equal(t, "limit without a deadline", limit(), "20s")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := ledger.Leave(ctx, tx, ledger.Member{Consumer: a.Consumer, ID: uuid.New()}, nil); err != nil {
		t.Fatal(err)
	}
	if got := limit(); got == "20s" || got == "0" {
		t.Errorf("got a limit of %s with a deadline, want another one", got)
	}
}
