package mdbweb_test

import (
	"encoding/json"
	"fmt"
	"html"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/schema"
	"github.com/messagedb-go/messagedb/mdbweb"
)

// TestEmptyStore checks that all pages of a store without messages can be shown.
func TestEmptyStore(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	for path, want := range map[string]string{
		"/": "No messages yet", "/messages": "No messages here", "/messages?type=A": "No message of type", "/streams": "No messages yet", "/streams?q=a": "No stream begins with “a”",
		"/types": "No messages here", "/throughput": "Written in the last 24 hours 0", "/live": "Connecting", "/health": "Global positions none", "/consumers": "mdb install -consumers",
	} {
		s.wants(s.page(path), want)
	}
}

// TestCategories checks the overview: categories with their counts and last messages, and those with a prefix.
func TestCategories(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	for _, stream := range []mdb.StreamName{"order-1", "order-2", "order:command-1", "payment-1", "plain"} {
		write(t, s.store, stream, event("Opened", nil, nil))
	}
	write(t, s.store, "order-1", event("Closed", nil, nil))
	page := s.page("/")
	s.wants(page, "Messages 6", "Last position 6", "order 3 Closed", "order:command 1 Opened", "payment 1 Opened", "plain 1 Opened")
	page = s.page("/?q=order")
	s.wants(page, "order 3", "order:command 1")
	s.lacks(page, "payment")
	s.wants(s.page("/?q=none"), "No category begins with “none”")
}

// TestManyNames checks that names that do not fit on a page follow on the next ones, each once.
func TestManyNames(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	conn := testdb.Session(t, s.store.Pool().Config().ConnString())
	testdb.Exec(t, conn, `INSERT INTO message_store.messages (stream_name, position, type) SELECT 'c' || lpad((n % 120)::text, 3, '0') || '-' || n, 0, 'A' FROM generate_series(1, 240) AS n`)
	for first, c := range map[string]struct {
		link *regexp.Regexp
		n    int
	}{
		"/": {regexp.MustCompile(`<a href="/messages\?category=([^"]+)">c`), 120}, "/streams?order=name": {regexp.MustCompile(`<a href="/messages\?stream=([^"]+)">`), 240},
		"/streams?q=c00": {regexp.MustCompile(`<a href="/messages\?stream=([^"]+)">`), 20},
	} {
		seen := make(map[string]bool)
		pages := 0
		for path := first; path != ""; pages++ {
			page := s.page(path)
			for _, name := range c.link.FindAllStringSubmatch(page, -1) {
				if seen[name[1]] {
					t.Errorf("%s: %s is there twice", first, name[1])
				}
				seen[name[1]] = true
			}
			path = next(page, "next")
		}
		if len(seen) != c.n || pages != (c.n+49)/50 {
			t.Errorf("%s: %d names on %d pages, want %d", first, len(seen), pages, c.n)
		}
	}
}

var links = regexp.MustCompile(`<a rel="(\w+)" href="([^"]+)"`)

// next returns the link to the page beside one, or "".
func next(page, rel string) string {
	for _, link := range links.FindAllStringSubmatch(page, -1) {
		if link[1] == rel {
			return html.UnescapeString(link[2])
		}
	}
	return ""
}

var positions = regexp.MustCompile(`<td class="num pos"><a href="/message/[0-9a-f-]{36}">([0-9,]+)</a>`)

func positionsOf(page string) (list []string) {
	for _, found := range positions.FindAllStringSubmatch(page, -1) {
		list = append(list, strings.ReplaceAll(found[1], ",", ""))
	}
	return list
}

