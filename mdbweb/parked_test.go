package mdbweb_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
	"github.com/messagedb-go/messagedb/mdbweb"
)

// parkMails writes two messages to each of some streams, and lets the consumer mailer park them.
func parkMails(t *testing.T, store *mdb.Store, streams ...mdb.StreamName) *consumer.Consumer {
	t.Helper()
	for _, stream := range streams {
		write(t, store, stream, event("Queued", nil, nil))
		write(t, store, stream, event("Sent", nil, nil))
	}
	c, err := consumer.New(store, "mailer", "mail", consumer.Each(func(_ context.Context, m mdb.Message) error {
		return consumer.Permanent(fmt.Errorf("no mailbox of %s", m.Stream))
	}), consumer.WithPartitions(4), consumer.WithErrorText(), consumer.WithInstance("mailer-0"))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.CatchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	testdb.Postpone(t, store.Pool())
	return c
}

// TestConsumers checks the list of consumers, and the page of one.
func TestConsumers(t *testing.T) {
	t.Parallel()
	s := newSite(t, testdb.Consumers(t))
	s.wants(s.page("/consumers"), "There are no consumers")
	parkMails(t, s.store, "mail-1", "mail-2")
	s.wants(s.page("/consumers"), "mailer mail", "no process runs the consumer", "2")
	page := s.page("/consumers/show?name=mailer")
	s.wants(page, "Consumer mailer", "no process runs the consumer", "mail 0 pending · checkpoints", "mail-1 /0", "no mailbox of mail-1", "No process runs it")
	if n := strings.Count(page, `<rect class="owner none"`); n != 4 {
		t.Errorf("%d partitions without a process, want 4", n)
	}
	if r := s.get("/consumers/show?name=absent"); r.StatusCode != http.StatusNotFound {
		t.Errorf("another consumer: status %d, want 404", r.StatusCode)
	}
	write(t, s.store, "mail-3", event("Queued", nil, nil))
	s.wants(s.page("/consumers/show?name=mailer"), "1 pending")

	ctx, cancel := context.WithCancel(t.Context())
	running, err := consumer.New(s.store, "running", "other", consumer.Each(func(context.Context, mdb.Message) error { return nil }), consumer.WithPartitions(2), consumer.WithInstance("pod-7"))
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- running.Run(ctx) }()
	until(t, "the process has its partitions", func() bool {
		r := s.get("/consumers/show?name=running")
		return r.StatusCode == http.StatusOK && strings.Contains(textOf(r.Body), "pod-7") && strings.Contains(textOf(r.Body), "0–1")
	})
	page = s.page("/consumers/show?name=running")
	s.wants(page, "caught up", "running")
	if strings.Contains(page, "owner none") {
		t.Error("a partition has no process")
	}
	cancel()
	if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestParkedFilter checks that what is parked can be selected, and that it cannot be changed without WithWrites.
func TestParkedFilter(t *testing.T) {
	t.Parallel()
	s := newSite(t, testdb.Consumers(t))
	parkMails(t, s.store, "mail-1", "mail-12", "mail-2")
	s.wants(s.page("/consumers/parked?name=mailer"), "3 of 3 parked", "mail-1 /0", "mail-12 /0", "mail-2 /0", "read-only")
	page := s.page("/consumers/parked?name=mailer&q=mail-1")
	s.wants(page, "2 of 3 parked", "mail-12 /0")
	s.lacks(page, "mail-2")
	s.wants(s.page("/consumers/parked?name=mailer&error=OF+MAIL-2"), "1 of 3 parked", "mail-2 /0")
	s.wants(s.page("/consumers/parked?name=mailer&category=other"), "0 of 3 parked", "Nothing that is parked fits")
	if strings.Contains(page, `name="action"`) {
		t.Error("a page that is read-only offers actions")
	}
	s.get("/") // for the cookie of forms
	var form string
	for _, cookie := range s.client.Jar.Cookies(s.request(http.MethodGet, "/", nil).URL) {
		form = cookie.Value
	}
	for _, action := range []string{"replay", "skip"} {
		r := s.post(`<form method="post" action="/consumers/parked"></form>`, "/consumers/parked", "form", form, "name", "mailer", "action", action, "confirmed", "x")
		if r.StatusCode != http.StatusForbidden {
			t.Errorf("%s: status %d, want 403", action, r.StatusCode)
		}
		s.wants(r.Body, "read-only")
	}
}

