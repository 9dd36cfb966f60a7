package mdb_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
	"github.com/messagedb-go/messagedb/mdb/poll"
)

// The tests in this file check that bugs of gomdb's subscriptions do not come back.
// Two that need a clock of their own are in subscribe_retry_internal_test.go.

func nothing(context.Context, mdb.Message) error { return nil }

// gomdb passed the error of the context to its drop handler instead of that of the
// read, so that it reported every failure as nil.
func TestGomdbDropError(t *testing.T) {
	t.Parallel()
	s := newStore(t, newPool(t, testdb.Empty(t)), mdb.WithConditions())
	wantError[*mdb.SetupError](t, s.SubscribeToStream(t.Context(), "account-1", nothing))
	wantError[*mdb.SetupError](t, s.SubscribeToCategory(t.Context(), "account", nothing))
	install(t, s.Pool())
	wantCode(t, s.SubscribeToStream(t.Context(), "account-1", nothing, mdb.WithCondition("(")), "42601")
	wantCode(t, s.SubscribeToCategory(t.Context(), "account", nothing, mdb.WithCondition("(")), "42601")

	// The same for a subscription that began well.
	write(t, s, "account-1", mdb.NewMessage("Happened", nil))
	write(t, s, "account-1", mdb.NewMessage("Happened", nil))
	divide := mdb.WithCondition("1 / (1 - position) > 0")
	wantCode(t, s.SubscribeToStream(t.Context(), "account-1", nothing, divide, mdb.WithBatchSize(1)), "22012")
}

// gomdb reported a cancelled query sometimes as the error of the driver, sometimes as
// that of the context.
func TestGomdbCancelledQuery(t *testing.T) {
	t.Parallel()
	url := testdb.New(t)
	admin := newPool(t, url)
	pool := newPool(t, url)
	s := newStore(t, pool)
	tx := begin(t, admin)
	exec(t, tx, `LOCK TABLE message_store.messages`)
	running := []*recipient{
		receiveStream(t, s, "account-1"),
		receiveCategory(t, s, "account"),
		receiveCategory(t, s, "account", mdb.AsConsumerGroup(0, 2)),
		receiveStream(t, s, "account-1", mdb.FromEnd()),
	}
	until(t, admin, `SELECT (`+tableWaiters+`) = $1`, len(running))
	for _, r := range running {
		r.stop(t)
	}
}

// gomdb ended a subscription at the first read that failed.
func TestGomdbFailedRead(t *testing.T) {
	t.Parallel()
	url := testdb.Shared(t)
	admin := newStore(t, newPool(t, url))
	stream := mdbtest.Category("outlives").Stream("1")
	name := string(stream)[:32]
	retries := make(chan mdb.Retry, 100)
	onRetry := mdb.OnRetry(func(r mdb.Retry) { retries <- r })
	var log journal
	s := newStore(t, newPool(t, url, parameter("application_name", name)), often, log.option())
	r := receiveStream(t, s, stream, onRetry)
	for range 3 {
		write(t, admin, stream, mdb.NewMessage("Happened", nil))
		r.next(t, 1)
		exec(t, admin.Pool(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1`, name)
		select {
		case retry := <-retries:
			if retry.Attempt != 1 || retry.Err == nil {
				t.Errorf("got %+v, want attempt 1", retry)
			}
		case err := <-r.dropped:
			t.Fatalf("subscription ended with %v", err)
		case <-time.After(testTimeout):
			t.Fatal("OnRetry is not called")
		}
	}
	r.stop(t)
	if n := log.retries(); n < 3 || !strings.Contains(log.String(), string(stream)) {
		t.Errorf("got %d retries in the log, want 3 that name the stream:\n%s", n, log.String())
	}
}

// The strategies of gomdb had state, so that sharing one was a race.
func TestGomdbSharedStrategy(t *testing.T) {
	t.Parallel()
	for _, strategy := range []poll.Strategy{
		poll.Constant(time.Millisecond),
		poll.Backoff(time.Millisecond, 2*time.Millisecond, 2),
		poll.Dynamic(0.5, time.Millisecond, time.Millisecond, 2*time.Millisecond),
		poll.Jitter(poll.Constant(time.Millisecond), 0.5),
	} {
		s := newStore(t, newPool(t, testdb.Shared(t)), mdb.WithPolling(strategy))
		category := mdbtest.Category("shared")
		running := []*recipient{
			receiveCategory(t, s, category),
			receiveCategory(t, s, category, mdb.WithPolling(strategy)),
			receiveStream(t, s, category.Stream("1")),
			receiveStream(t, s, category.Stream("1"), mdb.WithPolling(strategy)),
		}
		for range 10 {
			write(t, s, category.Stream("1"), mdb.NewMessage("Happened", nil))
			for _, r := range running {
				r.next(t, 1)
			}
		}
		for _, r := range running {
			r.stop(t)
		}
	}
}

// gomdb did not check the error after a batch, so that a batch which the server aborted
// looked complete, and the subscription live.
func TestGomdbTruncatedBatch(t *testing.T) {
	t.Parallel()
	s := newStore(t, newPool(t, testdb.Shared(t)), mdb.WithConditions())
	stream := mdbtest.Category("broken").Stream("1")
	if _, err := s.WriteMessages(t.Context(), stream, proposals(10)); err != nil {
		t.Fatal(err)
	}
	err := s.SubscribeToStream(t.Context(), stream, func(_ context.Context, m mdb.Message) error {
		t.Errorf("got message %d of a batch that the server aborted", m.Position)
		return nil
	}, mdb.WithCondition("1 / (5 - position) IS NOT NULL"), mdb.OnLive(func(live bool) { t.Errorf("got OnLive(%t), want no call", live) }))
	if pgErr := (*pgconn.PgError)(nil); !errors.As(err, &pgErr) || pgErr.Code != "22012" {
		t.Errorf("got error %v, want the server's", err)
	}
}
