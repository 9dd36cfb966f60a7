// Package scan decodes message rows from the bytes on the wire without allocating
// for each row.
//
// When each field is copied on its own, small allocations dominate a read of a few
// thousand messages. A [Page] instead copies the variable-size fields of many rows
// into a few shared chunks and returns views of them. The price is that one kept
// field keeps its whole chunk alive. Chunks are sized so that the memory of a page
// stays proportional to its content.
//
// To use it:
//
//	p := scan.NewPage()
//	defer p.Release()
//	if err := p.Begin(len(fields)); err != nil { … }
//	for i := range fields { if err := p.Column(i, name, oid, format); err != nil { … } }
//	for rows.Next() { if err := p.Add(rows.RawValues()); err != nil { … } }
//	for i := range p.Len() { r := p.Row(i); … }
package scan

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/google/uuid"
)

// keepRows bounds the row scratch that a pooled page keeps (about 1.4 MB), so that
// one enormous read does not pin its memory for all the small ones after it.
const keepRows = 16 << 10

// maxValue is the largest length that the protocol can express. A span's fields are
// wide enough for it.
const maxValue = math.MaxInt32

// Page collects the rows of one read. It is not safe for concurrent use.
type Page struct {
	types     [numColumns]uint32
	binary    [numColumns]bool
	described uint

	rows []row
	vars arena
}

// row contains no pointers, so the garbage collector never scans the scratch and
// nothing in it can keep a caller's memory alive.
type row struct {
	id             uuid.UUID
	position       int64
	globalPosition int64
	micros         int64
	stream         span
	typ            span
	data           span
	metadata       span
}

// Row is one message. Its fields stay valid for as long as they are referenced, also
// after the page is released: they share memory neither with the bytes passed to
// [Page.Add] nor with a later page.
//
// The strings and slices of one page are views of shared chunks. Keeping one of them
// keeps its whole chunk; copy a field to keep it alone.
type Row struct {
	// ID is the message's identifier.
	ID uuid.UUID

	// Stream is the name of the stream the message was written to. Consecutive
	// rows of the same stream share one string.
	Stream string

	// Type is the message's type. Consecutive rows of the same type share one
	// string.
	Type string

	// Position is the message's place in its stream.
	Position int64

	// GlobalPosition is the message's place in the whole store.
	GlobalPosition int64

	// Time is when the message was written, in UTC. The timestamps infinity and
	// -infinity become the largest and the smallest number of microseconds since
	// 2000-01-01 (in the years 294277 and -290278), which sort after and before
	// every finite timestamp.
	Time time.Time

	// Data is the message's body: nil for SQL NULL, never nil otherwise, and the
	// four bytes null for the JSON value. Its capacity is its length, so neither
	// appending to it nor changing it affects any other field.
	Data []byte

	// Metadata is the message's metadata, under the same rules as Data.
	Metadata []byte
}

var pages = sync.Pool{New: func() any { return new(Page) }}

// NewPage returns an empty page, which reuses the scratch of a released one. Call
// [Page.Begin] before adding rows and [Page.Release] when done.
func NewPage() *Page {
	return pages.Get().(*Page)
}

// Release returns the page's scratch for reuse. The page must not be used afterwards;
// rows obtained from it remain valid.
func (p *Page) Release() {
	p.reset()
	pages.Put(p)
}

func (p *Page) reset() {
	p.described = 0
	p.rows = p.rows[:0]
	if cap(p.rows) > keepRows {
		p.rows = nil
	}
	p.vars.reset()
}

// Begin empties the page for a result of n columns and forgets the columns
// described before. It fails unless n is the number of a message's columns.
func (p *Page) Begin(n int) error {
	p.reset()
	return checkCount(n)
}

// Column describes column i of the result: its name, the OID of its type and
// its format code, 0 for text or 1 for binary. It fails unless a message has such a
// column at this place. All columns must be described before the first row is added.
func (p *Page) Column(i int, name string, oid uint32, format int16) error {
	if err := checkColumn(i, name, oid, format); err != nil {
		return err
	}
	p.types[i] = oid
	p.binary[i] = format == binaryFormat && hasBinaryForm(oid)
	p.described |= 1 << i
	return nil
}

