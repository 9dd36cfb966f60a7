package archive

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/backoff"
	"github.com/messagedb-go/messagedb/internal/gate"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// A MoveStep is how far a move has come. It follows from what is stored on the shards and the proxies.
type MoveStep string

// The steps of a move.
const (
	MoveNotBegun MoveStep = "not begun"
	MoveCopying  MoveStep = "copying" // the gate of the new shard is closed, so that nobody else writes the category there
	MoveClosed   MoveStep = "closed"  // all messages are copied, and the gates of both shards are closed
	MoveFlipped  MoveStep = "flipped" // the proxies use the new shard
	MoveDone     MoveStep = "done"    // the gate of the new shard is open

	moveLocked MoveStep = "locked" // for tests
	moveRest   MoveStep = "rest copied"
)

// A MoveState is what [Mover.State] has found.
type MoveState struct {
	Step MoveStep

	// From and To are the numbers of the shards.
	From, To int

	// Left is the number of messages of the category on the old shard that are not on the new one.
	Left int64

	flipped int // the number of proxies that use the new shard
}

// State returns how far the move is, and checks whether it is possible.
func (m *Mover) State(ctx context.Context) (MoveState, error) {
	s, err := m.start(ctx)
	if err != nil {
		return MoveState{}, err
	}
	defer s.end(ctx)
	if s.state.Step != MoveNotBegun && s.state.Step != MoveCopying {
		return s.state, nil
	}
	if err := s.tryFlip(ctx); err != nil {
		return MoveState{}, m.explain(err)
	}
	last, err := lastOf(ctx, m.To, m.Category)
	if err == nil && s.state.Step == MoveNotBegun {
		last = 0
	}
	if err == nil {
		err = m.From.QueryRow(ctx, `SELECT count(*) FROM (SELECT`+ofCategory+`) AS m`, string(m.Category), last).Scan(&s.state.Left)
	}
	if err != nil {
		return MoveState{}, m.explain(err)
	}
	return s.state, nil
}

var errThere = errors.New("the new shard has messages of the category; if it was moved away from there, delete them with the option -delete-old of that move")

// numbers returns the numbers of the shards.
func (m *Mover) numbers(ctx context.Context) (s MoveState, err error) {
	from, err := schema.ShardStatus(ctx, m.From)
	if err != nil {
		return s, err
	}
	to, err := schema.ShardStatus(ctx, m.To)
	if err != nil {
		return s, err
	}
	switch {
	case !from.Installed:
		return s, errors.New("the old store is not a shard, run mdb install -shard there")
	case !to.Installed:
		return s, errors.New("the new store is not a shard, run mdb install -shard there")
	case from.Number == to.Number:
		return s, fmt.Errorf("both stores are shard %d", from.Number)
	}
	return MoveState{From: from.Number, To: to.Number}, nil
}

// look finds out how far the move is.
func (m *Mover) look(ctx context.Context, s *MoveState) error {
	for _, proxy := range m.Proxies {
		var placed int
		if err := proxy.QueryRow(ctx, `SELECT message_store_proxy.shard_of($1::varchar)`, string(m.Category)).Scan(&placed); err != nil {
			return fmt.Errorf("ask the proxy for the shard: %w", err)
		}
		switch placed {
		case s.To:
			s.flipped++
		case s.From:
		default:
			return fmt.Errorf("on the proxy, the category is on shard %d, and not on shard %d", placed, s.From)
		}
	}
	left, err := gate.Status(ctx, m.From, string(m.Category))
	if err != nil {
		return err
	}
	arrives, err := gate.Status(ctx, m.To, string(m.Category))
	if err != nil {
		return err
	}
	there, err := lastOf(ctx, m.To, m.Category)
	if err != nil {
		return err
	}
	s.Step, err = s.step(left, arrives, len(m.Proxies), there > 0)
	return err
}

