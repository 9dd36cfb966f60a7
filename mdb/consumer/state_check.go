package consumer

import (
	"context"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/internal/scan"
	"github.com/messagedb-go/messagedb/internal/source"
	"github.com/messagedb-go/messagedb/mdb"
)

// # State in another database
//
// A checkpoint is right if the store has its anchor, the last message up to it: then it has everything before, too. A member compares that
// whenever it gets a checkpoint by a new epoch, and begins to read with the anchor, so each page compares it again.
//
// If the anchor is gone, the checkpoint must go back to the last message that both databases have, and not further: what the store has
// after it was not handled, and what it has before it was. A trail knows which message that is, because it has no gap. Positions, timelines and
// times do not show it: other messages get the positions, another server may have the same timeline, and clocks differ.
//
// Only who has the partition moves its checkpoint, by its epoch. So another process that notices the loss later finds the anchor of the new
// history there, and moves nothing. A checkpoint that a process stores after the loss, because it has not noticed it, has an anchor of the
// old history, which is found in the trail's branches.
//
// Nothing is moved before the store has a message of the category after the one to which the checkpoint would go back. Until then nothing has
// to be handled, and the server may be one that has not received everything yet.

// retryCheck is after which time checkpoints are looked at again that nobody could check.
const retryCheck = time.Second

// reconcile compares the member's checkpoints with the store, and moves those back whose last messages are lost. It leaves out those that it cannot
// check now.
func (r *running) reconcile(ctx context.Context, conn *pgx.Conn, m ledger.Member, held ledger.Held) (ledger.Held, error) {
	for category, t := range r.trails {
		var lost []ledger.Anchor
		for p, gone := range held.Gone {
			if p.Category == category {
				lost = append(lost, gone...)
			}
		}
		t.onlyLost(lost)
	}
	var fresh []ledger.Row
	for _, row := range held.Rows {
		if r.trails[row.Category] != nil && r.checked[row.Partition] != row.Epoch {
			fresh = append(fresh, row)
		}
	}
	if len(fresh) == 0 {
		return r.onlyChecked(held), nil
	}
	moves, checked, err := r.check(ctx, fresh, held)
	var fork *mdb.ForkError
	switch {
	case errors.As(err, &fork):
		r.end(err)
		return ledger.Held{}, nil
	case err != nil:
		r.link.Logger.Warn("a consumer could not compare its checkpoints with the store, and retries", r.member.attrs("error", err)...)
	}
	for _, row := range checked {
		r.checked[row.Partition] = row.Epoch
	}
	if len(moves) > 0 {
		var b pgx.Batch
		for _, mv := range moves {
			ledger.QueueRewind(&b, m, mv)
		}
		if err := conn.SendBatch(ctx, &b).Close(); err != nil {
			return held, err
		}
		if held, err = ledger.Read(ctx, conn, m); err != nil {
			return held, err
		}
		back := make(map[partition]int64, len(moves))
		for _, mv := range moves {
			back[mv.Partition] = mv.To
		}
		for _, row := range held.Rows {
			if to, ok := back[row.Partition]; ok && row.Position == to {
				r.checked[row.Partition] = row.Epoch
			}
		}
	}
	return r.onlyChecked(held), nil
}

// onlyChecked leaves out what is not checked.
func (r *running) onlyChecked(held ledger.Held) ledger.Held {
	before := len(held.Rows)
	held.Rows = slices.DeleteFunc(held.Rows, func(row ledger.Row) bool {
		return r.trails[row.Category] != nil && r.checked[row.Partition] != row.Epoch
	})
	if len(held.Rows) < before {
		if r.again != nil {
			r.again.Stop() // else each balance that something else has caused would add one more in each second
		}
		r.again = time.AfterFunc(retryCheck, r.member.ring)
	}
	return held
}

