package consumer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// A positionStream lets a member keep its checkpoints in a position stream, without knowing it: it answers the member's statements. It
// belongs to one run, and its methods are called by the goroutine of the member.
//
// # What is stored
//
// All partitions have the position that was stored last, which is that of the partition that has come least far. A tick
// says that a checkpoint has moved once that position has reached it, and leaves it out until then, so that the member offers
// it again. What a tick offers is written only by that tick: after a doubt, the member reads what is stored, and offers only what
// it has handled since then.
//
// # The fence
//
// Every write expects the version that the stream had when this process last read or wrote it. A process that starts writes the position
// again, so what another one had offered is rejected. The ID of each message that a process writes is computed from its run and
// the version, so it recognizes a write whose outcome it did not learn.
//
// The version does not show which messages the server has. So a write also compares the timeline, and the last message that was
// handled, as the fence of the tables does: see message_store_consumers.lost. Otherwise a position of another history
// would pass messages that have got the positions before it.
//
// Writes are not waited for until they are on disk or on a standby, because a crash or a failover that loses them is
// noticed: if the stream has gone back, the process takes over again, at the position that the stream has now.
//
// If the stream has gone on and not by this process, another one has taken over after it. In another history, that is only known if the stream still
// has what this process wrote or accepted last. Otherwise the message may be that of a process which this one had replaced, and it takes over again.
//
// Nobody waits for the end of the lease. But who has no answer for so long does not know whether it was replaced.
type positionStream struct {
	consumer, category, name string
	partitions               int
	start                    *int64 // where it begins if the stream is empty; nil: after the category's last message
	flushing
	handled func() int64 // how many messages are done with since the run began
	logger  *slog.Logger
	run     uuid.UUID

	last     positionRecord // the stream's last message, as this process has written or accepted it
	epoch    int64          // of all partitions; another one after each takeover
	claimed  int64          // the epoch that the member has counted
	changes  int64
	first    *int64 // where this process has first seen the consumer; nil: it has not
	timeline string // what the member knows
	blind    bool   // the server does not say its timeline
	rewound  bool   // the stream has lost messages, and the process has not taken over since

	storedAt time.Time // when the position was stored last
	counted  int64     // of handled, then
	reach    int64     // everything up to it is done with, whether or not it is stored
	released map[int]ledger.Move
}

// positionStream returns the position stream of a run.
func (r *running) positionStream() *positionStream {
	c := r.config
	return &positionStream{
		consumer: c.name, category: c.categories[0], name: positionStreamOf(c.categories[0], *c.positionID),
		partitions: max(c.partitions, 1), start: c.start, flushing: c.flushing, logger: r.link.Logger.With("consumer", c.name), run: uuid.New(),
		handled: func() int64 {
			s := r.engine.stats()
			return s.handled + s.skipped
		},
		released: make(map[int]ledger.Move),
	}
}

// on returns the statements of a member on a connection.
func (s *positionStream) on(db positionDB) protocol { return positionSession{s, db} }

// A positionSession sends the statements of a position stream.
type positionSession struct {
	*positionStream

	db positionDB
}

func (s positionSession) version(context.Context) (int, error) { return schema.ConsumersVersion, nil }

// idAt returns the ID of the message that this process writes at a version.
func (s *positionStream) idAt(version int64) uuid.UUID {
	return uuid.NewSHA1(s.run, []byte("position stream/"+strconv.FormatInt(version, 10)))
}

func (s *positionStream) isOurs(r positionRecord) bool {
	return r.version >= 0 && r.id == s.idAt(r.version).String()
}

// look reads what the stream says now.
func (s positionSession) look(ctx context.Context) (found positionRecord, timeline string, err error) {
	found, timeline, err = s.db.last(ctx, s.name, s.blind)
	if code := codeOf(err); !s.blind && (code == "42501" || code == "42883" || code == "0A000") { // as in message_store_consumers.timeline
		s.blind = true
		found, timeline, err = s.db.last(ctx, s.name, s.blind)
	}
	return found, timeline, err
}

// What has become of a stream.
type streamHistory int

const (
	streamAsKnown  streamHistory = iota
	streamRewound                // it has lost messages
	streamReplaced               // another process has written to it
)

// compare says what has become of the stream. It accepts a message of this process whose outcome was unknown.
func (s *positionStream) compare(found positionRecord) streamHistory {
	switch {
	case found.version == s.last.version && found.id == s.last.id:
	case found.version > s.last.version && s.isOurs(found):
		s.last = found
	case found.version < s.last.version:
		return streamRewound
	default:
		return streamReplaced
	}
	return streamAsKnown
}

// from returns where the consumer continues.
func (s positionSession) from(ctx context.Context, found positionRecord) (position int64, err error) {
	switch {
	case found.err != nil:
		return 0, &notPositionError{stream: s.name, version: found.version, err: found.err}
	case found.version >= 0:
		return found.position, nil
	case s.start != nil:
		used, err := s.db.used(ctx)
		if err == nil && *s.start > used && s.first == nil {
			err = &mdb.AheadError{Category: mdb.Category(s.category), Position: *s.start, Last: used}
		}
		return *s.start, err
	}
	ends, err := s.db.ends(ctx, []string{s.category})
	if err != nil {
		return 0, err
	}
	if s.first != nil { // what was written since then may not be handled
		return min(*s.first, ends[0]), nil
	}
	return ends[0], nil
}

// A notPositionError says that the last message of a stream is not one of a position stream.
type notPositionError struct {
	stream  string
	version int64
	err     error
}

func (e *notPositionError) Error() string {
	return fmt.Sprintf("the last message of the stream %s, at position %d, is not one of a position stream: %v", e.stream, e.version, e.err)
}

func (e *notPositionError) setup(remedy string) *mdb.SetupError {
	return &mdb.SetupError{Problem: e.Error(), Remedy: remedy + `, or write a message of the type Recorded with data like {"position": 123} to it`}
}

var errOtherHistory = errors.New("consumer: the history of the server has changed meanwhile")

// takeOver writes the position again, so that nobody else can write it. found is the last message.
func (s positionSession) takeOver(ctx context.Context, found positionRecord, timeline string) (outcome storedPosition, err error) {
	from, err := s.from(ctx, found)
	if err != nil {
		return 0, err
	}
	if !s.isOurs(found) {
		to := positionToStore{
			stream: s.name, id: s.idAt(found.version + 1), position: from, expected: found.version,
			timeline: timeline, blind: s.blind, async: true,
		}
		switch outcome, err = s.db.store(ctx, to); {
		case err != nil:
			return 0, err
		case outcome == positionRejected:
			return outcome, errOtherHistory
		case outcome == positionOutdated:
			return outcome, nil
		}
		found = positionRecord{version: to.expected + 1, id: to.id.String()}
	}
	s.last, s.timeline, s.rewound = found, timeline, false
	s.epoch = max(s.epoch+1, found.version)
	s.changes++
	s.stored(from)
	s.forget()
	if s.first == nil {
		s.first = &from
	}
	return positionStored, nil
}

// stored is called when the position was written.
func (s *positionStream) stored(position int64) {
	s.last.position = position
	s.storedAt, s.counted = time.Now(), s.handled()
}

// forget forgets what is not stored.
func (s *positionStream) forget() {
	s.reach = s.last.position
	clear(s.released)
}
