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

// The tests in this file are of what was wrong with the subscriptions of gomdb, the
// client that this one succeeds. Numbers 6 and 17 need a clock of their own and are
// in subscribe_passes_test.go.

func nothing(context.Context, mdb.Message) error { return nil }

// gomdb told the drop handler the context's error instead of the read's, so that
// every failure was reported as nil.
func TestGomdb1DropTellsWhy(t *testing.T) {
	t.Parallel()
	s := newStore(t, newPool(t, testdb.Empty(t)), mdb.WithConditions())
	wantError[*mdb.SetupError](t, s.SubscribeToStream(t.Context(), "account-1", nothing))
	wantError[*mdb.SetupError](t, s.SubscribeToCategory(t.Context(), "account", nothing))
	install(t, s.Pool())
	wantCode(t, s.SubscribeToStream(t.Context(), "account-1", nothing, mdb.WithCondition("(")), "42601")
	wantCode(t, s.SubscribeToCategory(t.Context(), "account", nothing, mdb.WithCondition("(")), "42601")

	// And of one that had begun well.
	write(t, s, "account-1", mdb.NewMessage("Happened", nil))
	write(t, s, "account-1", mdb.NewMessage("Happened", nil))
	divide := mdb.WithCondition("1 / (1 - position) > 0")
	wantCode(t, s.SubscribeToStream(t.Context(), "account-1", nothing, divide, mdb.WithBatchSize(1)), "22012")
}

// gomdb reported a cancelled query as the driver's error or as the context's, by
// chance.
func TestGomdb2CancelledQuery(t *testing.T) {
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
	until(t, admin, `SELECT count(*) = $1 FROM pg_locks WHERE relation = 'message_store.messages'::regclass AND NOT granted`, len(running))
	for _, r := range running {
		r.stop(t)
	}
}

// gomdb handled the rest of a batch after the context had ended.
func TestGomdb13EndsBetweenMessages(t *testing.T) {
	t.Parallel()
	s := newStore(t, newPool(t, testdb.Shared(t)))
	stream := mdbtest.Category("between").Stream("1")
	if _, err := s.WriteMessages(t.Context(), stream, proposals(10)); err != nil {
		t.Fatal(err)
	}
	for last := range int64(10) {
		ctx, end := context.WithCancelCause(t.Context())
		handled := int64(0)
		progress := mdb.NoStream
		err := s.SubscribeToStream(ctx, stream, func(_ context.Context, m mdb.Message) error {
			if handled++; m.Position == last {
				end(errStopped)
			}
			return nil
		}, mdb.OnProgress(func(ctx context.Context, position int64) error {
			progress = position
			return ctx.Err()
		}))
		if err != errStopped || handled != last+1 || progress != last { //nolint:errorlint // the cause itself
			t.Errorf("error %v, %d messages, progress %d, want the cause behind message %d", err, handled, progress, last)
		}
	}
}

// gomdb ended a subscription upon the first read that failed.
func TestGomdb14OutlivesAFailedRead(t *testing.T) {
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
				t.Errorf("%+v, want attempt 1", retry)
			}
		case err := <-r.dropped:
			t.Fatalf("dropped with %v", err)
		case <-time.After(patience):
			t.Fatal("OnRetry is not told")
		}
	}
	r.stop(t)
	if n := log.retries(); n < 3 || !strings.Contains(log.String(), string(stream)) {
		t.Errorf("the log tells of %d retries, want 3 and the stream:\n%s", n, log.String())
	}
}

// gomdb's handler had no error to return, and its panic ended the process.
func TestGomdb15HandlerFails(t *testing.T) {
	t.Parallel()
	s := newStore(t, newPool(t, testdb.Shared(t)))
	stream := mdbtest.Category("fails").Stream("1")
	written, err := s.WriteMessages(t.Context(), stream, proposals(3))
	if err != nil {
		t.Fatal(err)
	}
	refusal := errors.New("refused")
	for name, fail := range map[string]func() error{
		"error": func() error { return refusal },
		"panic": func() error { panic("secret") },
	} {
		progress := mdb.NoStream
		err := s.SubscribeToStream(t.Context(), stream, func(_ context.Context, m mdb.Message) error {
			if m.Position == 2 {
				return fail()
			}
			return nil
		}, mdb.OnProgress(func(_ context.Context, position int64) error { progress = position; return nil }))
		h := wantError[*mdb.HandlerError](t, err)
		if h.Stream != stream || h.Position != 2 || h.GlobalPosition != written[2].GlobalPosition || progress != 1 {
			t.Errorf("%s: %+v, progress %d", name, h, progress)
		}
		if name == "error" && !errors.Is(err, refusal) {
			t.Errorf("error %v is not the handler's", err)
		}
		if name == "panic" && wantError[*mdb.PanicError](t, err).Value != "secret" {
			t.Errorf("error %v does not hold what was given to panic", err)
		}
	}
}

// gomdb went back and forth between live and not whenever a batch was full, so with
// batches of one at each message.
func TestGomdb16LivenessFlaps(t *testing.T) {
	t.Parallel()
	s := newStore(t, newPool(t, testdb.Shared(t)))
	for _, batch := range []int{1, 2} {
		stream := mdbtest.Category("flaps").Stream("1")
		var told []bool
		asked := make(chan struct{}, 100)
		messages := make(chan struct{})
		ctx, end := context.WithCancelCause(t.Context())
		dropped := make(chan error)
		go func() {
			dropped <- s.SubscribeToStream(ctx, stream, func(context.Context, mdb.Message) error { messages <- struct{}{}; return nil },
				mdb.WithBatchSize(batch),
				mdb.OnLive(func(live bool) { told = append(told, live) }),
				mdb.WithPolling(func(poll.Seen) time.Duration { asked <- struct{}{}; return time.Hour }))
		}()
		<-asked
		for range 5 {
			if _, err := s.WriteMessages(t.Context(), stream, proposals(batch)); err != nil { // which wakes it
				t.Fatal(err)
			}
			for range batch {
				<-messages
			}
			<-asked
		}
		end(errStopped)
		if err := <-dropped; !errors.Is(err, errStopped) {
			t.Errorf("dropped with %v", err)
		}
		if len(told) != 1 || !told[0] {
			t.Errorf("batches of %d: OnLive is told %v, want true and nothing else", batch, told)
		}
	}
}

// gomdb's strategies had a state, so that sharing one was a race, and a nil one
// panicked at its first use.
func TestGomdb18SharedStrategy(t *testing.T) {
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
	_, err := mdb.New(newPool(t, testdb.Shared(t)), mdb.WithPolling(nil))
	wantError[*mdb.ArgumentError](t, err)
}

// gomdb did not look whether a batch had come to its end, so one that the server
// broke off looked complete, and the subscription live.
func TestGomdb5BrokenBatch(t *testing.T) {
	t.Parallel()
	s := newStore(t, newPool(t, testdb.Shared(t)), mdb.WithConditions())
	stream := mdbtest.Category("broken").Stream("1")
	if _, err := s.WriteMessages(t.Context(), stream, proposals(10)); err != nil {
		t.Fatal(err)
	}
	err := s.SubscribeToStream(t.Context(), stream, func(_ context.Context, m mdb.Message) error {
		t.Errorf("message %d of a batch that was broken off", m.Position)
		return nil
	}, mdb.WithCondition("1 / (5 - position) IS NOT NULL"), mdb.OnLive(func(live bool) { t.Errorf("live: %t", live) }))
	if pgErr := (*pgconn.PgError)(nil); !errors.As(err, &pgErr) || pgErr.Code != "22012" {
		t.Errorf("error %v, want the server's", err)
	}
}
