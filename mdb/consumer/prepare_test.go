package consumer_test

import (
	"context"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/mdb/consumer"
)

// pages counts the batches that have succeeded: a page is a batch.
type pages struct {
	mu   sync.Mutex
	read int
}

func (p *pages) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	return ctx
}
func (p *pages) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}

func (p *pages) TraceBatchEnd(_ context.Context, _ *pgx.Conn, d pgx.TraceBatchEndData) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if d.Err == nil {
		p.read++
	}
}

func (p *pages) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}
func (p *pages) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// TestPrepared checks that a process which has no partition yet has read a page, so that its first page with messages waits neither for a
// connection nor for the preparation of its statements.
func TestPrepared(t *testing.T) {
	t.Parallel()
	store := withConsumers.Store(t)
	signUp(t, store, 1)
	var first, second record
	owner := start(t, plantOn(t, store).Store, first.handler(), consumer.WithPartitions(1))
	eventually(t, "it has the partition", func() bool { return owner.Stats().Partitions == 1 })
	read := new(pages)
	idle := start(t, plantOn(t, store, func(cfg *pgxpool.Config) { cfg.ConnConfig.Tracer = read }).Store, second.handler(), consumer.WithPartitions(1))
	eventually(t, "a page", func() bool {
		read.mu.Lock()
		defer read.mu.Unlock()
		return read.read > 0
	})
	if s := idle.Stats(); s.Partitions > 0 || s.Handled > 0 {
		t.Errorf("got %+v, want no partition", s)
	}
}
