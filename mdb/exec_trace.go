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
//
// A nil trace is that of a connection without a tracer.
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

// name returns the name under which the statement is prepared.
func (t *trace) name(st *statement) string {
	if t == nil {
		return st.name
	}
	return st.sql
}

// prepare prepares the statement, unless that was done.
func (t *trace) prepare(ctx context.Context, p preparer, st *statement) (*pgconn.StatementDescription, error) {
	if t == nil {
		return p.Prepare(ctx, st.name, st.sql) // which looks in pgx's own map
	}
	if description := t.prepared[st]; description != nil {
		return description, nil
	}
	description, err := p.Prepare(ctx, st.sql, st.sql)
	if err == nil {
		t.prepared[st] = description
	}
	return description, err
}

// forget makes the next call of prepare prepare the statement again.
func (t *trace) forget(st *statement) {
	if t != nil {
		delete(t.prepared, st)
	}
}

// shown returns the arguments as a tracer can show them, which would print pointers as
// addresses.
func (t *trace) shown(args []any) []any {
	if t == nil {
		return args
	}
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