// parkedOf returns what is parked, with whether it is due.
func parkedOf(t *testing.T, store *mdb.Store) map[string]bool {
	t.Helper()
	list, err := consumer.Admin(store.Pool()).Parked(t.Context(), "mailer")
	if err != nil {
		t.Fatal(err)
	}
	parked := make(map[string]bool)
	for _, p := range list {
		parked[fmt.Sprintf("%s/%d", p.Stream, p.Position)] = !p.Due.IsZero() && !p.Due.After(time.Now())
	}
	return parked
}

// TestReplay checks that a replay asks for a confirmation with the number, replays what was selected and nothing else, and is logged.
func TestReplay(t *testing.T) {
	t.Parallel()
	s := newSite(t, testdb.Consumers(t), mdbweb.WithWrites())
	parkMails(t, s.store, "mail-1", "mail-12", "mail-2")
	page := s.page("/consumers/parked?name=mailer&q=mail-1")
	confirm := s.post(page, "/consumers/parked", "action", "replay")
	s.wants(confirm.Body, "Replay 2 parked streams", "mail-1 /0", "mail-12 /0")
	s.lacks(confirm.Body, "mail-2")
	for name, due := range parkedOf(t, s.store) {
		if due {
			t.Errorf("%s is due before the confirmation", name)
		}
	}
	r := s.post(confirm.Body, "/consumers/parked", "action", "replay")
	if r.StatusCode != http.StatusSeeOther {
		t.Fatalf("status %d: %s", r.StatusCode, textOf(r.Body))
	}
	s.wants(s.page(r.Header.Get("Location")), "2 streams will be replayed")
	if parked := parkedOf(t, s.store); !parked["mail-1/0"] || !parked["mail-12/0"] || parked["mail-2/0"] || len(parked) != 3 {
		t.Errorf("due are %v", parked)
	}
	lines := s.log.lines(t, "a user replays parked streams")
	if len(lines) != 1 || lines[0]["user"] != "local user" || lines[0]["consumer"] != "mailer" || lines[0]["changed"] != 2.0 || lines[0]["prefix"] != "mail-1" || lines[0]["result"] != "done" || lines[0]["remote"] == "" {
		t.Errorf("logged %v", lines)
	}
}

// TestSkip checks that one message and many can be skipped, after a confirmation.
func TestSkip(t *testing.T) {
	t.Parallel()
	s := newSite(t, testdb.Consumers(t), mdbweb.WithWrites())
	parkMails(t, s.store, "mail-1", "mail-12", "mail-2")
	page := s.page("/consumers/parked?name=mailer&q=mail-2")
	_, row, _ := strings.Cut(page, `<tbody>`)
	confirm := s.post(row, "/consumers/parked", "action", "skip")
	s.wants(confirm.Body, "Skip 1 message", "mail-2 /0", "This cannot be undone")
	if r := s.post(confirm.Body, "/consumers/parked", "action", "skip"); r.StatusCode != http.StatusSeeOther || !strings.Contains(r.Header.Get("Location"), "done=1") {
		t.Errorf("status %d to %s", r.StatusCode, r.Header.Get("Location"))
	}
	if parked := parkedOf(t, s.store); parked["mail-2/1"] != true || len(parked) != 3 {
		t.Errorf("parked are %v", parked)
	}
	confirm = s.post(s.page("/consumers/parked?name=mailer&q=mail-1"), "/consumers/parked", "action", "skip")
	s.wants(confirm.Body, "Skip 2 messages")
	r := s.post(confirm.Body, "/consumers/parked", "action", "skip")
	s.wants(s.page(r.Header.Get("Location")), "2 messages skipped")
	if parked := parkedOf(t, s.store); !parked["mail-1/1"] || !parked["mail-12/1"] {
		t.Errorf("parked are %v", parked)
	}
	if lines := s.log.lines(t, "a user skips parked messages"); len(lines) != 2 || lines[1]["changed"] != 2.0 {
		t.Errorf("logged %v", lines)
	}
}

