package mdb_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// TestSubscribeHookRefused checks that a subscription ends if the server rejects what a hook
// of the pool asks of a new connection, as it does for the same error of a read.
func TestSubscribeHookRefused(t *testing.T) {
	t.Parallel()
	pool := newPool(t, mdbtest.SharedStore(t).Pool().Config().ConnString(), func(cfg *pgxpool.Config) {
		cfg.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
			_, err := conn.Exec(ctx, "SET ROLE nobody_has_this_role")
			return err
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	err := newStore(t, pool).SubscribeToCategory(ctx, mdbtest.Category("hook"), func(context.Context, mdb.Message) error { return nil })
	if ctx.Err() != nil {
		t.Fatal("the subscription goes on")
	}
	wantCode(t, err, "22023")
}
