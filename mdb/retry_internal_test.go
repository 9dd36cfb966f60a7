package mdb

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A network has no server. Its dial function says what happens to each attempt to connect,
// the first of which is 1.
type network struct {
	dial     func(ctx context.Context, n int64) error
	dials    atomic.Int64
	inFlight atomic.Int64
	most     atomic.Int64
	panics   panicker
}

// A panicker panics when a call begins to wait for a connection, while it is set.
type panicker struct {
	set     atomic.Bool
	instead func() // it calls that instead; nil: it panics
}

func (p *panicker) TraceAcquireStart(ctx context.Context, _ *pgxpool.Pool, _ pgxpool.TraceAcquireStartData) context.Context {
	switch {
	case !p.set.Load():
	case p.instead != nil:
		p.instead()
	default:
		panic("on purpose")
	}
	return ctx
}

func (p *panicker) TraceAcquireEnd(context.Context, *pgxpool.Pool, pgxpool.TraceAcquireEndData) {}

func (p *panicker) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}

func (p *panicker) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// store returns a store on the network. It must be closed in the bubble.
func (n *network) store(t *testing.T, policy RetryPolicy) *Store {
	t.Helper()
	cfg, err := pgxpool.ParseConfig("host=127.0.0.1 user=u sslmode=disable pool_max_conns=50")
	if err != nil {
		t.Fatal(err)
	}
	cfg.ConnConfig.ConnectTimeout = 0 // the default, whatever the environment says
	cfg.ConnConfig.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) {
		inFlight := n.inFlight.Add(1)
		defer n.inFlight.Add(-1)
		for most := n.most.Load(); inFlight > most && !n.most.CompareAndSwap(most, inFlight); most = n.most.Load() {
		}
		if err := n.dial(ctx, n.dials.Add(1)); err != nil {
			return nil, err
		}
		return nil, io.ErrUnexpectedEOF
	}
	cfg.ConnConfig.Tracer = &n.panics
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(pool, WithRetry(policy))
	if err != nil {
		t.Fatal(err)
	}
	s.ownsPool = true
	return s
}

func hang(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }

// retried are the calls that a store retries.
var retried = map[string]func(ctx context.Context, s *Store) error{
	"WriteMessage": func(ctx context.Context, s *Store) error {
		_, err := s.WriteMessage(ctx, "account-1", NewMessage("Happened", nil))
		return err
	},
	"WriteMessages": func(ctx context.Context, s *Store) error {
		_, err := s.WriteMessages(ctx, "account-1", []ProposedMessage{NewMessage("Happened", nil), NewMessage("Happened", nil)})
		return err
	},
	"WriteEach": func(ctx context.Context, s *Store) error {
		results := s.WriteEach(ctx, []Write{{Stream: "account-1", Message: NewMessage("Happened", nil)}, {Stream: "account-2", Message: NewMessage("Happened", nil)}})
		if results[1].Err == nil {
			return nil
		}
		return results[0].Err
	},
	"Atomically": func(ctx context.Context, s *Store) error {
		return s.Atomically(ctx, []Category{"account"}, func(*Tx) error { panic("there is no server") })
	},
}

// TestRetryFor checks how long each call is retried if the server cannot be reached, by which
// error it ends, and that the number of attempts does not matter.
func TestRetryFor(t *testing.T) {
	t.Parallel()
	refuse := func(context.Context, int64) error { return io.ErrUnexpectedEOF }
	for name, tt := range map[string]struct {
		policy RetryPolicy
		dial   func(context.Context, int64) error
		limit  time.Duration // of the caller's context
		want   time.Duration
		cause  error
		least  int64 // attempts
		text   string
	}{
		"default":       {RetryPolicy{}, refuse, time.Hour, time.Minute, ErrUnavailable, 60, "after retries for 1m0s"},
		"one attempt":   {RetryPolicy{Attempts: 1}, refuse, time.Hour, time.Minute, ErrUnavailable, 60, "after retries for 1m0s"},
		"short":         {RetryPolicy{For: time.Second, MinDelay: time.Minute, MaxDelay: time.Minute}, refuse, time.Hour, time.Second, ErrUnavailable, 1, "after retries for 1s"},
		"off":           {RetryPolicy{For: -1}, refuse, time.Hour, 0, ErrUnavailable, 1, "cannot be reached: "},
		"context":       {RetryPolicy{}, refuse, 10 * time.Second, 10 * time.Second, context.DeadlineExceeded, 10, "deadline"},
		"short context": {RetryPolicy{}, refuse, 5 * time.Millisecond, 5 * time.Millisecond, context.DeadlineExceeded, 1, "deadline"},
		// The time counts from the first failure.
		"slow failure": {RetryPolicy{}, func(_ context.Context, n int64) error {
			if n == 1 {
				time.Sleep(30 * time.Second)
			}
			return io.ErrUnexpectedEOF
		}, time.Hour, 90 * time.Second, ErrUnavailable, 60, "after retries for 1m0s"},
		// It limits later waits for a connection, and the last failure is that from before.
		"hanging": {RetryPolicy{}, func(ctx context.Context, n int64) error {
			if n == 1 {
				return io.ErrUnexpectedEOF
			}
			return hang(ctx)
		}, time.Hour, time.Minute, ErrUnavailable, 2, "unexpected EOF"},
		// It does not limit the first one, which pgxpool does.
		"hanging at first": {RetryPolicy{}, func(ctx context.Context, _ int64) error { return hang(ctx) }, time.Hour, 3 * time.Minute, ErrUnavailable, 2, "after retries for 1m0s"},
	} {
		for call, do := range retried {
			t.Run(name+"/"+call, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					n := network{dial: tt.dial}
					s := n.store(t, tt.policy)
					defer s.Close()
					ctx, cancel := context.WithTimeout(t.Context(), tt.limit)
					defer cancel()
					begun := time.Now()
					err := do(ctx, s)
					if took := time.Since(begun).Round(time.Microsecond); took != tt.want {
						t.Errorf("took %v, want %v", took, tt.want)
					}
					unavailable := tt.cause == ErrUnavailable //nolint:errorlint // the variable itself
					if !errors.Is(err, tt.cause) || errors.Is(err, ErrUnavailable) != unavailable || errors.As(err, new(*UnknownOutcomeError)) {
						t.Errorf("got error %v, want %v", err, tt.cause)
					}
					if unavailable && !IsTransient(err) {
						t.Errorf("got error %v, which is not transient", err)
					}
					if !strings.Contains(err.Error(), tt.text) {
						t.Errorf("got error %q, want %q in it", err, tt.text)
					}
					if dials := n.dials.Load(); dials < tt.least {
						t.Errorf("got %d attempts to connect, want at least %d", dials, tt.least)
					}
				})
			})
		}
	}
}

