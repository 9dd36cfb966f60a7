package mdb

import (
	"context"
	"fmt"
	"strconv"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/scan"
)

// WriteMessage writes a message to the end of a stream. It takes one round trip.
//
// The errors to expect are a [*WrongVersionError] with [ExpectVersion] or
// [ExpectNoStream], a [*DuplicateIDError] if a message with the ID exists, and an
// [*ArgumentError] for what the call itself has wrong. After any of these, and any
// other but an [*UnknownOutcomeError], nothing was written.
//
// On a [Store] the write is a transaction of its own. A write whose connection is
// lost before its outcome is known is tried again with the same ID, so that it
// happens once; if that does not settle it in the attempts that [WithRetry]
// allows, or the context ends, the error is an [*UnknownOutcomeError]. Failures to
// connect and the server's transient failures are tried again as well. On a [Tx]
// nothing is tried again.
func (p *procedures) WriteMessage(ctx context.Context, stream StreamName, m ProposedMessage, opts ...WriteOption) (Written, error) {
	w, err := p.proposeWrite(stream, []ProposedMessage{m}, opts)
	if err != nil {
		return Written{}, err
	}
	if err := p.write(ctx, w); err != nil {
		return Written{}, err
	}
	return w.written[0], nil
}

// WriteMessages writes messages to the end of a stream, one behind the other: all
// of them or none. An expected version is that of the stream before the first. It
// takes one round trip, however many they are. Without messages it does nothing
// and checks nothing. All else is as with WriteMessage.
func (p *procedures) WriteMessages(ctx context.Context, stream StreamName, ms []ProposedMessage, opts ...WriteOption) ([]Written, error) {
	w, err := p.proposeWrite(stream, ms, opts)
	if err != nil || len(ms) == 0 {
		return nil, err
	}
	if err := p.write(ctx, w); err != nil {
		return nil, err
	}
	return w.written, nil
}

// A proposedWrite is a write as it is sent, however often. Its texts are in
// columns, as the statement over arrays wants them.
type proposedWrite struct {
	stream     StreamName
	expected   *int64
	idempotent bool

	ids            []uuid.UUID
	minted         []bool // whether the ID is this call's own
	idTexts, types []string
	data, metadata []*string // JSON; nil: SQL NULL

	written []Written
}

// proposeWrite checks everything that can be checked here, all at once.
func (p *procedures) proposeWrite(stream StreamName, ms []ProposedMessage, opts []WriteOption) (*proposedWrite, error) {
	var c writeConfig
	c.faults.stream(stream)
	for _, opt := range opts {
		opt.write(&c)
	}
	if c.idempotent && p.tx != nil {
		c.faults.add("option", "Idempotent on a Tx", "a Store, as the failure that leads to the look ends a transaction")
	}
	n := len(ms)
	texts := make([]string, 4*n)
	w := &proposedWrite{
		stream:     stream,
		expected:   c.expected,
		idempotent: c.idempotent,
		ids:        make([]uuid.UUID, n),
		minted:     make([]bool, n),
		idTexts:    texts[:n:n],
		types:      texts[n : 2*n : 2*n],
		data:       make([]*string, n),
		metadata:   make([]*string, n),
		written:    make([]Written, n),
	}
	seen := make(map[uuid.UUID]int, n)
	for i, m := range ms {
		what := ""
		if n > 1 {
			what = "message " + strconv.Itoa(i) + "'s "
		}
		c.faults.messageType(what+"type", m.Type)
		data := p.encode(&c.faults, what+"data", m.Data)
		metadata := p.encode(&c.faults, what+"metadata", m.Metadata)
		if size := len(data) + len(metadata); size > p.config.maxSize {
			c.faults.add(what+"size", strconv.Itoa(size)+" bytes", "at most "+strconv.Itoa(p.config.maxSize)+", see WithMaxMessageSize")
		}
		if m.ID == uuid.Nil {
			m.ID = newID()
			w.minted[i] = true
		} else if first, ok := seen[m.ID]; ok {
			c.faults.add(what+"ID", m.ID.String()+", which is message "+strconv.Itoa(first)+"'s", "an ID of its own")
		}
		seen[m.ID] = i
		w.ids[i], w.idTexts[i], w.types[i] = m.ID, m.ID.String(), m.Type
		if data != nil {
			texts[2*n+i] = scan.String(data)
			w.data[i] = &texts[2*n+i]
		}
		if metadata != nil {
			texts[3*n+i] = scan.String(metadata)
			w.metadata[i] = &texts[3*n+i]
		}
	}
	return w, c.faults.err()
}

func (p *procedures) encode(f *faults, argument string, v any) []byte {
	raw, err := encode(v)
	if err != nil {
		f.add(argument, err.Error(), "valid JSON that PostgreSQL can store")
	}
	return raw
}

// write does w in a transaction as it is, and on a Store until its outcome is
// known.
func (p *procedures) write(ctx context.Context, w *proposedWrite) error {
	if p.tx == nil {
		err := p.settle(ctx, w)
		if err == nil {
			p.bell.wrote(w.stream)
		}
		return err
	}
	if err := p.attempt(ctx, w); err != nil {
		return w.explain(err)
	}
	p.tx.written = append(p.tx.written, w.ids...)
	p.tx.streams = append(p.tx.streams, w.stream)
	return nil
}

// attempt sends w once.
func (p *procedures) attempt(ctx context.Context, w *proposedWrite) error {
	read := func(rows pgx.Rows) error {
		n := 0
		for ; rows.Next(); n++ {
			if n == len(w.written) {
				return fmt.Errorf("more than %d rows for as many messages", n)
			}
			var globalPosition *int64 // NULL where it is unknown
			written := Written{ID: w.ids[n]}
			if err := rows.Scan(&written.Position, &globalPosition); err != nil {
				return err
			}
			if globalPosition != nil {
				written.GlobalPosition = *globalPosition
			}
			w.written[n] = written
		}
		if rows.Err() == nil && n < len(w.written) {
			return fmt.Errorf("%d rows for %d messages", n, len(w.written))
		}
		return rows.Err()
	}
	if len(w.ids) == 1 {
		return p.run(ctx, writeMessage, read, w.idTexts[0], string(w.stream), w.types[0], w.data[0], w.metadata[0], w.expected)
	}
	if p.config.direct {
		return p.runBatch(ctx, nil,
			step{st: acquireLock, read: drain, args: []any{string(w.stream)}},
			step{st: directWrite, read: read, args: []any{string(w.stream), w.idTexts, w.types, w.data, w.metadata, w.expected}})
	}
	return p.run(ctx, writeMessages, read, string(w.stream), w.idTexts, w.types, w.data, w.metadata, w.expected)
}

// explain returns the error of a write that has not happened.
func (w *proposedWrite) explain(err error) error {
	switch classify(err) {
	case classWrongVersion:
		expected := unknownVersion
		if w.expected != nil {
			expected = *w.expected
		}
		return &WrongVersionError{Stream: w.stream, Expected: expected, Actual: actualVersion(err), err: scrub(err)}
	case classDuplicateID:
		return &DuplicateIDError{IDs: w.ids, err: scrub(err)}
	}
	return explain("write to stream "+string(w.stream), err)
}
