package consumer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// noLease is the lease of a consumer with a position stream. Nobody waits for its end, so its handlers need not end before.
const noLease = 10 * 365 * 24 * time.Hour

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
// noticed: if the stream has gone back, the process takes over again, at the position that the stream has now. If the stream has gone on and not by this process, another one has taken over.
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
		partitions: max(c.partitions, 1), start: c.start, flushing: c.flushing, logger: r.link.Logger, run: uuid.New(),
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

// takeOver writes the position again, so that nobody else can write it.
func (s positionSession) takeOver(ctx context.Context, found positionRecord, timeline string) error {
	from, err := s.from(ctx, found)
	for err == nil && !s.isOurs(found) {
		to := positionToStore{
			stream: s.name, id: s.idAt(found.version + 1), position: from, expected: found.version,
			timeline: timeline, blind: s.blind, async: true,
		}
		var outcome storedPosition
		switch outcome, err = s.db.store(ctx, to); {
		case err != nil:
		case outcome == positionRejected:
			err = errOtherHistory
		case outcome == positionStored:
			found = positionRecord{version: to.expected + 1, id: to.id.String(), position: from}
		default:
			var now string
			if found, now, err = s.look(ctx); err == nil && now != timeline {
				err = errOtherHistory
			}
			if err == nil {
				from, err = s.from(ctx, found)
			}
		}
	}
	if err != nil {
		return err
	}
	s.last = found
	s.epoch = max(s.epoch+1, found.version)
	s.changes++
	s.stored(from)
	s.forget()
	if s.first == nil {
		s.first = &from
	}
	return nil
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

func (s positionSession) join(ctx context.Context, _ ledger.JoinParams) (ledger.Joined, error) {
	found, timeline, err := s.look(ctx)
	if err != nil {
		return ledger.Joined{}, err
	}
	if err := s.takeOver(ctx, found, timeline); err != nil {
		return ledger.Joined{}, err
	}
	s.timeline = timeline
	return ledger.Joined{Partitions: s.partitions, Changes: s.changes}, nil
}

func (s positionSession) beat(ctx context.Context, _ ledger.Member, _ string, moves []ledger.Move) (ledger.Tick, error) {
	return s.tick(ctx, moves, false)
}

// tick looks whether another process has taken over, and stores the position if that is due, or now.
func (s positionSession) tick(ctx context.Context, moves []ledger.Move, now bool) (t ledger.Tick, err error) {
	found, timeline, err := s.look(ctx)
	if err != nil {
		return t, err
	}
	other := timeline != s.timeline
	t = ledger.Tick{Timeline: timeline, Partitions: s.partitions, Name: s.consumer}
	switch s.compare(found) {
	case streamReplaced:
		t.Replaced = true
		return t, nil
	case streamRewound:
		if err := s.takeOver(ctx, found, timeline); err != nil {
			return t, err
		}
		s.timeline, t.Alive, t.Changes = timeline, true, s.changes
		t.Refused = indexesOf(moves)
		return t, nil
	case streamAsKnown:
	}
	s.timeline, t.Alive, t.Changes = timeline, true, s.changes
	to, anchor := s.least(moves)
	rejected := false
	if !other { // else the member reads everything again
		s.reach = max(s.reach, to)
		if to > s.last.position && (now || s.isDue()) {
			switch outcome, err := s.write(ctx, to, anchor); {
			case err != nil:
				return t, err
			case outcome == positionOutdated:
				return s.tick(ctx, moves, now)
			default:
				rejected = outcome == positionRejected
			}
		}
	}
	for i, mv := range moves {
		switch {
		case mv.To <= s.last.position:
			t.Moved = append(t.Moved, i)
		case rejected && mv.To == to:
			t.Refused = append(t.Refused, i)
		default:
			t.Skipped = append(t.Skipped, i)
		}
	}
	return t, nil
}

func indexesOf(moves []ledger.Move) (indexes []int) {
	for i := range moves {
		indexes = append(indexes, i)
	}
	return indexes
}

func (s *positionStream) isDue() bool {
	return time.Since(s.storedAt) >= s.interval || s.handled()-s.counted >= int64(s.messages)
}

// least returns the position up to which everything is done with: that of the partition that has come least far. A partition that
// offers nothing is where the position was stored.
func (s *positionStream) least(moves []ledger.Move) (position int64, anchor ledger.Anchor) {
	offered := make(map[int]ledger.Move, len(moves))
	for _, mv := range moves {
		offered[mv.Number] = mv
	}
	for n := range s.partitions {
		mv, ok := offered[n]
		if !ok {
			mv, ok = s.released[n]
		}
		if !ok {
			return s.last.position, ledger.Anchor{}
		}
		if n == 0 || mv.To < position {
			position, anchor = mv.To, mv.Anchor
		}
	}
	return position, anchor
}

// write stores a position.
func (s positionSession) write(ctx context.Context, position int64, anchor ledger.Anchor) (storedPosition, error) {
	version := s.last.version + 1
	outcome, err := s.db.store(ctx, positionToStore{
		stream: s.name, id: s.idAt(version), position: position, expected: s.last.version,
		anchor: anchor, timeline: s.timeline, blind: s.blind, async: true,
	})
	if err == nil && outcome == positionStored {
		s.last = positionRecord{version: version, id: s.idAt(version).String()}
		s.stored(position)
	}
	return outcome, err
}

func (s positionSession) rebalance(ctx context.Context, m ledger.Member) (b ledger.Balance, held ledger.Held, err error) {
	held, err = s.read(ctx, m)
	if err != nil {
		return b, held, err
	}
	b = ledger.Balance{Members: 1, Quota: s.partitions, Held: s.partitions}
	if s.claimed != s.epoch {
		s.claimed, b.Claimed = s.epoch, s.partitions
	}
	return b, held, nil
}

func (s positionSession) read(ctx context.Context, _ ledger.Member) (held ledger.Held, err error) {
	found, _, err := s.look(ctx)
	if err != nil {
		return held, err
	}
	if s.compare(found) != streamAsKnown { // a tick says more
		return held, &pgconn.PgError{Severity: "ERROR", Code: ledger.Gone, Message: "the position stream has changed"}
	}
	s.forget()
	for n := range s.partitions {
		held.Rows = append(held.Rows, ledger.Row{
			Partition: partition{Category: s.category, Number: n}, Position: s.last.position, Epoch: s.epoch,
		})
	}
	return held, nil
}

// release keeps what is handled of partitions until the process leaves.
func (s positionSession) release(_ context.Context, _ ledger.Member, moves []ledger.Move) ([]int, error) {
	for _, mv := range moves {
		s.released[mv.Number] = mv
	}
	return indexesOf(moves), nil
}

func (s positionSession) leave(ctx context.Context, _ ledger.Member, moves []ledger.Move) error {
	t, err := s.tick(ctx, moves, true)
	if err == nil && t.Replaced {
		s.logger.Warn("a consumer could not store its last position, because another process has taken over",
			"consumer", s.consumer, "stream", s.name)
	}
	return err
}

func (s positionSession) due(context.Context, ledger.Member) ([]ledger.Key, error) { return nil, nil }

func (s positionSession) ends(ctx context.Context, categories []string) ([]int64, error) {
	return s.db.ends(ctx, categories)
}

func (s positionSession) reached(ctx context.Context, _ int64, categories []string, positions []int64) (bool, error) {
	ends, err := s.db.ends(ctx, categories)
	return err == nil && s.reach >= min(positions[0], ends[0]), err
}
