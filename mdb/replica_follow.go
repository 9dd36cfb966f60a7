package mdb

import (
	"context"
	"time"

	"github.com/messagedb-go/messagedb/internal/backoff"
)

// duePatience is how long a subscription waits until the replica has the messages that it was woken for.
const duePatience = time.Second

// restRetry says for how long a subscription uses the primary to which the replica owes messages.
var restRetry = backoff.Policy{Min: 100 * time.Millisecond, Max: 10 * time.Second}

// A replicaReader reads the pages of a source from the replica, or from the primary where the replica cannot
// serve them. It belongs to the goroutine of the source.
//
// The replica shows that something is missing only by having other messages, and a loss is a loss only if the primary says so.
// So a page whose anchor is not there is read on the primary, whatever the reason is: lag, a replica
// of an old primary, or a real loss. What the primary answers is final, after [Store.awaitWriters].
type replicaReader struct {
	replica *replica
	source  *messageSource
	read    pageRead

	pinned bool  // the page is read on the primary
	woken  bool  // by a notification, after which the primary was not asked
	due    int64 // the replica must have it before the subscription sleeps, see nothingDue
	rests  int   // in a row
	until  time.Time
}

// nothingDue is before all positions.
const nothingDue = -2

// followReplica returns the page function of a source that reads from the replica.
func (s *Store) followReplica(src *messageSource, r pageRead) func(context.Context, question) (answer, error) {
	r.follows = true
	f := &replicaReader{replica: s.replica, source: src, read: r, due: nothingDue}
	return f.page
}

func (f *replicaReader) page(ctx context.Context, q question) (answer, error) {
	if q.first {
		f.pinned = false
	}
	if f.source.woken {
		f.source.woken, f.woken = false, true
	}
	// A replica of an old primary has what is before a loss, too, and what was lost. It lacks what follows on the primary.
	split := q.from.Position <= f.source.split
	if !f.pinned && !split && !time.Now().Before(f.until) && f.replica.serving(ctx) && f.ask(ctx) {
		if a, ok, err := f.fromReplica(ctx, q); ok {
			return a, err
		}
	}
	return f.fromPrimary(ctx, q)
}

// ask asks the primary up to where it has messages, after a notification. If it cannot be reached, it is asked
// before the next page. It reports whether to read on the replica.
func (f *replicaReader) ask(ctx context.Context) bool {
	if !f.woken {
		return true
	}
	primary := f.replica.primary
	head := f.read.noAnchor().Position
	var err error
	switch {
	case f.read.isStream:
		err = primary.run(ctx, primary.versionStatement(), number(&head), f.read.name)
	case primary.headless.Load():
		return false
	default:
		err = primary.run(ctx, directCategoryHead, number(&head), f.read.name)
	}
	switch {
	case err == nil:
		f.due, f.woken = max(f.due, head), false
		return true
	case isOutage(ctx, err):
		return true
	}
	return false
}

// fromReplica takes a step on the replica, and repeats it until the messages that are due are there. ok is false
// if the page is to be read on the primary.
func (f *replicaReader) fromReplica(ctx context.Context, q question) (a answer, ok bool, err error) {
	var begun time.Time
	for attempt := 1; ; attempt++ {
		a, err = f.replica.store.takeStep(ctx, &f.read, q)
		switch {
		case f.replica.elsewhere(ctx, err):
			if isMissing(err) {
				f.rest()
			}
			return a, false, err
		case err != nil:
			return a, true, err
		case f.due <= f.upto(&a, q):
			f.due, f.rests = nothingDue, 0
			return a, true, nil
		case a.more || int64(len(a.messages)) == q.most:
			return a, true, nil
		case len(a.messages) > 0:
			a.more = true // the handler need not wait for the others
			return a, true, nil
		case attempt == 1:
			begun = time.Now()
		case time.Since(begun) > f.replica.patience:
			f.rest()
			return a, false, nil
		}
		if err := catchUp.Wait(ctx, attempt); err != nil {
			return a, true, err
		}
	}
}

// upto returns the position up to which the page has everything.
func (f *replicaReader) upto(a *answer, q question) int64 {
	position := q.from.Position
	if n := len(a.messages); n > 0 {
		position = f.source.position(&a.messages[n-1])
	}
	return max(position, a.head.Position)
}

// rest makes the subscription use the primary for a while.
func (f *replicaReader) rest() {
	f.rests++
	f.until = time.Now().Add(restRetry.Delay(f.rests))
}

// fromPrimary takes a step on the primary. If it continues a page of the replica, it begins the page again.
func (f *replicaReader) fromPrimary(ctx context.Context, q question) (answer, error) {
	f.replica.fallbacks.Add(1)
	q.first = q.first || !f.pinned
	f.pinned = true
	a, err := f.replica.primary.takeStep(ctx, &f.read, q)
	if err == nil {
		f.woken, f.due = false, nothingDue
	}
	return a, err
}
