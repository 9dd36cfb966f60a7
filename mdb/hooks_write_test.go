package mdb_test

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// sized returns a message whose data has 4 bytes.
func sized() mdb.ProposedMessage { return mdb.NewMessage("Happened", json.RawMessage(`1234`)) }

// TestHooksOfWrites checks what hooks receive of each method, in which order, and with which
// contexts.
func TestHooksOfWrites(t *testing.T) {
	t.Parallel()
	const start, metadata, end = "a start {Method:%s Stream:%s Writes:%d Messages:%d InTx:%t} after \"\"", "a metadata %s Happened false in \"a\"", "a end %s %s in \"a\", true"
	w := newWatch("a")
	s := mdbtest.SharedStore(t, mdb.WithHooks(w))
	category := mdbtest.Category("hooks")
	one := category.Stream("1")
	repeated := sized()
	began := func(method string, stream mdb.StreamName, writes, messages int, inTx bool) string {
		return fmt.Sprintf(start, method, stream, writes, messages, inTx)
	}
	adds := func(id string) string { return fmt.Sprintf(metadata, id) }
	ends := func(method, outcome string) string { return fmt.Sprintf(end, method, outcome) }
	for _, tt := range []struct {
		name string
		call func() error
		want []string
	}{
		{"WriteMessage", func() error { _, err := s.WriteMessage(t.Context(), one, repeated); return err }, []string{
			began("WriteMessage", one, 1, 1, false), adds("1"),
			`a write 1 1 messages 4 bytes attempts 1 grouped false tx false written 1 duplicates 0 ok in "a"`, ends("WriteMessage", "ok"),
		}},
		{"a repeat", func() error { _, err := s.WriteMessage(t.Context(), one, repeated, mdb.Idempotent()); return err }, []string{
			began("WriteMessage", one, 1, 1, false), adds("1"),
			`a write 1 1 messages 4 bytes attempts 1 grouped false tx false written 1 duplicates 1 ok in "a"`, ends("WriteMessage", "ok"),
		}},
		{"a conflict", func() error {
			_, err := s.WriteMessage(t.Context(), one, sized(), mdb.ExpectNoStream())
			return err
		}, []string{
			began("WriteMessage", one, 1, 1, false), adds("1"),
			`a write 1 1 messages 4 bytes attempts 1 grouped false tx false written 0 duplicates 0 WrongVersionError in "a"`, ends("WriteMessage", "WrongVersionError"),
		}},
		{"an invalid call", func() error { _, err := s.WriteMessage(t.Context(), one, sized(), mdb.ExpectVersion(-5)); return err }, []string{
			began("WriteMessage", one, 1, 1, false), adds("1"),
			`a write 1 1 messages 4 bytes attempts 0 grouped false tx false written 0 duplicates 0 ArgumentError in "a"`, ends("WriteMessage", "ArgumentError"),
		}},
		{"WriteMessages", func() error {
			with := sized()
			with.Metadata = json.RawMessage(`{"a":1}`)
			_, err := s.WriteMessages(t.Context(), one, []mdb.ProposedMessage{sized(), with})
			return err
		}, []string{
			began("WriteMessages", one, 1, 2, false), adds("1"), adds("1"),
			`a write 1 2 messages 15 bytes attempts 1 grouped false tx false written 2 duplicates 0 ok in "a"`, ends("WriteMessages", "ok"),
		}},
		{"WriteEach", func() error {
			results := s.WriteEach(t.Context(), []mdb.Write{
				{Stream: category.Stream("2"), Message: sized()},
				{Stream: category.Stream("3"), Message: sized(), Options: []mdb.WriteOption{mdb.ExpectVersion(9)}},
				{Stream: category.Stream("3"), Message: sized()},
			})
			return results[1].Err
		}, []string{
			began("WriteEach", "", 3, 3, false), adds("2"), adds("3"), adds("3"),
			`a write 2 1 messages 4 bytes attempts 1 grouped false tx false written 1 duplicates 0 ok in "a"`,
			`a write 3 1 messages 4 bytes attempts 1 grouped false tx false written 0 duplicates 0 WrongVersionError in "a"`,
			`a write 3 1 messages 4 bytes attempts 0 grouped false tx false written 0 duplicates 0 SkippedError in "a"`,
			ends("WriteEach", "WrongVersionError"),
		}},
		{"Atomically", func() error {
			return s.Atomically(t.Context(), []mdb.Category{category}, func(tx *mdb.Tx) error {
				_, err := tx.WriteMessage(t.Context(), one, sized())
				return err
			})
		}, []string{
			began("Atomically", "", 0, 0, false),
			began("WriteMessage", one, 1, 1, true), adds("1"),
			`a write 1 1 messages 4 bytes attempts 1 grouped false tx true written 1 duplicates 0 ok in "a"`, ends("WriteMessage", "ok"),
			ends("Atomically", "ok"),
		}},
		{"WithTx", func() error {
			return pgx.BeginFunc(t.Context(), s.Pool(), func(tx pgx.Tx) error {
				_, err := s.WithTx(tx).WriteMessages(t.Context(), one, []mdb.ProposedMessage{sized()}, mdb.ExpectNoStream(), mdb.InSavepoint())
				if outcome(err) != "WrongVersionError" {
					return err
				}
				return nil
			})
		}, []string{
			began("WriteMessages", one, 1, 1, true), adds("1"),
			`a write 1 1 messages 4 bytes attempts 1 grouped false tx true written 0 duplicates 0 WrongVersionError in "a"`, ends("WriteMessages", "WrongVersionError"),
		}},
	} {
		err := tt.call()
		got := w.take()
		if !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: error %v, got\n\t%s\nwant\n\t%s", tt.name, err, strings.Join(got, "\n\t"), strings.Join(tt.want, "\n\t"))
		}
	}
}

