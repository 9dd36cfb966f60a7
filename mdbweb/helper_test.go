package mdbweb_test

import (
	"bytes"
	"context"
	"encoding/json"
	"html"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdbweb"
)

const testTimeout = 30 * time.Second

func connect(t *testing.T, url string, opts ...mdb.ConnectOption) *mdb.Store {
	t.Helper()
	s, err := mdb.Connect(t.Context(), url, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// configured returns a store on a pool whose configuration change changes.
func configured(t *testing.T, url string, change func(*pgxpool.Config)) *mdb.Store {
	t.Helper()
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	change(cfg)
	var opts []mdb.ConfigureOption
	if testdb.Official() {
		opts = append(opts, mdb.StoreFirst())
	}
	mdb.Configure(cfg, opts...)
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	store, err := mdb.New(pool)
	if err != nil {
		t.Fatal(err)
	}
	return store
}

func write(t *testing.T, s *mdb.Store, stream mdb.StreamName, m mdb.ProposedMessage) mdb.Written {
	t.Helper()
	w, err := s.WriteMessage(t.Context(), stream, m)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// event returns a message with data and metadata.
func event(typ string, data, metadata any) mdb.ProposedMessage {
	m := mdb.NewMessage(typ, data)
	m.Metadata = metadata
	return m
}

// A site is a handler that serves, and a browser without scripts.
type site struct {
	*testing.T

	store  *mdb.Store
	pages  *mdbweb.Handler
	server *httptest.Server
	client *http.Client
	log    *journal
}

func newSite(t *testing.T, url string, opts ...mdbweb.Option) *site {
	t.Helper()
	return newSiteOf(t, connect(t, url), opts...)
}

func newSiteOf(t *testing.T, store *mdb.Store, opts ...mdbweb.Option) *site {
	t.Helper()
	s := &site{T: t, store: store, log: new(journal)}
	pages, err := mdbweb.New(store, append([]mdbweb.Option{mdbweb.WithLogger(slog.New(slog.NewJSONHandler(s.log, nil)))}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	s.pages = pages
	s.server = httptest.NewServer(pages)
	t.Cleanup(func() {
		pages.Close()
		s.server.Close()
	})
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	s.client = &http.Client{Jar: jar, Timeout: testTimeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return s
}

// newStore returns a site of a store of its own.
func newStore(t *testing.T, opts ...mdbweb.Option) *site {
	t.Helper()
	return newSite(t, testdb.New(t), opts...)
}

// A reply is a response with its body.
type reply struct {
	*http.Response

	Body string
}

func (s *site) do(r *http.Request) reply {
	s.Helper()
	response, err := s.client.Do(r)
	if err != nil {
		s.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		s.Fatal(err)
	}
	return reply{response, string(body)}
}

func (s *site) request(method, path string, body io.Reader) *http.Request {
	s.Helper()
	r, err := http.NewRequestWithContext(s.Context(), method, s.server.URL+path, body)
	if err != nil {
		s.Fatal(err)
	}
	return r
}

func (s *site) get(path string) reply {
	s.Helper()
	return s.do(s.request(http.MethodGet, path, nil))
}

// page returns the body of a page that must be there.
func (s *site) page(path string) string {
	s.Helper()
	r := s.get(path)
	if r.StatusCode != http.StatusOK {
		s.Fatalf("%s: status %d\n%s", path, r.StatusCode, textOf(r.Body))
	}
	return r.Body
}

var hidden = regexp.MustCompile(`<input type="hidden" name="(\w+)" value="([^"]*)">`)

// post sends the first form of a page that is sent to a path by POST, with its hidden fields and others.
func (s *site) post(page, path string, fields ...string) reply {
	s.Helper()
	form := make(url.Values)
	_, after, ok := strings.Cut(page, `method="post" action="`+path+`"`)
	if !ok {
		s.Fatalf("the page has no form:\n%s", textOf(page))
	}
	content, _, _ := strings.Cut(after, "</form>")
	for _, field := range hidden.FindAllStringSubmatch(content, -1) {
		form.Set(field[1], html.UnescapeString(field[2]))
	}
	for i := 0; i < len(fields); i += 2 {
		form.Set(fields[i], fields[i+1])
	}
	r := s.request(http.MethodPost, path, strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	r.Header.Set("Origin", s.server.URL)
	return s.do(r)
}

var (
	tags   = regexp.MustCompile(`<[^>]*>`)
	spaces = regexp.MustCompile(`\s+`)
)

// textOf returns the text of a page.
func textOf(page string) string {
	_, page, _ = strings.Cut(page, "<main")
	page, _, _ = strings.Cut("<main"+page, "</main>")
	return strings.TrimSpace(spaces.ReplaceAllString(html.UnescapeString(tags.ReplaceAllString(page, " ")), " "))
}

// wants checks that the text of a page contains texts.
func (s *site) wants(page string, texts ...string) {
	s.Helper()
	for _, text := range texts {
		if !strings.Contains(textOf(page), text) {
			s.Errorf("want %q in: %s", text, textOf(page))
		}
	}
}

// lacks checks that the text of a page does not contain texts.
func (s *site) lacks(page string, texts ...string) {
	s.Helper()
	for _, text := range texts {
		if strings.Contains(textOf(page), text) {
			s.Errorf("do not want %q in: %s", text, textOf(page))
		}
	}
}

// A journal is what a handler logs.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

// lines returns the lines with a message.
func (j *journal) lines(t *testing.T, message string) (lines []map[string]any) {
	t.Helper()
	j.mu.Lock()
	defer j.mu.Unlock()
	for line := range strings.Lines(j.text.String()) {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Fatal(err)
		}
		if fields["msg"] == message {
			lines = append(lines, fields)
		}
	}
	return lines
}

// until waits until something that only the database or another process shows is true.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.After(testTimeout); !ok(); {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-end:
			t.Fatalf("never: %s", what)
		}
	}
}

// withoutNetwork calls a handler with a request, whose client and host a test can choose.
func withoutNetwork(h http.Handler, method, target string, change func(*http.Request)) *httptest.ResponseRecorder {
	r := httptest.NewRequestWithContext(context.Background(), method, target, nil)
	r.RemoteAddr = "127.0.0.1:4000"
	if strings.HasPrefix(target, "/") {
		r.Host = "localhost:8090"
	}
	if change != nil {
		change(r)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}
