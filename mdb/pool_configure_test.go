package mdb_test

import (
	"maps"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// TestStoreFirst checks the search path that Configure derives from the one that is
// configured.
func TestStoreFirst(t *testing.T) {
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
				mdb.Configure(cfg, mdb.StoreFirst())
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
}

// TestConfigure checks the settings of a session, whatever is set on the role or in the
// configuration, and that Configure leaves the search path alone.
func TestConfigure(t *testing.T) {
	t.Parallel()
	const path = `"$user", public`
	for _, tt := range []struct {
		name   string
		role   string            // SET of the role
		params map[string]string // of the configuration
		opts   []mdb.ConfigureOption
		want   map[string]string
	}{
		{name: "nothing", want: map[string]string{"search_path": path, "DateStyle": "ISO, MDY", "array_nulls": "on", "message_store.sql_condition": "off"}},
		{
			name: "the role's settings",
			role: `client_encoding = 'LATIN1'; DateStyle = 'German'; standard_conforming_strings = off; array_nulls = off; message_store.sql_condition = on; search_path = app`,
			want: map[string]string{
				"client_encoding": "UTF8", "DateStyle": "ISO, MDY", "standard_conforming_strings": "on", "array_nulls": "on",
				"message_store.sql_condition": "off", "search_path": "app",
			},
		},
		{
			name:   "other spellings in the configuration",
			params: map[string]string{"Client_Encoding": "LATIN1", "datestyle": "SQL", "STANDARD_CONFORMING_STRINGS": "off"},
			want:   map[string]string{"client_encoding": "UTF8", "DateStyle": "ISO, MDY", "standard_conforming_strings": "on"},
		},
		{
			name: "what the caller may choose",
			params: map[string]string{
				"datestyle": "iso, DMY", "search_path": "app", "application_name": "kept", "tcp_keepalives_idle": "7", "TCP_USER_TIMEOUT": "9000",
			},
			want: map[string]string{"DateStyle": "ISO, DMY", "search_path": "app", "application_name": "kept"},
		},
		{
			name: "a pooler",
			role: `client_encoding = 'LATIN1'; DateStyle = 'German'; standard_conforming_strings = off; array_nulls = off; message_store.sql_condition = on; search_path = app`,
			opts: []mdb.ConfigureOption{mdb.BehindPooler(), mdb.StoreFirst()},
			want: map[string]string{
				"client_encoding": "UTF8", "DateStyle": "ISO, MDY", "standard_conforming_strings": "on", "array_nulls": "off",
				"message_store.sql_condition": "on", "search_path": "app",
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			url := testdb.New(t)
			admin := barePool(t, url)
			if tt.role != "" {
				for set := range strings.SplitSeq(tt.role, "; ") {
					exec(t, admin, `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET `+strings.ReplaceAll(set, "'", "''")+`', current_database()); END $$`)
				}
			}
			pool := barePool(t, url, func(cfg *pgxpool.Config) {
				maps.Copy(cfg.ConnConfig.RuntimeParams, tt.params)
				if len(tt.params) == 0 {
					cfg.ConnConfig.RuntimeParams = nil
				}
				mdb.Configure(cfg, tt.opts...)
				before := maps.Clone(cfg.ConnConfig.RuntimeParams)
				mdb.Configure(cfg, tt.opts...)
				if !maps.Equal(before, cfg.ConnConfig.RuntimeParams) {
					t.Errorf("a second call changes %v to %v", before, cfg.ConnConfig.RuntimeParams)
				}
			}, oneConnection)
			for name, want := range tt.want {
				if got := value[string](t, pool, `SELECT current_setting($1)`, name); got != want {
					t.Errorf("%s: got %s, want %s", name, got, want)
				}
			}
		})
	}
}

// TestKeepalives checks that the server watches over TCP connections, and that the caller's
// values win. On a Unix socket, the server accepts the settings and ignores them.
func TestKeepalives(t *testing.T) {
	t.Parallel()
	const settings = `SELECT concat_ws(' ', current_setting('tcp_keepalives_idle'), current_setting('tcp_keepalives_interval'),
		current_setting('tcp_keepalives_count'), current_setting('tcp_user_timeout'), inet_server_addr() IS NULL)`
	server := pgtest.Own(t)
	for name, tt := range map[string]struct {
		url    string
		params map[string]string
		want   string
	}{
		"TCP":                            {server.TCP("postgres"), nil, "30 10 3 60000 f"},
		"TCP, with the caller's values":  {server.TCP("postgres"), map[string]string{"tcp_keepalives_idle": "7", "TCP_USER_TIMEOUT": "9s"}, "7 10 3 9000 f"},
		"Unix":                           {server.URL("postgres"), nil, "0 0 0 0 t"},
		"Unix, with the caller's values": {server.URL("postgres"), map[string]string{"tcp_keepalives_idle": "7"}, "0 0 0 0 t"},
	} {
		pool := barePool(t, tt.url, func(cfg *pgxpool.Config) {
			maps.Copy(cfg.ConnConfig.RuntimeParams, tt.params)
			mdb.Configure(cfg)
		})
		if got := value[string](t, pool, settings); got != tt.want {
			t.Errorf("%s: got %s, want %s", name, got, tt.want)
		}
		pool.Close()
	}
}

// TestConfigureOutlasts checks that the start-up parameters are in effect again after a
// session or transaction has changed them and ended.
func TestConfigureOutlasts(t *testing.T) {
	t.Parallel()
	pool := barePool(t, testdb.Shared(t), firstPath, oneConnection)
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
