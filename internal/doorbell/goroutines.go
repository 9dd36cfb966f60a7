package doorbell

import (
	"context"
	"errors"
	"sync"
	"time"
)

// start starts the goroutines for the first sleeper. They first wait until those before have
// ended.
func (b *Bell) start() {
	b.life.Lock()
	defer b.life.Unlock()
	if b.users++; b.users > 1 {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	before, done := b.done, make(chan struct{})
	b.cancel, b.done = cancel, done
	go func() {
		defer close(done)
		if before != nil {
			<-before
		}
		var group sync.WaitGroup
		for _, s := range b.shards {
			group.Go(func() { unlessExited(func() { s.listen(ctx) }, s.exited) })
		}
		if b.config.Place != nil {
			group.Go(func() { unlessExited(func() { b.keepAsking(ctx) }, b.stopsAsking) })
		}
		group.Wait()
	}()
}

// errExits is the error of a goroutine that runtime.Goexit has ended.
var errExits = errors.New("a hook or a logger has ended the goroutine, as t.FailNow does")

// unlessExited calls f, and then exited, unless f has returned.
func unlessExited(f, exited func()) {
	returned := false
	defer func() {
		if !returned {
			exited()
		}
	}()
	f()
	returned = true
}

// exited is called when something that the goroutine has called has ended it. The shard's categories are off until there
// is another goroutine, after the last subscription.
func (s *shard) exited() {
	defer func() { _ = s.lose() }() // the logger may exit again
	s.unavailable(errExits)
}

// stopsAsking is called likewise for the goroutine that asks for the shards of categories.
func (b *Bell) stopsAsking() {
	defer b.unknown(errExits)
	logUnavailable(b.config.Logger, errExits)
}

// stop ends the goroutines after the last sleeper. It waits for them, so that the connections
// are closed, but not for a hook of the pool or a logger that blocks.
func (b *Bell) stop() {
	b.life.Lock()
	b.users--
	done := b.done
	if b.users > 0 {
		done = nil
	} else {
		b.cancel()
	}
	b.life.Unlock()
	if done == nil {
		return
	}
	timer := time.NewTimer(stopTimeout)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
}
