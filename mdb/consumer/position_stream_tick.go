package consumer

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/internal/ledger"
)

func (s positionSession) join(ctx context.Context, _ ledger.JoinParams) (ledger.Joined, error) {
	for {
		found, timeline, err := s.look(ctx)
		if err != nil {
			return ledger.Joined{}, err
		}
		outcome, err := s.takeOver(ctx, found, timeline)
		if err != nil {
			return ledger.Joined{}, err
		}
		if outcome == positionStored {
			return ledger.Joined{Partitions: s.partitions, Changes: s.changes}, nil
		}
	}
}

func (s positionSession) beat(ctx context.Context, _ ledger.Member, _ string, moves []ledger.Move) (ledger.Tick, error) {
	return s.tick(ctx, moves, false)
}

// history says what has become of the stream. other says that the server has another timeline than before.
func (s positionSession) history(ctx context.Context, found positionRecord, other bool) (streamHistory, error) {
	history := s.compare(found)
	if history == streamReplaced && other {
		kept, err := s.db.has(ctx, s.name, s.last)
		if err != nil {
			return 0, err
		}
		if !kept {
			history = streamRewound
		}
	}
	return history, nil
}

// tick looks whether another process has taken over, and stores the position if that is due, or now.
func (s positionSession) tick(ctx context.Context, moves []ledger.Move, now bool) (t ledger.Tick, err error) {
	found, timeline, err := s.look(ctx)
	if err != nil {
		return t, err
	}
	other := timeline != s.timeline
	t = ledger.Tick{Timeline: timeline, Partitions: s.partitions, Name: s.consumer}
	history, err := s.history(ctx, found, other)
	switch {
	case err != nil:
		return t, err
	case history == streamReplaced:
		t.Replaced, t.Later = true, true
		return t, nil
	case history == streamRewound || s.rewound:
		s.last, s.timeline, s.rewound = found, timeline, true // whoever adds something to this has taken over
		switch outcome, err := s.takeOver(ctx, found, timeline); {
		case err != nil:
			return t, err
		case outcome == positionOutdated:
			return s.tick(ctx, moves, now)
		}
		t.Alive, t.Changes, t.Refused = true, s.changes, indexesOf(moves)
		return t, nil
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

// rebalance needs no new epochs, because the fence compares the stream's version instead.
func (s positionSession) rebalance(ctx context.Context, m ledger.Member, forgotten []ledger.Row) (b ledger.Balance, held ledger.Held, err error) {
	held, err = s.read(ctx, m)
	if err != nil {
		return b, held, err
	}
	b = ledger.Balance{Members: 1, Quota: s.partitions, Held: s.partitions, Changes: s.changes, Timeline: s.timeline}
	for i, row := range forgotten {
		if row.Epoch == s.epoch {
			b.Renewed = append(b.Renewed, i)
		}
	}
	if s.claimed != s.epoch {
		s.claimed, b.Claimed = s.epoch, s.partitions
	}
	return b, held, nil
}

func (s positionSession) read(ctx context.Context, _ ledger.Member) (held ledger.Held, err error) {
	found, timeline, err := s.look(ctx)
	if err != nil {
		return held, err
	}
	if timeline != s.timeline || s.compare(found) != streamAsKnown { // a tick says more
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
		s.logger.Warn("a consumer could not store its last position, because another process has taken over", "stream", s.name)
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
