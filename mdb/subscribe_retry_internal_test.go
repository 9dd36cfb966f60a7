package mdb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/mdb/poll"
)

// TestSubscriptionFailures checks what a subscription does when its first read or a later
// one fails: transient errors are retried; an error in the set-up ends it at the start,
// and is retried later as part of an upgrade; all other errors end it.
func TestSubscriptionFailures(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		err                   error
		passesFirst, passesAt bool
	}{
		{io.ErrUnexpectedEOF, true, true},
		{context.DeadlineExceeded, true, true}, // of another call's context
		{&acquireError{errors.New("connection refused")}, true, true},
		{&pgconn.PgError{Severity: "FATAL", Code: "57P01"}, true, true}, // terminated
		{&pgconn.PgError{Severity: "FATAL", Code: "57P02"}, true, true}, // crash
		{&pgconn.PgError{Severity: "FATAL", Code: "57P05"}, true, true}, // idle for too long
		{&pgconn.PgError{Severity: "ERROR", Code: "57014"}, true, true}, // timeout of the statement
		{&pgconn.PgError{Severity: "ERROR", Code: "40001"}, true, true}, // conflict with recovery, on a standby
		{&pgconn.PgError{Severity: "ERROR", Code: "40P01"}, true, true},
		{&pgconn.PgError{Severity: "ERROR", Code: "55P03"}, true, true},
		{&pgconn.PgError{Severity: "ERROR", Code: "53200"}, true, true}, // out of memory
		{&pgconn.PgError{Severity: "ERROR", Code: "53300"}, true, true}, // too many connections
		{&pgconn.PgError{Severity: "ERROR", Code: "58030"}, true, true}, // I/O
		{&pgconn.PgError{Severity: "ERROR", Code: "25006"}, true, true}, // a standby
		{&pgconn.PgError{Severity: "ERROR", Code: "08006"}, true, true},
		{&pgconn.PgError{Severity: "ERROR", Code: "0A000"}, true, true}, // outdated statement
		{&pgconn.PgError{Severity: "ERROR", Code: "26000"}, true, true},

		{&pgconn.PgError{Severity: "ERROR", Code: "42883"}, false, true},
		{&pgconn.PgError{Severity: "ERROR", Code: "42P01"}, false, true},
		{&pgconn.PgError{Severity: "ERROR", Code: "3F000"}, false, true},
		{&pgconn.PgError{Severity: "ERROR", Code: "42501"}, false, true},
		{&pgconn.PgError{Severity: "ERROR", Code: "XX000"}, false, true}, // could not open relation

		{&pgconn.PgError{Severity: "ERROR", Code: "42601"}, false, false}, // the condition's syntax
		{&pgconn.PgError{Severity: "ERROR", Code: "22P02"}, false, false},
		{&pgconn.PgError{Severity: "ERROR", Code: "P0001", Message: "Retrieval with SQL condition is not activated"}, false, false},
		{&pgconn.PgError{Severity: "ERROR", Code: "XX001"}, false, false}, // damaged data
		{&pgconn.PgError{Severity: "ERROR"}, false, false},                // of something like PostgreSQL
	} {
		err := explain("get messages", tt.err)
		for first, passes := range map[bool]bool{true: tt.passesFirst, false: tt.passesAt} {
			for _, fromEnd := range []bool{false, true} {
				t.Run(fmt.Sprintf("%v, first %t, from the end %t", tt.err, first, fromEnd), func(t *testing.T) {
					t.Parallel()
					synctest.Test(t, func(t *testing.T) {
						r := rehearse(t, 0)
						r.subscription.read.fromEnd = fromEnd
						r.arrivals = []int{0}
						want, failures := "read 1, live true, ask 0/1000 1 0s, sleep 10ms, read 1", []error{nil, err}
						if first {
							want, failures = "read 1", []error{err}
						}
						if fromEnd {
							want = "progress 0, " + want
							// A query of the head comes first, and succeeds.
							failures = slices.Insert(failures, 0, nil)
						}
						if passes {
							want += ", retry 1, read 1"
							if first {
								want += ", live true, ask 0/1000 1 0s, sleep 10ms, read 1, ask 0/1000 2 10ms, sleep 20ms"
							} else {
								want += ", ask 0/1000 2 10ms, sleep 20ms"
							}
						}
						r.failures = failures
						got := r.run()
						r.want(want)
						if passes && !errors.Is(got, errEnd) || !passes && got != err { //nolint:errorlint // the error itself
							t.Errorf("got error %v", got)
						}
					})
				})
			}
		}
	}
}