// TestMessages checks that the messages of a stream, of a category and of all are shown in both orders, page by page forwards and back,
// each once.
func TestMessages(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	const n = 130
	var messages []mdb.ProposedMessage
	for i := range n {
		messages = append(messages, mdb.NewMessage(fmt.Sprintf("T%d", i%2), json.RawMessage(fmt.Sprintf(`{"n":%d}`, i))))
	}
	if _, err := s.store.WriteMessages(t.Context(), "order-1", messages); err != nil {
		t.Fatal(err)
	}
	write(t, s.store, "other-1", event("Other", nil, nil))
	for name, c := range map[string]struct{ first, last, count int }{
		"stream=order-1": {0, n - 1, n}, "category=order": {1, n, n}, "": {1, n + 1, n + 1}, "category=order&type=T1": {2, n, n / 2}, "stream=order-1&type=T0": {0, n - 2, n / 2},
	} {
		for _, order := range []string{"latest", "first"} {
			var seen []string
			path, last := "/messages?order="+order+"&"+name, ""
			for path != "" {
				page := s.page(path)
				seen = append(seen, positionsOf(page)...)
				last, path = page, next(page, "next")
			}
			from, to := fmt.Sprint(c.last), fmt.Sprint(c.first)
			if order == "first" {
				from, to = to, from
			}
			if len(seen) != c.count || seen[0] != from || seen[len(seen)-1] != to {
				t.Errorf("%s, %s: %d messages from %s to %s, want %d from %s to %s", name, order, len(seen), seen[0], seen[len(seen)-1], c.count, from, to)
			}
			var back []string
			for page := last; ; page = s.page(next(page, "prev")) {
				back = append(positionsOf(page), back...)
				if next(page, "prev") == "" {
					break
				}
			}
			if strings.Join(back, " ") != strings.Join(seen, " ") {
				t.Errorf("%s, %s: back there are %v, want %v", name, order, back, seen)
			}
		}
	}
	for path, status := range map[string]int{
		"/messages?order=up": 400, "/messages?before=x": 400, "/messages?before=1&after=2": 400, "/messages?stream=a-1&category=a": 400, "/messages?before=99999999999999999999": 400,
	} {
		if r := s.get(path); r.StatusCode != status {
			t.Errorf("%s: status %d, want %d", path, r.StatusCode, status)
		}
	}
}

// TestRareType checks that a filter by type that finds nothing in the messages that it looks at leads on from there.
func TestRareType(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	conn := testdb.Session(t, s.store.Pool().Config().ConnString())
	testdb.Exec(t, conn, `INSERT INTO message_store.messages (stream_name, position, type) SELECT 'a-1', n, CASE WHEN n = 100 THEN 'Rare' ELSE 'Common' END FROM generate_series(0, 21999) AS n`)
	page := s.page("/messages?stream=a-1&type=Rare")
	s.wants(page, "Of 10,000 messages that were looked at, 0 are of this type")
	page = s.page(next(page, "next"))
	s.wants(page, "Of 10,000 messages")
	if got := positionsOf(s.page(next(page, "next"))); len(got) != 1 || got[0] != "100" {
		t.Errorf("found %v, want 100", got)
	}
}

// TestMessage checks the page of a message: its JSON as a tree and as text, and the links to its neighbours.
func TestMessage(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	write(t, s.store, "order-1", event("Placed", nil, nil))
	data := json.RawMessage(`{"big": 12345678901234567890.123456789, "nested": {"list": [1, "two", null, true, {}, []]}, "text": "ä \u2028 <b>"}`)
	w := write(t, s.store, "order-1", event("Changed", data, json.RawMessage(`{"properties": {"a": 1}}`)))
	write(t, s.store, "order-1", event("Closed", json.RawMessage(`"only text"`), nil))
	page := s.page("/message/" + w.ID.String())
	s.wants(page, "Message Changed", "Stream order-1", "Position 1", "Global position 2", w.ID.String(), `"big" : 12345678901234567890.123456789`,
		`"list"`, `"two"`, "null", "true", "{}", "[]", "ä", "<b>", `"properties"`, "As text")
	if strings.Contains(page, "<b>") {
		t.Error("data is not escaped")
	}
	for rel, position := range map[string]string{"prev": "0", "next": "2"} {
		if got := next(page, rel); got != "/find?position="+position+"&stream=order-1" {
			t.Errorf("%s leads to %s", rel, got)
		}
	}
	r := s.get(next(page, "next"))
	s.wants(s.page(r.Header.Get("Location")), "Message Closed", `"only text"`, "Metadata NULL")
	for _, path := range []string{"/message/" + uuid.NewString(), "/message/1", "/message/x"} {
		if r := s.get(path); r.StatusCode != http.StatusNotFound {
			t.Errorf("%s: status %d, want 404", path, r.StatusCode)
		}
	}
}

