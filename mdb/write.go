package mdb

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/internal/scan"
)

// WriteMessage writes a message to the end of a stream, in one round trip. Expect a
// [*WrongVersionError] with [ExpectVersion] or [ExpectNoStream], a [*DuplicateIDError] if a
// message with the ID exists, and an [*ArgumentError] if the call is invalid. After these
// errors, and after any other except an [*UnknownOutcomeError], nothing was written.
//
// On a [Store] the write is a transaction of its own, and it is retried until its outcome is
// known, as [WithRetry] says: after a lost connection, with the same ID, so that it happens only
// once; after a failure to connect; if the server is read-only; and after transient errors. If the
// retries or the context end before that, the error is an [*UnknownOutcomeError] if the write may
// have been sent. If it was not sent, the error wraps [ErrUnavailable], or is that of the
// context. A [Tx] does not retry.
//
// While the server cannot be reached, at most two writes and transactions of a Store connect
// at a time. The others wait until any call succeeds, or until they end.
//
// If the write has been without a byte from the server for ten seconds, the store asks on
// another connection whether the server still executes it, for example because it waits for
// the lock of the category. If so, the write waits on. If not, or if the server does not answer,
// the connection counts as lost. A [Tx] of [Store.WithTx] waits until the context ends.
//
// With synchronous standbys, as synchronous_commit and synchronous_standby_names say, a
// success means that they have the message. If the wait for them is cancelled, the write is
// retried, provided that [Configure] has prepared the pool. The end of ctx cancels the wait,
// too, and the message can then be visible although the standbys do not have it.
//
// After a lost connection, a message with the same ID, stream, type and data counts as
// written by this call, although another process may have written it. If processes compete
// by writing a message with the same ID, the one whose [Written.Duplicate] is false has won.
//
// The name of the stream and the type of the message have at most 2,673 bytes each, and so
// have the category of the stream and that of a correlationStreamName in the metadata
// together.
func (s *procedures) WriteMessage(ctx context.Context, stream StreamName, m ProposedMessage, opts ...WriteOption) (Written, error) {
	w, err := s.hookedWrite(ctx, "WriteMessage", stream, []ProposedMessage{m}, opts)
	if err != nil {
		return Written{}, err
	}
	return w.written[0], nil
}

// WriteMessages writes messages to the end of a stream, in order and without others in
// between: all of them or none. It takes one round trip for any number of messages, whose
// size together is limited by PostgreSQL's protocol to somewhat less than 1 GiB. An
// expected version is the stream's version before the first message. Without messages it
// checks its arguments and sends nothing. See WriteMessage for errors and retries.
//
// Through a proxy of PL/Proxy without the functions that mdb proxy-sql prints, more than one message is
// rejected with an error that wraps [ErrProxied].
func (s *procedures) WriteMessages(ctx context.Context, stream StreamName, ms []ProposedMessage, opts ...WriteOption) ([]Written, error) {
	w, err := s.hookedWrite(ctx, "WriteMessages", stream, ms, opts)
	if err != nil || len(ms) == 0 {
		return nil, err
	}
	return slices.Clone(w.written), nil // a view of it would keep the messages in memory
}

// hookedWrite proposes a write, executes it, and calls hooks.
func (s *procedures) hookedWrite(ctx context.Context, method string, stream StreamName, ms []ProposedMessage, opts []WriteOption) (*proposedWrite, error) {
	call := WriteCall{Method: method, Stream: stream, Writes: 1, Messages: len(ms), InTx: s.tx != nil}
	ctx, begun := s.config.hooks.startCall(ctx, call)
	w, err := s.proposeWrite(ctx, stream, ms, opts)
	if err == nil && len(ms) > 0 {
		err = s.write(ctx, w)
	}
	s.ended(ctx, w, err)
	s.config.hooks.endCall(ctx, call, begun, err)
	return w, err
}

// A proposedWrite is a write in the form in which each attempt sends it. Its texts are in
// columns, as the statement over arrays takes them.
type proposedWrite struct {
	writeConfig
	stream StreamName

	ids            []uuid.UUID
	minted         []bool // whether this call generated the ID
	idTexts, types []string
	data, metadata []*string // JSON; nil: SQL NULL

	written []Written

	proxy    proxyKind // of the store, where WriteEach does it
	grouped  bool      // whether a group was its first attempt
	attempts int
	ctx      context.Context //nolint:containedctx // of the call, for hooks of groups
	retries
	unknown error // why the outcome is unknown, if an attempt or the look for the messages was lost
	lost    bool  // whether an attempt was lost, which may have written, or may still do so

	// Memory for a write of one message, so that the write is one allocation.
	single struct {
		id      [1]uuid.UUID
		minted  [1]bool
		texts   [4]string
		json    [2]*string
		written [1]Written
		args    [6]any
	}
}

