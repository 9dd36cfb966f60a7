package webtest_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdbweb"
	"github.com/messagedb-go/messagedb/webtest/internal/browser"
	"github.com/messagedb-go/messagedb/webtest/internal/shop"
)

const testTimeout = time.Minute

// chromium is the browser, in which each test has tabs.
var chromium context.Context

func TestMain(m *testing.M) {
	started, stop, err := browser.Start(context.Background())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	chromium = started //nolint:fatcontext // that of all tests
	status := m.Run()
	stop()
	os.Exit(status)
}

// A site is a store with the messages of a shop, and its pages.
type site struct {
	store *mdb.Store
	url   string
}

// newShop returns the pages of a shop with some orders.
func newShop(t *testing.T, orders int, opts ...mdbweb.Option) *site {
	t.Helper()
	store := connect(t, testdb.Empty(t))
	if err := shop.Fill(t.Context(), store, orders); err != nil {
		t.Fatal(err)
	}
	return serve(t, store, opts...)
}

func connect(t *testing.T, url string) *mdb.Store {
	t.Helper()
	store, err := mdb.Connect(t.Context(), url, mdb.WithNotify())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	return store
}

func serve(t *testing.T, store *mdb.Store, opts ...mdbweb.Option) *site {
	t.Helper()
	pages, err := mdbweb.New(store, append([]mdbweb.Option{mdbweb.WithLogger(slog.New(slog.DiscardHandler))}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(pages)
	t.Cleanup(func() {
		pages.Close()
		server.Close()
	})
	return &site{store, server.URL}
}

func (s *site) write(t *testing.T, stream mdb.StreamName, typ string, data, metadata any) mdb.Written {
	t.Helper()
	m := mdb.NewMessage(typ, data)
	m.Metadata = metadata
	w, err := s.store.WriteMessage(t.Context(), stream, m)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// A tab is one of the browser. It records what a page must not do: errors in the console, violations of the policy, dialogs, and requests to
// other servers.
type tab struct {
	*testing.T

	ctx  context.Context
	base string

	mu    sync.Mutex
	wrong []string
}

func newTab(t *testing.T, base string) *tab {
	t.Helper()
	ctx, cancel := chromedp.NewContext(chromium)
	t.Cleanup(cancel)
	tab := &tab{T: t, ctx: ctx, base: base}
	chromedp.ListenTarget(ctx, tab.observe)
	if err := chromedp.Run(ctx); err != nil { // without a timeout, as the tab is closed when this context ends
		t.Fatal(err)
	}
	// A page draws nothing while the tab of another test is in front of it, unless it has the focus.
	tab.do(emulation.SetFocusEmulationEnabled(true), log.Enable(), network.Enable(), browser.Look(1280, 860, 1, false))
	return tab
}

func (t *tab) observe(event any) {
	switch e := event.(type) {
	case *log.EventEntryAdded:
		if e.Entry.Level == log.LevelError || e.Entry.Level == log.LevelWarning || e.Entry.Source == log.SourceViolation {
			t.record("%s: %s %s", e.Entry.Source, e.Entry.Text, e.Entry.URL)
		}
	case *runtime.EventExceptionThrown:
		t.record("exception: %s", e.ExceptionDetails.Error())
	case *runtime.EventConsoleAPICalled:
		text := ""
		for _, arg := range e.Args {
			text += " " + string(arg.Value) + arg.Description
		}
		t.record("console: %s%s", e.Type, text)
	case *page.EventJavascriptDialogOpening:
		t.record("dialog: %s", e.Message)
		go func() { _ = chromedp.Run(t.ctx, page.HandleJavaScriptDialog(true)) }()
	case *network.EventRequestWillBeSent:
		if url := e.Request.URL; !strings.HasPrefix(url, t.base) && !strings.HasPrefix(url, "data:") && !strings.HasPrefix(url, "about:") {
			t.record("request to %s", url)
		}
	}
}

func (t *tab) record(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.wrong = append(t.wrong, fmt.Sprintf(format, args...))
}

// take returns what has gone wrong since the last call.
func (t *tab) take() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	wrong := t.wrong
	t.wrong = nil
	return wrong
}

// fine checks that nothing has gone wrong.
func (t *tab) fine(what string) {
	t.Helper()
	for _, wrong := range t.take() {
		t.Errorf("%s: %s", what, wrong)
	}
}

func (t *tab) do(actions ...chromedp.Action) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.ctx, testTimeout)
	defer cancel()
	if err := chromedp.Run(ctx, actions...); err != nil {
		t.Fatalf("%v; %q", err, t.take())
	}
}

func (t *tab) open(path string) {
	t.Helper()
	t.do(chromedp.Navigate(t.base + path))
}

// eval returns the value of a JavaScript expression.
func eval[T any](t *tab, expression string) (value T) {
	t.Helper()
	t.do(chromedp.Evaluate(expression, &value))
	return value
}

// until waits until an expression is true on a page that is loaded, also on the one to which an action leads.
func (t *tab) until(expression string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.ctx, testTimeout)
	defer cancel()
	for {
		ok := false
		err := chromedp.Run(ctx, chromedp.Evaluate("document.readyState === 'complete' && Boolean("+expression+")", &ok))
		if ok {
			return // an error says that the page is going away
		}
		select {
		case <-time.After(20 * time.Millisecond):
			continue
		case <-ctx.Done():
		}
		text := eval[string](t, "document.querySelector('main')?.innerText ?? ''")
		t.Fatalf("never true: %s: %v; %q\n%s", expression, err, t.take(), text)
	}
}

// press presses keys where the page has its focus.
func (t *tab) press(keys ...string) {
	t.Helper()
	for _, key := range keys {
		t.do(chromedp.KeyEvent(key))
	}
}

// click clicks with the mouse on what a selector selects. It finds that by a script, as chromedp's nodes may be those of the page before.
func (t *tab) click(selector string) {
	t.Helper()
	t.until("document.querySelector(`" + selector + "`)?.checkVisibility()")
	at := eval[[]float64](t, "(() => { const e = document.querySelector(`"+selector+"`); e.scrollIntoView({ block: 'center' }); const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()")
	t.do(chromedp.MouseClickXY(at[0], at[1]))
}

// enter types a text into what a selector selects, instead of what is in it, and presses Enter.
func (t *tab) enter(selector, text string) {
	t.Helper()
	t.until("document.querySelector(`" + selector + "`)?.checkVisibility()")
	t.do(chromedp.Evaluate("{ const e = document.querySelector(`"+selector+"`); e.focus(); e.value = ''; }", nil))
	t.press(text, kb.Enter)
}
