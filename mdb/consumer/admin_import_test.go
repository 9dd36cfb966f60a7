package consumer_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

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
	running := startNamed(t, plantOn(t, s).Store, "ours", "signup", a.handler(), consumer.InPositionStream("ours"), consumer.FlushEvery(time.Hour, 25))
	eventually(t, "the position is stored", func() bool {
		position, _ := recorded(t, s, "signup:position-ours")
		return position == want[29]
	})
	more := signUp(t, s, 5)
	eventually(t, "all is handled", func() bool { return len(a.sorted()) == 35 })
	if position, err := o.ImportPosition(ctx, "ours", "signup:position-ours"); err != nil || position != want[29] {
		t.Fatalf("got %d, %v, want %d", position, err, want[29])
	}
	if err := running.wait(); !errors.Is(err, consumer.ErrReplaced) {
		t.Errorf("the old process ended with %v", err)
	}
	if position, n := recorded(t, s, "signup:position-ours"); position != want[29] || n != 3 {
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
	eventually(t, "the import waits", func() (waits bool) {
		if err := s.Pool().QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database
			WHERE l.locktype = 'advisory' AND NOT l.granted AND d.datname = current_database())`).Scan(&waits); err != nil {
			t.Fatal(err)
		}
		return waits
	})
	if err := tx.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	var conflict *consumer.ConflictError
	if err := <-imported; !errors.As(err, &conflict) || !strings.Contains(err.Error(), "is written to by another process") {
		t.Errorf("got %v, want a ConflictError", err)
	}
}
