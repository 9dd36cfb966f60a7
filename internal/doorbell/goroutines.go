package doorbell

import (
	"context"
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
			group.Go(func() { s.listen(ctx) })
		}
		if b.config.Place != nil {
			group.Go(func() { b.keepAsking(ctx) })
		}
		group.Wait()
	}()
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
