package consumer_test

import (
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/mdb/consumer"
)

// TestPrepared checks that a process which has no partition yet has read a page, so that its first page with messages waits neither for a
// connection nor for the preparation of its statements.
func TestPrepared(t *testing.T) {
	t.Parallel()
	store := withConsumers.Store(t)
	signUp(t, store, 1)
	var first, second record
	owner := start(t, plantOn(t, store).Store, first.handler(), consumer.WithPartitions(1))
	eventually(t, "it has the partition", func() bool { return owner.Stats().Partitions == 1 })
	read := new(statements)
	idle := start(t, plantOn(t, store, func(cfg *pgxpool.Config) { cfg.ConnConfig.Tracer = read }).Store, second.handler(), consumer.WithPartitions(1))
	eventually(t, "a page", func() bool { return read.pages.Load() > 0 })
	if s := idle.Stats(); s.Partitions > 0 || s.Handled > 0 {
		t.Errorf("got %+v, want no partition", s)
	}
}
