package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// rawClient sends the statements of the other clients on bare connections and does not
// decode the rows, so that no client that sends them by pgx can be faster. Like a pool, it
// uses the connection next that was used last.
type rawClient struct{ conns chan *rawConn }

type rawConn struct {
	*pgconn.PgConn
	statements map[string]*pgconn.StatementDescription
}

// manySQL writes messages to a stream in one round trip.
const manySQL = `SELECT count(message_store.write_message(m.id, $1::varchar, 'Deposited', m.data::jsonb))
FROM unnest($2::varchar[], $3::text[]) AS m(id, data)`

func newRawClient(ctx context.Context, url string, connections int) (*rawClient, error) {
	r := &rawClient{make(chan *rawConn, connections)}
	for range connections {
		conn, err := pgconn.Connect(ctx, url)
		if err != nil {
			return nil, err
		}
		c := &rawConn{conn, make(map[string]*pgconn.StatementDescription)}
		for i, text := range append([]string{manySQL}, allSQL...) {
			if c.statements[text], err = conn.Prepare(ctx, fmt.Sprintf("raw_%d", i), text, nil); err != nil {
				return nil, err
			}
		}
		r.conns <- c
	}
	return r, nil
}

func (r *rawClient) Close() {
	for range cap(r.conns) {
		c := <-r.conns
		_ = c.Close(context.Background())
	}
}

var binary = []int16{1}

func (r *rawClient) messages(ctx context.Context, text string, args ...any) (int, error) {
	values := make([][]byte, len(args))
	for i, a := range args {
		switch a := a.(type) {
		case nil:
		case string:
			values[i] = []byte(a)
		default:
			values[i] = fmt.Append(nil, a)
		}
	}
	c := <-r.conns
	defer func() { r.conns <- c }()
	reader := c.ExecStatement(ctx, c.statements[text], values, nil, binary)
	n := 0
	for reader.NextRow() {
		n++
	}
	_, err := reader.Close()
	return n, err
}

func (r *rawClient) value(ctx context.Context, text string, args ...any) error {
	_, err := r.messages(ctx, text, args...)
	return err
}

func (r *rawClient) inOneTransaction(ctx context.Context, _ string, args [][]any) error {
	var ids, data strings.Builder
	for i, a := range args {
		ids.WriteByte("{,"[min(i, 1)])
		ids.WriteString(a[0].(string))
		data.WriteByte("{,"[min(i, 1)])
		data.WriteString(`"` + strings.ReplaceAll(a[3].(string), `"`, `\"`) + `"`)
	}
	return r.value(ctx, manySQL, args[0][1], ids.String()+"}", data.String()+"}")
}
