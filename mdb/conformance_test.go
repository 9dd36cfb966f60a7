package mdb_test

import (
	"context"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
	"github.com/messagedb-go/messagedb/mdb/mdbtest/conformance"
)

// TestConformance checks that the suite passes with each pair of a role and one of pgx's
// modes, and that each role and each mode passes with the procedures and with direct SQL.
func TestConformance(t *testing.T) {
	t.Parallel()
	url := testdb.Shared(t)

	roles := []struct{ name, role string }{
		{"owner", ""},
		{"role message_store", "message_store"},
		{"member", memberRole(t, url)},
	}
	modes := []pgx.QueryExecMode{
		pgx.QueryExecModeCacheStatement,
		pgx.QueryExecModeCacheDescribe,
		pgx.QueryExecModeDescribeExec,
		pgx.QueryExecModeExec,
		pgx.QueryExecModeSimpleProtocol,
	}
	ways := []struct {
		name string
		opts []mdb.StoreOption
	}{
		{"procedures", nil},
		{"direct SQL", []mdb.StoreOption{mdb.WithDirectSQL()}},
	}
	for i, role := range roles {
		for j, mode := range modes {
			if testing.Short() && (i >= len(ways) || j > 0) {
				continue
			}
			way := ways[(i+j)%len(ways)]
			t.Run(role.name+", "+mode.String()+", "+way.name, func(t *testing.T) {
				t.Parallel()
				conformance.Run(t, func(t testing.TB, opts ...mdb.StoreOption) *mdb.Store {
					t.Helper()
					cfg, err := pgxpool.ParseConfig(url)
					if err != nil {
						t.Fatal(err)
					}
					configure(cfg)
					cfg.ConnConfig.DefaultQueryExecMode = mode
					if role.role != "" {
						cfg.ConnConfig.RuntimeParams["role"] = role.role
					}
					pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
					if err != nil {
						t.Fatal(err)
					}
					t.Cleanup(pool.Close)
					return newStore(t, pool, slices.Concat(way.opts, opts)...)
				})
			})
		}
	}
}

// memberRole creates a role that is a member of message_store, and drops it after the
// test.
func memberRole(t *testing.T, url string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	role := string(mdbtest.Category("mdb_test_member_"))
	if _, err := conn.Exec(t.Context(), `CREATE ROLE `+role+` LOGIN IN ROLE message_store`); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.Background() // the test's own has ended
		defer conn.Close(ctx)
		if _, err := conn.Exec(ctx, `DROP ROLE `+role); err != nil {
			t.Error(err)
		}
	})
	return role
}