// Add copies one row, given as its raw values with nil for SQL NULL. The values are
// not retained and may be overwritten after the call. An error leaves the page
// unchanged. No error contains any part of a value.
func (p *Page) Add(values [][]byte) error {
	if err := checkCount(len(values)); err != nil {
		return err
	}
	if p.described != 1<<numColumns-1 {
		return errors.New("row added before all columns were described")
	}
	for i, v := range values {
		if len(v) > maxValue {
			return p.malformed(i, v)
		}
	}

	// Everything that can fail comes before the first copy into the arena, so that an
	// error leaves the page unchanged. A row whose place is unknown is not a RowError,
	// because nobody could read on after it.
	var r row
	var ok bool
	if r.position, ok = decodeInt8(values[colPosition], p.binary[colPosition]); !ok {
		return p.malformed(colPosition, values[colPosition])
	}
	if r.globalPosition, ok = decodeInt8(values[colGlobalPosition], p.binary[colGlobalPosition]); !ok {
		return p.malformed(colGlobalPosition, values[colGlobalPosition])
	}
	if r.micros, ok = decodeTimestamp(values[colTime], p.binary[colTime]); !ok && !p.binary[colTime] && values[colTime] != nil {
		// The server prints each timestamp in the format that parseTimestamp expects, or
		// none of them, as another DateStyle does.
		return p.malformed(colTime, values[colTime])
	} else if !ok {
		return p.rowError(&r, values, p.malformed(colTime, values[colTime]))
	}
	for i, v := range values {
		if v == nil && !columns[i].nullable {
			return p.rowError(&r, values, fmt.Errorf("column %q is NULL", columns[i].name))
		}
	}
	if r.id, ok = decodeUUID(values[colID], p.binary[colID]); !ok {
		r.id = uuid.UUID{}
		return p.rowError(&r, values, p.malformed(colID, values[colID]))
	}
	data, ok := decodeJSON(values[colData], p.binary[colData])
	if !ok {
		return p.rowError(&r, values, p.malformed(colData, values[colData]))
	}
	metadata, ok := decodeJSON(values[colMetadata], p.binary[colMetadata])
	if !ok {
		return p.rowError(&r, values, p.malformed(colMetadata, values[colMetadata]))
	}

	// The first row is compared with the zero row, whose spans are empty. That is
	// correct, because an empty name is stored as an empty span anyway.
	var prev row
	if n := len(p.rows); n > 0 {
		prev = p.rows[n-1]
	}
	r.stream = p.vars.putShared(values[colStream], prev.stream)
	r.typ = p.vars.putShared(values[colType], prev.typ)
	r.data = p.vars.put(data)
	r.metadata = p.vars.put(metadata)
	p.rows = append(p.rows, r)
	return nil
}

// A RowError is the error of a row that cannot be decoded, while others can. Row is what
// could be decoded, without data and metadata.
type RowError struct {
	Row

	err error
}

func (e *RowError) Error() string { return e.err.Error() }
func (e *RowError) Unwrap() error { return e.err }

func (p *Page) rowError(r *row, values [][]byte, err error) error {
	return &RowError{Row{
		ID: r.id, Stream: string(values[colStream]), Type: string(values[colType]),
		Position: r.position, GlobalPosition: r.globalPosition,
	}, err}
}

// Len returns the number of rows added since [Page.Begin].
func (p *Page) Len() int {
	return len(p.rows)
}

// Row returns row i, counted from 0 in the order of adding. Call it after the last
// Add: each call seals the chunk being filled, so rows added later are returned
// correctly but stored less compactly.
func (p *Page) Row(i int) Row {
	p.vars.seal()
	r := &p.rows[i]
	return Row{
		ID:             r.id,
		Stream:         String(p.vars.view(r.stream)),
		Type:           String(p.vars.view(r.typ)),
		Position:       r.position,
		GlobalPosition: r.globalPosition,
		Time:           timeOf(r.micros),
		Data:           p.vars.view(r.data),
		Metadata:       p.vars.view(r.metadata),
	}
}
