package conformance

import (
	"context"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// batches is about the rows of the reading functions, and how many there are if
// nobody says.
func (s *suite) batches(t *testing.T) {
	t.Helper()
	const more = mdb.DefaultBatchSize + 1
	category := mdbtest.Category("batch")
	stream := category.Stream("1")
	writeMany(t, s.store.Pool(), stream, "Tested", more)

	for _, test := range []struct {
		name, call string
		want       int
	}{
		{"C21 default batch", `get_stream_messages($1::varchar || '-1')`, mdb.DefaultBatchSize},
		{"C21 batch of NULL", `get_stream_messages($1::varchar || '-1', NULL, NULL)`, mdb.DefaultBatchSize},
		{"C23 more than the default batch", `get_stream_messages($1::varchar || '-1', batch_size => -1)`, more},
		{"C32 default batch", `get_category_messages($1::varchar)`, mdb.DefaultBatchSize},
		{"C32 batch of NULL", `get_category_messages($1::varchar, NULL, NULL)`, mdb.DefaultBatchSize},
		{"C32 more than the default batch", `get_category_messages($1::varchar, batch_size => -1)`, more},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			positions := list[int64](t, s.store.Pool(), `SELECT position FROM message_store.`+test.call, string(category))
			if len(positions) != test.want || positions[0] != 0 || !slices.IsSorted(positions) {
				t.Errorf("got %d messages, the first at %v, want %d from 0 on", len(positions), positions[:min(1, len(positions))], test.want)
			}
		})
	}

	for _, test := range []struct{ name, function, want string }{
		{
			"C21 defaults of get_stream_messages", "get_stream_messages",
			`stream_name character varying, "position" bigint DEFAULT 0, batch_size bigint DEFAULT 1000, condition character varying DEFAULT NULL::character varying`,
		},
		{
			"C31 defaults of get_category_messages", "get_category_messages",
			`category character varying, "position" bigint DEFAULT 1, batch_size bigint DEFAULT 1000, correlation character varying DEFAULT NULL::character varying, consumer_group_member bigint DEFAULT NULL::bigint, consumer_group_size bigint DEFAULT NULL::bigint, condition character varying DEFAULT NULL::character varying`,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got := value[string](t, s.store.Pool(), `SELECT pg_get_function_arguments(('message_store.' || $1::text)::regproc)`, test.function)
			if got != test.want {
				t.Errorf("got arguments %s, want %s", got, test.want)
			}
		})
	}

	for _, test := range []struct {
		name string
		read func(context.Context) ([]mdb.Message, error)
		want int
	}{
		{"C21 default batch of GetStreamMessages", func(ctx context.Context) ([]mdb.Message, error) {
			return s.store.GetStreamMessages(ctx, stream)
		}, mdb.DefaultBatchSize},
		{"C23 Unlimited GetStreamMessages", func(ctx context.Context) ([]mdb.Message, error) {
			return s.store.GetStreamMessages(ctx, stream, mdb.Unlimited())
		}, more},
		{"C32 default batch of GetCategoryMessages", func(ctx context.Context) ([]mdb.Message, error) {
			return s.store.GetCategoryMessages(ctx, category)
		}, mdb.DefaultBatchSize},
		{"C32 Unlimited GetCategoryMessages", func(ctx context.Context) ([]mdb.Message, error) {
			return s.store.GetCategoryMessages(ctx, category, mdb.Unlimited())
		}, more},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			messages, err := test.read(t.Context())
			if err != nil || len(messages) != test.want {
				t.Errorf("got %d messages, %v, want %d", len(messages), err, test.want)
			}
		})
	}

	for _, test := range []struct{ name, call string }{
		{"C20 columns of get_stream_messages", `get_stream_messages($1::varchar || '-1', batch_size => 1)`},
		{"C30 columns of get_category_messages", `get_category_messages($1::varchar, batch_size => 1)`},
		{"C50 columns of get_last_stream_message", `get_last_stream_message($1::varchar || '-1')`},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
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
			rows, err := s.store.Pool().Query(t.Context(), `SELECT * FROM message_store.`+test.call, string(category))
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
}