// TestHooksNest checks that several hooks are called in their order when something begins, and in
// the opposite one when it ends.
func TestHooksNest(t *testing.T) {
	t.Parallel()
	a, b := newWatch("a"), newWatch("b")
	b.lines = a.lines
	s := mdbtest.SharedStore(t, mdb.WithHooks(a), mdb.WithHooks(b))
	stream := mdbtest.Category("hooks").Stream("1")
	write(t, s, stream, sized())
	const outcome = `write 1 1 messages 4 bytes attempts 1 grouped false tx false written 1 duplicates 0 ok in "ba"`
	call := fmt.Sprintf("start {Method:WriteMessage Stream:%s Writes:1 Messages:1 InTx:false} after", stream)
	wantLines(t, a.take(), `a `+call+` ""`, `b `+call+` "a"`, `a metadata 1 Happened false in "ba"`, `b metadata 1 Happened false in "ba"`,
		`b `+outcome, `a `+outcome, `b end WriteMessage ok in "ba", true`, `a end WriteMessage ok in "ba", true`)
}

// TestHooksSeeRetries checks the number of attempts of a write that is retried.
func TestHooksSeeRetries(t *testing.T) {
	t.Parallel()
	if groupAll {
		t.Skip("the transaction of a group is an attempt, too")
	}
	url := testdb.New(t)
	exec(t, newPool(t, url), `
		CREATE SEQUENCE public.tries;
		CREATE FUNCTION public.try() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			IF nextval('public.tries') % 3 <> 0 THEN RAISE EXCEPTION 'no' USING ERRCODE = '40001'; END IF;
			RETURN NEW;
		END $$;
		CREATE TRIGGER try BEFORE INSERT ON message_store.messages FOR EACH ROW EXECUTE FUNCTION public.try()`)
	w := newWatch("a")
	s := newStore(t, newPool(t, url), attempts(3), mdb.WithHooks(w))
	stream := mdb.Category("retried").Stream("1")
	write(t, s, stream, sized())
	const want = `a write 1 1 messages 4 bytes attempts 3 grouped false tx false written 1 duplicates 0 ok in "a"`
	wantLines(t, w.take("start", "metadata", "end"), want)
	if err := s.WriteEach(t.Context(), []mdb.Write{{Stream: stream, Message: sized()}})[0].Err; err != nil {
		t.Fatal(err)
	}
	wantLines(t, w.take("start", "metadata", "end"), want)
}

