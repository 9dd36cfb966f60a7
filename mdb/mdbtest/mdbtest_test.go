package mdbtest_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// A recorder is a test that only records how it fails.
type recorder struct {
	testing.TB
	errors []string
	fatal  bool
}

func (r *recorder) Helper() {}

func (r *recorder) Errorf(format string, args ...any) {
	r.errors = append(r.errors, fmt.Sprintf(format, args...))
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	r.fatal = true
	runtime.Goexit()
}

func (r *recorder) Fatal(args ...any) { r.Fatalf("%s", fmt.Sprint(args...)) }

// failure returns how a test fails that calls f.
func failure(t *testing.T, f func(testing.TB)) *recorder {
	t.Helper()
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(r)
	}()
	<-done
	return r
}

func write(t *testing.T, s *mdb.Store, stream mdb.StreamName, ms ...mdb.ProposedMessage) {
	t.Helper()
	if _, err := s.WriteMessages(t.Context(), stream, ms); err != nil {
		t.Fatal(err)
	}
}

// TestTemplate checks that a set-up runs once for all tests, that each test has a copy of
// what it did, and that templates do not mix.
func TestTemplate(t *testing.T) {
	t.Parallel()
	var runs atomic.Int64
	setUp := func(table string) func(context.Context, *pgxpool.Pool) error {
		return func(ctx context.Context, pool *pgxpool.Pool) error {
			runs.Add(1)
			_, err := pool.Exec(ctx, "CREATE TABLE public."+table+" (id int)")
			return err
		}
	}
	first, second := mdbtest.NewTemplate(setUp("one")), mdbtest.NewTemplate(setUp("two"))
	t.Run("group", func(t *testing.T) {
		for i := range 3 {
			for table, template := range map[string]*mdbtest.Template{"one": first, "two": second} {
				t.Run(fmt.Sprint(table, i), func(t *testing.T) {
					t.Parallel()
					s := template.Store(t)
					if i == 2 {
						s = template.SharedStore(t)
					}
					write(t, s, "account-1", mdb.NewMessage("Opened", nil))
					mdbtest.Expect(t, s, "account-1", mdb.NewMessage("Opened", nil))
					var tables string
					if err := s.Pool().QueryRow(t.Context(), "SELECT string_agg(tablename, ',') FROM pg_tables WHERE schemaname = 'public'").Scan(&tables); err != nil || tables != table {
						t.Errorf("the tables are %s, %v, want %s", tables, err, table)
					}
				})
			}
		}
	})
	if n := runs.Load(); n != 2 {
		t.Errorf("the set-ups ran %d times, want once each", n)
	}
}

// TestTemplateFails checks that each test fails with the error of a set-up.
func TestTemplateFails(t *testing.T) {
	t.Parallel()
	broken := mdbtest.NewTemplate(func(context.Context, *pgxpool.Pool) error { return errors.New("no such migration") })
	for range 2 {
		r := failure(t, func(t testing.TB) { broken.Store(t) })
		if !r.fatal || len(r.errors) != 1 || !strings.Contains(r.errors[0], "no such migration") {
			t.Errorf("got %+v", r)
		}
	}
}

// TestCatchUp checks that CatchUp returns when all existing messages are handled, for all
// kinds of subscriptions.
func TestCatchUp(t *testing.T) {
	t.Parallel()
	s := mdbtest.SharedStore(t)
	category := mdbtest.Category("account")
	streams := []mdb.StreamName{category.Stream("1"), category.Stream("2"), category.Stream("3")}
	for range 10 {
		for _, stream := range streams {
			write(t, s, stream, mdb.NewMessage("Deposited", nil))
		}
	}
	var handled atomic.Int64
	count := func(context.Context, mdb.Message) error { handled.Add(1); return nil }
	for name, c := range map[string]struct {
		subscribe func(context.Context, mdb.SubscribeOption) error
		want      int64
	}{
		"a stream": {func(ctx context.Context, live mdb.SubscribeOption) error {
			return s.SubscribeToStream(ctx, streams[0], count, live)
		}, 10},
		"a category, in pages": {func(ctx context.Context, live mdb.SubscribeOption) error {
			return s.SubscribeToCategory(ctx, category, count, mdb.WithBatchSize(7), live)
		}, 30},
		"workers": {func(ctx context.Context, live mdb.SubscribeOption) error {
			return s.SubscribeToCategory(ctx, category, count, mdb.WithWorkers(3), live)
		}, 30},
		"an empty stream": {func(ctx context.Context, live mdb.SubscribeOption) error {
			return s.SubscribeToStream(ctx, category.Stream("none"), count, live)
		}, 0},
		"a function that returns nil": {func(ctx context.Context, live mdb.SubscribeOption) error {
			if err := s.SubscribeToStream(ctx, streams[1], count, live); ctx.Err() == nil {
				return err
			}
			return nil
		}, 10},
	} {
		t.Run(name, func(t *testing.T) { //nolint:paralleltest // they count together
			handled.Store(0)
			mdbtest.CatchUp(t, c.subscribe)
			if n := handled.Load(); n != c.want {
				t.Errorf("%d messages were handled, want %d", n, c.want)
			}
		})
	}
}

