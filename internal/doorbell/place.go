package doorbell

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"
)

// askShards makes the proxy be asked for the shards of all categories, also if it is being
// asked.
func (b *Bell) askShards() {
	select {
	case b.ask <- struct{}{}:
	default:
	}
}

// learn finds out whether the categories are on shards, after a probe was sent.
func (b *Bell) learn() {
	if b.config.Sharded == nil || !b.config.Sharded() {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.sharded {
		return
	}
	b.sharded = true
	for _, c := range b.categories {
		c.unplace()
	}
	b.askShards()
}

// keepAsking asks for the shards of all categories when they may have changed, and now and
// then in case nobody says so, until ctx ends.
func (b *Bell) keepAsking(ctx context.Context) {
	logged, missing := "", make(map[int]bool)
	for attempt := 0; ctx.Err() == nil; {
		if attempt > 0 {
			_ = listenRetry.Wait(ctx, attempt)
		} else {
			timer := time.NewTimer(lookInterval)
			select {
			case <-b.ask:
			case <-timer.C:
			case <-ctx.Done():
			}
			timer.Stop()
		}
		q := b.question()
		if len(q.categories) == 0 || ctx.Err() != nil {
			attempt = 0
			continue
		}
		numbers, err := b.place(ctx, q.categories)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			attempt++
			b.unknown(err)
			if err = fmt.Errorf("ask the proxy for the shards of categories: %w", err); err.Error() != logged {
				logged = err.Error()
				logUnavailable(b.config.Logger, err)
			}
			continue
		}
		attempt, logged = 0, ""
		for number, category := range b.answer(q, numbers) {
			if !missing[number] {
				missing[number] = true
				logUnavailable(b.config.Logger.With("shard", number), fmt.Errorf("ListenOn has no address for this shard, to which the proxy sends the category %s", category))
			}
		}
	}
}

// A question asks for the shards of categories.
type question struct {
	categories []string
	changes    []int // of each shard, when it was asked
}

// question returns that for all categories, if they are on shards.
func (b *Bell) question() (q question) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.sharded {
		return q
	}
	for name := range b.categories {
		q.categories = append(q.categories, name)
	}
	for _, s := range b.shards {
		q.changes = append(q.changes, s.changes)
	}
	return q
}

// place asks for the shards. Hooks of the pool run in this goroutine.
func (b *Bell) place(ctx context.Context, categories []string) (numbers []int, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &panicError{v, debug.Stack()}
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	numbers, err = b.config.Place(ctx, categories)
	if err == nil && len(numbers) != len(categories) {
		err = fmt.Errorf("got %d shards for %d categories", len(numbers), len(categories))
	}
	return numbers, err
}

// unknown is called when the proxy cannot be asked. A pool without a free connection proves
// nothing.
func (b *Bell) unknown(err error) {
	if errors.Is(err, ErrBusy) {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.categories {
		c.unplace()
	}
}

// answer places the categories. An answer counts for a shard only if it is not older than its
// connection. It returns the numbers for which there is no connection, each with a category.
func (b *Bell) answer(q question, numbers []int) (missing map[int]string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	missing = make(map[int]string)
	for i, name := range q.categories {
		c, n := b.categories[name], numbers[i]
		switch {
		case c == nil:
		case n < 0 || n >= len(b.shards):
			missing[n] = name
			c.unplace()
		case b.shards[n].changes != q.changes[n]:
			c.unplace()
			b.askShards()
		default:
			c.place(b.shards[n])
		}
	}
	return missing
}
