package consumer

import (
	"context"
	"slices"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/mdb"
)

// A merge reads parked streams in the order of the global positions, a page at a time.
type merge struct {
	read   func(ctx context.Context, stream string, from int64, most int) ([]mdb.Message, *mdb.UnreadableError, error)
	last   int64 // the greatest global position
	page   int
	inputs []*mergeInput
	gone   []delivery // that cannot be handled, because somebody has deleted their messages
}

// A mergeInput is a parked stream, of which messages may be left.
type mergeInput struct {
	row    ledger.Parked
	least  int64         // no message that is left has a lower global position
	from   int64         // the position from which the next page is read
	page   []mdb.Message // that was read
	more   bool          // there may be messages after the page
	handed bool          // the row was given out

	unreadable *mdb.UnreadableError // why the last message of the page cannot be read, or nil
}

// newMerge returns a merge of the rows' messages up to a global position.
func newMerge(rows []ledger.Parked, last int64, page int, read readStream) *merge {
	m := &merge{read: read, last: last, page: page}
	for _, row := range rows {
		m.inputs = append(m.inputs, &mergeInput{row: row, least: row.GlobalPosition, from: row.Position, more: true})
	}
	return m
}

// next returns the next messages, or none if none are left.
func (m *merge) next(ctx context.Context, most int) (ds []delivery, err error) {
	for len(ds) < most && len(m.inputs) > 0 {
		in := slices.MinFunc(m.inputs, func(a, b *mergeInput) int {
			if a.least != b.least {
				return int(min(1, max(-1, a.least-b.least)))
			}
			return len(a.page) - len(b.page) // one that is not read may have the same message next
		})
		switch {
		case in.least > m.last || len(in.page) == 0 && !in.more:
			if upto := in.row.Upto; upto != nil && in.least <= m.last && in.row.Position <= *upto {
				m.gone = append(m.gone, delivery{
					message:  mdb.Message{Stream: mdb.StreamName(in.row.Stream), Position: *upto},
					replayed: &replayed{from: in.row.Position, ends: true},
				})
			}
			m.inputs = slices.DeleteFunc(m.inputs, func(other *mergeInput) bool { return other == in })
		case len(in.page) == 0:
			if err := m.fill(ctx, in); err != nil {
				if len(ds) > 0 {
					return ds, nil
				}
				return nil, err
			}
		default:
			ds = append(ds, in.take())
		}
	}
	return ds, nil
}

// fill reads the next page of an input.
func (m *merge) fill(ctx context.Context, in *mergeInput) error {
	most := int64(m.page)
	if upto := in.row.Upto; upto != nil {
		most = min(most, *upto-in.from+1)
	}
	page, unreadable, err := m.read(ctx, in.row.Stream, in.from, int(most))
	if err != nil {
		return err
	}
	if in.more = len(page) > 0; !in.more {
		return nil
	}
	in.from = page[len(page)-1].Position + 1
	in.unreadable = unreadable
	if upto := in.row.Upto; upto != nil {
		if in.from-1 > *upto {
			in.unreadable = nil
		}
		page = slices.DeleteFunc(page, func(m mdb.Message) bool { return m.Position > *upto })
		in.more = in.from <= *upto
	}
	if in.page = page; len(page) > 0 {
		in.least = page[0].GlobalPosition
	}
	return nil
}

// take returns the first message of the page.
func (in *mergeInput) take() delivery {
	d := delivery{message: in.page[0], attempt: 1, replayed: &replayed{from: in.row.Position}}
	if len(in.page) == 1 {
		d.unreadable = in.unreadable
	}
	if !in.handed {
		d.attempt += in.row.Attempts
		in.handed = true
	}
	in.row.Position = d.message.Position + 1
	d.replayed.ends = in.row.Upto != nil && in.row.Position > *in.row.Upto
	if in.page = in.page[1:]; len(in.page) > 0 {
		in.least = in.page[0].GlobalPosition
	} else {
		in.least = d.message.GlobalPosition + 1
	}
	return d
}
