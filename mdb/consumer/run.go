package consumer

import (
	"context"
	"errors"
	"strconv"
	"sync"

	"github.com/messagedb-go/messagedb/mdb"
)

// Run runs consumers, as a service does, until ctx ends. If one of them ends earlier, the others
// end as if ctx had ended: they finish the messages that are being handled, and leave. Run
// returns after all of them have, with the error of the one that ended first, see
// [Consumer.Run]. Two consumers of a Store must have different names.
func Run(ctx context.Context, consumers ...*Consumer) error {
	if err := checkConsumers(consumers); err != nil {
		return err
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
			ended := errRunExits
			defer func() {
				first.Do(func() { err = ended })
				end(ended)
			}()
			ended = c.Run(ctx)
		})
	}
	running.Wait()
	return err
}

// errRunExits is the error of a function that calls runtime.Goexit in the goroutine of a Consumer.Run.
var errRunExits = errors.New("consumer: a callback has ended the goroutine of a consumer, as t.FailNow does")

// checkConsumers returns an error if they cannot run together.
func checkConsumers(consumers []*Consumer) error {
	var faults []mdb.Fault
	if len(consumers) == 0 {
		faults = append(faults, mdb.Fault{Argument: "consumers", Given: "none", Allowed: "at least one"})
	}
	type identity struct {
		store *mdb.Store
		name  string
	}
	known, streams := make(map[identity]bool), make(map[identity]bool)
	for _, c := range consumers {
		if c == nil {
			faults = append(faults, mdb.Fault{Argument: "consumers", Given: "nil", Allowed: "what New has returned"})
			continue
		}
		id := identity{c.store, c.config.name}
		if known[id] { // with different handlers, each would receive some of the messages
			faults = append(faults, mdb.Fault{Argument: "consumers", Given: strconv.Quote(id.name) + " twice", Allowed: "each name once"})
		}
		known[id] = true
		if c.config.positionID == nil {
			continue
		}
		stream := identity{c.store, positionStreamOf(c.config.categories[0], *c.config.positionID)}
		if streams[stream] { // they would replace each other
			faults = append(faults, mdb.Fault{Argument: "consumers", Given: "the position stream " + stream.name + " twice", Allowed: "each once"})
		}
		streams[stream] = true
	}
	if len(faults) == 0 {
		return nil
	}
	return &mdb.ArgumentError{Faults: faults}
}
