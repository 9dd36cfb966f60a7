package consumer

import (
	"context"
	"slices"
	"time"

	"github.com/messagedb-go/messagedb/internal/ledger"
)

// suspect records that what the server has confirmed may be lost.
func (m *member) suspect(why error) {
	if m.doubt == nil {
		m.doubt = why
		m.doubtful.Store(true)
	}
}

// see compares the timeline of a tick with the one before.
func (m *member) see(timeline string) {
	m.answered = m.session
	if timeline != m.timeline {
		if m.timeline != "" {
			m.suspect(errReread)
			m.diverged = true
			m.reconnect(false)
		}
		m.timeline = timeline
	}
	m.past = timeline
}

// trust ends the doubt.
func (m *member) trust() {
	m.doubt, m.diverged = nil, false
	m.doubtful.Store(false)
}

// mayBegin returns nil, or why no handler may be called. It may be called by any goroutine.
func (m *member) mayBegin() error {
	if err := m.lease.mayBegin(); err != nil {
		return err
	}
	if m.doubtful.Load() {
		return errReread
	}
	return nil
}

// fenced is where a partition was when the fence has rejected something of it, how often it
// was there before, and how long it waits.
type fenced struct {
	position int64
	again    int
	until    time.Time
}

// fence stops partitions of which the fence has rejected something, until their rows are read. It was right
// if a row has changed. If it rejects something at the same position again and again, the row is not what was compared, and the partition waits.
func (m *member) fence(ps []partition) {
	stored := m.engine.checkpoints()
	for _, p := range ps {
		row, ok := m.held[p]
		if !ok {
			m.balanceBy(time.Now())
			continue
		}
		f := fenced{position: max(row.Position, stored[p])}
		if last, ok := m.fences[p]; ok && last.position == f.position {
			f.again = last.again + 1
		}
		if f.again > 1 {
			m.astray = true
			f.until = time.Now().Add(fenceRetry.Delay(f.again - 1))
		}
		m.fences[p] = f
		m.balanceBy(f.until)
	}
	m.lose(ps)
}

// reread stops partitions until their rows are read.
func (m *member) reread(ps []partition) {
	if len(ps) > 0 {
		m.lose(ps)
		m.balanceBy(time.Now())
	}
}

// waits returns until when a partition waits whose checkpoint is still where it was when the fence has rejected a
// move of it, or the zero time.
func (m *member) waits(row ledger.Row) time.Time {
	if f := m.fences[row.Partition]; f.position == row.Position && time.Now().Before(f.until) {
		return f.until
	}
	return time.Time{}
}

// balanceBy lets the rows be read at the given time, at the latest.
func (m *member) balanceBy(at time.Time) {
	if now := time.Now(); at.Before(now) {
		at = now
	}
	if m.balanceAt.IsZero() || at.Before(m.balanceAt) {
		m.balanceAt = at
	}
}

// look ends the doubt of a member that stops, and so claims nothing. What is in memory of a partition stays only if the history
// of the server is the same, and its checkpoint and what is parked are as the member knows them.
func (m *member) look(ctx context.Context) {
	session, known, parked := m.session, m.engine.checkpoints(), m.engine.parked()
	if session != m.answered {
		m.nextTick = time.Now() // it says which timeline this is
		return
	}
	var held ledger.Held
	err := m.send(ctx, func(ctx context.Context, p protocol) (err error) {
		held, err = p.read(ctx, *m.self.Load())
		return err
	})
	if err != nil {
		m.tickSoon(err)
		return
	}
	if m.session != session {
		m.nextTick = time.Now()
		return
	}
	rows := make(map[partition]ledger.Row, len(held.Rows))
	for _, row := range held.Rows {
		rows[row.Partition] = row
	}
	stored := make(map[ledger.Parked]bool, len(held.Parked))
	for _, row := range held.Parked {
		stored[ledger.Parked{Partition: row.Partition, Key: row.Key, Stream: row.Stream, Position: row.Position}] = true
	}
	var lost []partition
	for p, was := range m.held {
		position := max(was.Position, known[p])
		if mv, ok := m.drained[p]; ok {
			position = mv.From
		}
		row, ok := rows[p]
		if !ok || m.diverged || row.Epoch != was.Epoch || row.Position != position ||
			slices.ContainsFunc(parked[p], func(row ledger.Parked) bool { return !stored[row] }) {
			lost = append(lost, p)
		}
	}
	for _, p := range lost {
		delete(m.leaving, p.Number) // its handlers may be running
	}
	m.lose(lost)
	m.engine.drop(lost, m.doubt)
	m.trust()
	m.engine.stored(nil)
}
