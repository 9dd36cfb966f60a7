package main

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"
)

// floor sends the same statements on bare connections and does not look at what
// comes back: nothing on this driver can be faster. As in a pool, the connection that
// was used last is used next.
type floor struct {
	mu    sync.Mutex
	conns []*floorConn
}

type floorConn struct {
	*pgconn.PgConn
	statements map[string]*pgconn.StatementDescription
}

// manySQL writes messages to a stream in one round trip.
const manySQL = `SELECT count(message_store.write_message(m.id, $1::varchar, 'Deposited', m.data::jsonb))
FROM unnest($2::varchar[], $3::text[]) AS m(id, data)`

func newFloor(ctx context.Context, url string, connections int) (*floor, error) {
	f := new(floor)
	for range connections {
		conn, err := pgconn.Connect(ctx, url)
		if err != nil {
			return nil, err
		}
		c := &floorConn{conn, make(map[string]*pgconn.StatementDescription)}
		for i, text := range append([]string{manySQL}, allSQL...) {
			if c.statements[text], err = conn.Prepare(ctx, fmt.Sprintf("floor_%d", i), text, nil); err != nil {
				return nil, err
			}
		}
		f.release(c)
	}
	return f, nil
}

func (f *floor) Close() {
	for _, c := range f.conns {
		_ = c.Close(context.Background())
	}
}

func (f *floor) acquire() *floorConn {
	f.mu.Lock()
	defer f.mu.Unlock()
	last := len(f.conns) - 1
	c := f.conns[last]
	f.conns = f.conns[:last]
	return c
}

func (f *floor) release(c *floorConn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.conns = append(f.conns, c)
}

var binary = []int16{1}

func (f *floor) messages(ctx context.Context, text string, args ...any) (int, error) {
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
	c := f.acquire()
	defer f.release(c)
	reader := c.ExecStatement(ctx, c.statements[text], values, nil, binary)
	n := 0
	for reader.NextRow() {
		n++
	}
	_, err := reader.Close()
	return n, err
}

func (f *floor) value(ctx context.Context, text string, args ...any) error {
	_, err := f.messages(ctx, text, args...)
	return err
}

func (f *floor) inOneTransaction(ctx context.Context, _ string, args [][]any) error {
	var ids, data strings.Builder
	for i, a := range args {
		ids.WriteByte("{,"[min(i, 1)])
		ids.WriteString(a[0].(string))
		data.WriteByte("{,"[min(i, 1)])
		data.WriteString(`"` + strings.ReplaceAll(a[3].(string), `"`, `\"`) + `"`)
	}
	return f.value(ctx, manySQL, args[0][1], ids.String()+"}", data.String()+"}")
}