// TestCatchUpFails checks that a test fails if the subscription does.
func TestCatchUpFails(t *testing.T) {
	t.Parallel()
	s := mdbtest.SharedStore(t)
	category := mdbtest.Category("account")
	write(t, s, category.Stream("1"), mdb.NewMessage("Deposited", nil))
	errBroken := errors.New("broken")
	for name, c := range map[string]struct {
		subscribe func(context.Context, mdb.SubscribeOption) error
		want      string
	}{
		"a handler that fails": {func(ctx context.Context, live mdb.SubscribeOption) error {
			return s.SubscribeToCategory(ctx, category, func(context.Context, mdb.Message) error { return errBroken }, live)
		}, "before it had caught up: mdb: the handler failed"},
		"wrong arguments": {func(ctx context.Context, live mdb.SubscribeOption) error {
			return s.SubscribeToCategory(ctx, "a-b", func(context.Context, mdb.Message) error { return nil }, live)
		}, "before it had caught up: mdb: category"},
		"no subscription": {func(context.Context, mdb.SubscribeOption) error { return nil }, "before it had caught up"},
		"a failure afterwards": {func(ctx context.Context, live mdb.SubscribeOption) error {
			_ = s.SubscribeToCategory(ctx, category, func(context.Context, mdb.Message) error { return nil }, live)
			return errBroken
		}, "and then failed: broken"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := failure(t, func(t testing.TB) { mdbtest.CatchUp(t, c.subscribe) })
			if !r.fatal || len(r.errors) != 1 || !strings.Contains(r.errors[0], c.want) {
				t.Errorf("got %+v, want %q", r.errors, c.want)
			}
		})
	}
}

type deposited struct {
	Amount  float64        `json:"amount"`
	Comment map[string]any `json:"comment,omitempty"`
}

