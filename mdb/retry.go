package mdb

import (
	"cmp"
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/messagedb-go/messagedb/internal/backoff"
)

// A RetryPolicy configures how failed writes and transactions are retried: for a time if the
// server cannot be reached, and a number of times if another transaction is in the way. Fields
// that are zero have their defaults. The end of the call's context ends all retries.
type RetryPolicy struct {
	// For is how long a call is retried if the server cannot be reached or is read-only, as
	// during a restart or a failover: after a failure to connect, a lost connection, and
	// SQLSTATE 25006. The time begins with the first such failure of the call, and includes
	// later waits for a connection. If the call was not sent in any attempt, its error then
	// wraps [ErrUnavailable]. Choose less than the deadlines of your contexts, or their end
	// comes first. A negative value turns these retries off. The default is
	// [DefaultRetryFor].
	For time.Duration
	// Attempts is the maximum number of attempts, including the first, that fail because
	// another transaction was in the way: a serialization failure, a deadlock or a lock
	// timeout. 1 turns these retries off. The default is [DefaultRetryAttempts].
	Attempts int
	// MinDelay is the delay before the second attempt. Each further delay is twice as
	// long, up to MaxDelay, and all vary at random by up to a half. A delay after a failure
	// to connect or a lost connection ends early if another call of the Store succeeds.
	// The defaults are [DefaultRetryMinDelay] and [DefaultRetryMaxDelay].
	MinDelay, MaxDelay time.Duration
}

// The defaults of a [RetryPolicy].
const (
	// DefaultRetryFor is the default of For.
	DefaultRetryFor = time.Minute
	// DefaultRetryAttempts is the default of Attempts.
	DefaultRetryAttempts = 8
	// DefaultRetryMinDelay is the default of MinDelay.
	DefaultRetryMinDelay = 10 * time.Millisecond
	// DefaultRetryMaxDelay is the default of MaxDelay, unless MinDelay is longer.
	DefaultRetryMaxDelay = time.Second
)

func (p RetryPolicy) check(f *argumentFaults) {
	if p.Attempts < 0 {
		f.add("retry attempts", strconv.Itoa(p.Attempts), "at least 1, or 0 for the default")
	}
	if p.MinDelay < 0 {
		f.add("minimum retry delay", p.MinDelay.String(), "a positive duration, or 0 for the default")
	}
	if p.MaxDelay < 0 {
		f.add("maximum retry delay", p.MaxDelay.String(), "a positive duration, or 0 for the default")
	}
}

func (p RetryPolicy) withDefaults() RetryPolicy {
	p.For = cmp.Or(p.For, DefaultRetryFor)
	if p.Attempts == 0 {
		p.Attempts = DefaultRetryAttempts
	}
	if p.MinDelay == 0 {
		p.MinDelay = DefaultRetryMinDelay
	}
	if p.MaxDelay == 0 {
		p.MaxDelay = max(DefaultRetryMaxDelay, p.MinDelay)
	}
	return p
}

func (p RetryPolicy) backoff() backoff.Policy {
	return backoff.Policy{Min: p.MinDelay, Max: p.MaxDelay}
}

// retries are the retries of one write or transaction.
type retries struct {
	refused int     // attempts whose number is limited
	last    limit   // of the last attempt
	outage  *outage // nil: the server could be reached
	place   *place  // at the gate, which the writes of a call share; nil: none yet
}

// An outage is what one write or transaction has met since the server could not be reached,
// or was read-only.
type outage struct {
	begun, deadline time.Time
	failures        int
	err             error // the last failure
	noted           bool  // whether the gate is closed after such a failure
	woken           bool  // whether a success of another call has ended the last delay
}

// errOutOfTime is the error of a wait that ends with the time for retries.
var errOutOfTime = errors.New("the time for retries has passed")

// begin waits if the gate is closed. After an error the call must end.
func (r *retries) begin(ctx context.Context, p RetryPolicy, g *gate) error {
	o := r.approach(p, g)
	if o == nil {
		return nil
	}
	_, err := r.at(g).enter(ctx, o.deadline)
	return err
}

// approach returns nil if the gate is open. Otherwise it begins the time for retries, because
// of the failure that has closed the gate.
func (r *retries) approach(p RetryPolicy, g *gate) *outage {
	if !g.closed.Load() || p.For < 0 {
		return nil
	}
	if err := g.lastFailure(); err != nil { // it has not opened since
		return r.meet(p, err)
	}
	return nil
}

// at returns the place of the call at the gate.
func (r *retries) at(g *gate) *place {
	if r.place == nil {
		r.place = &place{gate: g}
	}
	return r.place
}

// leave lets another call have the place.
func (r *retries) leave() {
	if r.place != nil {
		r.place.leave()
	}
}

// meet begins the time for retries, if it has not begun, because of err.
func (r *retries) meet(p RetryPolicy, err error) *outage {
	if r.outage == nil {
		now := time.Now()
		r.outage = &outage{begun: now, deadline: now.Add(p.For)}
	}
	r.last = byTime
	if !errors.Is(err, errOutOfTime) || r.outage.err == nil {
		r.outage.err = err
	}
	return r.outage
}

// allow records that an attempt with ctx has failed with err, and reports whether another
// attempt is allowed.
func (r *retries) allow(ctx context.Context, p RetryPolicy, l limit, err error) bool {
	switch r.last = l; l {
	case byAttempts:
		r.refused++
		return r.refused < p.Attempts
	case byTime:
		o := r.meet(p, err)
		o.failures++
		o.noted = isOutage(ctx, err)
		return time.Now().Before(o.deadline)
	}
	return false
}

// wait waits before the next attempt. It returns the error of ctx, or errOutOfTime.
func (r *retries) wait(ctx context.Context, p RetryPolicy, g *gate) error {
	o := r.outage
	if r.last == byAttempts {
		return p.backoff().Wait(ctx, r.refused)
	}
	waited, err := r.at(g).enter(ctx, o.deadline)
	if err != nil || waited {
		o.woken = true
		return err
	}
	delay := min(p.backoff().Delay(o.failures), time.Until(o.deadline))
	o.woken, err = g.rest(ctx, delay, o.noted && !o.woken)
	if err == nil && !time.Now().Before(o.deadline) {
		return errOutOfTime
	}
	return err
}

// ended returns err, the error of the last attempt of a call with ctx. If the call has ended
// because the time for retries has passed, that says so.
func (r *retries) ended(ctx context.Context, err error) error {
	o := r.outage
	if o == nil || r.last != byTime || ctx.Err() != nil || time.Now().Before(o.deadline) {
		return contextError(ctx, err)
	}
	if classify(o.err) == classMoved {
		return scrub(o.err)
	}
	unavailable := &unavailableError{after: time.Since(o.begun), err: scrub(o.err)}
	if classify(o.err) != classReadOnly {
		return unavailable
	}
	return &SetupError{
		Problem: "the server is a standby or read-only" + unavailable.during() + " (" + unavailable.err.Error() + ")",
		Remedy:  "connect to the primary, for example with target_session_attrs=read-write",
		err:     unavailable,
	}
}

// An unavailableError is the error of a call that ended because its time for retries has
// passed.
type unavailableError struct {
	after time.Duration
	err   error // the last failure
}

func (e *unavailableError) during() string {
	if e.after < time.Millisecond { // retries are off
		return ""
	}
	return ", after retries for " + e.after.Round(time.Millisecond).String()
}

func (e *unavailableError) Error() string {
	return "the server cannot be reached" + e.during() + ": " + e.err.Error()
}

func (e *unavailableError) Unwrap() []error { return []error{ErrUnavailable, e.err} }