// TestLargeMessage checks that data that is too large is neither listed nor shown, and deep data is shown as text.
func TestLargeMessage(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	listed := write(t, s.store, "a-1", event("Listed", map[string]string{"text": strings.Repeat("x", 100_000)}, nil))
	large := write(t, s.store, "a-1", event("Large", map[string]string{"text": strings.Repeat("x", 2<<20)}, map[string]string{"text": strings.Repeat("y", 2<<20)}))
	deep := write(t, s.store, "a-1", event("Deep", json.RawMessage(strings.Repeat("[", 500)+strings.Repeat("]", 500)), nil))
	page := s.page("/messages")
	if len(page) > 100_000 {
		t.Errorf("the list has %d bytes", len(page))
	}
	s.wants(page, "KiB", "Large")
	if page := s.page("/message/" + listed.ID.String()); len(page) < 100_000 {
		t.Errorf("the page of the smaller one has %d bytes", len(page))
	}
	page = s.page("/message/" + large.ID.String())
	s.wants(page, "It is too large to be shown", "mdb get "+large.ID.String())
	if len(page) > 100_000 {
		t.Errorf("the page of the larger one has %d bytes", len(page))
	}
	s.wants(s.page("/message/"+deep.ID.String()), "[ [ [")
}

// TestFind checks where what users type leads.
func TestFind(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	w := write(t, s.store, "order-1/a", event("Placed", nil, nil))
	message := "/message/" + w.ID.String()
	for q, want := range map[string]string{
		w.ID.String(): message, " " + strings.ToUpper(w.ID.String()) + " ": message, "1": message, "order-1/a/0": message, "order-1": "/streams?q=order-1", "order-1/a": "/streams?q=order-1%2Fa",
		"ord": "/?q=ord", "": "/", "a&b=c": "/?q=a%26b%3Dc",
	} {
		if r := s.get("/find?q=" + url.QueryEscape(q)); r.Header.Get("Location") != want {
			t.Errorf("%q leads to %q, want %q", q, r.Header.Get("Location"), want)
		}
	}
	for _, q := range []string{"2", uuid.NewString(), "order-1/7"} {
		if r := s.get("/find?q=" + url.QueryEscape(q)); r.StatusCode != http.StatusNotFound {
			t.Errorf("%q: status %d, want 404", q, r.StatusCode)
		}
	}
}

