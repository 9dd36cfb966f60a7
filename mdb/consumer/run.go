package consumer

import (
	"context"
	"sync"

	"github.com/messagedb-go/messagedb/mdb"
)

// Run runs consumers, as a service does, until ctx ends. If one of them ends earlier, the others
// end as if ctx had ended: they finish the messages that are being handled, and leave. Run
// returns after all of them have, with the error of the one that ended first, see
// [Consumer.Run].
func Run(ctx context.Context, consumers ...*Consumer) error {
	if len(consumers) == 0 {
		return &mdb.ArgumentError{Faults: []mdb.Fault{{Argument: "consumers", Given: "none", Allowed: "at least one"}}}
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	var (
		running sync.WaitGroup
		first   sync.Once
		err     error
	)
	for _, c := range consumers {
		running.Go(func() {
			ended := c.Run(ctx)
			first.Do(func() { err = ended })
			end(ended)
		})
	}
	running.Wait()
	return err
}
