package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
)

// TestOnLiveOnServer checks that OnLive is called with true when all messages are handled, after
// OnPartitions has been called with all partitions, and that the last call has none.
func TestOnLiveOnServer(t *testing.T) {
	t.Parallel()
	store := withConsumers.Store(t)
	for i := range 20 {
		if _, err := store.WriteMessage(t.Context(), mdb.StreamName(fmt.Sprint("signup-", i)), mdb.NewMessage("SignedUp", nil)); err != nil {
			t.Fatal(err)
		}
	}
	var handled atomic.Int64
	var calls []string // one goroutine makes the calls
	ready := make(chan struct{})
	r := start(t, store, consumer.Each(func(context.Context, mdb.Message) error {
		handled.Add(1)
		return nil
	}), consumer.WithPartitions(3), consumer.OnPartitions(func(held []int) {
		calls = append(calls, fmt.Sprint(held))
	}), consumer.OnLive(func(live bool) {
		calls = append(calls, fmt.Sprint(live, handled.Load()))
		close(ready)
	}))
	<-ready
	r.cancel(errEnough)
	if err := r.wait(); !errors.Is(err, errEnough) {
		t.Fatal(err)
	}
	if got := strings.Join(calls, ", "); got != "[0 1 2], true 20, []" {
		t.Errorf("got %s", got)
	}
}

// TestOnLivePanics checks that a panic ends Run as the end of its context does.
func TestOnLivePanics(t *testing.T) {
	t.Parallel()
	store := withConsumers.Store(t)
	r := start(t, store, consumer.Each(func(context.Context, mdb.Message) error { return nil }),
		consumer.OnLive(func(bool) { panic("oh") }))
	if err := r.wait(); !errors.As(err, new(*mdb.PanicError)) {
		t.Errorf("got %v, want the panic", err)
	}
	var members int
	if err := store.Pool().QueryRow(t.Context(), "SELECT count(*) FROM message_store_consumers.members").Scan(&members); err != nil || members != 0 {
		t.Errorf("got %d members, %v, want that it has left", members, err)
	}
}

// TestOnRetryOnServer checks that OnRetry is called for reads and for the consumer's own
// statements while the server cannot be reached.
func TestOnRetryOnServer(t *testing.T) {
	t.Parallel()
	p := plantOn(t, withConsumers.Store(t))
	live := make(chan struct{})
	var once sync.Once
	retries := make(chan mdb.Retry, 1000)
	start(t, p.Store, consumer.Each(func(context.Context, mdb.Message) error { return nil }),
		consumer.OnLive(func(bool) { once.Do(func() { close(live) }) }),
		consumer.OnRetry(func(r mdb.Retry) { retries <- r }))
	<-live
	p.cut()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.off = false
	}()
	var reads, others bool
	for !reads || !others {
		r := <-retries
		if r.Attempt < 1 || r.Err == nil {
			t.Fatalf("got %+v", r)
		}
		if strings.Contains(r.Err.Error(), "take part in the consumer mailer") {
			others = true
		} else {
			reads = true
		}
	}
}
