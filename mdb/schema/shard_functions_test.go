package schema_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// TestShardFunctionsRights checks that the functions of a shard let a role do what message_store may do, and nothing more.
func TestShardFunctionsRights(t *testing.T) {
	t.Parallel()
	conn := testdb.Session(t, testdb.New(t))
	if err := schema.InstallShard(t.Context(), conn, 3); err != nil {
		t.Fatal(err)
	}
	role := "reader_" + strings.ReplaceAll(uuid.NewString(), "-", "")
	testdb.Exec(t, conn, `CREATE ROLE `+role)
	defer testdb.Exec(t, conn, `RESET ROLE; DROP OWNED BY `+role+`; DROP ROLE `+role)
	calls := map[string]string{
		"write_message":  `SELECT FROM message_store_shard.write_message(gen_random_uuid()::varchar, 'shard-1', 'Happened', '{}', NULL, NULL)`,
		"write_messages": `SELECT FROM message_store_shard.write_messages('shard-1', ARRAY[gen_random_uuid()::varchar], ARRAY['Happened'], ARRAY['{}'], ARRAY['{}'], NULL)`,
		"find_messages":  `SELECT FROM message_store_shard.find_messages('shard-1', ARRAY[gen_random_uuid()::text], ARRAY['Happened'], ARRAY['{}'])`,
		"category_head":  `SELECT FROM message_store_shard.category_head('shard')`,
		"last_used":      `SELECT message_store_shard.last_used('shard')`,
		"find_places":    `SELECT FROM message_store_shard.find_places('shard', ARRAY[gen_random_uuid()::text], ARRAY[1])`,
		"places_at":      `SELECT FROM message_store_shard.places_at('shard', ARRAY[1])`,
		"next_positions": `SELECT FROM message_store_shard.next_positions('shard', ARRAY['shard-1'], 1)`,
		"session":        `SELECT FROM message_store_shard.session('shard')`,
		"search_path":    `SELECT FROM message_store_shard.search_path(3)`,
		"check":          `SELECT FROM message_store_shard.check(3, false)`,
	}
	for name, sql := range calls {
		testdb.Exec(t, conn, `SET ROLE message_store`)
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Errorf("%s as message_store: %v", name, err)
		}
		testdb.Exec(t, conn, `SET ROLE `+role)
		wantCode(t, name+" as another role", try(t, conn, sql), "42501")
		testdb.Exec(t, conn, `RESET ROLE`)
	}
	// With the right to call the functions, the role still has none on the table.
	testdb.Exec(t, conn, `GRANT USAGE ON SCHEMA message_store, message_store_shard TO `+role)
	testdb.Exec(t, conn, `SET ROLE `+role)
	for _, name := range []string{"write_message", "write_messages", "find_messages", "category_head", "last_used", "find_places", "places_at", "next_positions"} {
		wantCode(t, name+" without rights on the table", try(t, conn, calls[name]), "42501")
	}
	testdb.Exec(t, conn, `RESET ROLE`)
}

func try(t *testing.T, conn *pgx.Conn, sql string) error {
	t.Helper()
	_, err := conn.Exec(t.Context(), sql)
	return err
}

func wantCode(t *testing.T, what string, err error, code string) {
	t.Helper()
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || pgErr.Code != code {
		t.Errorf("%s: got error %v, want SQLSTATE %s", what, err, code)
	}
}

// TestShardFunctionsSearchPath checks that the functions of a shard find the store whatever the search path of the caller is.
func TestShardFunctionsSearchPath(t *testing.T) {
	t.Parallel()
	conn := testdb.Session(t, testdb.PathDependent(t))
	if err := schema.InstallShard(t.Context(), conn, 0); err != nil {
		t.Fatal(err)
	}
	testdb.Exec(t, conn, `CREATE TABLE public.messages (LIKE message_store.messages INCLUDING ALL)`)
	testdb.Exec(t, conn, `SET search_path = public`)
	testdb.Exec(t, conn, `SELECT FROM message_store_shard.write_messages('path-1', ARRAY[gen_random_uuid()::varchar, gen_random_uuid()::varchar], ARRAY['A', 'B'], ARRAY['{}', '{}'], ARRAY['{}', NULL], -1)`)
	if got := testdb.Value[int](t, conn, `SELECT count(*) FROM message_store.messages`); got != 2 {
		t.Errorf("the store has %d messages, want 2", got)
	}
	if got := testdb.Value[int64](t, conn, `SELECT global_position FROM message_store_shard.category_head('path')`); got != 2048 {
		t.Errorf("got the head %d, want 2048", got)
	}
}

