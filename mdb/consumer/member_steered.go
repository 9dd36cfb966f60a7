package consumer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/mdb"
)

// ErrDeleted is returned by Run if somebody has deleted the consumer while it was running. The next Run of a consumer with this
// name creates a new one, which begins like any new consumer.
var ErrDeleted = errors.New("consumer: the consumer was deleted")

var errResized = errors.New("consumer: the number of partitions was changed")

// obey lets handlers be called, and messages be read, only as far as operators have allowed it.
func (m *member) obey(barrier *int64, paused bool) {
	if paused != m.paused {
		message := "a consumer was resumed"
		if paused {
			message = "a consumer was paused: no handler is called until somebody resumes it"
		}
		m.logger.Info(message, m.attrs()...)
	}
	m.barrier, m.paused = barrier, paused
	m.counts.paused.Store(paused)
	for _, r := range m.reads {
		r.limit(barrier, paused)
	}
	m.engine.limit(barrier, paused)
}

// rename is called with the consumer's name as ticks say it.
func (m *member) rename(name string) {
	if old := m.join.Name; name != old {
		m.join.Name = name
		m.name.Store(&name)
		m.logger.Info("a consumer was renamed, and continues", m.attrs("before", old)...)
	}
}

// isDeleted reports whether somebody has deleted the consumer, as a tick of a member says that does not exist. If history is another one,
// the consumer may be lost instead, and this process has to create it again.
func (m *member) isDeleted(t ledger.Tick) bool { return t.Name == "" && t.Timeline == m.past }

// find looks up the consumer of a former member before it joins again, because it may have another name now, and another
// consumer may have the old one. It returns its ID, or 0 in another history, in which that may be the ID of another consumer.
func (m *member) find(ctx context.Context, p protocol, former ledger.Member) (consumer int64, err error) {
	t, err := p.beat(ctx, former, "", nil)
	switch {
	case err != nil:
		return 0, err
	case m.isDeleted(t):
		return 0, ErrDeleted
	case t.Timeline != m.past:
		return 0, nil
	}
	m.rename(t.Name)
	return former.Consumer, nil
}

// resize is called with the number of partitions that the consumer has, and their layout. If one of them is another one, the messages of a key are in
// another partition now. So nothing is claimed until the handlers have returned that were called before. If the layout is another one, no other
// process claims anything before either: the next balance confirms that they have.
func (m *member) resize(ctx context.Context, partitions int, layout int64) {
	if partitions == m.partitions && layout == m.layout {
		return
	}
	m.logger.Info("the number of partitions of a consumer was changed: it reads its checkpoints again",
		m.attrs("before", m.partitions, "partitions", partitions)...)
	m.forget(errResized)
	clear(m.before)
	clear(m.fences)
	m.partitions, m.layout = partitions, layout
	self := *m.self.Load()
	self.Partitions, self.Layout = partitions, layout
	m.self.Store(&self)
	m.resizing, m.remindAt = m.engine.isBusy(), time.Now().Add(handlersEnd)
	switch {
	case m.stopping:
	case m.fixed:
		err := &mdb.SetupError{
			Problem: fmt.Sprintf("the consumer %q has %d partitions now, and InOrder needs one", m.join.Name, partitions),
			Remedy:  "give it one partition with the command mdb consumers resize, or with consumer.Admin, or leave the option InOrder out",
		}
		m.stop(err, err)
	default:
		m.startReaders(ctx)
		m.balanceBy(time.Now())
	}
}

// remind logs that the consumer waits for handlers, because all processes may wait for them.
func (m *member) remind() {
	if !m.resizing || m.remindAt.IsZero() || time.Now().Before(m.remindAt) {
		return
	}
	m.remindAt = time.Time{}
	m.logger.Warn("handlers of a consumer do not return although their contexts have ended: no process continues before, because the number of partitions was changed", m.attrs()...)
}
