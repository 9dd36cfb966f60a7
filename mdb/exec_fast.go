package mdb

import (
	"context"
	"strconv"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/scan"
)

// A rawCall is reusable memory for the encoded arguments of one call. pgx would copy the
// arguments into a buffer, which it allocates for each call of more than a few hundred
// bytes.
type rawCall struct {
	params [maxArguments][]byte
	digits [maxArguments * len("-9223372036854775808")]byte
}

// maxArguments is the number of arguments of get_category_messages, which has the most.
const maxArguments = 7

var rawCalls = sync.Pool{New: func() any { return new(rawCall) }}

func newRawCall() *rawCall { return rawCalls.Get().(*rawCall) }

func (c *rawCall) release() {
	clear(c.params[:])
	rawCalls.Put(c)
}

// encode returns the arguments in PostgreSQL's text format, as views of strings and of c.
// It supports the types of single values, not those of arrays, for which ok is false.
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
		case *payload:
			if v != nil {
				param = scan.Bytes(string(*v))
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

var binaryResults = []int16{pgx.BinaryFormatCode}

// queryRaw does the same as query for a prepared statement, with fewer allocations. It
// does nothing, and ok is false, if it does not support an argument's type.
func (r *poolRunner) queryRaw(ctx context.Context, conn *pgx.Conn, st *statement, read func(pgx.Rows) error, args []any) (ok bool, err error) {
	c := newRawCall()
	defer c.release()
	params, ok := c.encode(args)
	if !ok {
		return false, nil
	}
	trace := traced(conn)
	description, err := trace.prepare(ctx, conn, st)
	if err != nil {
		return true, notSent(conn, err)
	}
	if trace != nil {
		ctx = trace.query.TraceQueryStart(ctx, conn, pgx.TraceQueryStartData{SQL: st.sql, Args: trace.shown(args)})
	}
	rr := conn.PgConn().ExecStatement(ctx, description, params, nil, binaryResults)
	rows := pgx.RowsFromResultReader(conn.TypeMap(), rr)
	err = readAll(rows, nil, read)
	if trace != nil {
		trace.query.TraceQueryEnd(ctx, conn, pgx.TraceQueryEndData{CommandTag: rows.CommandTag(), Err: err})
	}
	return true, err
}
