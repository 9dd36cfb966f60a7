package consumer_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
)

// TestImportPosition checks that a consumer in the schema continues where one with a position stream was, that of Eventide or of this
// package, and that a process that runs the old one ends and stores nothing more.
func TestImportPosition(t *testing.T) {
	t.Parallel()
	s := withConsumers.Store(t)
	ctx := t.Context()
	want := signUp(t, s, 30)
	o := consumer.Admin(s.Pool())

	putAsEventide(t, s, "signup:position-eventide", want[9])
	for range 2 { // the first one changes nothing
		if position, err := o.ImportPosition(ctx, "imported", "signup:position-eventide", consumer.DryRun()); err != nil || position != want[9] {
			t.Errorf("got %d, %v, want %d", position, err, want[9])
		}
	}
	if _, n := recorded(t, s, "signup:position-eventide"); n != 1 {
		t.Errorf("a dry run has written to the stream")
	}
	if position, err := o.ImportPosition(ctx, "imported", "signup:position-eventide"); err != nil || position != want[9] {
		t.Fatalf("got %d, %v, want %d", position, err, want[9])
	}
	d, err := o.Show(ctx, "imported")
	if err != nil || len(d.Processes) != 0 || d.Partitions != consumer.DefaultPartitions || d.Pending != 20 || !slices.Equal(d.Categories, []mdb.Category{"signup"}) {
		t.Errorf("got %+v, %v", d, err)
	}
	var imported record
	c, err := consumer.New(s, "imported", "signup", imported.handler())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.CatchUp(ctx); err != nil || !slices.Equal(imported.sorted(), want[10:]) {
		t.Errorf("got %v, and %v handled, want %v", err, imported.sorted(), want[10:])
	}

	var a, b record
	ours := func(h consumer.Handler) *consumer.Consumer {
		c, err := consumer.New(plantOn(t, s).Store, "ours", "signup", h, consumer.InPositionStream("ours"), consumer.FlushEvery(time.Hour, 1<<30))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	if err := ours(a.handler()).CatchUp(ctx); err != nil { // stores the position when it ends, and never before
		t.Fatal(err)
	}
	running := startConsumer(t, ours(a.handler()))
	more := signUp(t, s, 5)
	eventually(t, "all is handled", func() bool { return len(a.sorted()) == 35 })
	if position, err := o.ImportPosition(ctx, "ours", "signup:position-ours"); err != nil || position != want[29] {
		t.Fatalf("got %d, %v, want %d", position, err, want[29])
	}
	if err := running.wait(); !errors.Is(err, consumer.ErrReplaced) {
		t.Errorf("the old process ended with %v", err)
	}
	if position, n := recorded(t, s, "signup:position-ours"); position != want[29] || n != 4 {
		t.Errorf("got the position %d in %d messages", position, n)
	}
	if c, err = consumer.New(s, "ours", "signup", b.handler()); err != nil {
		t.Fatal(err)
	}
	if err := c.CatchUp(ctx); err != nil || !slices.Equal(b.sorted(), more) {
		t.Errorf("got %v, and %v handled, want what was not stored: %v", err, b.sorted(), more)
	}
}

// TestImportPositionErrors checks what cannot be imported, and that nothing is changed then.
func TestImportPositionErrors(t *testing.T) {
	t.Parallel()
	s := withConsumers.Store(t)
	ctx := t.Context()
	o := consumer.Admin(s.Pool())
	putAsEventide(t, s, "account:command+position-x", 0)
	if _, err := s.WriteMessage(ctx, "other:position", mdb.NewMessage("Other", nil)); err != nil {
		t.Fatal(err)
	}
	if _, err := o.ImportPosition(ctx, "known", "account:command+position-x"); err != nil {
		t.Fatal(err)
	}
	if d, err := o.Show(ctx, "known"); err != nil || !slices.Equal(d.Categories, []mdb.Category{"account:command"}) {
		t.Errorf("got %+v, %v", d, err)
	}
	for name, tt := range map[string]struct {
		consumer string
		stream   mdb.StreamName
		want     any
		text     string
	}{
		"no name":                  {"", "a:position", new(*mdb.ArgumentError), "the name of a consumer"},
		"no stream":                {"a", "", new(*mdb.ArgumentError), "the name of a position stream"},
		"a stream without type":    {"a", "position-x", new(*mdb.ArgumentError), "such as account:position-mailer"},
		"a stream of another type": {"a", "a:command-position", new(*mdb.ArgumentError), "such as account:position-mailer"},
		"a stream without entity":  {"a", ":position-x", new(*mdb.ArgumentError), "such as account:position-mailer"},
		"an empty stream":          {"a", "account:position-y", new(*consumer.ConflictError), "the stream account:position-y is empty"},
		"another message":          {"a", "other:position", new(*mdb.SetupError), `the type "Other"`},
		"a consumer of the name":   {"known", "account:command+position-x", new(*consumer.ConflictError), "there is a consumer of the name"},
	} {
		_, err := o.ImportPosition(ctx, tt.consumer, tt.stream)
		if !errors.As(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: got %v, want %T with %q", name, err, tt.want, tt.text)
		}
	}
	if list, err := o.List(ctx); err != nil || len(list) != 1 {
		t.Errorf("got %+v, %v, want one consumer", list, err)
	}
	if _, n := recorded(t, s, "account:command+position-x"); n != 2 {
		t.Errorf("got %d positions, want that of the start and that of the import", n)
	}

	// Somebody who writes meanwhile is not overtaken.
	tx := beginAsEventide(t, s)
	if _, err := tx.Exec(ctx, eventidePut, "7c1a7d2e-6f0b-4c39-8b94-0d2f3f0c5c11", "account:command+position-x", "Recorded", `{"position": 1}`, nil, nil); err != nil {
		t.Fatal(err)
	}
	imported := make(chan error, 1)
	go func() {
		_, err := o.ImportPosition(ctx, "late", "account:command+position-x")
		imported <- err
	}()
	waitsFor(t, s, "advisory", func() bool { return false })
	if err := tx.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	var conflict *consumer.ConflictError
	if err := <-imported; !errors.As(err, &conflict) || !strings.Contains(err.Error(), "is written to by another process") {
		t.Errorf("got %v, want a ConflictError", err)
	}
}

// waitsFor waits until a session of the database waits for a lock of a type, or until done returns true.
func waitsFor(t *testing.T, s *mdb.Store, lock string, done func() bool) {
	t.Helper()
	eventually(t, "a session waits for a lock of the type "+lock, func() (waits bool) {
		if err := s.Pool().QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM pg_locks AS l JOIN pg_stat_activity AS a ON a.pid = l.pid
			WHERE l.locktype = $1 AND NOT l.granted AND a.datname = current_database())`, lock).Scan(&waits); err != nil {
			t.Fatal(err)
		}
		return waits || done()
	})
}

// TestImportPositionMeanwhile checks that a process that starts while the position is imported continues there, and that an import does not succeed if
// somebody else creates a consumer of the name.
func TestImportPositionMeanwhile(t *testing.T) {
	t.Parallel()
	s := withConsumers.Store(t)
	ctx := t.Context()
	want := signUp(t, s, 30)
	o := consumer.Admin(s.Pool())
	const stream = "signup:position-x"
	putAsEventide(t, s, stream, want[9])
	var ended atomic.Bool
	start := func(name string) chan error {
		result := make(chan error, 1)
		ended.Store(false)
		go func() {
			_, err := o.ImportPosition(ctx, name, stream)
			ended.Store(true)
			result <- err
		}()
		return result
	}

	writing := beginAsEventide(t, s)
	if _, err := writing.Exec(ctx, eventidePut, uuid.NewString(), "signup:position-y", "Recorded", `{"position": 1}`, nil, nil); err != nil {
		t.Fatal(err)
	}
	imported := start("meanwhile")
	waitsFor(t, s, "advisory", ended.Load)
	var got record
	c, err := consumer.New(plantOn(t, s).Store, "meanwhile", "signup", got.handler())
	if err != nil {
		t.Fatal(err)
	}
	var caughtUp atomic.Bool
	handled := make(chan error, 1)
	go func() {
		err := c.CatchUp(ctx)
		caughtUp.Store(true)
		handled <- err
	}()
	waitsFor(t, s, "transactionid", caughtUp.Load)
	if err := writing.Rollback(ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-imported; err != nil {
		t.Fatal(err)
	}
	if err := <-handled; err != nil || !slices.Equal(got.sorted(), want[10:]) {
		t.Errorf("got %v, and %v handled by a process that has started meanwhile, want %v", err, got.sorted(), want[10:])
	}

	_, before := recorded(t, s, stream)
	forking, err := s.Pool().Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = forking.Rollback(context.WithoutCancel(ctx)) })
	if err := ledger.Fork(ctx, forking, "meanwhile", "forked"); err != nil {
		t.Fatal(err)
	}
	imported = start("forked")
	waitsFor(t, s, "transactionid", ended.Load)
	if err := forking.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	var conflict *consumer.ConflictError
	if err := <-imported; !errors.As(err, &conflict) || !strings.Contains(err.Error(), "there is a consumer of the name") {
		t.Errorf("got %v, want a ConflictError", err)
	}
	if _, n := recorded(t, s, stream); n != before {
		t.Errorf("the stream has %d positions, want %d", n, before)
	}
}
