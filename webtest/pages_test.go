package webtest_test

import (
	"context"
	"crypto/rand"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/messagedb-go/messagedb/internal/hostile"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
	"github.com/messagedb-go/messagedb/mdbweb"
	"github.com/messagedb-go/messagedb/webtest/internal/browser"
	"github.com/messagedb-go/messagedb/webtest/internal/shop"
)

// parkSome lets the shop's consumers handle and park what there is.
func parkSome(t *testing.T, s *site) {
	t.Helper()
	consumers, err := shop.Consumers(s.store, "0")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range consumers {
		if err := c.CatchUp(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	testdb.Postpone(t, s.store.Pool())
}

// accessible returns what a screen reader or a keyboard would stop at.
const accessible = `[
	...[...document.querySelectorAll("a, button, summary")].filter((e) => !e.innerText.trim() && !e.getAttribute("aria-label") && e.checkVisibility()).map((e) => "no name: " + e.outerHTML),
	...[...document.querySelectorAll("input:not([type=hidden]), select")].filter((e) => !e.labels.length && !e.getAttribute("aria-label")).map((e) => "no label: " + e.outerHTML),
	...[...document.querySelectorAll("svg")].filter((e) => e.getAttribute("aria-hidden") !== "true" && !e.getAttribute("aria-label")).map((e) => "no text: " + e.outerHTML.slice(0, 80)),
	...[...document.querySelectorAll("th")].filter((e) => !e.scope).map((e) => "no scope: " + e.outerHTML),
	...(document.querySelectorAll("h1").length === 1 ? [] : ["headings: " + document.querySelectorAll("h1").length]),
	...(document.documentElement.lang ? [] : ["no language"]),
	...[...document.querySelectorAll("[id]")].filter((e, i, all) => all.findIndex((o) => o.id === e.id) !== i).map((e) => "twice: " + e.id),
]`

// TestPages checks that each page is shown without an error in the console, has names for all of its controls, and is not wider than
// the window, in light and dark, on a desk and on a phone.
func TestPages(t *testing.T) {
	t.Parallel()
	s := newShop(t, 40, mdbweb.WithWrites())
	parkSome(t, s)
	m, err := s.store.GetLastStreamMessage(t.Context(), "payment-10407")
	if err != nil {
		t.Fatal(err)
	}
	tab := newTab(t, s.url)
	for _, path := range []string{
		"/", "/?q=or", "/?q=none", "/messages", "/messages?category=order&order=first", "/messages?stream=order-10407", "/messages?type=Sent", "/message/" + m.ID.String(), "/streams", "/streams?q=mail-", "/types",
		"/types?category=order", "/throughput?window=7d", "/health", "/live", "/live?category=order", "/consumers", "/consumers/show?name=mailer", "/consumers/show?name=checkout", "/consumers/parked?name=mailer", "/absent",
	} {
		for _, look := range []struct {
			name          string
			width, height int64
			dark          bool
		}{{"desk", 1280, 860, false}, {"dark", 1280, 860, true}, {"tablet", 768, 1024, false}, {"phone", 360, 780, false}} {
			tab.do(browser.Look(look.width, look.height, 1, look.dark))
			tab.open(path)
			wrong := tab.take()
			for _, w := range wrong {
				if path != "/absent" || !strings.Contains(w, "404") { // which the browser reports
					t.Errorf("%s, %s: %s", path, look.name, w)
				}
			}
			if extra := eval[int](tab, "document.documentElement.scrollWidth - window.innerWidth"); extra > 0 {
				t.Errorf("%s, %s: %d pixels wider than the window", path, look.name, extra)
			}
			for _, problem := range eval[[]string](tab, accessible) {
				t.Errorf("%s, %s: %s", path, look.name, problem)
			}
			if dark := eval[string](tab, "getComputedStyle(document.body).backgroundColor") == "rgb(19, 20, 23)"; dark != look.dark {
				t.Errorf("%s, %s: dark is %t", path, look.name, dark)
			}
		}
	}
}

// TestWithoutScript checks that pages can be read, and data folded, without JavaScript.
func TestWithoutScript(t *testing.T) {
	t.Parallel()
	s := newShop(t, 3)
	m, err := s.store.GetLastStreamMessage(t.Context(), "order-10400", mdb.OfType("Placed"))
	if err != nil {
		t.Fatal(err)
	}
	tab := newTab(t, s.url)
	tab.do(emulation.SetScriptExecutionDisabled(true))
	tab.open("/message/" + m.ID.String())
	var text string
	tab.do(chromedp.Text("main", &text, chromedp.ByQuery))
	if !strings.Contains(text, `"customer"`) {
		t.Errorf("the data is not shown: %s", text)
	}
	tab.do(chromedp.Click(".tree summary", chromedp.ByQuery), chromedp.Text("main", &text, chromedp.ByQuery))
	if strings.Contains(text, `"customer"`) {
		t.Errorf("the data is not folded: %s", text)
	}
	tab.fine("without a script")
}

// TestKeys checks the keys.
func TestKeys(t *testing.T) {
	t.Parallel()
	s := newShop(t, 3)
	tab := newTab(t, s.url)
	tab.open("/")
	tab.press("j", "j", "k")
	if got := eval[string](tab, "document.activeElement.innerText"); got != "inventory" {
		t.Errorf("the row has %q, want inventory", got)
	}
	tab.press(kb.Enter)
	tab.until("location.search === '?category=inventory'")
	tab.press("/")
	tab.until("document.activeElement.id === 'find'")
	tab.enter("#find", "order-10401/0")
	tab.until("document.querySelector('h1')?.innerText.includes('Placed')")
	tab.press("e") // all of it is unfolded at first
	tab.until("[...document.querySelectorAll('.tree details')].every((d) => !d.open)")
	tab.press("e")
	tab.until("[...document.querySelectorAll('.tree details')].every((d) => d.open)")
	tab.press("n")
	tab.until("document.querySelector('h1')?.innerText.includes('Confirmed')")
	tab.press("p")
	tab.until("document.querySelector('h1')?.innerText.includes('Placed')")
	tab.press("?")
	tab.until("document.querySelector('#help').open")
	tab.press(kb.Escape)
	tab.until("!document.querySelector('#help').open")
	tab.do(chromedp.Evaluate("Date.now = () => 1", nil)) // as the second key must follow soon
	tab.press("g", "c")
	tab.until("location.pathname === '/consumers'")
	tab.fine("keys")
}

// TestLiveTail checks that new messages appear, and what the buttons do.
func TestLiveTail(t *testing.T) {
	t.Parallel()
	s := newShop(t, 2)
	tab := newTab(t, s.url)
	tab.open("/live?category=order")
	tab.until("document.querySelector('#status').dataset.state === 'live'")
	s.write(t, "order-1", "First", map[string]int{"n": 1}, nil)
	s.write(t, "other-1", "Other", nil, nil)
	s.write(t, "order-2", "Second", nil, nil)
	tab.until("document.querySelectorAll('#tail tbody tr').length === 2")
	if got := eval[string](tab, "document.querySelector('#tail tbody').innerText.replace(/\\s+/g, ' ')"); !strings.Contains(got, "order-2/0 Second") || !strings.Contains(got, `order-1/0 First {"n": 1}`) || strings.Contains(got, "Other") {
		t.Errorf("shown: %s", got)
	}
	tab.press(" ")
	tab.until("document.querySelector('#status').dataset.state === 'paused'")
	s.write(t, "order-3", "Third", nil, nil)
	tab.until("document.querySelector('#status').innerText.includes('1 new')")
	if n := eval[int](tab, "document.querySelectorAll('#tail tbody tr').length"); n != 2 {
		t.Errorf("%d rows during a pause, want 2", n)
	}
	tab.click("#pause")
	tab.until("document.querySelectorAll('#tail tbody tr').length === 3")
	tab.click("#clear")
	tab.until("document.querySelectorAll('#tail tbody tr').length === 0")
	s.write(t, "order-3", "Fourth", nil, nil)
	tab.until("document.querySelectorAll('#tail tbody tr').length === 1")
	tab.click("#tail a")
	tab.until("document.querySelector('h1')?.innerText.includes('Fourth')")
	tab.fine("a live tail")
}

// inBackground makes a page draw only when a test calls what is in drawing, and gives the test its source of events.
const inBackground = `const drawing = [];
window.requestAnimationFrame = (draw) => drawing.push(draw);
window.EventSource = class extends EventSource { constructor(url) { super(url); window.source = this; } };`

// TestTailInBackground checks that a live tail keeps no more messages than it shows while nothing is drawn, as in a tab that is not visible.
func TestTailInBackground(t *testing.T) {
	t.Parallel()
	s := newShop(t, 1)
	tab := newTab(t, s.url)
	tab.do(chromedp.ActionFunc(func(ctx context.Context) error {
		_, err := page.AddScriptToEvaluateOnNewDocument(inBackground).Do(ctx)
		return err
	}))
	tab.open("/live?category=order")
	tab.until("drawing.length === 1") // it is connected
	added := eval[int](tab, `(() => {
		for (let n = 1; n <= 1000; n++) {
			const data = { global: n, position: n, link: "/", type: "Placed", time: "", iso: "", stream: "order-" + n, preview: "" };
			source.dispatchEvent(new MessageEvent("message", { data: JSON.stringify(data) }));
		}
		const observer = new MutationObserver(() => {});
		observer.observe(document.querySelector("#tail tbody"), { childList: true });
		drawing.forEach((draw) => draw());
		return observer.takeRecords().reduce((n, record) => n + record.addedNodes.length, 0);
	})()`)
	shown := eval[string](tab, "document.querySelector('#status').innerText + ' ' + document.querySelector('#tail .name').innerText")
	if added != 300 || shown != "Live. 1,000 messages. order-1000/1000" {
		t.Errorf("%d rows were added, and it shows %s, want 300 with the last one", added, shown)
	}
	tab.fine("a live tail in the background")
}

// TestReplayInBrowser checks that a user can select what is parked, replay it after a confirmation, and skip a message.
func TestReplayInBrowser(t *testing.T) {
	t.Parallel()
	s := newShop(t, 40, mdbweb.WithWrites())
	parkSome(t, s)
	admin := consumer.Admin(s.store.Pool())
	before, err := admin.Parked(t.Context(), "mailer")
	if err != nil || len(before) < 4 {
		t.Fatalf("%d streams are parked, %v", len(before), err)
	}
	tab := newTab(t, s.url)
	tab.open("/consumers/parked?name=mailer")
	tab.enter(`.filters [name="q"]`, string(before[0].Stream))
	tab.until("document.querySelector('.bar')?.innerText.startsWith('1 of')")
	tab.click("button.primary")
	tab.until("document.querySelector('h1')?.innerText.includes('Replay 1 parked stream')")
	tab.click("button.primary")
	tab.until("document.querySelector('[role=status]')?.innerText.includes('1 stream will be replayed')")
	tab.open("/consumers/parked?name=mailer&q=" + string(before[1].Stream))
	tab.click("button.danger")
	tab.until("document.querySelector('h1')?.innerText.includes('Skip 1 message')")
	tab.click("button.danger")
	tab.until("document.querySelector('[role=status]')?.innerText.includes('1 message skipped')")
	after, err := admin.Parked(t.Context(), "mailer")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range after {
		switch {
		case p.Stream == before[0].Stream && !p.Due.Before(before[0].Due):
			t.Errorf("%s is due at %s, as before", p.Stream, p.Due)
		case p.Stream == before[1].Stream && p.Position == before[1].Position:
			t.Errorf("%s/%d is not skipped", p.Stream, p.Position)
		}
	}
	tab.fine("replay and skip")
}

// TestLoginInBrowser checks the form for the token.
func TestLoginInBrowser(t *testing.T) {
	t.Parallel()
	token := rand.Text() // the browser's sessions are those of all ports
	s := newShop(t, 2, mdbweb.WithToken(token))
	tab := newTab(t, s.url)
	tab.open("/messages?category=order")
	tab.enter("#token", "another token of a test")
	tab.until("document.querySelector('[role=alert]')?.innerText.includes('That is not the token')")
	for _, w := range tab.take() {
		if !strings.Contains(w, "403") { // which the browser reports
			t.Error(w)
		}
	}
	tab.enter("#token", token)
	tab.until("location.search === '?category=order' && document.querySelector('h1')?.innerText.includes('order')")
	if cookies := eval[string](tab, "document.cookie"); cookies != "" {
		t.Errorf("scripts can read %s", cookies)
	}
	tab.fine("login")
}

// TestHostileInBrowser checks that no name, type, key or value of a store runs a script, opens a dialog, violates the policy or loads
// anything, on the page of each message, in lists, and in a live tail.
func TestHostileInBrowser(t *testing.T) {
	t.Parallel()
	s := newShop(t, 1)
	var paths []string
	for _, text := range hostile.Texts() {
		stream := mdb.StreamName(strings.ReplaceAll(text, "-", "_") + "-" + text)
		w := s.write(t, stream, text, map[string]any{text: map[string]any{text: []string{text}}}, map[string]any{text: text, "correlationStreamName": stream})
		paths = append(paths, "/message/"+w.ID.String())
	}
	tab := newTab(t, s.url)
	paths = append(paths, "/", "/messages", "/messages?order=first", "/streams", "/streams?order=name", "/types")
	for _, path := range paths {
		tab.open(path)
		tab.fine(path)
	}
	if n := eval[int](tab, "document.querySelectorAll('script').length"); n != 1 {
		t.Errorf("%d scripts, want 1", n)
	}
	tab.open("/live?" + "category=live")
	tab.until("document.querySelector('#status').dataset.state === 'live'")
	for _, text := range hostile.Texts() {
		s.write(t, mdb.Category("live").Stream(text), text, text2JSON(text), nil)
		s.write(t, "live-end", "End", nil, nil)
		tab.until("document.querySelector('#tail tbody tr .name')?.innerText.startsWith('live-end')")
		tab.click("#clear")
	}
	tab.fine("a live tail")
}

func text2JSON(text string) any { return map[string]string{text: text} }

// TestDetector checks that the tests above would notice what they look for.
func TestDetector(t *testing.T) {
	t.Parallel()
	s := newShop(t, 0)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	policy := response.Header.Get("Content-Security-Policy")
	if err := response.Body.Close(); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		body, want string
		policy     bool
	}{
		"a script":          {"<script>alert(1)</script>", "dialog: 1", false},
		"an exception":      {"<img src=x onerror=xss()>", "xss is not defined", false},
		"a violation":       {"<script>alert(1)</script>", "Content Security Policy", true},
		"an inline style":   {"<p style='color: red'>", "Content Security Policy", true},
		"a handler":         {"<img src=data: onerror=xss()>", "Content Security Policy", true},
		"an other server":   {"<link rel=stylesheet href=http://127.0.0.1:9/x.css>", "request to http://127.0.0.1:9/", false},
		"an error of ours":  {"<script>console.error('no')</script>", "console: error", false},
		"a missing picture": {"<img src=/absent>", "404", false},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/" {
				http.NotFound(w, r)
				return
			}
			if c.policy {
				w.Header().Set("Content-Security-Policy", policy)
			}
			w.Header().Set("Content-Type", "text/html")
			_, _ = w.Write([]byte("<!doctype html><link rel=icon href=data:,><body><main></main>" + c.body))
		}))
		tab := newTab(t, server.URL)
		tab.open("/")
		found := ""
		for end := time.Now().Add(testTimeout); time.Now().Before(end); {
			found += strings.Join(tab.take(), "\n")
			if strings.Contains(found, c.want) {
				break
			}
			tab.do(chromedp.Evaluate("new Promise((done) => setTimeout(done, 20))", nil, awaited))
		}
		if !strings.Contains(found, c.want) {
			t.Errorf("%s: recorded %q, want %q", name, found, c.want)
		}
		server.Close()
	}
}

// TestLargeStore checks that all pages of a large store are shown within the limits of the handler.
func TestLargeStore(t *testing.T) {
	t.Parallel()
	url := testdb.New(t)
	conn := testdb.Session(t, url)
	testdb.Exec(t, conn, fillLarge, largeSize())
	testdb.Exec(t, conn, "ANALYZE message_store.messages")
	id := testdb.Value[string](t, conn, "SELECT id::text FROM message_store.messages WHERE stream_name = 'order-1000' AND position = 0")
	s := serve(t, connect(t, url))
	tab := newTab(t, s.url)
	for path, want := range map[string]string{
		"/": "≈", "/messages?category=ledger": "ledger-", "/messages?type=Paid": "Paid", "/streams": "order-", "/streams?q=order-9": "order-9", "/types": "Estimated", "/throughput?window=30d": "≈",
		"/message/" + id: "Causes and effects", "/health": "set up correctly", "/live": "Live", "/messages?stream=order-1000": "order-1000",
	} {
		tab.open(path)
		if text := eval[string](tab, "document.querySelector('main').innerText"); !strings.Contains(text, want) {
			t.Errorf("%s: want %q in %.400s", path, want, text)
		}
		tab.fine(path)
	}
}
