package main

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/messagedb-go/messagedb/mdb"
)

// Totals are a projection in memory: it counts messages, and checks their order. Its one
// subscription lasts for the whole run, also while the server is away.
type totals struct {
	meter meter

	mu       sync.Mutex // guards what follows
	position int64
	retries  int64
}

func (t *totals) follow(ctx context.Context, store *mdb.Store, category mdb.Category) error {
	err := store.SubscribeToCategory(ctx, category, t.handle, mdb.OnRetry(t.retry))
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func (t *totals) handle(_ context.Context, m mdb.Message) error {
	took, err := age(m)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if m.GlobalPosition <= t.position {
		return fmt.Errorf("position %d arrived after %d", m.GlobalPosition, t.position)
	}
	t.position = m.GlobalPosition
	t.meter.record(took)
	return nil
}

func (t *totals) retry(mdb.Retry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.retries++
}

func (t *totals) handled() int64 { return t.meter.figures(keep).Total }
