package consumer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/backoff"
	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/mdb"
)

// maxReason is the length of the longest reason of a pause, in bytes.
const maxReason = 1000

// Pause stops the consumer in all processes until [Operator.Resume], also over restarts: no handler is called. Calls that are
// running finish, and their progress is stored. The processes keep their partitions. reason is for other operators, and may be
// empty; it has at most 1,000 bytes. A consumer that is paused already gets the new reason.
//
// Pause returns before the processes have noticed the pause, see [Operator]. Until then, they call handlers.
func (o *Operator) Pause(ctx context.Context, consumer, reason string) error {
	c := options(consumer, nil)
	if reason != "" {
		c.text("reason", reason, "a text", maxReason)
	}
	return o.change(ctx, "pause "+consumer, consumer, c, func(tx pgx.Tx) error { return ledger.Pause(ctx, tx, consumer, &reason) })
}

// Resume ends a pause. It does nothing if the consumer is not paused.
func (o *Operator) Resume(ctx context.Context, consumer string) error {
	return o.change(ctx, "resume "+consumer, consumer, options(consumer, nil), func(tx pgx.Tx) error {
		return ledger.Pause(ctx, tx, consumer, nil)
	})
}

// A Target is where [Operator.Seek] moves a consumer.
type Target struct {
	given    bool
	position *int64
	at       time.Time
	fault    *mdb.Fault
}

// ToBeginning lets a consumer handle all messages again.
func ToBeginning() Target { return ToPosition(0) }

// ToEnd lets a consumer skip all messages that exist.
func ToEnd() Target { return Target{given: true} }

// ToPosition lets a consumer continue after a global position, which the store must have used.
func ToPosition(position int64) Target {
	t := Target{given: true, position: &position}
	if position < 0 {
		t.fault = &mdb.Fault{Argument: "position", Given: strconv.FormatInt(position, 10), Allowed: "0 or more"}
	}
	return t
}

// The range of times that PostgreSQL can store, also after a subtraction of any LongestWrite, is larger.
var (
	firstTime = time.Date(1, time.January, 1, 0, 0, 0, 0, time.UTC)
	lastTime  = time.Date(10000, time.January, 1, 0, 0, 0, 0, time.UTC)
)

// ToTime lets a consumer continue with the messages that were written at a time or later. The time of a message is when its
// transaction has begun, so a message can be older than one before it. All messages of that time or later are handled, and some
// older ones can be, of the time of [LongestWrite] before it.
func ToTime(t time.Time) Target {
	to := Target{given: true, at: t}
	switch {
	case t.IsZero():
		to.fault = &mdb.Fault{Argument: "time", Given: "the zero time", Allowed: "a time"}
	case t.Before(firstTime) || !t.Before(lastTime):
		to.fault = &mdb.Fault{Argument: "time", Given: t.UTC().Format(time.RFC3339), Allowed: "a time of the years 1 to 9999"}
	}
	return to
}

// A Sought says what [Operator.Seek] has changed of a category.
type Sought struct {
	Category mdb.Category `json:"category"`
	// Position is the global position after which all partitions continue.
	Position int64 `json:"position"`
	// Lowest and Highest are the checkpoints of the partitions before.
	Lowest  int64 `json:"lowest"`
	Highest int64 `json:"highest"`
	// Unparked is the number of streams that were parked and are no more.
	Unparked int64 `json:"unparked"`
}

