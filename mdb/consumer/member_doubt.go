package consumer

import "time"

// suspect records that what the server has confirmed may be lost.
func (m *member) suspect(why error) {
	if m.doubt == nil {
		m.doubt = why
		m.doubtful.Store(true)
	}
}

// trust ends the doubt.
func (m *member) trust() {
	m.doubt = nil
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

// fenced is where a partition was when the fence has rejected something of it, and how often it
// was there before.
type fenced struct {
	epoch, position int64
	again           int
}

// fence stops partitions of which the fence has rejected something, until their rows are read. It was right
// if a row has changed. The second time that it has not, the row is not what was compared.
func (m *member) fence(ps []partition) {
	stored := m.engine.checkpoints()
	at := time.Now()
	for _, p := range ps {
		row, ok := m.held[p]
		if !ok {
			continue
		}
		f := fenced{epoch: row.Epoch, position: max(row.Position, stored[p])}
		if last := m.fences[p]; last.epoch == f.epoch && last.position == f.position {
			f.again = last.again + 1
		}
		m.fences[p] = f
		if f.again > 1 {
			m.astray = true
			at = time.Now().Add(fenceRetry.Delay(f.again - 1))
		}
	}
	m.lose(ps)
	if m.balanceAt.IsZero() || at.Before(m.balanceAt) {
		m.balanceAt = at
	}
}