// step derives the step from the gates, the proxies, and whether the new shard has messages of the category.
func (s *MoveState) step(from, to gate.Closing, proxies int, there bool) (MoveStep, error) {
	begun := to.Closed && to.Arrives
	closed := from.Closed && !from.Arrives && from.Shard == s.To
	switch {
	case begun && to.Shard != s.From:
		return "", fmt.Errorf("a move of the category from shard %d to shard %d has begun", to.Shard, s.To)
	case from.Closed && from.Arrives:
		return "", fmt.Errorf("a move of the category from shard %d to shard %d has begun", from.Shard, s.From)
	case from.Closed && !closed && s.flipped == proxies && !to.Closed: // by way of another shard
		return MoveDone, nil
	case from.Closed && !closed:
		return "", fmt.Errorf("the category was moved from shard %d to shard %d", s.From, from.Shard)
	case begun && closed && s.flipped == proxies:
		return MoveFlipped, nil
	case begun && closed:
		return MoveClosed, nil
	case begun && s.flipped > 0:
		return "", fmt.Errorf("a proxy uses shard %d, although shard %d is not closed: somebody has changed its table message_store_proxy.placement", s.To, s.From)
	case begun:
		return MoveCopying, nil
	case closed && s.flipped == proxies:
		return MoveDone, nil
	case closed:
		return "", fmt.Errorf("the category was moved, and a proxy uses shard %d: somebody has changed its table message_store_proxy.placement", s.From)
	case s.flipped > 0:
		return "", fmt.Errorf("on the proxy, the category is on shard %d already", s.To)
	case there:
		return "", errThere
	}
	return MoveNotBegun, nil
}

// Abort undoes a move: the old shard accepts messages again, and those that were copied are deleted. It fails if a proxy uses the
// new shard already; then move the category back. If it is interrupted, the same call continues.
func (m *Mover) Abort(ctx context.Context) (deleted int64, err error) {
	s, err := m.start(ctx)
	if err != nil {
		return 0, err
	}
	defer s.end(ctx)
	switch {
	case s.state.Step == MoveNotBegun:
		return 0, m.explain(errors.New("it has not begun, so there is nothing to abort"))
	case s.state.flipped > 0:
		return 0, m.explain(errors.New("a proxy uses the new shard already: finish the move, and then move the category back"))
	}
	category := string(m.Category)
	if s.state.Step == MoveClosed {
		err = inTx(ctx, m.From, func(tx pgx.Tx) error { return gate.Open(ctx, tx, category) })
	}
	if err == nil {
		err = s.passed(MoveClosed)
	}
	if err == nil {
		deleted, err = m.removeAll(ctx, m.To)
	}
	if err == nil {
		err = s.passed(MoveCopying)
	}
	if err == nil {
		err = inTx(ctx, m.To, func(tx pgx.Tx) error { return gate.Undo(ctx, tx, category, s.state.From) })
	}
	if err == nil {
		err = errors.Join(removeGate(ctx, m.To), removeGate(ctx, m.From))
	}
	if err != nil {
		return deleted, m.explain(err)
	}
	return deleted, nil
}

// DeleteOld deletes the messages of a category that was moved from the old shard, and returns their number. Subscriptions to all categories of
// the old shard must have received them. It waits for transactions on the proxies that have begun before the proxies
// were changed, because these may still read from the old shard.
func (m *Mover) DeleteOld(ctx context.Context) (int64, error) {
	s, err := m.start(ctx)
	if err != nil {
		return 0, err
	}
	defer s.end(ctx)
	if s.state.Step != MoveDone {
		return 0, m.explain(fmt.Errorf("the move is not done, but %s", s.state.Step))
	}
	deleted := int64(0)
	for _, proxy := range m.Proxies {
		if err = awaitTransactions(ctx, proxy); err != nil {
			return 0, m.explain(err)
		}
	}
	if deleted, err = m.removeAll(ctx, m.From); err != nil {
		return deleted, m.explain(err)
	}
	return deleted, nil
}

// awaitTransactions waits until the transactions of other sessions of the database have ended that are open now.
func awaitTransactions(ctx context.Context, pool *pgxpool.Pool) error {
	const open = `SELECT coalesce(array_agg(l.virtualxid), '{}') FROM pg_catalog.pg_locks AS l
JOIN pg_catalog.pg_stat_activity AS a ON a.pid = l.pid
WHERE l.locktype = 'virtualxid' AND l.granted AND a.datname = pg_catalog.current_database() AND l.pid <> pg_catalog.pg_backend_pid()
	AND ($1::text[] IS NULL OR l.virtualxid = ANY ($1::text[]))`
	var left []string
	for attempt := 1; ; attempt++ {
		if err := pool.QueryRow(ctx, open, left).Scan(&left); err != nil || len(left) == 0 {
			return err
		}
		if err := awaiting.Wait(ctx, attempt); err != nil {
			return err
		}
	}
}

var awaiting = backoff.Policy{Min: time.Millisecond, Max: 100 * time.Millisecond}