// TestExpect checks which messages Expect takes for the same, and that it shows how others
// differ.
func TestExpect(t *testing.T) {
	t.Parallel()
	s := mdbtest.SharedStore(t)
	category := mdbtest.Category("account")
	stream := category.Stream("1")
	write(t, s, stream,
		mdb.NewMessage("Opened", nil),
		mdb.ProposedMessage{Type: "Deposited", Data: deposited{Amount: 10}, Metadata: map[string]int{"user": 7}},
		mdb.NewMessage("Deposited", json.RawMessage(`{"comment": {"b": [1.50, "<&>", null], "a": true}, "amount": 2e1}`)),
		mdb.NewMessage("Noted", json.RawMessage(`null`)),
		mdb.NewMessage("Closed", nil))

	opened, closed := mdb.NewMessage("Opened", nil), mdb.NewMessage("Closed", nil)
	ten := mdb.NewMessage("Deposited", json.RawMessage(`{"amount": 10.0}`))
	tenBySeven := mdb.ProposedMessage{Type: "Deposited", Data: deposited{Amount: 10}, Metadata: json.RawMessage(`{"user": 7.0}`)}
	twenty := mdb.NewMessage("Deposited", deposited{20, map[string]any{"a": true, "b": []any{1.5, "<&>", nil}}})
	noted := mdb.NewMessage("Noted", []byte(`null`))
	for name, c := range map[string]struct {
		stream mdb.StreamName
		want   []mdb.ProposedMessage
		diff   string // "": none
	}{
		"the same":               {stream, []mdb.ProposedMessage{opened, ten, twenty, noted, closed}, ""},
		"the same with metadata": {stream, []mdb.ProposedMessage{opened, tenBySeven, twenty, noted, closed}, ""},
		"an empty stream":        {category.Stream("2"), nil, ""},
		"nothing expected": {stream, nil, `+ Opened
+ Deposited  {"amount":10}  metadata {"user":7}
+ Deposited  {"amount":20,"comment":{"a":true,"b":[1.50,"<&>",null]}}
+ Noted  null
+ Closed
`},
		"nothing there": {category.Stream("2"), []mdb.ProposedMessage{opened, tenBySeven}, `- Opened
- Deposited  {"amount":10}  metadata {"user":7.0}
`},
		"one is missing": {stream, []mdb.ProposedMessage{opened, ten, twenty, opened, noted, closed}, `  Opened
  Deposited  {"amount":10}
  Deposited  {"amount":20,"comment":{"a":true,"b":[1.50,"<&>",null]}}
- Opened
  Noted  null
  Closed
`},
		"one is not expected, and there are equal ones before": {stream, []mdb.ProposedMessage{opened, ten, twenty, noted}, `  (1 equal messages)
  Deposited  {"amount":10}
  Deposited  {"amount":20,"comment":{"a":true,"b":[1.50,"<&>",null]}}
  Noted  null
+ Closed
`},
		"other data": {stream, []mdb.ProposedMessage{opened, mdb.NewMessage("Deposited", deposited{Amount: 11}), twenty, noted, closed}, `  Opened
- Deposited  {"amount":11}
+ Deposited  {"amount":10}  metadata {"user":7}
  Deposited  {"amount":20,"comment":{"a":true,"b":[1.50,"<&>",null]}}
  Noted  null
  Closed
`},
		"a string for a number": {stream, []mdb.ProposedMessage{opened, mdb.NewMessage("Deposited", json.RawMessage(`{"amount": "10"}`)), twenty, noted, closed}, `- Deposited  {"amount":"10"}
+ Deposited  {"amount":10}`},
		"other metadata": {stream, []mdb.ProposedMessage{opened, {Type: "Deposited", Data: deposited{Amount: 10}, Metadata: map[string]int{"user": 8}}, twenty, noted, closed}, `- Deposited  {"amount":10}  metadata {"user":8}
+ Deposited  {"amount":10}  metadata {"user":7}`},
		"another type":              {stream, []mdb.ProposedMessage{opened, ten, twenty, noted, mdb.NewMessage("Ended", nil)}, "- Ended\n+ Closed\n"},
		"no data for null":          {stream, []mdb.ProposedMessage{opened, ten, twenty, mdb.NewMessage("Noted", nil), closed}, "- Noted\n+ Noted  null\n"},
		"another order":             {stream, []mdb.ProposedMessage{opened, twenty, ten, noted, closed}, "  Opened\n- Deposited  {\"amount\":20"},
		"a pointer that is nil":     {stream, []mdb.ProposedMessage{opened, ten, twenty, noted, mdb.NewMessage("Closed", (*deposited)(nil))}, ""},
		"an array of its key":       {stream, []mdb.ProposedMessage{opened, mdb.NewMessage("Deposited", map[string]any{"amount": []string{"number", "10"}}), twenty, noted, closed}, "- Deposited  {\"amount\":[\"number\",\"10\"]}\n+ Deposited  {\"amount\":10}"},
		"names that differ by case": {stream, []mdb.ProposedMessage{opened, mdb.NewMessage("Deposited", json.RawMessage(`{"Amount": 10}`)), twenty, noted, closed}, "- Deposited  {\"Amount\":10}"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := failure(t, func(t testing.TB) { mdbtest.Expect(t, s, c.stream, c.want...) })
			text := strings.Join(r.errors, "")
			if r.fatal || (text == "") != (c.diff == "") || !strings.Contains(text, c.diff) {
				t.Errorf("got:\n%s\nwant:\n%s", text, c.diff)
			}
		})
	}
}

// TestExpectFails checks that a test ends if the comparison is impossible.
func TestExpectFails(t *testing.T) {
	t.Parallel()
	s := mdbtest.SharedStore(t)
	stream := mdbtest.Category("account").Stream("1")
	for name, c := range map[string]struct {
		stream mdb.StreamName
		want   mdb.ProposedMessage
		text   string
	}{
		"a string":       {stream, mdb.NewMessage("Opened", "{}"), "message 0: data: got a string"},
		"not JSON":       {stream, mdb.NewMessage("Opened", []byte("{")), "message 0: data: "},
		"metadata":       {stream, mdb.ProposedMessage{Type: "Opened", Metadata: func() {}}, "message 0: metadata: "},
		"no stream name": {"", mdb.NewMessage("Opened", nil), "mdb: stream"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := failure(t, func(t testing.TB) { mdbtest.Expect(t, s, c.stream, c.want) })
			if !r.fatal || len(r.errors) != 1 || !strings.Contains(r.errors[0], c.text) {
				t.Errorf("got %+v, want %q", r.errors, c.text)
			}
		})
	}
}