// Seek moves a consumer to a target, for example to rebuild a read model. It accepts [DryRun], [KeepParked], [InCategory],
// [LongestWrite] and [Within].
//
// Messages after a target before the consumer's progress are handled again, and messages up to a later one are never handled. A handler
// that is running ends: its context does, and the transaction in which it writes is rolled back.
//
// A stream that is parked because of a message after the target, or after the progress of its partition, is no longer parked, since
// that message is handled again or is skipped. With [KeepParked] it remains so. What remains parked is replayed from
// the target on, if it had been replayed further.
//
// After a target that is later than the progress, a stream that remains parked is replayed up to the target: messages of its cardinal ID
// are handled although the target skips them, unless the stream was parked with [ParkAlone]. To prevent that, [Operator.Skip]
// it after the Seek, with [AndWaiting].
func (o *Operator) Seek(ctx context.Context, consumer string, to Target, opts ...AdminOption) (changed []Sought, err error) {
	c := options(consumer, opts, dryRun, keepParked, inCategory, longestWrite, within)
	switch {
	case !to.given:
		c.fault("target", "a zero Target", "one that a function of this package has made")
	case to.fault != nil:
		c.faults = append(c.faults, *to.fault)
	}
	p := ledger.SeekParams{Categories: c.categories, Position: to.position, Time: to.at, Slack: c.slack, Keep: c.keep}
	err = o.change(ctx, "move "+consumer, consumer, c, func(tx pgx.Tx) error {
		return around(ctx, tx, consumer, c, func() error {
			found, err := o.seek(ctx, tx, consumer, p)
			changed = nil
			for _, s := range found {
				changed = append(changed, Sought{mdb.Category(s.Category), s.Position, s.Lowest, s.Highest, s.Unparked})
			}
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	return changed, nil
}

// Replay is [Consumer.Replay] for programs that do not run the consumer. It returns the number of streams that are going to be
// replayed.
func (o *Operator) Replay(ctx context.Context, consumer string, streams ...mdb.StreamName) (n int64, err error) {
	c := options(consumer, nil)
	var names []string // nil: all
	for _, s := range streams {
		c.text("streams", string(s), "names of streams", 0)
		names = append(names, string(s))
	}
	err = o.change(ctx, "replay "+consumer, consumer, c, func(tx pgx.Tx) (err error) {
		n, err = ledger.Replay(ctx, tx, consumer, names)
		return err
	})
	return n, err
}

// Skip skips the message at which a stream is parked, which is not handled then. The messages that wait for it are handled
// immediately, as by [Operator.Replay]. It accepts [AtPosition], [AndWaiting] and [DryRun]. The error is a [*ConflictError] if the stream is not
// parked.
//
// A message that was parked by [ParkAlone] can be skipped when the process has stored that it has passed it, for which Skip waits three seconds. The error
// is a ConflictError if it has not, for example because the consumer is paused before the message after a Seek with [KeepParked], or if no process
// runs. After the skip, the process reads the partition of the message again, as after [Operator.Seek].
func (o *Operator) Skip(ctx context.Context, consumer string, stream mdb.StreamName, opts ...AdminOption) error {
	c := options(consumer, opts, atPosition, andWaiting, dryRun)
	c.text("stream", string(stream), "the name of a stream", 0)
	var n int64
	err := o.change(ctx, "skip a message of "+consumer, consumer, c, func(tx pgx.Tx) (err error) {
		n, err = ledger.Skip(ctx, tx, consumer, string(stream), c.position, c.everything)
		return err
	})
	switch {
	case err != nil:
		return err
	case n == 0 && c.position != nil:
		return &ConflictError{consumer, fmt.Sprintf("stream %s is not parked at position %d", stream, *c.position)}
	case n == 0:
		return &ConflictError{consumer, fmt.Sprintf("stream %s is not parked", stream)}
	}
	return nil
}

// Fork creates a consumer of another name that continues where this one is, and has the same streams parked. Use it to build a
// new version of a read model from a copy of the old one. With [Within], the copy and the positions belong together: until the
// transaction ends, no transaction of a handler can commit. The error is a [*ConflictError] if there is a consumer of the other name.
func (o *Operator) Fork(ctx context.Context, consumer, fork string, opts ...AdminOption) error {
	c := options(consumer, opts, within, dryRun)
	c.text("other name", fork, "the name of a consumer", ledger.MaxName)
	return o.change(ctx, "fork "+consumer, consumer, c, func(tx pgx.Tx) error {
		if err := ledger.Fork(ctx, tx, consumer, fork); err != nil {
			return err
		}
		return around(ctx, tx, consumer, c, func() error { return nil }) // after the locks of the checkpoints
	})
}

// Rename gives a consumer another name. Stop the processes that run it, rename it, and start processes that use the new name. A process
// that starts with the old name creates a new consumer, which begins at its beginning.
//
// The error is a [*ConflictError] if processes are running the consumer, or if there is a consumer of the other name. With the option
// [Force], running processes are no reason for an error: they continue under the new name. Rename accepts [Force], [Within] and [DryRun].
//
// If processes have died without leaving, Rename waits until it has watched them for the time of their leases: after an outage, those that run
// look the same. If one comes back, the error is a [*ConflictError].
func (o *Operator) Rename(ctx context.Context, consumer, renamed string, opts ...AdminOption) error {
	c := options(consumer, opts, force, within, dryRun)
	c.text("other name", renamed, "the name of a consumer", ledger.MaxName)
	return o.guarded(ctx, "rename "+consumer, consumer, c, func(tx pgx.Tx, g ledger.Guard) error {
		return ledger.Rename(ctx, tx, consumer, renamed, g)
	})
}

// Delete deletes a consumer, its progress and what is parked. The error is a [*ConflictError] if processes are running it, unless there
// is the option [Force]. A process that starts it later creates it again. Delete accepts [Force], [Within] and [DryRun]. If processes have
// died without leaving, it waits as [Operator.Rename] does.
func (o *Operator) Delete(ctx context.Context, consumer string, opts ...AdminOption) error {
	c := options(consumer, opts, force, within, dryRun)
	return o.guarded(ctx, "delete "+consumer, consumer, c, func(tx pgx.Tx, g ledger.Guard) error { return ledger.Remove(ctx, tx, consumer, g) })
}

const (
	// barrierPatience is after which time without a sign of its operator a barrier ends.
	barrierPatience = 30 * time.Second
	cancelTimeout   = 5 * time.Second
)

var resizeRetry = backoff.Policy{Min: 50 * time.Millisecond, Max: 500 * time.Millisecond}

// Resize changes the number of partitions, 1 to 1,024, which limits how many processes and transactions can work in parallel. No
// message is left out, and each is handled by one process at a time.
//
// If the number is a multiple of the present one, it changes immediately. Calls of [Each] and [Batch] that are running are repeated, as
// when a lease is lost; to avoid that, pause the consumer first.
//
// For another number, all partitions must have handled the same messages. So Resize lets the processes stop after the message that the
// foremost partition has reached, and returns when the others have reached it, too, and the number has changed. The processes
// then continue, as soon as the calls have returned that are still running in any of them, whose contexts end. If ctx ends before, they
// continue without a change. If this process dies, they do so half a minute later.
// The error is a [*ConflictError] if no process runs the consumer, none reads one of its categories, or it is paused, and the partitions have
// not handled the same messages: nobody would handle them.
//
// If ctx ends or the connection is lost while the change is being committed, Resize looks whether it was, and returns nil then. If it cannot, the
// error says that this is not known.
//
// Processes with another number in [WithPartitions] continue, but do not start again. Change the option first, or leave it out.
func (o *Operator) Resize(ctx context.Context, consumer string, partitions int) error {
	c := options(consumer, nil)
	if partitions < 1 || partitions > maxPartitions {
		c.fault("partitions", strconv.Itoa(partitions), fmt.Sprintf("1 to %d", maxPartitions))
	}
	what := "resize " + consumer
	step := func(ctx context.Context, partitions int) (r resizing, err error) {
		err = o.change(ctx, what, consumer, c, func(tx pgx.Tx) (err error) {
			if r.Resized, err = ledger.Resize(ctx, tx, consumer, partitions, barrierPatience); err != nil {
				return err
			}
			found, err := ledger.Consumers(ctx, tx, &consumer)
			for i := range found {
				r.running, r.paused, r.partitions = found[i].Members, found[i].Paused != nil, found[i].Partitions
			}
			return err
		})
		return r, err
	}
	r := &resize{what, consumer, partitions, func(ctx context.Context) (resizing, error) { return step(ctx, partitions) }, func() (int, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cancelTimeout)
		defer cancel()
		r, err := step(ctx, 0) // otherwise the barrier ends by itself
		return r.partitions, err
	}}
	return r.run(ctx)
}

// A resizing says how far a resize is.
type resizing struct {
	ledger.Resized

	running    int // processes
	paused     bool
	partitions int
}

// conflict returns what keeps a resize from being done.
func (r *resizing) conflict() string {
	const uneven = "its partitions have handled different messages, and "
	switch {
	case r.running == 0:
		return uneven + "no process runs it: start one, or move it with Seek"
	case len(r.Unread) > 0:
		return uneven + fmt.Sprintf("no process reads the categories %v: move these with Seek", r.Unread)
	case r.paused && r.Waiting > 0:
		return uneven + "it is paused: resume it, or move it with Seek"
	}
	return ""
}

// A resize changes the number of partitions.
type resize struct {
	what, consumer string
	partitions     int
	step           func(context.Context) (resizing, error)
	undo           func() (partitions int, err error) // waits for a step whose outcome is not known
}

// run repeats the step until it is done. Otherwise it calls undo, if there may be a barrier.
func (r *resize) run(ctx context.Context) error {
	var last resizing
	for attempt := 1; ; attempt++ {
		next, err := r.step(ctx)
		switch {
		case err == nil && next.Done:
			return nil
		case err == nil:
			if problem := next.conflict(); problem != "" {
				_, _ = r.undo()
				return &ConflictError{r.consumer, problem}
			}
			if last = next; resizeRetry.Wait(ctx, attempt) == nil {
				continue
			}
		case ctx.Err() == nil && attempt == 1 && isChecked(err):
			return err
		}
		return r.ends(ctx, last, err)
	}
}

// ends removes the barrier, and returns the error after a step has failed, or after the last one if err is nil.
func (r *resize) ends(ctx context.Context, last resizing, err error) error {
	partitions, failed := r.undo()
	isUnknown := err != nil && !isChecked(err) && mayBeDone(err)
	switch {
	case isUnknown && failed == nil && partitions == r.partitions:
		return nil
	case isUnknown && failed != nil:
		return fmt.Errorf("consumer: %s: it is not known whether the number was changed: %w", r.what, cmp.Or(context.Cause(ctx), err))
	case ctx.Err() == nil:
		return err
	case last.Barrier == nil:
		return fmt.Errorf("consumer: %s: %w", r.what, context.Cause(ctx))
	}
	return fmt.Errorf("consumer: %s: %d checkpoints have not reached position %d, or a process has not confirmed that it stops there: %w",
		r.what, last.Waiting, *last.Barrier, context.Cause(ctx))
}

// isChecked reports whether an error says that nothing was changed.
func isChecked(err error) bool {
	return errors.As(err, new(*mdb.ArgumentError)) || errors.As(err, new(*NotFoundError)) || errors.As(err, new(*ConflictError))
}
