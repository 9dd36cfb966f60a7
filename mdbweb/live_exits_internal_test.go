package mdbweb

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/mdb"
)

// A writer is a ResponseWriter of a middleware, which calls a function before each write.
type writer struct {
	http.ResponseWriter

	before func(text string)
}

func (w *writer) Write(b []byte) (int, error) {
	w.before(string(b))
	return w.ResponseWriter.Write(b)
}

func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// TestBeatExits checks that a tail ends, and nobody waits for its lock, if a ResponseWriter ends the goroutine that writes.
func TestBeatExits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &writer{httptest.NewRecorder(), func(string) { runtime.Goexit() }}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		tail := &tail{w: w, control: http.NewResponseController(w), cancel: cancel, omitted: 1}
		go tail.beat(ctx)
		<-time.After(2 * time.Second)
		if ctx.Err() == nil || !tail.mu.TryLock() {
			t.Errorf("the context: %v, and the lock may be held", ctx.Err())
		}
	})
}

// An acquireTracer panics when a call waits for a connection, from a time on.
type acquireTracer struct{ from time.Time }

func (a acquireTracer) TraceAcquireStart(ctx context.Context, _ *pgxpool.Pool, _ pgxpool.TraceAcquireStartData) context.Context {
	if !time.Now().Before(a.from) {
		panic("on purpose")
	}
	return ctx
}

func (acquireTracer) TraceAcquireEnd(context.Context, *pgxpool.Pool, pgxpool.TraceAcquireEndData) {}

func (acquireTracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}

func (acquireTracer) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// TestTailPanics checks that nothing is being written when a tail has panicked, because the server then has the ResponseWriter back.
func TestTailPanics(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cfg, err := pgxpool.ParseConfig("host=127.0.0.1 user=u sslmode=disable")
		if err != nil {
			t.Fatal(err)
		}
		cfg.ConnConfig.DialFunc = func(context.Context, string, string) (net.Conn, error) { return nil, io.ErrUnexpectedEOF }
		cfg.ConnConfig.Tracer = acquireTracer{time.Now().Add(heartbeat + time.Second)}
		pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer pool.Close()
		follower, err := mdb.New(pool, mdb.WithLogger(slog.New(slog.DiscardHandler)))
		if err != nil {
			t.Fatal(err)
		}
		h := &Handler{config: config{logger: slog.New(slog.DiscardHandler)}, follower: follower, tails: make(chan struct{}, 1)}
		h.ending, h.end = context.WithCancel(t.Context())
		defer h.end()
		var writing atomic.Bool
		w := &writer{httptest.NewRecorder(), func(text string) {
			if strings.HasPrefix(text, ":") { // the heartbeat
				writing.Store(true)
				<-time.After(5 * time.Second)
				writing.Store(false)
			}
		}}
		func() {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			_ = h.liveEvents(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/live/events?after=0", nil))
		}()
		if writing.Load() {
			t.Error("something is being written")
		}
	})
}
