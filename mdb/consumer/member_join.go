package consumer

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// enter joins the consumer as a new member. If there is no answer, the next call has the same ID, so that no member remains
// which is not this process.
func (m *member) enter(ctx context.Context) error {
	old := m.self.Load()
	if m.next == uuid.Nil {
		m.next = uuid.New()
	}
	id := m.next
	var joined ledger.Joined
	var targets, ends []int64
	sent := m.now()
	m.trust()
	m.session, m.timeline = 0, ""
	err := m.send(ctx, func(ctx context.Context, p protocol) error {
		version, err := p.version(ctx)
		if err != nil {
			return err
		}
		if version < schema.ConsumersVersion {
			return &oldSchemaError{version}
		}
		var former int64
		if old != nil {
			if former, err = m.find(ctx, p, *old); err != nil {
				return err
			}
		}
		params := m.join
		params.Member, params.Former = id, former
		isLost := old != nil && former == 0
		if isLost {
			params.Since = m.joined
		}
		switch {
		case m.fixed || old == nil:
		case isLost:
			params.Partitions = m.partitions // the process may have to create the consumer as it was
		default:
			params.Partitions = 0 // the number may have been changed
		}
		if m.toEnd && m.targets == nil {
			if targets, err = p.ends(ctx, params.Categories); err != nil {
				return err
			}
		}
		if m.join.Start == nil {
			if ends, err = p.ends(ctx, params.Categories); err != nil {
				return err
			}
		}
		if joined, err = m.restart(ctx, p, params, ends); isLost && !m.fixed && codeOf(err) == ledger.Partitions {
			params.Partitions = 0 // it is not lost, but had another number of partitions
			joined, err = m.restart(ctx, p, params, ends)
		}
		return err
	})
	if err != nil {
		return err
	}
	if targets != nil {
		m.targets = targets
	}
	m.begins(ends)
	if old == nil {
		m.partitions, m.layout = joined.Partitions, joined.Layout
	}
	m.rejoined = old != nil
	m.self.Store(&ledger.Member{Consumer: joined.Consumer, ID: id, Instance: m.join.Instance, Partitions: joined.Partitions, Layout: joined.Layout})
	m.next, m.joined = uuid.Nil, joined.At
	m.lease.renew(sent)
	m.see(joined.Timeline)
	m.counts.joins.Add(1)
	now := time.Now()
	m.evicted, m.lapsed, m.ticked, m.failures = false, false, true, 0
	m.changes, m.balanceAt = joined.Changes, now
	m.lastBeat, m.nextTick = now, now.Add(m.interval())
	return nil
}

// begins lowers where the process has first seen the categories' checkpoints to positions that are before it.
func (m *member) begins(positions []int64) {
	for i, position := range positions {
		category := m.join.Categories[i]
		if from, ok := m.begun[category]; !ok || position < from {
			m.begun[category] = position
		}
	}
}

// restart joins after it has created the checkpoints that are missing.
// A consumer that begins at the end may be lost by a failover or a restore: then it begins
// where this process has first seen it, because what was written since may not be handled. If the store now
// ends before that, it begins at the categories' ends.
func (m *member) restart(ctx context.Context, p protocol, params ledger.JoinParams, ends []int64) (ledger.Joined, error) {
	if params.Start != nil || len(m.begun) < len(params.Categories) {
		return p.join(ctx, params)
	}
	m.begins(ends)
	last := len(params.Categories) - 1
	for _, category := range params.Categories[:last] {
		one, from := params, m.begun[category]
		one.Member, one.Instance, one.Categories, one.Start = uuid.New(), "", []string{category}, &from
		joined, err := p.join(ctx, one)
		if err != nil {
			return ledger.Joined{}, err
		}
		if err := p.leave(ctx, ledger.Member{Consumer: joined.Consumer, ID: one.Member}, nil); err != nil {
			return ledger.Joined{}, err
		}
	}
	from := m.begun[params.Categories[last]]
	params.Start = &from
	return p.join(ctx, params)
}

// rejoin joins again after the member was deleted.
func (m *member) rejoin(ctx context.Context) {
	switch err := m.enter(ctx); {
	case err == nil:
		m.resize(ctx, m.self.Load().Partitions, m.self.Load().Layout)
	case errors.Is(err, ErrDeleted):
		m.left = true
		m.stop(ErrDeleted, ErrDeleted)
	case codeOf(err) == ledger.Gone: // a newer process has the instance
		m.left = true
		m.stop(ErrReplaced, ErrReplaced)
	case codeOf(err) == ledger.Partitions:
		err = m.fatal(err)
		m.stop(err, err)
	default:
		m.fails(err)
		if m.failures == 1 {
			m.logger.Warn("a consumer could not join again, and retries", m.attrs("error", err)...)
		}
		m.nextTick = time.Now().Add(joinRetry.Delay(m.failures))
	}
}
