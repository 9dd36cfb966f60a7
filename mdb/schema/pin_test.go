package schema_test

import (
	"errors"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// TestPinSearchPath checks that PinSearchPath changes the functions that depend on the
// search path, once, and no others, and that the functions then work with any path.
func TestPinSearchPath(t *testing.T) {
	t.Parallel()
	conn := connect(t, testdb.PathDependent(t))
	run(t, conn, `SET search_path = pg_catalog`)
	const write = `SELECT message_store.write_message(gen_random_uuid()::varchar, 'account-1', 'Happened', '{}')`
	if _, err := conn.Exec(t.Context(), write); err == nil {
		t.Fatal("the functions do not depend on the search path")
	}
	n, err := schema.PinSearchPath(t.Context(), conn)
	if err != nil || n == 0 {
		t.Errorf("got %d functions, error %v, want some", n, err)
	}
	if n, err := schema.PinSearchPath(t.Context(), conn); err != nil || n != 0 {
		t.Errorf("a second call: got %d functions, error %v, want none", n, err)
	}
	run(t, conn, write+`;
		SELECT message_store.get_stream_messages('account-1');
		SELECT message_store.get_category_messages('account', correlation => 'x', consumer_group_member => 0, consumer_group_size => 1);
		SELECT message_store.get_last_stream_message('account-1', 'Happened');
		SELECT message_store.stream_version('account-1')`)
}

// TestPinSearchPathOfOurs checks that no function of Install depends on the search path.
func TestPinSearchPathOfOurs(t *testing.T) {
	t.Parallel()
	conn := connect(t, empty(t))
	install(t, conn)
	if n, err := schema.PinSearchPath(t.Context(), conn); err != nil || n != 0 {
		t.Errorf("got %d functions, error %v, want none", n, err)
	}
}

// TestPinSearchPathByAnother checks that a role that does not own the functions gets the
// server's error, and changes nothing.
func TestPinSearchPathByAnother(t *testing.T) {
	t.Parallel()
	conn := connect(t, testdb.PathDependent(t))
	run(t, conn, `SET ROLE message_store`)
	var pgErr *pgconn.PgError
	if _, err := schema.PinSearchPath(t.Context(), conn); !errors.As(err, &pgErr) || pgErr.Code != "42501" {
		t.Errorf("got error %v, want SQLSTATE 42501", err)
	}
	run(t, conn, `RESET ROLE`)
	var pinned int
	if err := conn.QueryRow(t.Context(), `SELECT count(*) FROM pg_proc WHERE pronamespace = 'message_store'::regnamespace AND 'search_path=message_store, pg_temp' = ANY (proconfig)`).Scan(&pinned); err != nil || pinned != 0 {
		t.Errorf("got %d functions pinned, error %v, want none", pinned, err)
	}
}

// BenchmarkPinSearchPath measures the server's time for functions that depend on the search
// path, and for the same functions pinned.
func BenchmarkPinSearchPath(b *testing.B) {
	for name, call := range map[string]string{
		"write_message":         `message_store.write_message(gen_random_uuid()::varchar, 'account-' || i, 'Happened', '{}')`,
		"get_stream_messages":   `message_store.get_stream_messages('account-1')`,
		"get_category_messages": `message_store.get_category_messages('none')`,
	} {
		for _, pinned := range []bool{false, true} {
			way := "path"
			if pinned {
				way = "pinned"
			}
			b.Run(name+"/"+way, func(b *testing.B) {
				conn := connect(b, testdb.PathDependent(b))
				if pinned {
					if _, err := schema.PinSearchPath(b.Context(), conn); err != nil {
						b.Fatal(err)
					}
				}
				run(b, conn, `SET search_path = message_store, public, pg_temp; SET synchronous_commit = off`)
				for b.Loop() {
					run(b, conn, `DO $$ BEGIN FOR i IN 1..1000 LOOP PERFORM `+call+`; END LOOP; END $$`)
				}
				b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/1000, "µs/call")
			})
		}
	}
}