// TestShardFunctionsForConsumers checks what the functions return that consumers call.
func TestShardFunctionsForConsumers(t *testing.T) {
	t.Parallel()
	conn := testdb.Session(t, testdb.New(t))
	if err := schema.InstallShard(t.Context(), conn, 5); err != nil {
		t.Fatal(err)
	}
	one, two := uuid.NewString(), uuid.NewString()
	testdb.Exec(t, conn, `SELECT FROM message_store_shard.write_messages('look-1', ARRAY['`+one+`', '`+two+`'], ARRAY['A', 'B'], ARRAY['{}', '{}'], ARRAY[NULL, NULL], NULL)`)
	if got := testdb.Value[int](t, conn, `SELECT count(*) FROM message_store.messages WHERE global_position IN (5, 1029)`); got != 2 {
		t.Fatalf("%d of the messages have the positions 5 and 1029, want 2", got)
	}
	testdb.Exec(t, conn, `SELECT nextval('message_store.messages_global_position_seq')`)
	for sql, want := range map[string]string{
		`SELECT message_store_shard.last_used('look')::text`: "2053",
		`SELECT string_agg(concat(index, ':', global_position, ':', id, ':', time IS NOT NULL), ' ') FROM message_store_shard.find_places('look', ARRAY['` + uuid.NewString() + `', '` + two + `', '` + one + `'], ARRAY[9000, 1028, 5])`: "3:5:" + one + ":t",
		`SELECT string_agg(concat(global_position, ':', id), ' ') FROM message_store_shard.places_at('look', ARRAY[4, 1029])`:                                                                                                             "1029:" + two,
		`SELECT string_agg(concat(index, ':', next), ' ' ORDER BY index) FROM message_store_shard.next_positions('look', ARRAY['look-2', 'look-1'], 1028)`:                                                                                "1:0 2:1",
		`SELECT (SELECT s FROM message_store_shard.session('look') AS s) = (SELECT s FROM message_store_shard.session('other') AS s)`:                                                                                                     "true",
		`SELECT standby::text FROM message_store_shard.session('look')`:                                                                                                                                                                   "false",
	} {
		if got := testdb.Value[string](t, conn, `SELECT (`+sql+`)::text`); got != want {
			t.Errorf("%s: got %s, want %s", sql, got, want)
		}
	}
	other := testdb.Session(t, conn.Config().ConnString())
	const session = `SELECT session FROM message_store_shard.session('look')`
	if got := testdb.Value[string](t, other, session); got == testdb.Value[string](t, conn, session) {
		t.Errorf("two sessions are both %q", got)
	}
}

// TestShardFunctionsOfStranger checks that InstallShard does not replace functions in a schema that another role owns.
func TestShardFunctionsOfStranger(t *testing.T) {
	t.Parallel()
	conn := testdb.Session(t, testdb.New(t))
	role := "stranger_" + strings.ReplaceAll(uuid.NewString(), "-", "")
	testdb.Exec(t, conn, `CREATE ROLE `+role)
	testdb.Exec(t, conn, `CREATE SCHEMA message_store_shard AUTHORIZATION `+role)
	defer testdb.Exec(t, conn, `DROP OWNED BY `+role+`; DROP ROLE `+role)
	var foreign *schema.ForeignObjectsError
	if err := schema.InstallShard(t.Context(), conn, 0); !errors.As(err, &foreign) || !strings.Contains(err.Error(), role) {
		t.Errorf("got error %v, want a ForeignObjectsError that names the role", err)
	}
}

// TestProxySQL checks which connection strings of shards are accepted.
func TestProxySQL(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`host=a`:                   `p0 'host=a'`,
		`host = 'a b' dbname=x\ y`: `p0 'host = ''a b'' dbname=x\ y'`,
		`dbname='it\'s' host=a,b target_session_attrs=read-write`: `p0 'dbname=''it\''s'' host=a,b target_session_attrs=read-write'`,
		`dbname='password=no' host=a`:                             `p0 'dbname=''password=no'' host=a'`,
	} {
		if sql, err := schema.ProxySQL(text); err != nil || !strings.Contains(sql, want) {
			t.Errorf("%s: error %v, want %s", text, err, want)
		}
	}
	const canary = "canary-2f6a"
	for text, want := range map[string]string{
		``:                                       "got none",
		`host`:                                   "key=value pairs",
		`=a`:                                     "key=value pairs",
		`host='a`:                                "single quotes",
		`host='a\'`:                              "single quotes",
		`host=a password=` + canary:              "contains a password",
		`host='a' PASSWORD = '` + canary + `'`:   "contains a password",
		`dbname='a\'' sslpassword=` + canary:     "contains a sslpassword",
		`host=a user=b`:                          "contains a user",
		`postgres://u:` + canary + `@host/x`:     "got a URL",
		`postgresql://host/x?password=` + canary: "got a URL",
	} {
		sql, err := schema.ProxySQL("host=a", text)
		if err == nil || sql != "" || !strings.Contains(err.Error(), "shard 1: ") || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), canary) {
			t.Errorf("%s: got error %v, want one that contains %q", text, err, want)
		}
	}
	for _, n := range []int{0, 3, 6, 2048} {
		if _, err := schema.ProxySQL(make([]string, n)...); err == nil || !strings.Contains(err.Error(), "power of two") {
			t.Errorf("%d shards: got error %v", n, err)
		}
	}
}
