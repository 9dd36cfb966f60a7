// Package scan turns the wire bytes of message rows into fields without
// allocating per row.
//
// A read of a few thousand messages is dominated by small allocations when
// each field is copied on its own. A [Page] instead copies the variable-size
// fields of many rows into a few shared chunks and hands out views of them.
// The price is that one kept field keeps its whole chunk alive; chunks are
// sized so that what a page keeps stays proportionate to what it holds.
//
// Use it so:
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

// keepRows bounds the row scratch a pooled page holds on to (about 1.4 MB), so
// that one enormous read does not pin its memory for all the small ones after.
const keepRows = 16 << 10

// maxValue is the most a length on the wire can say. Anything within it fits
// the offsets of a span.
const maxValue = math.MaxInt32

// Page accumulates the rows of one read. It is not safe for concurrent use.
type Page struct {
	types     [numColumns]uint32
	binary    [numColumns]bool
	described uint

	rows []row
	vars arena
}

// row holds no pointers, so the garbage collector never looks into the scratch
// and nothing in it can keep a caller's memory alive.
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

// Row is one message. Its fields stay valid for as long as they are referenced,
// also after the page is released: they never share memory with the bytes given
// to [Page.Add] nor with a later page.
//
// The strings and slices of one page are views of shared memory. Keeping one of
// them keeps its neighbours; copy a field to keep it alone.
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
	// -infinity are the times that the largest and the smallest count of
	// microseconds from 2000-01-01 name (in the years 294277 and -290278), which
	// order after and before every finite timestamp.
	Time time.Time

	// Data is the message's body: nil for SQL NULL, never nil otherwise, and the
	// four bytes null for the JSON value. Its capacity is its length, so neither
	// appending to it nor changing it affects any other field.
	Data []byte

	// Metadata is the message's metadata, on the same terms as Data.
	Metadata []byte
}

var pages = sync.Pool{New: func() any { return new(Page) }}

// NewPage returns an empty page, reusing the scratch of a released one. Call
// [Page.Begin] before adding to it and [Page.Release] when done.
func NewPage() *Page {
	return pages.Get().(*Page)
}

// Release gives the page's scratch back for reuse. The page must not be used
// afterwards; rows obtained from it remain valid.
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
// its format code, 0 for text or 1 for binary. It fails if that is not a column
// of a message at that place. All columns must be described before the first
// row is added.
func (p *Page) Column(i int, name string, oid uint32, format int16) error {
	if err := checkColumn(i, name, oid, format); err != nil {
		return err
	}
	p.types[i] = oid
	p.binary[i] = format == binaryFormat && hasBinaryForm(oid)
	p.described |= 1 << i
	return nil
}

// Add copies one row, given as its raw values with nil for SQL NULL. The values
// are not retained and may be overwritten after the call. After an error the
// page holds the rows it held before. No error contains any part of a value.
func (p *Page) Add(values [][]byte) error {
	if err := checkCount(len(values)); err != nil {
		return err
	}
	if p.described != 1<<numColumns-1 {
		return errors.New("row added before all columns were described")
	}
	for i, v := range values {
		if v == nil && !columns[i].nullable {
			return fmt.Errorf("column %q is NULL", columns[i].name)
		}
		if len(v) > maxValue {
			return p.malformed(i, v)
		}
	}

	// Everything that can fail comes before the first copy into the arena.
	var r row
	var ok bool
	if r.id, ok = decodeUUID(values[colID], p.binary[colID]); !ok {
		return p.malformed(colID, values[colID])
	}
	if r.position, ok = decodeInt8(values[colPosition], p.binary[colPosition]); !ok {
		return p.malformed(colPosition, values[colPosition])
	}
	if r.globalPosition, ok = decodeInt8(values[colGlobalPosition], p.binary[colGlobalPosition]); !ok {
		return p.malformed(colGlobalPosition, values[colGlobalPosition])
	}
	if r.micros, ok = decodeTimestamp(values[colTime], p.binary[colTime]); !ok {
		return p.malformed(colTime, values[colTime])
	}
	data, ok := decodeJSON(values[colData], p.binary[colData])
	if !ok {
		return p.malformed(colData, values[colData])
	}
	metadata, ok := decodeJSON(values[colMetadata], p.binary[colMetadata])
	if !ok {
		return p.malformed(colMetadata, values[colMetadata])
	}

	// The zero row stands in for the one before the first: its spans are empty,
	// and an empty name is stored as an empty span anyway.
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

// Len returns the number of rows added since [Page.Begin].
func (p *Page) Len() int {
	return len(p.rows)
}

// Row returns row i, counted from 0 in the order of adding. The first call
// settles the memory of the page, so it is best made after the last Add; rows
// added later are served correctly but less compactly.
func (p *Page) Row(i int) Row {
	p.vars.settle()
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
