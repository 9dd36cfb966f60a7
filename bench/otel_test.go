package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/exaring/otelpgx"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// TestOpenTelemetry checks that otelpgx makes a span with the text of each statement, none for a
// statement that is prepared already, and that no span contains a payload, even if spans contain
// the arguments. It is here because this module may have dependencies. Each call is repeated, and
// only the second one counts.
func TestOpenTelemetry(t *testing.T) {
	t.Parallel()
	const canary = "c4n4ry"
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol} {
		t.Run(mode.String(), func(t *testing.T) {
			spans := tracetest.NewInMemoryExporter()
			provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))
			cfg, err := pgxpool.ParseConfig(testdb.Shared(t))
			if err != nil {
				t.Fatal(err)
			}
			cfg.MaxConns = 1
			cfg.ConnConfig.DefaultQueryExecMode = mode
			cfg.ConnConfig.Tracer = otelpgx.NewTracer(otelpgx.WithTracerProvider(provider), otelpgx.WithIncludeQueryParameters(), otelpgx.WithQuerySpanNamePrefix())
			mdb.Configure(cfg)
			pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(pool.Close)
			s, err := mdb.New(pool)
			if err != nil {
				t.Fatal(err)
			}
			category := mdbtest.Category("otel")
			stream := category.Stream("1")
			m := func() mdb.ProposedMessage {
				m := mdb.NewMessage("Happened", map[string]string{"text": canary})
				m.Metadata = map[string]string{"also": canary}
				return m
			}
			for _, call := range []struct {
				name       string
				call       func(ctx context.Context) error
				statements int
			}{
				{"write", func(ctx context.Context) error {
					_, err := s.WriteMessage(ctx, stream, m())
					return err
				}, 1},
				{"batch", func(ctx context.Context) error {
					_, err := s.WriteMessages(ctx, stream, []mdb.ProposedMessage{m(), m()})
					return err
				}, 1},
				{"each", func(ctx context.Context) error {
					results := s.WriteEach(ctx, []mdb.Write{{Stream: stream, Message: m()}, {Stream: category.Stream("2"), Message: m()}})
					return errors.Join(results[0].Err, results[1].Err)
				}, 2},
				{"Tx", func(ctx context.Context) error { // with its begin and commit
					return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
						_, err := s.WithTx(tx).WriteMessage(ctx, stream, m())
						return err
					})
				}, 3},
				{"Atomically", func(ctx context.Context) error { // also locks
					return s.Atomically(ctx, []mdb.Category{category}, func(tx *mdb.Tx) error {
						_, err := tx.WriteMessage(ctx, stream, m())
						return err
					})
				}, 4},
			} {
				for range 2 {
					spans.Reset()
					ctx, span := provider.Tracer("test").Start(t.Context(), "caller")
					if err := call.call(ctx); err != nil {
						t.Fatalf("%s: %v", call.name, err)
					}
					span.End()
				}
				var texts []string
				for _, span := range spans.GetSpans() {
					if strings.HasPrefix(span.Name, "prepare") {
						t.Errorf("%s: got the span %q of a prepared statement", call.name, span.Name)
					}
					if all := fmt.Sprintf("%s %v %v %v", span.Name, span.Attributes, span.Events, span.Status); strings.Contains(all, canary) {
						t.Errorf("%s: a span contains the payload: %s", call.name, all)
					}
					for _, a := range span.Attributes {
						if string(a.Key) == "db.query.text" {
							texts = append(texts, a.Value.AsString())
						}
					}
				}
				all := strings.Join(texts, "\n")
				if len(texts) != call.statements || !strings.Contains(all, "write_message(") {
					t.Errorf("%s: got the texts %q, want those of %d statements", call.name, texts, call.statements)
				}
			}
		})
	}
}