// TestFlow checks that a message is shown with its causes and effects over streams, and others of its correlation, but no others.
func TestFlow(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	follow := func(stream mdb.StreamName, typ string, cause *mdb.Message) *mdb.Message {
		metadata := mdb.Metadata{}
		if cause != nil {
			if err := metadata.Follow(*cause); err != nil {
				t.Fatal(err)
			}
		} else {
			metadata.CorrelationStreamName = stream
		}
		raw, err := json.Marshal(metadata)
		if err != nil {
			t.Fatal(err)
		}
		w := write(t, s.store, stream, event(typ, nil, json.RawMessage(raw)))
		return &mdb.Message{ID: w.ID, Stream: stream, Type: typ, Position: w.Position, GlobalPosition: w.GlobalPosition, Metadata: raw}
	}
	placed := follow("order-1", "Placed", nil)
	foreign := follow("order-2", "Foreign", nil)
	requested := follow("payment-1", "Requested", placed)
	follow("payment-2", "ForeignEffect", foreign)
	paid := follow("payment-1", "Paid", requested)
	shipped := follow("shipment-1", "Shipped", paid)
	correlated := write(t, s.store, "mail-1", event("Correlated", nil, map[string]string{"correlationStreamName": "order-1"}))
	lost := write(t, s.store, "late-1", event("Late", nil, map[string]any{"causationMessageStreamName": "gone-1", "causationMessagePosition": 7}))
	odd := write(t, s.store, "odd-1", event("Odd", nil, map[string]any{"causationMessageStreamName": []int{1}, "causationMessagePosition": "x", "correlationStreamName": map[string]int{}}))
	loop := write(t, s.store, "loop-1", event("Loop", nil, map[string]any{"causationMessageStreamName": "loop-1", "causationMessagePosition": 0}))
	for _, m := range []*mdb.Message{placed, requested, paid, shipped} {
		page := s.page("/message/" + m.ID.String())
		_, flow, _ := strings.Cut(textOf(page), "Causes and effects")
		for _, want := range []string{"5 messages · 4 streams", "Placed order-1 /0", "Requested payment-1 /0", "Paid payment-1 /1", "Shipped shipment-1 /0", "Correlated mail-1 /0", "caused by payment-1/1"} {
			if !strings.Contains(flow, want) {
				t.Errorf("%s: want %q in %s", m.Type, want, flow)
			}
		}
		if strings.Contains(flow, "Foreign") {
			t.Errorf("%s: others are in the flow: %s", m.Type, flow)
		}
		if n := strings.Count(page, `<path class="arrow`); n != 3 {
			t.Errorf("%s: %d arrows, want 3", m.Type, n)
		}
		if !strings.Contains(page, `aria-current="true"><strong>`+m.Type) {
			t.Errorf("%s is not marked", m.Type)
		}
	}
	s.wants(s.page("/message/"+correlated.ID.String()), "5 messages · 4 streams")
	s.wants(s.page("/message/"+lost.ID.String()), "The first cause, gone-1/7, is not in the store", "1 message · 1 stream")
	s.wants(s.page("/message/"+odd.ID.String()), "Odd odd-1")
	s.wants(s.page("/message/"+loop.ID.String()), "1 message · 1 stream")
}

// TestDistantFlow checks that effects that are far away are found when the user asks to look further, and causes always.
func TestDistantFlow(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	cause := write(t, s.store, "order-1", event("Placed", nil, nil))
	conn := testdb.Session(t, s.store.Pool().Config().ConnString())
	testdb.Exec(t, conn, `INSERT INTO message_store.messages (stream_name, position, type) SELECT 'other-1', n, 'Other' FROM generate_series(0, 15000) AS n`)
	effect := write(t, s.store, "late-1", event("Late", nil, map[string]any{"causationMessageStreamName": "order-1", "causationMessagePosition": 0}))
	page := s.page("/message/" + cause.ID.String())
	s.wants(page, "1 message · 1 stream · looked at up to 12,500 messages · Look further")
	further := regexp.MustCompile(`href="(/message/[^"]+look=\d+)#flow"`).FindStringSubmatch(page)
	if further == nil {
		t.Fatal("there is no link to look further")
	}
	s.wants(s.page(html.UnescapeString(further[1])), "2 messages · 2 streams", "Late late-1")
	s.wants(s.page("/message/"+effect.ID.String()), "2 messages · 2 streams", "Placed order-1")
}

// TestTypes checks how many messages of each type there are, in the store and in a category.
func TestTypes(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	for i := range 4 {
		write(t, s.store, mdb.Category("order").Stream(fmt.Sprint(i)), event("Placed", nil, nil))
	}
	write(t, s.store, "order-1", event("Closed", nil, nil))
	write(t, s.store, "account-1", event("Closed", nil, nil))
	s.wants(s.page("/types"), "Placed 4 67 % order", "Closed 2 33 % account , order")
	s.wants(s.page("/types?category=order"), "Placed 4 80 %", "Closed 1 20 %")
}

