package consumer

import (
	"bytes"
	"errors"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// A result is the result of a queued statement, for its callback, which is called after the
// commit.
type result struct {
	tag    pgconn.CommandTag
	fields []pgconn.FieldDescription
	values [][][]byte
}

// read reads the next result of a batch completely.
func (r *result) read(results pgx.BatchResults) error {
	rows, err := results.Query()
	if err != nil {
		return err
	}
	defer rows.Close()
	r.fields = slices.Clone(rows.FieldDescriptions())
	for rows.Next() {
		raw := rows.RawValues()
		values := make([][]byte, len(raw))
		for i := range raw {
			values[i] = bytes.Clone(raw[i]) // nil stays nil
		}
		r.values = append(r.values, values)
	}
	r.tag = rows.CommandTag()
	return rows.Err()
}

// A resultReader is the BatchResults of a batch of one statement.
type resultReader struct {
	result result
	types  *pgtype.Map
}

func (r *resultReader) Exec() (pgconn.CommandTag, error) { return r.result.tag, nil }
func (r *resultReader) Query() (pgx.Rows, error)         { return r.rows(), nil }
func (r *resultReader) QueryRow() pgx.Row                { return storedRow{r.rows()} }
func (r *resultReader) Close() error                     { return nil }
func (r *resultReader) Tx() pgx.Tx                       { return nil }
func (r *resultReader) rows() *storedRows                { return &storedRows{result: r.result, types: r.types} }

// storedRows are the rows of a result.
type storedRows struct {
	result result
	types  *pgtype.Map
	row    [][]byte
	closed bool
	err    error
}

func (r *storedRows) Close()                                       { r.closed = true }
func (r *storedRows) Err() error                                   { return r.err }
func (r *storedRows) CommandTag() pgconn.CommandTag                { return r.result.tag }
func (r *storedRows) FieldDescriptions() []pgconn.FieldDescription { return r.result.fields }
func (r *storedRows) RawValues() [][]byte                          { return r.row }
func (r *storedRows) Conn() *pgx.Conn                              { return nil }

// TypeMap returns the types of the connection, which pgx asks for in RowTo functions.
func (r *storedRows) TypeMap() *pgtype.Map { return r.types }

func (r *storedRows) Next() bool {
	if r.closed || len(r.result.values) == 0 {
		r.closed = true
		return false
	}
	r.row, r.result.values = r.result.values[0], r.result.values[1:]
	return true
}

func (r *storedRows) Scan(dest ...any) error {
	err := r.scan(dest)
	if err != nil && r.err == nil {
		r.err, r.closed = err, true
	}
	return err
}

func (r *storedRows) scan(dest []any) error {
	if len(dest) == 1 {
		if s, ok := dest[0].(pgx.RowScanner); ok {
			return s.ScanRow(r)
		}
	}
	return pgx.ScanRow(r.types, r.result.fields, r.row, dest...)
}

func (r *storedRows) Values() ([]any, error) {
	if r.closed {
		return nil, errors.New("rows is closed")
	}
	values := make([]any, len(r.row))
	for i, field := range r.result.fields {
		if r.row[i] == nil {
			continue
		}
		dt, ok := r.types.TypeForOID(field.DataTypeOID)
		switch {
		case ok:
			v, err := dt.Codec.DecodeValue(r.types, field.DataTypeOID, field.Format, r.row[i])
			if err != nil {
				r.err, r.closed = err, true
				return nil, err
			}
			values[i] = v
		case field.Format == pgtype.TextFormatCode:
			values[i] = string(r.row[i])
		default:
			values[i] = bytes.Clone(r.row[i])
		}
	}
	return values, nil
}

// A storedRow is the first row of a result.
type storedRow struct{ rows *storedRows }

func (r storedRow) Scan(dest ...any) error {
	if !r.rows.Next() {
		return pgx.ErrNoRows
	}
	return r.rows.Scan(dest...)
}
