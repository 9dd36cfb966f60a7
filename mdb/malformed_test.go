package mdb_test

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// TestMalformedRows checks that a read of malformed rows, as from functions that are not
// Message DB's, fails with an error that names the column and quotes nothing of the row.
func TestMalformedRows(t *testing.T) {
	t.Parallel()
	// In this mode no case uses the statement of another.
	s := newStore(t, newPool(t, testdb.New(t), execMode(pgx.QueryExecModeExec)))
	const good = `'f3b0e1c2-0000-4000-8000-000000000001'::varchar AS id, 'a-1'::varchar AS stream_name, 'T'::varchar AS type, 0::bigint AS position,
		1::bigint AS global_position, '"c4n4ry"'::varchar AS data, NULL::varchar AS metadata, now()::timestamp AS time`
	for _, tt := range []struct {
		name, old, replaced string
		want                string // in the error; "" for none
	}{
		{"well formed", "", "", ""},
		{"ID that is not a UUID", "'f3b0e1c2-0000-4000-8000-000000000001'", "'c4n4ry'", `"id"`},
		{"ID that is NULL", "'f3b0e1c2-0000-4000-8000-000000000001'::varchar", "NULL::varchar", `"id"`},
		{"stream that is NULL", "'a-1'::varchar", "NULL::varchar", `"stream_name"`},
		{"position that is NULL", "0::bigint", "NULL::bigint", `"position"`},
		{"position of another type", "0::bigint AS position", "'c4n4ry'::text AS position", `"position"`},
		{"time that is a text", "now()::timestamp", "'c4n4ry'::text", `"time"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tx := begin(t, s.Pool())
			exec(t, tx, `DROP FUNCTION message_store.get_stream_messages`)
			exec(t, tx, `CREATE VIEW public.malformed AS SELECT `+strings.Replace(good, tt.old, tt.replaced, 1))
			exec(t, tx, `CREATE FUNCTION message_store.get_stream_messages(varchar, bigint, bigint, varchar)
				RETURNS SETOF public.malformed LANGUAGE sql AS 'SELECT * FROM public.malformed'`)
			ms, err := s.WithTx(tx).GetStreamMessages(t.Context(), "a-1")
			if tt.want == "" {
				if err != nil || len(ms) != 1 || ms[0].Type != "T" {
					t.Errorf("got messages %+v, error %v", ms, err)
				}
				return
			}
			if err == nil || ms != nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got messages %+v, error %v, want one that names %s", ms, err, tt.want)
			}
			checkNoCanary(t, err)
		})
	}
}

// TestMalformedWrite checks that a write succeeds although write_message returns more than
// one row. It looks for the messages, and finds them.
func TestMalformedWrite(t *testing.T) {
	t.Parallel()
	s := mdbtest.Store(t, attempts(3))
	exec(t, s.Pool(), `
		CREATE SCHEMA original;
		ALTER FUNCTION message_store.write_message(varchar, varchar, varchar, jsonb, jsonb, bigint) SET SCHEMA original;
		CREATE FUNCTION message_store.write_message(varchar, varchar, varchar, jsonb, jsonb, bigint) RETURNS SETOF bigint LANGUAGE sql AS
			'SELECT original.write_message($1, $2, $3, $4, $5, $6) UNION ALL SELECT 77'`)
	stream := mdbtest.Category("malformed").Stream("1")
	for i := range int64(2) {
		w := write(t, s, stream, mdb.NewMessage("Happened", nil), mdb.ExpectVersion(i-1))
		if w.Position != i || !w.Duplicate {
			t.Errorf("got %+v, want position %d and a duplicate", w, i)
		}
	}
	if got := positions(t, s.Pool(), stream); len(got) != 2 {
		t.Errorf("got %d messages, want 2", len(got))
	}
}
