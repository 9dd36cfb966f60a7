package consumer

import (
	"errors"
	"sync/atomic"
	"time"
)

// ErrLeaseLost is the context.Cause of a handler's context that has ended because the process
// could not renew its lease in time, or has lost the message's partition. Another process may
// already handle the message. The handler should return soon; what it returns does not count as
// a failure. Run does not end: it joins the consumer again.
var ErrLeaseLost = errors.New("consumer: the lease was lost")

// An instant is a moment by two clocks.
type instant struct {
	mono time.Duration // stands still while the machine is suspended
	wall time.Time     // can be set
}

// A clock returns the current instant.
type clock func() instant

// newClock returns the clock of the machine.
func newClock() clock {
	begun := time.Now()
	return func() instant {
		now := time.Now()
		return instant{now.Sub(begun), now.Round(0)}
	}
}

// since returns how long ago an instant was, by the clock that says more: one stands still in
// a machine that is suspended, and the other can be set back.
func (now instant) since(i instant) time.Duration {
	return max(now.mono-i.mono, now.wall.Sub(i.wall))
}

// A lease is how long handlers may be called. The server counts from when it has received a
// tick, so this process counts from before it has sent it, and stops a fifth of the lease
// earlier, in case that its clock is slower. It is safe for concurrent use.
type lease struct {
	length time.Duration
	now    clock
	sent   atomic.Pointer[instant] // of the last tick with an answer; nil: there is no lease
}

// renew extends the lease, after an answer to a tick that was sent then.
func (l *lease) renew(sent instant) { l.sent.Store(&sent) }

// end ends the lease until it is renewed.
func (l *lease) end() { l.sent.Store(nil) }

// left returns how long handlers may still be called, which may be negative.
func (l *lease) left() time.Duration {
	sent := l.sent.Load()
	if sent == nil {
		return 0
	}
	return l.length*4/5 - l.now().since(*sent)
}

// mayBegin returns nil, or why no handler may be called.
func (l *lease) mayBegin() error {
	if l.left() <= 0 {
		return ErrLeaseLost
	}
	return nil
}