// TestSubscriptionIsWoken checks that a success of another call of the store ends the delay
// of a subscription whose connection was lost, and every second delay only.
func TestSubscriptionIsWoken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := rehearse(t, 0)
		g := new(gate)
		r.gate = g
		var reads []time.Duration
		begun := time.Now()
		r.subscription.page = func(ctx context.Context, _ question) (answer, error) {
			reads = append(reads, time.Since(begun))
			g.note(ctx, io.ErrUnexpectedEOF)
			switch len(reads) {
			case 21, 22: // the delays are as long as they get
				time.AfterFunc(time.Millisecond, g.answered)
			case 24:
				r.end(errEnd)
			}
			return answer{}, io.ErrUnexpectedEOF
		}
		if err := r.run(); !errors.Is(err, errEnd) {
			t.Errorf("got error %v, want %v", err, errEnd)
		}
		if woken, whole := reads[21]-reads[20], reads[22]-reads[21]; woken != time.Millisecond || whole < 500*time.Millisecond || whole > time.Second {
			t.Errorf("got delays of %v and %v, want 1ms and up to a second", woken, whole)
		}
	})
}

// TestSubscriptionFindsNoEnd checks what happens if the query of the end fails before
// anything is read.
func TestSubscriptionFindsNoEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		lost, missing := explain("find the end", io.ErrUnexpectedEOF), explain("find the end", &pgconn.PgError{Code: "42P01"})
		r := rehearse(t, 5, FromEnd())
		r.failures = []error{lost, lost, nil, lost}
		if err := r.run(); !errors.Is(err, errEnd) {
			t.Errorf("got error %v, want %v", err, errEnd)
		}
		r.want("retry 1, retry 2, progress 5, read 6, retry 1, read 6, live true, ask 0/1000 1 0s, sleep 10ms")

		r = rehearse(t, 5, FromEnd())
		r.failures = []error{lost, missing}
		var setup *SetupError
		if err := r.run(); !errors.As(err, &setup) {
			t.Errorf("got error %v, want that of the set-up", err)
		}
		r.want("retry 1")
	})
}

// TestGomdbBackoffOverflow checks that a subscription with gomdb's strategy still polls
// with a delay after an hour. In gomdb the delay became negative with the 38th empty
// poll, and the polling a busy loop.
func TestGomdbBackoffOverflow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := rehearse(t, 0, WithPolling(poll.Backoff(50*time.Millisecond, 5*time.Second, 2)))
		r.subscription.sleeper = r.sleeper
		reads := 0
		r.subscription.page = pages(func(context.Context, readConfig) ([]Message, int64, error) {
			reads++
			return nil, 0, nil
		})
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Hour, errEnd)
		defer cancel()
		if err := r.subscription.run(ctx); !errors.Is(err, errEnd) {
			t.Errorf("got error %v, want %v", err, errEnd)
		}
		// At 0, 50, 150, 350, 750, 1550, 3150 and 6350 ms, and then every five seconds.
		if want := 8 + 718; reads != want {
			t.Errorf("got %d reads, want %d", reads, want)
		}
	})
}

// TestGomdbDynamicDrift checks that poll.Dynamic finds the delay of a steady flow of
// messages. gomdb compared each page with a full one, so that the delay grew to its
// maximum. Pages that a few messages fill must not do the same: the read after such a
// page finds nothing.
func TestGomdbDynamicDrift(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	for _, tt := range []struct {
		batch     int
		perSecond float64
		least     time.Duration
		most      time.Duration
	}{
		{1000, 20, 250 * time.Millisecond, time.Second}, // ideal: 10 messages, 500 ms
		{1000, 100, 50 * time.Millisecond, 200 * time.Millisecond},
		{1, 2, 0, 100 * time.Millisecond}, // always more than the target
		{10, 1000, 0, 100 * time.Millisecond},
	} {
		t.Run(fmt.Sprintf("%g a second by %d", tt.perSecond, tt.batch), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := rehearse(t, 0, WithBatchSize(tt.batch), WithPolling(poll.Dynamic(0.01, 5*time.Millisecond, 5*time.Millisecond, 2*time.Second)))
				r.handler = func(context.Context, Message) error { return nil }
				r.subscription.sleeper = r.sleeper
				begun := time.Now()
				r.subscription.page = pages(func(_ context.Context, c readConfig) ([]Message, int64, error) {
					written := int64(time.Since(begun).Seconds() * tt.perSecond)
					n := min(max(written-c.position+1, 0), c.batchSize)
					page := make([]Message, n)
					for i := range page {
						page[i].GlobalPosition = c.position + int64(i)
					}
					return page, 0, nil
				})
				var delays, total time.Duration
				strategy := r.polling
				r.polling = func(seen poll.Seen) time.Duration {
					delay := strategy(seen)
					if time.Since(begun) > 2*time.Minute { // once the delay is stable
						delays++
						total += delay
					}
					return delay
				}
				r.diary = nil
				ctx, cancel := context.WithTimeoutCause(t.Context(), 4*time.Minute, errEnd)
				defer cancel()
				if err := r.subscription.run(ctx); !errors.Is(err, errEnd) {
					t.Errorf("got error %v, want %v", err, errEnd)
				}
				if mean := total / delays; mean < tt.least || mean > tt.most {
					t.Errorf("got a delay of %v, want %v to %v", mean, tt.least, tt.most)
				}
			})
		})
	}
}
