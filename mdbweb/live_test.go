package mdbweb_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdbweb"
)

// events is a live tail of a client.
type events struct {
	lines  chan string
	status int
	stop   context.CancelFunc
}

// follow connects a client that has received an event with an ID before, if that is not empty.
func (s *site) follow(path, last string) *events {
	s.Helper()
	ctx, cancel := context.WithCancel(s.Context())
	r := s.request(http.MethodGet, path, nil).WithContext(ctx)
	if last != "" {
		r.Header.Set("Last-Event-ID", last)
	}
	client := *s.client
	client.Timeout = 0
	response, err := client.Do(r) //nolint:bodyclose // the goroutine below closes it
	if err != nil {
		s.Fatal(err)
	}
	e := &events{make(chan string, 10_000), response.StatusCode, cancel}
	go func() {
		defer response.Body.Close()
		defer close(e.lines)
		for lines := bufio.NewScanner(response.Body); lines.Scan(); {
			e.lines <- lines.Text()
		}
	}()
	s.Cleanup(func() {
		cancel()
		for range e.lines {
		}
	})
	return e
}

// next returns the data of the next event of a name, with its ID.
func (e *events) next(t *testing.T, name string) map[string]any {
	t.Helper()
	var event, id string
	for timeout := time.After(testTimeout); ; {
		select {
		case line, ok := <-e.lines:
			if !ok {
				t.Fatalf("the tail has ended, want %s", name)
			}
			key, value, _ := strings.Cut(line, ": ")
			switch key {
			case "event":
				event, id = value, ""
			case "id":
				id = value
			case "data":
				if event != name {
					continue
				}
				var data map[string]any
				if err := json.Unmarshal([]byte(value), &data); err != nil {
					t.Fatal(err)
				}
				data["id"] = id
				return data
			}
		case <-timeout:
			t.Fatalf("no event %s", name)
		}
	}
}

// ended waits until the tail has ended.
func (e *events) ended(t *testing.T) {
	t.Helper()
	for timeout := time.After(testTimeout); ; {
		select {
		case _, ok := <-e.lines:
			if !ok {
				return
			}
		case <-timeout:
			t.Fatal("the tail does not end")
		}
	}
}

// TestLive checks that tails of a stream, of a category and of all show new messages after the position of their page, with the trigger and
// without it, and that a client that reconnects goes on after what it has received.
func TestLive(t *testing.T) {
	t.Parallel()
	for name, url := range map[string]func(testing.TB) string{"notified": testdb.Notifying, "polling": testdb.New} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, url(t))
			write(t, s.store, "order-1", event("Before", nil, nil))
			tails := make(map[string]*events)
			for _, of := range []string{"", "stream=order-1", "category=order", "stream=order-9"} {
				_, path, _ := strings.Cut(s.page("/live?"+of), `data-events="`)
				path, _, _ = strings.Cut(path, `"`)
				tails[of] = s.follow(strings.ReplaceAll(path, "&amp;", "&"), "")
				tails[of].next(t, "ready")
			}
			write(t, s.store, "order-1", event("First", map[string]int{"n": 1}, nil))
			write(t, s.store, "other-1", event("Other", nil, nil))
			write(t, s.store, "order-9", event("Second", nil, nil))
			for of, want := range map[string]string{
				"": "First order-1/1 Other other-1/0 Second order-9/0", "stream=order-1": "First order-1/1", "category=order": "First order-1/1 Second order-9/0", "stream=order-9": "Second order-9/0",
			} {
				var got []string
				for range strings.Count(want, "/") {
					m := tails[of].next(t, "message")
					got = append(got, fmt.Sprintf("%v %v/%v", m["type"], m["stream"], m["position"]))
				}
				if strings.Join(got, " ") != want {
					t.Errorf("%s: got %s, want %s", of, got, want)
				}
			}
			again := s.follow("/live/events?category=order&after=0", "2")
			if m := again.next(t, "message"); m["type"] != "Second" || m["id"] != "4" {
				t.Errorf("after a lost connection: %v", m)
			}
		})
	}
}

// TestListenOn checks that the tails wait for notifications by the connection that the service's store has chosen.
func TestListenOn(t *testing.T) {
	t.Parallel()
	url := testdb.Notifying(t)
	s := newSiteOf(t, connect(t, url, mdb.WithNotify(mdb.ListenOn(url+"&application_name=past-the-pooler"))))
	s.follow("/live/events?category=order", "").next(t, "ready")
	observer := testdb.Session(t, url)
	until(t, "the tail listens on that connection", func() bool {
		return testdb.Value[bool](t, observer, `SELECT EXISTS (SELECT FROM pg_stat_activity
			WHERE datname = current_database() AND application_name = 'past-the-pooler message_store notify')`)
	})
}

// TestManyMessages checks that a tail that cannot show all messages says how many it leaves out, and stays up to date.
func TestManyMessages(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	e := s.follow("/live/events?stream=a-1&after=-1", "")
	e.next(t, "ready")
	const n = 2000
	messages := make([]mdb.ProposedMessage, n)
	for i := range messages {
		messages[i] = mdb.NewMessage("A", nil)
	}
	if _, err := s.store.WriteMessages(t.Context(), "a-1", messages); err != nil {
		t.Fatal(err)
	}
	omitted := e.next(t, "omitted")
	if left, _ := omitted["n"].(float64); left < 1 || left > n || omitted["id"] == "" {
		t.Errorf("left out: %v", omitted)
	}
	// Of those that follow in the same period, none is shown, either.
	passed, ended := context.WithCancel(t.Context())
	var writer sync.WaitGroup
	defer writer.Wait()
	defer ended()
	writer.Go(func() {
		for passed.Err() == nil {
			if _, err := s.store.WriteMessage(passed, "a-1", event("Last", nil, nil)); err != nil && passed.Err() == nil {
				t.Errorf("write: %v", err)
				return
			}
			<-time.After(50 * time.Millisecond)
		}
	})
	for e.next(t, "message")["type"] != "Last" {
	}
}

// TestMaxTails checks that there are no more tails than MaxTails allows, and that one that ends makes room.
func TestMaxTails(t *testing.T) {
	t.Parallel()
	s := newStore(t, mdbweb.MaxTails(2))
	first, second := s.follow("/live/events", ""), s.follow("/live/events", "")
	first.next(t, "ready")
	second.next(t, "ready")
	if third := s.follow("/live/events", ""); third.status != http.StatusServiceUnavailable {
		t.Errorf("the third: status %d, want 503", third.status)
	}
	s.page("/messages")
	first.stop()
	until(t, "there is room", func() bool {
		e := s.follow("/live/events", "")
		defer e.stop()
		return e.status == http.StatusOK
	})
}

// TestClose checks that Close ends the tails, and may be called twice.
func TestClose(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	e := s.follow("/live/events", "")
	e.next(t, "ready")
	s.pages.Close()
	e.ended(t)
	s.pages.Close()
	if r := s.get("/live/events"); r.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a tail after Close: status %d", r.StatusCode)
	}
}

// TestLiveProblem checks that a tail that ends with an error tells the client why.
func TestLiveProblem(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	for path, status := range map[string]int{"/live?type=A": 400, "/live/events?after=x": 400} {
		if r := s.get(path); r.StatusCode != status {
			t.Errorf("%s: status %d, want %d", path, r.StatusCode, status)
		}
	}
	if got := s.follow("/live/events?stream=category", "").next(t, "problem"); got["Problem"] == "" {
		t.Errorf("got %v", got)
	}
}
