package mdb_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/tracelog"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// A recorder is a tracer that logs what it sees with pgx's tracelog, as text and as JSON and
// as fmt prints it, and counts.
type recorder struct {
	*tracelog.TraceLog
	mu       sync.Mutex
	log      bytes.Buffer
	prepares int
	sql      []string // of queries, and of the queries of batches
	open     int      // spans without an end
	onEnd    func()   // if set, is called when a query or a batch ends
}

func newRecorder() *recorder {
	r := new(recorder)
	text := slog.New(slog.NewTextHandler(&r.log, nil))
	asJSON := slog.New(slog.NewJSONHandler(&r.log, nil))
	r.TraceLog = &tracelog.TraceLog{LogLevel: tracelog.LogLevelTrace, Logger: tracelog.LoggerFunc(func(_ context.Context, _ tracelog.LogLevel, msg string, data map[string]any) {
		r.mu.Lock()
		defer r.mu.Unlock()
		text.Info(msg, "data", data)
		asJSON.Info(msg, "data", data)
		fmt.Fprintf(&r.log, "%v %+v %#v\n", data, data["args"], data["args"])
	})}
	return r
}

func (r *recorder) attach(cfg *pgxpool.Config) { cfg.ConnConfig.Tracer = r }

func (r *recorder) count(open int, sql ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open += open
	r.sql = append(r.sql, sql...)
}

func (r *recorder) ended() {
	r.count(-1)
	if r.onEnd != nil {
		r.onEnd()
	}
}

func (r *recorder) TraceQueryStart(ctx context.Context, conn *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	r.count(1, data.SQL)
	return r.TraceLog.TraceQueryStart(ctx, conn, data)
}

func (r *recorder) TraceQueryEnd(ctx context.Context, conn *pgx.Conn, data pgx.TraceQueryEndData) {
	r.TraceLog.TraceQueryEnd(ctx, conn, data)
	r.ended()
}

func (r *recorder) TraceBatchStart(ctx context.Context, conn *pgx.Conn, data pgx.TraceBatchStartData) context.Context {
	r.count(1)
	return r.TraceLog.TraceBatchStart(ctx, conn, data)
}

func (r *recorder) TraceBatchQuery(ctx context.Context, conn *pgx.Conn, data pgx.TraceBatchQueryData) {
	r.count(0, data.SQL)
	r.TraceLog.TraceBatchQuery(ctx, conn, data)
}

func (r *recorder) TraceBatchEnd(ctx context.Context, conn *pgx.Conn, data pgx.TraceBatchEndData) {
	r.TraceLog.TraceBatchEnd(ctx, conn, data)
	r.ended()
}

func (r *recorder) TracePrepareStart(ctx context.Context, conn *pgx.Conn, data pgx.TracePrepareStartData) context.Context {
	r.mu.Lock()
	r.prepares++
	r.mu.Unlock()
	return r.TraceLog.TracePrepareStart(ctx, conn, data)
}

