package conformance

import (
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

var arguments = map[string]string{
	"get_stream_messages":   `stream_name character varying, "position" bigint DEFAULT 0, batch_size bigint DEFAULT 1000, condition character varying DEFAULT NULL::character varying`,
	"get_category_messages": `category character varying, "position" bigint DEFAULT 1, batch_size bigint DEFAULT 1000, correlation character varying DEFAULT NULL::character varying, consumer_group_member bigint DEFAULT NULL::bigint, consumer_group_size bigint DEFAULT NULL::bigint, condition character varying DEFAULT NULL::character varying`,
}

// signature is about the arguments and the columns of the section's function.
func (s *suite) signature(t *testing.T) {
	t.Helper()
	if want, ok := arguments[s.section]; ok {
		s.check(t, "has the arguments and defaults of Message DB", func(t *testing.T) {
			got := value[string](t, s.store.Pool(), `SELECT pg_get_function_arguments(('message_store.' || $1::text)::regproc)`, s.section)
			if got != want {
				t.Errorf("got arguments %s, want %s", got, want)
			}
		})
	}

	s.check(t, "has the columns and types of Message DB", func(t *testing.T) {
		type column struct {
			name string
			oid  uint32
		}
		want := []column{
			{"id", pgtype.VarcharOID},
			{"stream_name", pgtype.VarcharOID},
			{"type", pgtype.VarcharOID},
			{"position", pgtype.Int8OID},
			{"global_position", pgtype.Int8OID},
			{"data", pgtype.VarcharOID},
			{"metadata", pgtype.VarcharOID},
			{"time", pgtype.TimestampOID},
		}
		category := mdbtest.Category("columns")
		stream := category.Stream("1")
		write(t, s.store.Pool(), proposal{stream: stream})
		of := string(stream)
		if s.section == "get_category_messages" {
			of = string(category)
		}
		rows, err := s.store.Pool().Query(t.Context(), `SELECT * FROM message_store.`+s.section+`($1::varchar)`, of)
		if err != nil {
			t.Fatal(err)
		}
		var got []column
		for _, field := range rows.FieldDescriptions() {
			got = append(got, column{field.Name, field.DataTypeOID})
		}
		if _, err := pgx.CollectExactlyOneRow(rows, pgx.RowToMap); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})
}
