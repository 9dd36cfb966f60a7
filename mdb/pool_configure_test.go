package mdb_test

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// TestConfigure checks the search path that Configure derives from the one that is
// configured.
func TestConfigure(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, path string // "-" for no path
		want       string
	}{
		{"none", "-", `message_store, "$user", public, pg_temp`},
		{"empty", "", `message_store, pg_temp`},
		{"one", "app", `message_store, app, pg_temp`},
		{"several", `"$user",app ,  public`, `message_store, "$user", app, public, pg_temp`},
		{"message_store elsewhere", `app, message_store, public`, `message_store, app, public, pg_temp`},
		{"message_store quoted", `app, "message_store"`, `message_store, app, pg_temp`},
		{"pg_temp elsewhere", `pg_temp, app`, `message_store, app, pg_temp`},
		{"pg_catalog", `app, pg_catalog`, `message_store, app, pg_catalog, pg_temp`},
		{"quoted", `"My Schema", "a""b"`, `message_store, "My Schema", "a""b", pg_temp`},
		{"a comma in quotes", `"a,b", c`, `message_store, "a,b", c, pg_temp`},
		{"a comma and a space in quotes", `"a, b"`, `message_store, "a, b", pg_temp`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cfg, err := pgxpool.ParseConfig(testdb.Shared(t) + "&application_name=kept")
			if err != nil {
				t.Fatal(err)
			}
			if tt.path != "-" {
				cfg.ConnConfig.RuntimeParams["search_path"] = tt.path
			}
			for range 3 { // repeated calls change nothing
				mdb.Configure(cfg)
				if got := cfg.ConnConfig.RuntimeParams["search_path"]; got != tt.want {
					t.Errorf("got path %s, want %s", got, tt.want)
				}
			}
			if got := cfg.ConnConfig.RuntimeParams["application_name"]; got != "kept" {
				t.Errorf("another parameter: got %q", got)
			}
			pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(pool.Close)
			if got := value[string](t, pool, `SELECT current_setting('search_path')`); got != tt.want {
				t.Errorf("the server's path: got %s, want %s", got, tt.want)
			}
		})
	}
	cfg, err := pgxpool.ParseConfig(testdb.Shared(t))
	if err != nil {
		t.Fatal(err)
	}
	cfg.ConnConfig.RuntimeParams = nil
	mdb.Configure(cfg)
	if len(cfg.ConnConfig.RuntimeParams) != 2 {
		t.Errorf("got parameters %v, want the two", cfg.ConnConfig.RuntimeParams)
	}
}

// TestConfigureOutlasts checks that the start-up parameters are in effect again after a
// session or transaction has changed them and ended.
func TestConfigureOutlasts(t *testing.T) {
	t.Parallel()
	pool := newPool(t, testdb.Shared(t), oneConnection)
	for _, sql := range []string{
		`DISCARD ALL`,
		`SET message_store.sql_condition = on; RESET message_store.sql_condition`,
		`SET message_store.sql_condition = on; SET search_path = public; RESET ALL`,
		`SET message_store.sql_condition = on; SET search_path = public; DISCARD ALL`,
		`BEGIN; SET LOCAL message_store.sql_condition = on; SET LOCAL search_path = public; COMMIT`,
		`BEGIN; SET message_store.sql_condition = on; SET search_path = public; ROLLBACK`,
	} {
		// One at a time, because DISCARD ALL must be sent alone.
		conn, err := pool.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for statement := range strings.SplitSeq(sql, "; ") {
			exec(t, conn.Conn(), statement)
		}
		conn.Release()
		const settings = `SELECT concat(current_setting('message_store.sql_condition'), ' ', current_setting('search_path'))`
		rows, _ := pool.Query(t.Context(), settings, pgx.QueryExecModeExec)
		got, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[string])
		if want := `off message_store, "$user", public, pg_temp`; err != nil || got != want {
			t.Errorf("after %s: got %s, error %v, want %s", sql, got, err, want)
		}
	}
}

// TestTemporaryTable checks that a temporary table with the name of the store's table does
// not hide it from the connection that has it.
func TestTemporaryTable(t *testing.T) {
	t.Parallel()
	s := newStore(t, newPool(t, testdb.Shared(t), oneConnection))
	exec(t, s.Pool(), `CREATE TEMPORARY TABLE messages (LIKE message_store.messages INCLUDING ALL)`)
	stream := mdbtest.Category("temporary").Stream("1")
	write(t, s, stream, mdb.NewMessage("Happened", nil))
	if _, err := s.WriteMessages(t.Context(), stream, proposals(2)); err != nil {
		t.Fatal(err)
	}
	if ms, err := s.GetStreamMessages(t.Context(), stream); len(ms) != 3 || err != nil {
		t.Errorf("got %d messages, error %v, want 3", len(ms), err)
	}
	if ms, err := s.GetCategoryMessages(t.Context(), stream.Category()); len(ms) != 3 || err != nil {
		t.Errorf("got %d messages of the category, error %v, want 3", len(ms), err)
	}
	if n := value[int](t, s.Pool(), `SELECT count(*) FROM pg_temp.messages`); n != 0 {
		t.Errorf("got %d messages in the temporary table, want none", n)
	}
	if got := positions(t, newPool(t, testdb.Shared(t)), stream); len(got) != 3 {
		t.Errorf("got %d messages in the store, want 3", len(got))
	}
}
