package conformance

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/messagedb-go/messagedb/mdb"
)

// A querier is a pool, a connection or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// list returns the only column of all rows.
func list[T any](t testing.TB, db querier, sql string, args ...any) []T {
	t.Helper()
	return collect(t, db, pgx.RowTo[T], sql, args...)
}

// value returns the only column of the only row.
func value[T any](t testing.TB, db querier, sql string, args ...any) T {
	t.Helper()
	values := list[T](t, db, sql, args...)
	if len(values) != 1 {
		t.Fatalf("%s: got %d rows, want 1", sql, len(values))
	}
	return values[0]
}

func collect[T any](t testing.TB, db querier, row pgx.RowToFunc[T], sql string, args ...any) []T {
	t.Helper()
	rows, _ := db.Query(t.Context(), sql, args...) // the rows have the error too
	values, err := pgx.CollectRows(rows, row)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return values
}

// do runs a statement for its effect.
func do(t testing.TB, db querier, sql string, args ...any) {
	t.Helper()
	if err := try(t, db, sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// rejection returns the server's error of a statement, which must fail.
func rejection(t testing.TB, db querier, sql string, args ...any) *pgconn.PgError {
	t.Helper()
	var rejected *pgconn.PgError
	if err := try(t, db, sql, args...); !errors.As(err, &rejected) {
		t.Fatalf("%s: got error %v, want one of the server's", sql, err)
	}
	return rejected
}

// sqlState returns the code of the server's error in err, or "".
func sqlState(err error) string {
	var rejected *pgconn.PgError
	if !errors.As(err, &rejected) {
		return ""
	}
	return rejected.Code
}

func try(t testing.TB, db querier, sql string, args ...any) error {
	t.Helper()
	rows, err := db.Query(t.Context(), sql, args...)
	if err != nil {
		return err
	}
	rows.Close()
	return rows.Err()
}

// set sets a setting to the end of the transaction.
func set(t testing.TB, tx pgx.Tx, setting, to string) {
	t.Helper()
	do(t, tx, `SELECT set_config($1::text, $2::text, true)`, setting, to)
}

const conditionSetting = "message_store.sql_condition"

// A proposal is the arguments of write_message. nil is NULL.
type proposal struct {
	id             any // a new one if it is nil
	stream         mdb.StreamName
	typ            string
	data, metadata any // JSON
	expected       any
}

// write returns the position.
func write(t testing.TB, db querier, p proposal) int64 {
	t.Helper()
	if p.id == nil {
		p.id = uuid.NewString()
	}
	if p.typ == "" {
		p.typ = "Tested"
	}
	return value[int64](t, db,
		`SELECT message_store.write_message($1::varchar, $2::varchar, $3::varchar, $4::jsonb, $5::jsonb, $6::bigint)`,
		p.id, string(p.stream), p.typ, p.data, p.metadata, p.expected)
}

// writeMany writes n messages by one statement.
func writeMany(t testing.TB, db querier, stream mdb.StreamName, typ string, n int) {
	t.Helper()
	do(t, db, `SELECT message_store.write_message(gen_random_uuid()::varchar, $1::varchar, $2::varchar, '{}') FROM generate_series(1, $3::int)`,
		string(stream), typ, n)
}

// A record is a message as SQL gives it. It can be compared.
type record struct {
	ID             uuid.UUID
	Stream, Type   string
	Position       int64
	GlobalPosition int64
	Data, Metadata pgtype.Text
	Time           time.Time
}

const columns = `SELECT id, stream_name, type, position, global_position, data, metadata, time FROM `

func records(t testing.TB, db querier, from string, args ...any) []record {
	t.Helper()
	return collect(t, db, pgx.RowToStructByPos[record], columns+from, args...)
}

// recorded returns what mdb has read as SQL would have given it.
func recorded(messages ...mdb.Message) []record {
	rs := make([]record, len(messages))
	for i := range messages {
		m := &messages[i]
		rs[i] = record{
			ID:             m.ID,
			Stream:         string(m.Stream),
			Type:           m.Type,
			Position:       m.Position,
			GlobalPosition: m.GlobalPosition,
			Data:           pgtype.Text{String: string(m.Data), Valid: m.Data != nil},
			Metadata:       pgtype.Text{String: string(m.Metadata), Valid: m.Metadata != nil},
			Time:           m.Time,
		}
	}
	return rs
}

// The test's own context is over when its clean-up runs.

func closeAfter(t testing.TB, conn *pgx.Conn) {
	t.Helper()
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
}

func rollbackAfter(t testing.TB, tx pgx.Tx) {
	t.Helper()
	t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
}
