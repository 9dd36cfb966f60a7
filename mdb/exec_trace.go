package mdb

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// A trace is what is known of a connection that has a tracer. It is kept with the
// connection.
//
// On such a connection a statement is prepared under its own text, which pgx then passes to
// the tracer as the SQL, and Prepare is called once: pgx traces each call, also one that
// finds the statement prepared.
type trace struct {
	query    pgx.QueryTracer
	batch    pgx.BatchTracer
	prepared map[*statement]*pgconn.StatementDescription
}

const traceKey = "github.com/messagedb-go/messagedb/mdb"

// traced returns nil if the connection is not traced, or is nil.
func traced(conn *pgx.Conn) *trace {
	if conn == nil {
		return nil
	}
	data := conn.PgConn().CustomData()
	if t, ok := data[traceKey].(*trace); ok {
		return t
	}
	var t *trace
	if tracer := conn.Config().Tracer; tracer != nil {
		t = &trace{query: tracer, prepared: make(map[*statement]*pgconn.StatementDescription)}
		t.batch, _ = tracer.(pgx.BatchTracer)
	}
	data[traceKey] = t
	return t
}

func (t *trace) prepare(ctx context.Context, st *statement, prepare func(ctx context.Context, name, sql string) (*pgconn.StatementDescription, error)) (*pgconn.StatementDescription, error) {
	if description := t.prepared[st]; description != nil {
		return description, nil
	}
	description, err := prepare(ctx, st.sql, st.sql)
	if err == nil {
		t.prepared[st] = description
	}
	return description, err
}

// shown returns the arguments as a tracer can show them, which would print pointers as
// addresses.
func shown(args []any) []any {
	values := make([]any, len(args))
	for i, arg := range args {
		switch v := arg.(type) {
		case *string:
			values[i] = valueOf(v)
		case *int64:
			values[i] = valueOf(v)
		case *StreamName:
			values[i] = valueOf(v)
		case *payload:
			values[i] = valueOf(v)
		default:
			values[i] = arg
		}
	}
	return values
}

func valueOf[T any](p *T) any {
	if p == nil {
		return nil
	}
	return *p
}
