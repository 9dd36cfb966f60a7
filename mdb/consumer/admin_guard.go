package consumer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/ledger"
)

// watchInterval is the longest time between two looks at members that may be running.
const watchInterval = time.Second

// guarded is change for what must not be done while processes run the consumer, unless c says so. After an outage, the leases of
// processes that run have ended, as those of dead ones. So if there are such leases, it watches the members before.
func (o *Operator) guarded(ctx context.Context, what, consumer string, c *adminConfig, f func(tx pgx.Tx, g ledger.Guard) error) error {
	w := &watch{look: func(ctx context.Context) (all []ledger.Process, err error) {
		err = o.snapshot(ctx, what, consumer, func(tx pgx.Tx) error {
			found, err := ledger.Consumers(ctx, tx, &consumer)
			if err != nil || len(found) == 0 {
				return err // the change says that there is none
			}
			all, err = ledger.Processes(ctx, tx, found[0].ID)
			return err
		})
		return all, err
	}}
	for {
		silent := false
		err := o.change(ctx, what, consumer, c, func(tx pgx.Tx) error {
			err := around(ctx, tx, consumer, c, func() error { return f(tx, ledger.Guard{Force: c.force, Watched: w.isFresh()}) })
			silent = codeOf(err) == ledger.Silent
			return err
		})
		if !silent {
			return err
		}
		if err := w.run(ctx); errors.Is(err, errStillSilent) {
			return fmt.Errorf("consumer: %s: its processes have not been watched for the time of their leases: %w", what, context.Cause(ctx))
		} else if err != nil {
			return err
		}
	}
}

// A watch looks at members whose leases have ended.
type watch struct {
	look func(ctx context.Context) ([]ledger.Process, error)

	last  time.Time     // when a look has ended after which it was known that they are dead; zero: it is not known
	limit time.Duration // how long that is known
}

// isFresh reports whether the members were watched until now.
func (w *watch) isFresh() bool { return !w.last.IsZero() && time.Since(w.last) <= w.limit }

var errStillSilent = errors.New("the time is over")

// run looks at the members again and again for the time of the longest lease, or until the lease of one has not ended, or there is none. It
// begins again if a look has taken more than half of the shortest lease, because then the members could not reach the
// server, perhaps. The error is that of a look, or errStillSilent if ctx ends.
func (w *watch) run(ctx context.Context) error {
	w.last = time.Time{}
	var begun, last time.Time
	for {
		members, err := w.look(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return errStillSilent
			}
			return err
		}
		now := time.Now()
		var longest, shortest time.Duration
		for _, m := range members {
			if m.Alive {
				return nil
			}
			longest = max(longest, m.Lease)
			if shortest == 0 || m.Lease < shortest {
				shortest = m.Lease
			}
		}
		if last.IsZero() || now.Sub(last) > shortest/2 {
			begun = now
		}
		if last = now; len(members) == 0 || now.Sub(begun) > longest {
			w.last, w.limit = now, shortest/2
			return nil
		}
		select {
		case <-ctx.Done():
			return errStillSilent
		case <-time.After(min(watchInterval, shortest/4)):
		}
	}
}