// TestProbes checks that, once the server could not be reached, at most two calls connect at
// the same time, that others end after their time although they were never sent, that
// the two are replaced by others when they end, and that a success lets all connect.
func TestProbes(t *testing.T) {
	t.Parallel()
	for call, do := range retried {
		t.Run(call, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				n := network{dial: func(ctx context.Context, n int64) error {
					if n > 1 {
						time.Sleep(100 * time.Millisecond)
					}
					return io.ErrUnexpectedEOF
				}}
				s := n.store(t, RetryPolicy{})
				defer s.Close()
				var wg sync.WaitGroup
				first, cancel := context.WithCancel(t.Context())
				wg.Go(func() { _ = do(first, s) })
				synctest.Wait()
				time.Sleep(10 * time.Second)
				for range 20 {
					wg.Go(func() {
						begun := time.Now()
						if err := do(t.Context(), s); !errors.Is(err, ErrUnavailable) || !errors.Is(err, io.ErrUnexpectedEOF) {
							t.Errorf("got error %v, want %v", err, ErrUnavailable)
						}
						// The time of one that waits from its beginning counts from there.
						if took := time.Since(begun); took != time.Minute {
							t.Errorf("took %v, want a minute", took)
						}
					})
				}
				time.Sleep(10 * time.Second)
				before := n.dials.Load()
				for n.inFlight.Load() > 0 { // which the pool would finish
					time.Sleep(time.Millisecond)
				}
				cancel()
				time.Sleep(10 * time.Second)
				if got := n.dials.Load() - before; got < 2*8 || got > 2*20 {
					t.Errorf("got %d attempts to connect in ten seconds, want those of two calls", got)
				}
				if most := n.most.Load(); most != maxProbes {
					t.Errorf("got %d attempts to connect at the same time, want %d", most, maxProbes)
				}
				wg.Wait()

				// All end at the same time, and so does what they wait for.
				for range 20 {
					wg.Go(func() { _ = do(t.Context(), s) })
				}
				time.Sleep(10 * time.Second)
				n.most.Store(0)
				s.gate.answered() // as after a subscription's read
				time.Sleep(50 * time.Millisecond)
				if most := n.most.Load(); most < 18 {
					t.Errorf("got %d attempts to connect at the same time after a success, want those of all that waited", most)
				}
				wg.Wait()
			})
		})
	}
}

// TestProbePanics checks that a call that panics while it has a place lets another one take it.
func TestProbePanics(t *testing.T) {
	t.Parallel()
	for call, do := range retried {
		t.Run(call, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				n := network{dial: func(context.Context, int64) error { return io.ErrUnexpectedEOF }}
				s := n.store(t, RetryPolicy{})
				defer s.Close()
				var wg sync.WaitGroup
				for range maxProbes {
					wg.Go(func() {
						defer func() {
							if recover() == nil {
								t.Error("it does not panic")
							}
						}()
						_ = do(t.Context(), s)
					})
				}
				synctest.Wait()
				n.panics.set.Store(true)
				wg.Wait()
				n.panics.set.Store(false)
				before := n.dials.Load()
				if err := do(t.Context(), s); !errors.Is(err, ErrUnavailable) {
					t.Errorf("got error %v, want %v", err, ErrUnavailable)
				}
				if n.dials.Load() == before {
					t.Error("no further call has connected")
				}
			})
		})
	}
}

// TestRetriesAreNotHurried checks that if other calls succeed while one fails, it still waits
// between its attempts.
func TestRetriesAreNotHurried(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := network{dial: func(context.Context, int64) error { return io.ErrUnexpectedEOF }}
		s := n.store(t, RetryPolicy{})
		defer s.Close()
		stop := make(chan struct{})
		go func() {
			for {
				select {
				case <-time.After(time.Millisecond):
					s.gate.answered()
				case <-stop:
					return
				}
			}
		}()
		if err := retried["WriteMessage"](t.Context(), s); !errors.Is(err, ErrUnavailable) {
			t.Errorf("got error %v, want %v", err, ErrUnavailable)
		}
		close(stop)
		if dials := n.dials.Load(); dials > 4*60 {
			t.Errorf("got %d attempts to connect in a minute, want about two a second", dials)
		}
	})
}