// TestHooksOfGroups checks what hooks receive of writes that become one transaction, and that
// they are linked to its context.
func TestHooksOfGroups(t *testing.T) {
	t.Parallel()
	w, tracer := newWatch("a"), new(contextTracer)
	s := newStore(t, groupPool(t, tracer.attach), mdb.WithGroupCommit(), mdb.WithHooks(w))
	category := mdbtest.Category("hooks")
	write(t, s, category.Stream("0"), sized())
	tracer.take()
	w.take()
	release := mdb.HoldTurn(s, category)
	first := enqueue(t, s, category.Stream("1"), []mdb.ProposedMessage{sized()})
	second := enqueue(t, s, category.Stream("2"), []mdb.ProposedMessage{sized(), sized()}, mdb.ExpectVersion(7))
	w.take()
	release()
	if _, err := first.result(t); err != nil {
		t.Error(err)
	}
	_, err := second.result(t)
	wantError[*mdb.WrongVersionError](t, err)
	wantNoGroups(t, s)
	got := w.take()
	wantLines(t, got[:2], `a group 2 writes 3 messages true of ["a" "a"] after ""`, `a group ends 2 ok in "a", true`)
	all := strings.Join(got[2:], "\n")
	for _, want := range []string{
		`a write 1 1 messages 4 bytes attempts 1 grouped true tx false written 1 duplicates 0 ok in "a"`, `a end WriteMessages ok in "a"`,
		`a write 2 2 messages 8 bytes attempts 1 grouped true tx false written 0 duplicates 0 WrongVersionError in "a"`, `a end WriteMessages WrongVersionError in "a"`,
	} {
		if !strings.Contains(all, want) {
			t.Errorf("got\n%s\nwant %s", all, want)
		}
	}
	if seen := tracer.take(); !reflect.DeepEqual(seen, []string{"a"}) {
		t.Errorf("the pool's tracer has seen contexts of %q, want that of the group", seen)
	}
}

// TestHooksOfGroupedWriteEach checks that a group of the writes of WriteEach is linked to the call,
// and that a caller who leaves is reported as one whose outcome is unknown.
func TestHooksOfGroupedWriteEach(t *testing.T) {
	t.Parallel()
	w := newWatch("a")
	s := newStore(t, groupPool(t), mdb.WithGroupCommit(), mdb.WithHooks(w))
	category := mdbtest.Category("hooks")
	for i, r := range s.WriteEach(t.Context(), []mdb.Write{
		{Stream: category.Stream("1"), Message: sized()}, {Stream: category.Stream("2"), Message: sized()},
	}) {
		if r.Err != nil {
			t.Errorf("write %d: %v", i, r.Err)
		}
	}
	const grouped = ` 1 messages 4 bytes attempts 1 grouped true tx false written 1 duplicates 0 ok in "a"`
	wantLines(t, w.take("start", "metadata"), `a group 2 writes 2 messages true of ["a" "a"] after ""`, `a group ends 2 ok in "a", true`,
		`a write 1`+grouped, `a write 2`+grouped, `a end WriteEach ok in "a", true`)

	release := mdb.HoldTurn(s, category)
	left := enqueue(t, s, category.Stream("3"), []mdb.ProposedMessage{sized()})
	left.cancel()
	if _, err := left.result(t); err == nil {
		t.Error("a write whose context has ended before it was sent has no error")
	}
	release()
	wantLines(t, w.take("start", "metadata"), `a write 3 1 messages 4 bytes attempts 1 grouped false tx false written 0 duplicates 0 *fmt.wrapError in "a"`,
		`a end WriteMessages *fmt.wrapError in "a", true`)
}

