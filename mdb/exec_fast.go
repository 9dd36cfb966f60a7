package mdb

import (
	"context"
	"strconv"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/scan"
)

// A rawCall is what a call needs to hand its arguments to the connection without
// a copy of them on the way: pgx would encode them into a buffer that it makes
// anew for each call of more than a few hundred bytes.
type rawCall struct {
	params [maxArguments][]byte
	digits [maxArguments * len("-9223372036854775808")]byte
	buffer lentBuffer
}

// maxArguments is how many get_category_messages has.
const maxArguments = 7

var rawCalls = sync.Pool{New: func() any { return new(rawCall) }}

func newRawCall() *rawCall { return rawCalls.Get().(*rawCall) }

func (c *rawCall) release() {
	clear(c.params[:])
	if cap(c.buffer.own) > maxLent {
		c.buffer.own = nil
	}
	rawCalls.Put(c)
}

// encode returns the arguments in PostgreSQL's text format, as views. It knows the
// types that the statements for single values take.
func (c *rawCall) encode(args []any) (params [][]byte, ok bool) {
	params, digits := c.params[:0], c.digits[:0]
	number := func(v int64) []byte {
		begin := len(digits)
		digits = strconv.AppendInt(digits, v, 10)
		return digits[begin:len(digits):len(digits)]
	}
	for _, arg := range args {
		var param []byte
		switch v := arg.(type) {
		case nil:
		case string:
			param = scan.Bytes(v)
		case int64:
			param = number(v)
		case *string:
			if v != nil {
				param = scan.Bytes(*v)
			}
		case *int64:
			if v != nil {
				param = number(*v)
			}
		default:
			return nil, false
		}
		params = append(params, param)
	}
	return params, true
}

// A lentBuffer is lent to a connection to write from. The connection keeps no
// buffer of its own of more than a kilobyte, and would let it grow anew in each
// call. As a message that is sent it is the buffer that the messages behind it are
// put into.
type lentBuffer struct {
	own []byte // ours
	its []byte // the connection's
}

// maxLent is the largest buffer that is kept: it has room for a message of 1 MiB.
const maxLent = 2 << 20

func (b *lentBuffer) Frontend() {}

// Decode is there because messages have it.
func (b *lentBuffer) Decode([]byte) error { return nil }

// Encode puts our buffer into the place of the connection's, or the connection's
// back into its place.
func (b *lentBuffer) Encode(dst []byte) ([]byte, error) {
	if b.its == nil {
		b.its = dst
		return append(b.own[:0], dst...), nil
	}
	its := b.its
	b.its = nil
	return its[:0], nil
}

// lend gives the connection room for so many bytes.
func (c *rawCall) lend(conn *pgx.Conn, size int) {
	if size <= 1024 {
		return // which it has
	}
	if cap(c.buffer.own) < size {
		c.buffer.own = make([]byte, 0, size)
	}
	conn.PgConn().Frontend().Send(&c.buffer)
}

// takeBack takes it away, once all of it has been sent. A connection that has broken
// meanwhile says good-bye in a goroutine of its own, and may keep what it has.
func (c *rawCall) takeBack(conn *pgx.Conn) {
	switch {
	case conn.IsClosed():
		c.buffer = lentBuffer{}
	case c.buffer.its != nil:
		conn.PgConn().Frontend().Send(&c.buffer)
	}
}

var binaryResults = []int16{pgx.BinaryFormatCode}

// queryRaw does what query does for a prepared statement, with less to do for the
// garbage collector. It reports ok only if it knows the arguments' types.
func (r *poolRunner) queryRaw(ctx context.Context, conn *pgx.Conn, st *statement, read func(pgx.Rows) error, args []any) (ok bool, err error) {
	c := newRawCall()
	defer c.release()
	params, ok := c.encode(args)
	if !ok {
		return false, nil
	}
	description, err := conn.Prepare(ctx, st.name, st.sql)
	if err != nil {
		return true, err
	}
	if r.tracer != nil {
		ctx = r.tracer.TraceQueryStart(ctx, conn, pgx.TraceQueryStartData{SQL: st.name})
	}
	size := len(st.name) + 100
	for _, param := range params {
		size += 4 + len(param)
	}
	c.lend(conn, size)
	rr := conn.PgConn().ExecStatement(ctx, description, params, nil, binaryResults)
	c.takeBack(conn)
	rows := pgx.RowsFromResultReader(conn.TypeMap(), rr)
	err = readAll(rows, nil, read)
	if r.tracer != nil {
		r.tracer.TraceQueryEnd(ctx, conn, pgx.TraceQueryEndData{CommandTag: rows.CommandTag(), Err: err})
	}
	return true, err
}
