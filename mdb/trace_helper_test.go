package mdb_test

import (
	"context"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A failingTracer is a tracer of pgx that calls a function once, at one of its methods.
type failingTracer struct {
	at   atomic.Value // the method's name
	fail func()
}

func (f *failingTracer) attach(cfg *pgxpool.Config) { cfg.ConnConfig.Tracer = f }

func (f *failingTracer) in(method string) {
	if f.at.CompareAndSwap(method, "") {
		f.fail()
	}
}

func (f *failingTracer) TraceAcquireStart(ctx context.Context, _ *pgxpool.Pool, _ pgxpool.TraceAcquireStartData) context.Context {
	f.in("TraceAcquireStart")
	return ctx
}

func (f *failingTracer) TraceAcquireEnd(context.Context, *pgxpool.Pool, pgxpool.TraceAcquireEndData) {
}

func (f *failingTracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	f.in("TraceQueryStart")
	return ctx
}

func (f *failingTracer) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {
	f.in("TraceQueryEnd")
}

func (f *failingTracer) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	f.in("TraceBatchStart")
	return ctx
}

func (f *failingTracer) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}

func (f *failingTracer) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData) {
	f.in("TraceBatchEnd")
}