// TestTracersSeeTheContextsOfHooks checks that the spans of the pool's tracer belong to those of
// hooks.
func TestTracersSeeTheContextsOfHooks(t *testing.T) {
	t.Parallel()
	tracer := new(contextTracer)
	w := newWatch("a")
	s := newStore(t, newPool(t, testdb.Shared(t), tracer.attach), mdb.WithHooks(w))
	category := mdbtest.Category("hooks")
	stream := category.Stream("1")
	write(t, s, stream, sized())
	for name, call := range map[string]func(ctx context.Context) error{
		"WriteMessage": func(ctx context.Context) error { _, err := s.WriteMessage(ctx, stream, sized()); return err },
		"WriteMessages": func(ctx context.Context) error {
			_, err := s.WriteMessages(ctx, stream, []mdb.ProposedMessage{sized(), sized()})
			return err
		},
		"WriteEach": func(ctx context.Context) error {
			return s.WriteEach(ctx, []mdb.Write{{Stream: stream, Message: sized()}, {Stream: stream, Message: sized()}})[1].Err
		},
		"Atomically": func(ctx context.Context) error {
			return s.Atomically(ctx, []mdb.Category{category}, func(*mdb.Tx) error { return nil })
		},
	} {
		tracer.take()
		if err := call(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if seen := tracer.take(); !reflect.DeepEqual(seen, []string{"a"}) {
			t.Errorf("%s: the tracer has seen contexts of %q, want those of the hook", name, seen)
		}
	}
}

// TestHooksAddMetadata checks what a message has of the keys that hooks add, and of its own.
func TestHooksAddMetadata(t *testing.T) {
	t.Parallel()
	a, b := newWatch("a"), newWatch("b")
	a.keys = map[string]any{"traceparent": "00-a", "actor": "a"}
	b.keys = map[string]any{"actor": "b"}
	s := mdbtest.SharedStore(t, mdb.WithHooks(a, b, newWatch("c")))
	stream := mdbtest.Category("hooks").Stream("1")
	const added = `"actor": "b", "traceparent": "00-a"`
	for _, tt := range []struct {
		metadata any
		want     string
	}{
		{nil, `{` + added + `}`},
		{json.RawMessage(" null\n"), `{` + added + `}`},
		{json.RawMessage(" { }\n"), `{` + added + `}`},
		{mdb.Metadata{}, `{` + added + `}`},
		{json.RawMessage("\t{ \"own\": {\"a\": \"}\"} } "), `{"own": {"a": "}"}, ` + added + `}`},
		{map[string]any{"traceparent": "00-old", "own": 1}, `{"own": 1, ` + added + `}`},
		{mdb.Metadata{CorrelationStreamName: "a-1"}, `{` + added + `, "correlationStreamName": "a-1"}`},
		{json.RawMessage(`[1]`), `[1]`},
		{json.RawMessage(` "{}"`), `"{}"`},
	} {
		given := fmt.Sprint(tt.metadata)
		m := sized()
		m.Metadata = tt.metadata
		w := write(t, s, stream, m)
		ms, err := s.GetStreamMessages(t.Context(), stream, mdb.FromPosition(w.Position))
		if err != nil || len(ms) != 1 {
			t.Fatalf("got %d messages, error %v", len(ms), err)
		}
		if got, want := parse(t, ms[0].Metadata), parse(t, []byte(tt.want)); !reflect.DeepEqual(got, want) {
			t.Errorf("got %s of %s, want %s", ms[0].Metadata, given, tt.want)
		}
		if now := fmt.Sprint(tt.metadata); now != given {
			t.Errorf("the caller's metadata %s has become %s", given, now)
		}
	}

	a.keys = map[string]any{"a": "\x00"}
	_, err := s.WriteMessage(t.Context(), stream, sized())
	if argument := wantError[*mdb.ArgumentError](t, err); argument.Faults[0].Argument != "metadata of a hook" {
		t.Errorf("got %v", err)
	}
}

// TestHooksAreRejected checks that values which cannot be hooks are reported.
func TestHooksAreRejected(t *testing.T) {
	t.Parallel()
	for _, hook := range []mdb.Hook{nil, (*watch)(nil), "a text", struct{}{}} {
		_, err := mdb.New(newPool(t, testdb.Shared(t)), mdb.WithHooks(newWatch("a"), hook))
		if argument := wantError[*mdb.ArgumentError](t, err); argument.Faults[0].Argument != "hook 1" {
			t.Errorf("%T: got %v", hook, err)
		}
	}
}

// TestHooksThatPanic checks that a panic passes to the caller, who can use the store afterwards: no
// connection, and no turn of a category, is lost.
func TestHooksThatPanic(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"OnWriteStart", "OnMetadata", "OnWrite", "OnWriteEnd"} {
		for name, opts := range map[string][]mdb.StoreOption{"plain": nil, "groups": {mdb.WithGroupCommit()}} {
			w := newWatch("a")
			s := newStore(t, newPool(t, testdb.Shared(t), oneConnection), append(opts, mdb.WithHooks(w))...)
			category := mdbtest.Category("hooks")
			stream := category.Stream("1")
			for what, call := range map[string]func(){
				"WriteMessage":  func() { _, _ = s.WriteMessage(t.Context(), stream, sized()) },
				"WriteMessages": func() { _, _ = s.WriteMessages(t.Context(), stream, []mdb.ProposedMessage{sized(), sized()}) },
				"WriteEach": func() {
					s.WriteEach(t.Context(), []mdb.Write{{Stream: stream, Message: sized()}, {Stream: category.Stream("2"), Message: sized()}})
				},
				"Atomically": func() {
					_ = s.Atomically(t.Context(), nil, func(tx *mdb.Tx) error { _, err := tx.WriteMessage(t.Context(), stream, sized()); return err })
				},
			} {
				w.fails = method
				if got := panicOf(call); got != method {
					t.Errorf("%s, %s of %s: got panic %v", name, method, what, got)
				}
				w.fails = ""
				ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
				_, err := s.WriteMessage(ctx, stream, sized())
				cancel()
				if err != nil {
					t.Fatalf("%s, after %s of %s: %v", name, method, what, err)
				}
			}
			if opts != nil {
				wantNoGroups(t, s)
			}
			// A group returns its connection after its callers have continued.
			inTime(t, name+", "+method+": no connection is in use", func() bool { return s.Pool().Stat().AcquiredConns() == 0 })
		}
	}
}