// TestTracing checks that a tracer sees the text of each statement once, and no payload, and
// that a statement is not prepared again. Each call is repeated, and only the second one counts.
func TestTracing(t *testing.T) {
	t.Parallel()
	for _, mode := range execModes {
		for way, opts := range map[string][]mdb.StoreOption{"procedures": {mdb.WithConditions()}, "direct": {mdb.WithConditions(), mdb.WithDirectSQL()}} {
			t.Run(mode.String()+" "+way, func(t *testing.T) {
				t.Parallel()
				r := newRecorder()
				s := newStore(t, newPool(t, testdb.Shared(t), execMode(mode), oneConnection, r.attach), opts...)
				category := mdbtest.Category("trace")
				stream := category.Stream("1")
				m := func() mdb.ProposedMessage {
					m := mdb.NewMessage("Happened", map[string]string{"text": canary})
					m.Metadata = map[string]string{"also": canary}
					return m
				}
				stored := m()
				write(t, s, stream, stored)
				first, err := s.GetLastStreamMessage(t.Context(), stream)
				if err != nil {
					t.Fatal(err)
				}
				checkpoint := mdb.CategoryCheckpoint{}.After(first)
				type call struct {
					name string
					call func(c calls) error
					want int // statements
				}
				both, anchored := 1, 2
				if way == "direct" {
					both, anchored = 2, 1
				}
				calls := []call{
					{"WriteMessage", func(c calls) error {
						_, err := c.WriteMessage(t.Context(), stream, m())
						return err
					}, 1},
					{"WriteMessages", func(c calls) error {
						_, err := c.WriteMessages(t.Context(), stream, []mdb.ProposedMessage{m(), {Type: "Empty"}})
						return err
					}, both},
					{"GetStreamMessages", func(c calls) error {
						_, err := c.GetStreamMessages(t.Context(), stream)
						return err
					}, 1},
					{"GetCategoryMessages", func(c calls) error {
						_, err := c.GetCategoryMessages(t.Context(), category, mdb.AsConsumerGroup(0, 1))
						return err
					}, 1},
					{"WithCondition", func(c calls) error {
						_, err := c.GetCategoryMessages(t.Context(), category, mdb.WithCondition("true"))
						return err
					}, 3},
					{"ExpectStream", func(c calls) error {
						_, err := c.WriteMessage(t.Context(), stream, m(), mdb.ExpectStream())
						return err
					}, 1},
					{"StreamVersion", func(c calls) error {
						_, err := c.StreamVersion(t.Context(), stream)
						return err
					}, 1},
					{"CategoryHead", func(c calls) error {
						_, err := c.CategoryHead(t.Context(), category)
						return err
					}, 1},
					{"GetLastStreamMessage", func(c calls) error {
						_, err := c.GetLastStreamMessage(t.Context(), stream)
						return err
					}, 1},
				}
				check := func(t *testing.T, want int, call func() error) {
					t.Helper()
					if err := call(); err != nil {
						t.Fatal(err)
					}
					r.mu.Lock()
					prepares := r.prepares
					r.sql = nil
					r.mu.Unlock()
					if err := call(); err != nil {
						t.Fatal(err)
					}
					// The one mode prepares for each statement, the other after each error.
					again := mode == pgx.QueryExecModeDescribeExec || mode == pgx.QueryExecModeCacheDescribe && strings.Contains(t.Name(), "Idempotent")
					if !again && r.prepares != prepares {
						t.Errorf("got %d prepares of a prepared statement, want none", r.prepares-prepares)
					}
					if len(r.sql) != want || r.open != 0 {
						t.Errorf("got statements %q and %d open spans, want %d statements", r.sql, r.open, want)
					}
					for _, sql := range r.sql {
						word, _, _ := strings.Cut(strings.ToUpper(sql), " ")
						if !slices.Contains([]string{"SELECT", "INSERT", "WITH", "BEGIN", "COMMIT", "SAVEPOINT", "RELEASE"}, word) {
							t.Errorf("got the statement %q, want its text", sql)
						}
					}
				}
				for _, c := range calls {
					t.Run(c.name, func(t *testing.T) { check(t, c.want, func() error { return c.call(s) }) })
				}
				t.Run("WriteEach", func(t *testing.T) {
					check(t, 3, func() error {
						results := s.WriteEach(t.Context(), []mdb.Write{
							{Stream: stream, Message: m()}, {Stream: stream, Message: m()}, {Stream: category.Stream("2"), Message: m()},
						})
						return errors.Join(results[0].Err, results[1].Err, results[2].Err)
					})
				})
				t.Run("Idempotent", func(t *testing.T) { // finds the message
					check(t, 2, func() error {
						_, err := s.WriteMessage(t.Context(), stream, stored, mdb.Idempotent())
						return err
					})
				})
				t.Run("Atomically", func(t *testing.T) { // begins, locks, writes and commits
					check(t, 4, func() error {
						return s.Atomically(t.Context(), []mdb.Category{category}, func(tx *mdb.Tx) error {
							_, err := tx.WriteMessage(t.Context(), stream, m())
							return err
						})
					})
				})
				t.Run("SubscribeToCategory", func(t *testing.T) { // reads, and looks for the last message that it knows
					check(t, anchored, func() error {
						ctx, end := context.WithCancelCause(t.Context())
						live := mdb.OnLive(func(bool) { end(errStopped) })
						h := func(context.Context, mdb.Message) error { return nil }
						err := s.SubscribeToCategory(ctx, category, h, mdb.AfterCheckpoint(checkpoint), live)
						if errors.Is(err, errStopped) {
							return nil
						}
						return err
					})
				})
				t.Run("Tx", func(t *testing.T) {
					tx := s.WithTx(begin(t, s.Pool()))
					t.Run("InSavepoint", func(t *testing.T) {
						check(t, 3, func() error {
							_, err := tx.WriteMessage(t.Context(), stream, m(), mdb.InSavepoint())
							return err
						})
					})
					t.Run("LockCategories", func(t *testing.T) {
						check(t, 1, func() error { return tx.LockCategories(t.Context(), category) })
					})
					for _, c := range calls {
						t.Run(c.name, func(t *testing.T) { check(t, c.want, func() error { return c.call(tx) }) })
					}
				})
				log := r.log.String()
				if strings.Contains(log, canary) || strings.Contains(log, fmt.Sprintf("%x", canary)) {
					i := strings.Index(log, canary)
					t.Errorf("the log contains the payload: %s", log[max(0, i-600):i+50])
				}
				if !strings.Contains(log, "write_message(") || !strings.Contains(log, string(stream)) || !strings.Contains(log, " bytes") || strings.Contains(log, "0xc0") {
					t.Errorf("the log lacks the texts, the stream or the sizes, or contains addresses: %.2000s", log)
				}
			})
		}
	}
}