// check returns which checkpoints are right, and which have to be moved back. The error is an mdb.ForkError if nobody knows where to.
func (r *running) check(ctx context.Context, rows []ledger.Row, held ledger.Held) (moves []ledger.Rewind, right []ledger.Row, err error) {
	patience := storeTimeout
	if deadline, ok := ctx.Deadline(); ok {
		patience = min(patience, time.Until(deadline)/2)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	q := &questions{running: r}
	if q.asker, err = askerOf(ctx, r.store); err != nil {
		return nil, nil, err
	}
	conn, err := r.store.Pool().Acquire(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer conn.Release()
	q.db = conn.Conn()
	moves, right, err = q.decide(ctx, rows, held)
	if err == nil || errors.As(err, new(*mdb.ForkError)) {
		if changed := q.unchanged(ctx, q.servers); changed != nil {
			err = changed
		}
	}
	if err != nil {
		return nil, nil, err
	}
	for category, first := range q.first {
		r.trails[category].forkAt(first)
	}
	for _, mv := range moves {
		if len(mv.Lost) == 0 {
			continue
		}
		r.trails[mv.Category].lose(mv.Lost)
		r.link.Logger.Warn("messages that a consumer has handled are no longer in the store: its checkpoint goes back to the last one that is",
			r.member.attrs("category", mv.Category, "partition", mv.Number, "from", mv.From, "to", mv.To)...)
	}
	return moves, right, nil
}

// questions are what is asked on one connection of the store, and the answers. A place is the whole store, or the shard of a category.
type questions struct {
	*running

	asker

	servers  map[string]server                 // by place
	anchors  []source.Anchor                   // of the checkpoints; the zero value: it is gone
	presence map[string]map[source.Anchor]bool // by category: which messages are there
	first    map[string]source.Anchor          // by category: the first lost message of the trail
}

// decide returns what check does, before it is known that one server of each category has answered.
func (q *questions) decide(ctx context.Context, rows []ledger.Row, held ledger.Held) (moves []ledger.Rewind, right []ledger.Row, err error) {
	if err := q.lookFor(ctx, rows, held.Gone); err != nil {
		return nil, nil, err
	}
	for i := range rows {
		row := &rows[i]
		to, lost, decided, err := q.whereTo(ctx, i, row)
		switch {
		case err != nil:
			return nil, nil, err
		case !decided:
			continue
		case to.Position == row.Position && len(lost) == 0 && (row.ID == uuid.Nil || !row.Time.IsZero()): // a page compares the time, too
			right = append(right, *row)
			continue
		}
		mv := ledger.Rewind{Move: ledger.Move{Partition: row.Partition, Epoch: row.Epoch, From: row.Position, To: to.Position, Anchor: ledgerAnchor(to)}, Lost: lost}
		for _, p := range held.Parked {
			if p.Partition == row.Partition && p.Upto == nil && p.GlobalPosition <= to.Position {
				mv.Streams = append(mv.Streams, p.Stream)
			}
		}
		if mv.Nexts, err = pgx.CollectRows(q.rows(ctx, askNext, row.Category, mv.Streams, to.Position), pgx.RowTo[int64]); err != nil {
			return nil, nil, err
		}
		moves = append(moves, mv)
	}
	return moves, right, nil
}

// lookFor looks for the anchors of checkpoints, and for messages that were lost before.
func (q *questions) lookFor(ctx context.Context, rows []ledger.Row, gone map[partition][]ledger.Anchor) error {
	looks := make(map[string]*lookup)
	add := func(i int, category string, anchor ledger.Anchor, upto int64) {
		l := looks[q.place(category)]
		l.owners, l.anchors = append(l.owners, i), append(l.anchors, anchor)
		l.ids, l.uptos = append(l.ids, anchor.ID.String()), append(l.uptos, upto)
	}
	q.servers = make(map[string]server)
	for i, row := range rows {
		place := q.place(row.Category)
		if looks[place] == nil {
			s, err := q.server(ctx, row.Category)
			if err != nil {
				return err
			}
			looks[place], q.servers[place] = new(lookup), s
		}
		if row.ID != uuid.Nil {
			add(i, row.Category, row.Anchor, row.Position)
		}
		for _, anchor := range gone[row.Partition] {
			add(-1-i, row.Category, anchor, math.MaxInt64)
		}
	}
	q.anchors, q.presence, q.first = make([]source.Anchor, len(rows)), make(map[string]map[source.Anchor]bool), make(map[string]source.Anchor)
	for place, l := range looks {
		if err := q.find(ctx, place, l, rows); err != nil {
			return err
		}
	}
	return nil
}

// A lookup is for messages in one place.
type lookup struct {
	owners  []int // of the rows; -1-i: the message was lost before
	anchors []ledger.Anchor
	ids     []string // theirs
	uptos   []int64
}

func (q *questions) find(ctx context.Context, place string, l *lookup, rows []ledger.Row) error {
	_, err := pgx.CollectRows(q.rows(ctx, askFound, place, l.ids, l.uptos), func(row pgx.CollectableRow) (none struct{}, err error) {
		var n int
		var a source.Anchor
		if err := scanAnchor(row, &a, &n); err != nil {
			return none, err
		}
		i, at := l.owners[n-1], l.anchors[n-1].Time
		if !at.IsZero() && scan.Micros(at) != a.Time { // another message has the ID
			return none, nil
		}
		if i < 0 { // the store has gone back to a history that it had before
			return none, forkOf(&rows[-1-i], a)
		}
		q.anchors[i] = a
		return none, nil
	})
	return err
}

// forkOf returns the error of a checkpoint that nobody knows where to move.
func forkOf(row *ledger.Row, a source.Anchor) error {
	fork := mdb.Fork{Category: mdb.Category(row.Category), Missing: []mdb.MissingMessage{{Position: row.Position, ID: row.ID, Time: row.Time}}}
	if a.Position > 0 {
		fork.Missing[0] = mdb.MissingMessage{Position: a.Position, ID: a.ID, Time: scan.Time(a.Time)}
	}
	return &mdb.ForkError{Fork: fork}
}

// whereTo returns the last message up to a checkpoint that is left, and the first message of each loss after it. If it is not decided, nothing
// is known yet.
func (q *questions) whereTo(ctx context.Context, i int, row *ledger.Row) (to source.Anchor, lost []ledger.Anchor, decided bool, err error) {
	switch {
	case row.ID == uuid.Nil && row.Position == 0:
		return to, nil, true, nil
	case row.ID == uuid.Nil:
		return to, nil, false, forkOf(row, to)
	case q.anchors[i].Position > 0:
		return q.anchors[i], nil, true, nil
	case q.servers[q.place(row.Category)].standby:
		return to, nil, false, nil
	}
	t := q.trails[row.Category]
	for id := row.ID; ; {
		known := t.upto(id)
		inTrail := known != nil
		if !inTrail {
			known = t.branchOf(id)
		}
		if known == nil {
			return to, nil, false, forkOf(row, source.Anchor{})
		}
		n, err := q.last(ctx, row.Category, known)
		if err != nil {
			return to, nil, false, err
		}
		if n < len(known)-1 {
			first := known[max(n, 0)+1]
			lost = append(lost, ledgerAnchor(first))
			if inTrail {
				q.first[row.Category] = first
			}
		}
		if n >= 0 {
			to = known[n]
			break
		}
		id = known[0].ID
	}
	err = q.row(ctx, askFollows, row.Category, to.Position).Scan(&decided)
	return to, lost, decided, err
}

// last returns the index of the last of the known messages that is there, or -1.
func (q *questions) last(ctx context.Context, category string, known []source.Anchor) (int, error) {
	there := q.presence[category]
	if there == nil {
		there = make(map[source.Anchor]bool)
		q.presence[category] = there
	}
	var positions []int64
	for _, a := range known {
		if _, asked := there[a]; !asked {
			there[a] = false
			positions = append(positions, a.Position)
		}
	}
	if len(positions) > 0 {
		found, err := pgx.CollectRows(q.rows(ctx, askAt, category, positions), toAnchor)
		if err != nil {
			return 0, err
		}
		for _, a := range found {
			there[a] = true
		}
	}
	n := len(known) - 1
	for ; n >= 0 && known[n].Position > 0 && !there[known[n]]; n-- {
	}
	return n, nil
}