// TestEstimates checks that a large store is estimated and says so, while its small categories are counted.
func TestEstimates(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	conn := testdb.Session(t, s.store.Pool().Config().ConnString())
	testdb.Exec(t, conn, `INSERT INTO message_store.messages (stream_name, position, type)
		SELECT CASE WHEN n % 1000 = 7 THEN 'rare-1' ELSE 'common-1' END, n, 'A' FROM generate_series(0, 99999) AS n`)
	page := s.page("/")
	s.wants(page, "rare 100 A")
	estimate := regexp.MustCompile(`common ≈ ([0-9,]+) A`).FindStringSubmatch(textOf(page))
	if estimate == nil {
		t.Fatalf("no estimate in %s", textOf(page))
	}
	var n int
	if _, err := fmt.Sscan(strings.ReplaceAll(estimate[1], ",", ""), &n); err != nil || n < 80_000 || n > 120_000 {
		t.Errorf("about %d messages, want about 99,900", n)
	}
	s.wants(s.page("/types"), "Estimated from a sample of")
}

// TestThroughput checks that the messages of each part of the time are counted one by one if they are few.
func TestThroughput(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	conn := testdb.Session(t, s.store.Pool().Config().ConnString())
	testdb.Exec(t, conn, `INSERT INTO message_store.messages (stream_name, position, type, time)
		SELECT 'a-1', n, 'A', (now() AT TIME ZONE 'utc') - (40 - n) * interval '1 hour' FROM generate_series(1, 40) AS n`)
	for window, want := range map[string]string{"1h": "Written in the last hour 1 ", "24h": "Written in the last 24 hours 24 ", "7d": "Written in the last 7 days 40 ", "30d": "Written in the last 30 days 40 ", "odd": "24 hours 24"} {
		page := s.page("/throughput?window=" + window)
		s.wants(page, want)
		s.lacks(page, "≈")
		if window == "7d" {
			s.wants(page, "in 2.8 h")
		}
	}
}

// TestHealth checks that the page shows what Check finds, and the trigger with those that listen.
func TestHealth(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	page := s.page("/health")
	s.wants(page, "Message DB 1.3.0 is set up correctly for reading", "Not installed. Subscriptions poll", "Listening no")
	if err := schema.InstallNotify(t.Context(), s.store.Pool()); err != nil {
		t.Fatal(err)
	}
	s.wants(s.page("/health"), "Installed.")
	conn := testdb.Session(t, s.store.Pool().Config().ConnString())
	testdb.Exec(t, conn, "ALTER TABLE message_store.messages DISABLE TRIGGER message_store_notify")
	testdb.Exec(t, conn, "DROP INDEX message_store.messages_category")
	s.wants(s.page("/health"), "Disabled.", "messages_category")
}

// TestRedact checks that a function of the caller's changes what lists, pages and live tails show, and nothing that identifies a message.
func TestRedact(t *testing.T) {
	t.Parallel()
	redact := mdbweb.Redact(func(m mdb.Message) mdb.Message {
		if m.Type == "Secret" {
			m.Data, m.Metadata, m.Stream, m.Position = json.RawMessage(`{"text": "hidden"}`), nil, "changed-1", 777_777_777
		}
		return m
	})
	s := newStore(t, redact)
	w := write(t, s.store, "order-1", event("Secret", map[string]string{"text": "canary"}, map[string]string{"text": "canary"}))
	write(t, s.store, "order-1", event("Open", map[string]string{"text": "shown"}, nil))
	for _, path := range []string{"/messages", "/messages?stream=order-1", "/message/" + w.ID.String()} {
		page := s.page(path)
		s.wants(page, "hidden", "order-1")
		s.lacks(page, "canary", "changed-1", "777777777", "777,777,777")
	}
	s.wants(s.page("/messages"), "shown")
	e := s.follow("/live/events", "")
	if got := e.next(t, "message"); got["preview"] != `{"text": "hidden"}` || got["stream"] != "order-1" || got["position"] != 0.0 {
		t.Errorf("a live tail shows %v", got)
	}
}