// TestTracedStatementsForgotten checks that a traced connection that has lost its prepared
// statements, with pgx's knowledge or without, prepares them again.
func TestTracedStatementsForgotten(t *testing.T) {
	t.Parallel()
	r := newRecorder()
	s := newStore(t, newPool(t, testdb.Shared(t), oneConnection, r.attach))
	stream := mdbtest.Category("trace").Stream("1")
	for _, forget := range []func(conn *pgx.Conn) error{
		func(conn *pgx.Conn) error { return conn.DeallocateAll(t.Context()) },
		func(conn *pgx.Conn) error { _, err := conn.Exec(t.Context(), "DISCARD ALL"); return err },
	} {
		write(t, s, stream, mdb.NewMessage("Happened", nil))
		if err := s.Pool().AcquireFunc(t.Context(), func(conn *pgxpool.Conn) error { return forget(conn.Conn()) }); err != nil {
			t.Fatal(err)
		}
		write(t, s, stream, mdb.NewMessage("Happened", nil))
		if results := s.WriteEach(t.Context(), []mdb.Write{{Stream: stream, Message: mdb.NewMessage("Happened", nil)}}); results[0].Err != nil {
			t.Error(results[0].Err)
		}
	}
	if n := len(positions(t, s.Pool(), stream)); n != 6 {
		t.Errorf("got %d messages, want 6", n)
	}
}

// TestContextEndsAfterSuccess checks that a call that has succeeded returns no error,
// although its context ends right then.
func TestContextEndsAfterSuccess(t *testing.T) {
	t.Parallel()
	for way, opts := range map[string][]mdb.StoreOption{"procedures": nil, "direct": {mdb.WithDirectSQL()}} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			r := newRecorder()
			s := newStore(t, newPool(t, testdb.Shared(t), oneConnection, r.attach), opts...)
			category := mdbtest.Category("ends")
			stream := category.Stream("1")
			write(t, s, stream, mdb.NewMessage("Happened", nil)) // after which the store is used without a look
			for name, call := range map[string]func(ctx context.Context) error{
				"write": func(ctx context.Context) error {
					_, err := s.WriteMessage(ctx, stream, mdb.NewMessage("Happened", nil))
					return err
				},
				"batch": func(ctx context.Context) error {
					_, err := s.WriteMessages(ctx, stream, proposals(2))
					return err
				},
				"read": func(ctx context.Context) error { _, err := s.GetStreamMessages(ctx, stream); return err },
				"each": func(ctx context.Context) error {
					return s.WriteEach(ctx, []mdb.Write{{Stream: stream, Message: mdb.NewMessage("Happened", nil)}})[0].Err
				},
			} {
				ctx, cancel := context.WithCancel(t.Context())
				r.onEnd = cancel
				if err := call(ctx); err != nil || ctx.Err() == nil {
					t.Errorf("%s: got error %v, and the context's %v, want the context ended and no error", name, err, ctx.Err())
				}
				cancel()
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			r.onEnd = nil
			err := s.Atomically(ctx, []mdb.Category{category}, func(tx *mdb.Tx) error {
				_, err := tx.WriteMessage(ctx, stream, mdb.NewMessage("Happened", nil))
				r.onEnd = cancel // when the commit ends
				return err
			})
			if err != nil || ctx.Err() == nil {
				t.Errorf("Atomically: got error %v, want none", err)
			}
		})
	}
}