func panicOf(f func()) (value any) {
	defer func() { value = recover() }()
	f()
	return nil
}

// A quiet is a hook of all interfaces that allocates nothing.
type quiet struct{ calls int }

func (q *quiet) OnWriteStart(ctx context.Context, _ mdb.WriteCall) context.Context {
	q.calls++
	return ctx
}
func (q *quiet) OnWriteEnd(context.Context, mdb.WriteCall, time.Duration, error) { q.calls++ }
func (q *quiet) OnWrite(context.Context, mdb.WriteOutcome)                       { q.calls++ }
func (q *quiet) OnMetadata(context.Context, mdb.StreamName, mdb.ProposedMessage) map[string]any {
	q.calls++
	return nil
}

func (q *quiet) OnGroupStart(ctx context.Context, _ mdb.WriteGroup) context.Context {
	q.calls++
	return ctx
}
func (q *quiet) OnGroupEnd(context.Context, mdb.WriteGroup, time.Duration, error) { q.calls++ }

// TestAllocsOfHookedWrites checks that a write with hooks costs no more allocations than one
// without.
func TestAllocsOfHookedWrites(t *testing.T) {
	measured(t, func(t *testing.T, s *mdb.Store, ctx context.Context, watch float64) {
		hook := new(quiet)
		hooked := newStore(t, s.Pool(), mdb.WithHooks(hook))
		stream := mdbtest.Category("allocs").Stream("1")
		var data any = json.RawMessage(`{"amount": 10}`)
		if got, want := allocs(writeAllocs+watch, func() {
			if _, err := hooked.WriteMessage(ctx, stream, mdb.ProposedMessage{ID: uuid.New(), Type: "Happened", Data: data}); err != nil {
				t.Fatal(err)
			}
		}), writeAllocs+watch; got != want {
			t.Errorf("got %v allocations, want %v", got, want)
		}
		if hook.calls == 0 {
			t.Error("the hook was not called")
		}
	})
}
