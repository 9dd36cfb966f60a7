package consumer

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A panicTracer is a tracer of pgx that panics at one of its methods.
type panicTracer struct{ at string }

func (p *panicTracer) in(method string) {
	if p.at == method {
		panic("on purpose")
	}
}

func (p *panicTracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	p.in("start")
	return ctx
}

func (p *panicTracer) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) { p.in("end") }

// TestTxPanics checks that a connection is given back if a tracer of pgx panics at the beginning of a transaction, or when it is rolled
// back. The message is retried then, so a pool would soon have none left.
func TestTxPanics(t *testing.T) {
	t.Parallel()
	p := new(panicTracer)
	pool := newPool(t, database(t), oneConnection, func(cfg *pgxpool.Config) { cfg.ConnConfig.Tracer = p })
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for _, tt := range []struct{ begin, end string }{{"start", ""}, {"end", ""}, {"", "start"}, {"", "end"}, {"", ""}} {
		err := protect(func() error {
			p.at = tt.begin
			tx, err := beginTx(ctx, pool, pgx.ReadCommitted, defaultIdle)
			if err == nil {
				p.at = tt.end
				tx.close(ctx)
			}
			return err
		})
		if is := err != nil; is != (tt.begin+tt.end != "") || ctx.Err() != nil {
			t.Errorf("%+v: got error %v", tt, err)
		}
	}
}
