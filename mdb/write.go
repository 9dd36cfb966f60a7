package mdb

import (
	"context"
	"fmt"
	"slices"
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
func (s *procedures) WriteMessage(ctx context.Context, stream StreamName, m ProposedMessage, opts ...WriteOption) (Written, error) {
	w, err := s.proposeWrite(stream, []ProposedMessage{m}, opts)
	if err != nil {
		return Written{}, err
	}
	if err := s.write(ctx, w); err != nil {
		return Written{}, err
	}
	return w.written[0], nil
}

// WriteMessages writes messages to the end of a stream, one behind the other: all
// of them or none. An expected version is that of the stream before the first. It
// takes one round trip, however many they are. Without messages it checks
// its arguments and sends nothing. All else is as with WriteMessage.
func (s *procedures) WriteMessages(ctx context.Context, stream StreamName, ms []ProposedMessage, opts ...WriteOption) ([]Written, error) {
	w, err := s.proposeWrite(stream, ms, opts)
	if err != nil || len(ms) == 0 {
		return nil, err
	}
	if err := s.write(ctx, w); err != nil {
		return nil, err
	}
	return slices.Clone(w.written), nil // which may lie beside the message
}

// A proposedWrite is a write as it is sent, however often. Its texts are in
// columns, as the statement over arrays wants them.
type proposedWrite struct {
	writeConfig
	stream StreamName

	ids            []uuid.UUID
	minted         []bool // whether the ID is this call's own
	idTexts, types []string
	data, metadata []*string // JSON; nil: SQL NULL

	written []Written

	attempts int
	unknown  error // why the outcome of an attempt is unknown, once one is

	// A single message's, so that it costs no more than the write itself.
	single struct {
		id      [1]uuid.UUID
		minted  [1]bool
		texts   [4]string
		json    [2]*string
		written [1]Written
		args    [6]any
	}
}

func (w *proposedWrite) makeRoom(n int) (texts []string) {
	if n == 1 {
		single := &w.single
		w.ids, w.minted, w.written = single.id[:], single.minted[:], single.written[:]
		w.data, w.metadata = single.json[:1:1], single.json[1:]
		texts = single.texts[:]
	} else {
		w.ids, w.minted, w.written = make([]uuid.UUID, n), make([]bool, n), make([]Written, n)
		w.data, w.metadata = make([]*string, n), make([]*string, n)
		texts = make([]string, 4*n)
	}
	w.idTexts, w.types = texts[:n:n], texts[n:2*n:2*n]
	return texts
}

// proposeWrite checks everything that can be checked here, all at once.
func (s *procedures) proposeWrite(stream StreamName, ms []ProposedMessage, opts []WriteOption) (*proposedWrite, error) {
	w := &proposedWrite{stream: stream}
	w.faults.stream(stream)
	for _, opt := range opts {
		opt.write(&w.writeConfig)
	}
	if w.idempotent && s.tx != nil {
		w.faults.add("option", "Idempotent on a Tx", "a Store, as the failure that leads to the look ends a transaction")
	}
	n := len(ms)
	texts := w.makeRoom(n)
	var seen map[uuid.UUID]int
	if n > 1 {
		seen = make(map[uuid.UUID]int, n)
	}
	for i, m := range ms {
		before := len(w.faults)
		w.faults.messageType("type", m.Type)
		data := s.encode(&w.faults, "data", m.Data)
		metadata := s.encode(&w.faults, "metadata", m.Metadata)
		if size := len(data) + len(metadata); size > s.config.maxSize {
			w.faults.add("size", strconv.Itoa(size)+" bytes", "at most "+strconv.Itoa(s.config.maxSize)+", see WithMaxMessageSize")
		}
		if m.ID == uuid.Nil {
			m.ID = newID()
			w.minted[i] = true
		} else if first, ok := seen[m.ID]; ok {
			w.faults.add("ID", m.ID.String()+", which is message "+strconv.Itoa(first)+"'s", "an ID of its own")
		}
		if n > 1 {
			for j := before; j < len(w.faults); j++ {
				w.faults[j].Argument = "message " + strconv.Itoa(i) + "'s " + w.faults[j].Argument
			}
			seen[m.ID] = i
		}
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
	return w, w.faults.err()
}

// arguments are those of writeMessage: pointers, which cost nothing to be handed
// on.
func (w *proposedWrite) arguments() []any {
	w.single.args = [...]any{&w.idTexts[0], (*string)(&w.stream), &w.types[0], w.data[0], w.metadata[0], w.expected}
	return w.single.args[:]
}

// size is how many bytes the texts have.
func (w *proposedWrite) size() int {
	n := len(w.stream)
	for _, text := range w.single.texts {
		n += len(text)
	}
	return n
}

func (s *procedures) encode(f *faults, argument string, v any) []byte {
	raw, err := encode(v)
	if err != nil {
		f.add(argument, err.Error(), "valid JSON that PostgreSQL can store")
	}
	return raw
}

// write does w in a transaction as it is, and on a Store until its outcome is
// known.
func (s *procedures) write(ctx context.Context, w *proposedWrite) error {
	if s.tx == nil {
		err := s.settle(ctx, w)
		if err == nil {
			s.wrote(w.stream)
		}
		return err
	}
	if err := s.attempt(ctx, w); err != nil {
		return w.explain(err)
	}
	s.tx.written = append(s.tx.written, w.ids...)
	s.tx.streams = append(s.tx.streams, w.stream)
	return nil
}

// attempt sends w once.
func (s *procedures) attempt(ctx context.Context, w *proposedWrite) error {
	if len(w.ids) == 1 {
		return s.run(ctx, writeMessage, w.read, w.arguments()...)
	}
	if s.config.direct {
		return s.runBatch(ctx, nil,
			step{st: acquireLock, read: drain, args: []any{string(w.stream)}},
			step{st: directWrite, read: w.read, args: []any{string(w.stream), w.idTexts, w.types, w.data, w.metadata, w.expected}})
	}
	return s.run(ctx, writeMessages, w.read, string(w.stream), w.idTexts, w.types, w.data, w.metadata, w.expected)
}

// read reads where the messages are.
func (w *proposedWrite) read(rows pgx.Rows) error {
	n := 0
	for ; rows.Next(); n++ {
		if n == len(w.written) {
			return fmt.Errorf("more than %d rows for as many messages", n)
		}
		fields, values := rows.FieldDescriptions(), rows.RawValues()
		if len(fields) != 2 || len(values) != 2 {
			return fmt.Errorf("rows of %d columns", len(fields))
		}
		written := Written{ID: w.ids[n]}
		var err error
		if written.Position, err = integer(fields[0].Format, values[0]); err != nil {
			return err
		}
		if values[1] != nil { // NULL where it is unknown
			if written.GlobalPosition, err = integer(fields[1].Format, values[1]); err != nil {
				return err
			}
		}
		w.written[n] = written
	}
	if rows.Err() == nil && n < len(w.written) {
		return fmt.Errorf("%d rows for %d messages", n, len(w.written))
	}
	return rows.Err()
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
		return &DuplicateIDError{IDs: slices.Clone(w.ids), err: scrub(err)}
	}
	return explain("write to stream "+string(w.stream), err)
}
