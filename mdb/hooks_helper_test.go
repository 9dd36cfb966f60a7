package mdb_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/mdb"
)

// A watch is a hook that records its calls as lines, and passes its name on in the contexts that
// it returns. Several of them share their lines.
type watch struct {
	name  string
	lines *watchLines
	keys  map[string]any // added to metadata
	fails string         // the method that panics
}

type watchLines struct {
	mu    sync.Mutex
	lines []string
}

type watchKey struct{}

// names returns the hooks that have begun the context, the last one first.
func names(ctx context.Context) string {
	s, _ := ctx.Value(watchKey{}).(string)
	return s
}

func newWatch(name string) *watch { return &watch{name: name, lines: new(watchLines)} }

func (w *watch) add(method, format string, args ...any) {
	if w.fails != "" && w.fails == method {
		panic(method)
	}
	w.lines.mu.Lock()
	defer w.lines.mu.Unlock()
	w.lines.lines = append(w.lines.lines, strings.TrimSpace(w.name+" "+fmt.Sprintf(format, args...)))
}

// take returns the lines since the last call, without those of the methods that are to be left out.
func (w *watch) take(without ...string) []string {
	w.lines.mu.Lock()
	defer w.lines.mu.Unlock()
	lines := w.lines.lines
	w.lines.lines = nil
	return slices.DeleteFunc(lines, func(line string) bool {
		return slices.ContainsFunc(without, func(method string) bool { return strings.Contains(line, method) })
	})
}

func (w *watch) begin(ctx context.Context) context.Context {
	return context.WithValue(ctx, watchKey{}, w.name+names(ctx))
}

// outcome returns an error's type.
func outcome(err error) string {
	if err == nil {
		return "ok"
	}
	return strings.TrimPrefix(fmt.Sprintf("%T", err), "*mdb.")
}

func (w *watch) OnWriteStart(ctx context.Context, call mdb.WriteCall) context.Context {
	w.add("OnWriteStart", "start %+v after %q", call, names(ctx))
	return w.begin(ctx)
}

func (w *watch) OnWriteEnd(ctx context.Context, call mdb.WriteCall, took time.Duration, err error) {
	w.add("OnWriteEnd", "end %s %s in %q, %t", call.Method, outcome(err), names(ctx), took > 0)
}

func (w *watch) OnWrite(ctx context.Context, o mdb.WriteOutcome) {
	duplicates := 0
	for _, written := range o.Written {
		if written.Duplicate {
			duplicates++
		}
	}
	w.add("OnWrite", "write %s %d messages %d bytes attempts %d grouped %t tx %t written %d duplicates %d %s in %q",
		o.Stream.ID(), o.Messages, o.Bytes, o.Attempts, o.Grouped, o.InTx, len(o.Written), duplicates, outcome(o.Err), names(ctx))
}

func (w *watch) OnMetadata(ctx context.Context, stream mdb.StreamName, m mdb.ProposedMessage) map[string]any {
	w.add("OnMetadata", "metadata %s %s %t in %q", stream.ID(), m.Type, m.ID == [16]byte{}, names(ctx))
	return w.keys
}

func (w *watch) OnGroupStart(ctx context.Context, g mdb.WriteGroup) context.Context {
	var of []string
	g.Contexts(func(ctx context.Context) { of = append(of, names(ctx)) })
	w.add("OnGroupStart", "group %d writes %d messages %t of %q after %q", g.Writes, g.Messages, g.Bytes > 0, of, names(ctx))
	return w.begin(ctx)
}

func (w *watch) OnGroupEnd(ctx context.Context, g mdb.WriteGroup, took time.Duration, err error) {
	w.add("OnGroupEnd", "group ends %d %s in %q, %t", g.Writes, outcome(err), names(ctx), took > 0)
}

// wantLines compares the lines of a watch.
func wantLines(t testing.TB, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

// A contextTracer is a tracer of pgx that records which hooks have begun the contexts of statements.
type contextTracer struct {
	mu   sync.Mutex
	seen map[string]bool
}

func (c *contextTracer) attach(cfg *pgxpool.Config) { cfg.ConnConfig.Tracer = c }

func (c *contextTracer) note(ctx context.Context) context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.seen == nil {
		c.seen = make(map[string]bool)
	}
	c.seen[names(ctx)] = true
	return ctx
}

// take returns what was seen since the last call.
func (c *contextTracer) take() (seen []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name := range c.seen {
		seen = append(seen, name)
	}
	c.seen = nil
	slices.Sort(seen)
	return seen
}

func (c *contextTracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return c.note(ctx)
}
func (c *contextTracer) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}
func (c *contextTracer) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	return c.note(ctx)
}
func (c *contextTracer) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}
func (c *contextTracer) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData)     {}