// TestChangedMeanwhile checks that a confirmation is for what the user has seen: if that has changed, or was another action, nothing
// is done.
func TestChangedMeanwhile(t *testing.T) {
	t.Parallel()
	s := newSite(t, testdb.Consumers(t), mdbweb.WithWrites())
	parkMails(t, s.store, "mail-1", "mail-2")
	page := s.page("/consumers/parked?name=mailer")
	replay := s.post(page, "/consumers/parked", "action", "replay")
	if r := s.post(replay.Body, "/consumers/parked", "action", "skip"); r.StatusCode != http.StatusOK || len(parkedOf(t, s.store)) != 2 {
		t.Errorf("the confirmation of a replay skips: status %d", r.StatusCode)
	}
	skip := s.post(page, "/consumers/parked", "action", "skip")
	if err := consumer.Admin(s.store.Pool()).Skip(t.Context(), "mailer", "mail-1"); err != nil {
		t.Fatal(err)
	}
	before := parkedOf(t, s.store)
	r := s.post(skip.Body, "/consumers/parked", "action", "skip")
	s.wants(r.Body, "What is parked has changed since you were asked", "Skip 2 messages", "mail-1 /1")
	if after := parkedOf(t, s.store); len(after) != len(before) || !after["mail-1/1"] {
		t.Errorf("parked are %v, before %v", after, before)
	}
	if lines := s.log.lines(t, "a user skips parked messages"); len(lines) > 0 {
		t.Errorf("logged %v", lines)
	}
	for _, action := range []string{"", "delete"} {
		if r := s.post(page, "/consumers/parked", "action", action); r.StatusCode != http.StatusBadRequest {
			t.Errorf("action %q: status %d, want 400", action, r.StatusCode)
		}
	}
	if r := s.post(page, "/consumers/parked", "action", "skip", "name", "absent"); r.StatusCode != http.StatusNotFound {
		t.Errorf("another consumer: status %d, want 404", r.StatusCode)
	}
}

// TestManyParked checks that a page reads no more of what is parked than it shows, and that a replay, of which the user has confirmed the
// number, replays all that is selected.
func TestManyParked(t *testing.T) {
	t.Parallel()
	const many = 10_000
	url := testdb.Consumers(t)
	store, record := recorded(t, url)
	s := newSiteOf(t, store, mdbweb.WithWrites())
	parkMails(t, store, "mail-1")
	testdb.Exec(t, testdb.Session(t, url), `INSERT INTO message_store_consumers.parked (consumer, category, partition, key, stream, position, global_position, attempts, error)
		SELECT p.consumer, p.category, p.partition, p.key, 'mail-1+' || n, 0, p.global_position + n, 1, 'the mailbox is full' FROM message_store_consumers.parked AS p, generate_series(1, $1::integer) AS n`, many-1)

	record.take()
	page := s.page("/consumers/parked?name=mailer")
	s.wants(page, "10,000 of 10,000 parked", "mail-1+199 /0", "Only the first 200 are shown")
	s.lacks(page, "mail-1+200 /0")
	if record.rows > 250 {
		t.Errorf("the page reads %d rows", record.rows)
	}
	page = s.page("/consumers/parked?name=mailer&error=MAILBOX+IS+FULL")
	s.wants(page, "9,999 of 10,000 parked")
	record.take()
	confirm := s.post(page, "/consumers/parked", "action", "replay")
	s.wants(confirm.Body, "Replay 9,999 parked streams", "Only the first 200 are shown")
	if record.rows > 250 {
		t.Errorf("the question reads %d rows", record.rows)
	}
	r := s.post(confirm.Body, "/consumers/parked", "action", "replay")
	if r.StatusCode != http.StatusSeeOther {
		t.Fatalf("status %d: %s", r.StatusCode, textOf(r.Body))
	}
	s.wants(s.page(r.Header.Get("Location")), "9,999 streams will be replayed")
	due := 0
	for _, is := range parkedOf(t, store) {
		if is {
			due++
		}
	}
	if due != many-1 {
		t.Errorf("%d are due, want %d", due, many-1)
	}
}