// allocate allocates the fields for n messages. The texts are n IDs, n types, n data and n
// metadata; the first two are ids and types of w.
func (w *proposedWrite) allocate(n int) (texts []string) {
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

// proposeWrite checks all arguments and encodes the messages.
func (s *procedures) proposeWrite(ctx context.Context, stream StreamName, ms []ProposedMessage, opts []WriteOption) (*proposedWrite, error) {
	w := &proposedWrite{stream: stream}
	if len(s.config.hooks.groups) > 0 {
		w.ctx = ctx
	}
	w.faults.stream(stream)
	for _, opt := range opts {
		opt.write(&w.writeConfig)
	}
	switch {
	case w.inSavepoint && s.tx == nil:
		w.faults.add("option", "InSavepoint on a Store", "a Tx, because each write of a Store is a transaction of its own")
	case w.idempotent && s.tx != nil && !w.inSavepoint:
		w.faults.add("option", "Idempotent on a Tx", "InSavepoint with it, or a Store, because a duplicate ID aborts a transaction")
	}
	w.faults.name("stream", string(stream))
	n, sent := len(ms), 0
	texts := w.allocate(n)
	var seen map[uuid.UUID]int
	if n > 1 {
		seen = make(map[uuid.UUID]int, n)
	}
	for i, m := range ms {
		before := len(w.faults)
		if m.ID == uuid.Nil {
			m.ID = newID()
			w.minted[i] = true
		}
		w.faults.messageType("type", m.Type)
		w.faults.name("type", m.Type)
		data := s.encode(&w.faults, "data", m.Data)
		metadata := s.config.hooks.addMetadata(ctx, &w.faults, stream, m, s.encode(&w.faults, "metadata", m.Metadata))
		w.faults.messageSize(data, metadata, s.config.maxSize)
		w.faults.correlationName(stream, metadata)
		sent += len(m.Type) + len(data) + len(metadata) + messageOverhead
		if first, ok := seen[m.ID]; ok {
			w.faults.add("ID", m.ID.String()+", the ID of message "+strconv.Itoa(first), "a different ID for each message")
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
	w.faults.sentSize(sent)
	return w, w.faults.err()
}

// anyVersion is the expected version of [ExpectStream].
const anyVersion int64 = -2

// expectsStream reports whether the stream must exist, at any version.
func (w *proposedWrite) expectsStream() bool { return w.expected != nil && *w.expected == anyVersion }

// begins reports whether the first message may be at the position, by the expected version.
func (w *proposedWrite) begins(position int64) bool {
	return w.expected == nil || position == *w.expected+1 || w.expectsStream() && position > 0
}

// statement returns the statement that does w by procedures.
func (w *proposedWrite) statement() *statement {
	switch single := len(w.ids) == 1; {
	case w.proxy == shardProxy:
		return writeOnShard
	case w.proxy == plainProxy && w.expectsStream():
		return appendProxied
	case w.proxy == plainProxy:
		return writeProxied
	case single && w.expectsStream():
		return appendMessage
	case single:
		return writeMessage
	case w.expectsStream():
		return appendMessages
	}
	return writeMessages
}

// arguments returns the arguments of the statement. For one message they are pointers, which can be passed
// as any without an allocation.
func (w *proposedWrite) arguments() []any {
	if len(w.ids) != 1 {
		return []any{string(w.stream), w.idTexts, w.types, payloads(w.data), payloads(w.metadata), w.expected}
	}
	w.single.args = [...]any{&w.idTexts[0], (*string)(&w.stream), &w.types[0], (*payload)(w.data[0]), (*payload)(w.metadata[0]), w.expected}
	return w.single.args[:]
}

// size returns the number of bytes of the texts of a single message.
func (w *proposedWrite) size() int {
	n := len(w.stream)
	for _, text := range w.single.texts {
		n += len(text)
	}
	return n
}

func (s *procedures) encode(f *argumentFaults, argument string, v any) []byte {
	raw, err := encode(v)
	if err != nil {
		f.add(argument, err.Error(), "valid JSON that PostgreSQL can store")
		return nil
	}
	return raw
}

const (
	// maxNameSize is how long the name of a stream can be, so that it fits the indexes of
	// the table whether or not the server can compress it. The index messages_category
	// contains two categories, that of the stream and that of the metadata's
	// correlationStreamName.
	maxNameSize = 2673
	// maxSentSize is somewhat less than the 1 GiB that PostgreSQL's protocol allows for a
	// message.
	maxSentSize = 1<<30 - 1<<16
	// messageOverhead is the ID of a message, and the lengths of its four texts.
	messageOverhead = 36 + 4*4
)

func (f *argumentFaults) name(argument, name string) {
	if len(name) > maxNameSize {
		f.add(argument, strconv.Itoa(len(name))+" bytes", "at most "+strconv.Itoa(maxNameSize))
	}
}

// correlationName checks the metadata's correlationStreamName, whose category is indexed
// together with that of the stream.
func (f *argumentFaults) correlationName(stream StreamName, metadata []byte) {
	size := len(stream.Category())
	if size+len(metadata) <= maxNameSize {
		return
	}
	var fields map[string]json.RawMessage
	if json.Unmarshal(metadata, &fields) != nil {
		return
	}
	var name StreamName
	if raw := fields["correlationStreamName"]; json.Unmarshal(raw, &name) != nil {
		name = StreamName(raw) // the server uses the text of other JSON
	}
	if size += len(name.Category()); size > maxNameSize && name != "" {
		f.add("metadata", "categories of the stream and of the correlationStreamName that have "+strconv.Itoa(size)+" bytes together",
			"at most "+strconv.Itoa(maxNameSize))
	}
}

// sentSize checks the size of all messages of a call, which are sent as one.
func (f *argumentFaults) sentSize(size int) {
	if size > maxSentSize {
		f.add("size of all messages", strconv.Itoa(size)+" bytes", "at most "+strconv.Itoa(maxSentSize)+", because one call is one message of PostgreSQL's protocol")
	}
}

// messageSize checks the JSON of a message, which is valid.
func (f *argumentFaults) messageSize(data, metadata []byte, most int) {
	size := len(data) + len(metadata)
	if size <= most/printedGrowth {
		return
	}
	given := " bytes"
	if read := readSize(data, metadata); read > size {
		size, given = read, " bytes when it is read"
	}
	if size > most {
		f.add("size", strconv.Itoa(size)+given, "at most "+strconv.Itoa(most)+", see WithMaxMessageSize")
	}
}

// write executes w: on a Store until its outcome is known, in a transaction with one
// attempt.
func (s *procedures) write(ctx context.Context, w *proposedWrite) error {
	switch {
	case s.tx != nil:
		return s.writeInTx(ctx, w)
	case s.groups != nil:
		return s.groups.write(ctx, w)
	}
	return s.report(w, s.settle(ctx, w))
}

// report returns err, the result of w, and makes subscriptions read if it is a success.
func (s *procedures) report(w *proposedWrite, err error) error {
	if err == nil {
		s.wrote(w.stream)
	}
	return err
}

// attempt sends w once and reads the result.
func (s *procedures) attempt(ctx context.Context, w *proposedWrite) error {
	if len(w.ids) > 1 && s.config.direct {
		return s.runBatch(ctx, nil,
			step{st: acquireLock, read: drain, args: []any{string(w.stream)}},
			step{st: directWrite, read: w.read, args: w.arguments()})
	}
	return s.run(ctx, w.statement(), w.read, w.arguments()...)
}

// read reads the positions of the messages from the rows.
func (w *proposedWrite) read(rows pgx.Rows) error {
	n := 0
	for ; rows.Next(); n++ {
		if n == len(w.written) {
			return fmt.Errorf("got more than %d rows, want one for each message", n)
		}
		fields, values := rows.FieldDescriptions(), rows.RawValues()
		if len(fields) != 3 || len(values) != 3 {
			return fmt.Errorf("got rows with %d columns, want 3", len(fields))
		}
		written, err := readWritten(fields, values)
		if err != nil {
			return err
		}
		written.ID = w.ids[n]
		w.written[n] = written
	}
	if rows.Err() == nil && n < len(w.written) {
		return fmt.Errorf("got %d rows for %d messages", n, len(w.written))
	}
	return rows.Err()
}

// readWritten reads the columns position, global position and time.
func readWritten(fields []pgconn.FieldDescription, values [][]byte) (written Written, err error) {
	if written.Position, err = integer(fields[0].Format, values[0]); err != nil {
		return Written{}, err
	}
	if values[1] != nil { // NULL if it is unknown
		if written.GlobalPosition, err = integer(fields[1].Format, values[1]); err != nil {
			return Written{}, err
		}
	}
	if values[2] != nil {
		micros, err := integer(fields[2].Format, values[2])
		if err != nil {
			return Written{}, err
		}
		written.Time = time.UnixMicro(micros).UTC()
	}
	return written, nil
}

// explain returns the error of a write that did not happen.
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
