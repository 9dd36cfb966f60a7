package mdbweb_test

import (
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdbweb"
)

const token = "a token of a test"

// TestHeaders checks that each response has the headers that keep a browser from doing what a page of ours does not need.
func TestHeaders(t *testing.T) {
	t.Parallel()
	s := newStore(t, mdbweb.WithToken(token))
	for _, path := range []string{"/", "/login", "/absent", "/static/absent.css", "/live/events", "/message/" + uuid.Nil.String()} {
		h := s.get(path).Header
		for name, want := range map[string]string{
			"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store",
			"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin",
		} {
			if got := h.Get(name); got != want {
				t.Errorf("%s: %s is %q, want %q", path, name, got, want)
			}
		}
		policy := h.Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none'", "script-src 'self'", "style-src 'self'", "form-action 'self'", "base-uri 'none'", "frame-ancestors 'none'", "trusted-types 'none'"} {
			if !strings.Contains(policy, want) {
				t.Errorf("%s: want %q in the policy %q", path, want, policy)
			}
		}
		if strings.Contains(policy, "unsafe") {
			t.Errorf("%s: the policy is %q", path, policy)
		}
	}
}

// TestHosts checks that requests for other hosts are rejected, also of clients that are logged in.
func TestHosts(t *testing.T) {
	t.Parallel()
	s := newStore(t, mdbweb.WithHosts("store.example.com", "fd00::5"))
	for host, status := range map[string]int{
		"localhost": 200, "localhost:8090": 200, "127.0.0.1:8090": 200, "[::1]:8090": 200, "127.9.9.9": 200, "LOCALHOST:1": 200,
		"store.example.com": 200, "STORE.example.com:443": 200, "[fd00::5]:8090": 200,
		"evil.example.com": 421, "localhost.evil.example.com:8090": 421, "store.example.com.evil.example.com": 421, "10.0.0.5": 421, "": 421, "0.0.0.0:8090": 421,
	} {
		w := withoutNetwork(s.pages, http.MethodGet, "/", func(r *http.Request) { r.Host = host })
		if w.Code != status {
			t.Errorf("host %q: status %d, want %d", host, w.Code, status)
		}
	}
}

// TestOtherMachines checks that without a token only clients on this machine see anything, and not through a proxy.
func TestOtherMachines(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	write(t, s.store, "canary-1", event("Seen", nil, nil))
	for name, c := range map[string]struct {
		change func(*http.Request)
		status int
	}{
		"this machine":        {nil, 200},
		"IPv6":                {func(r *http.Request) { r.RemoteAddr = "[::1]:4000" }, 200},
		"another machine":     {func(r *http.Request) { r.RemoteAddr = "10.0.0.9:4000" }, 403},
		"no address":          {func(r *http.Request) { r.RemoteAddr = "@" }, 403},
		"a proxy":             {func(r *http.Request) { r.Header.Set("X-Forwarded-For", "10.0.0.9") }, 403},
		"a proxy of its kind": {func(r *http.Request) { r.Header.Set("Forwarded", "for=10.0.0.9") }, 403},
	} {
		for _, path := range []string{"/", "/messages", "/health", "/live/events", "/consumers"} {
			if path == "/live/events" && c.status == 200 {
				continue // it does not end
			}
			w := withoutNetwork(s.pages, http.MethodGet, path, c.change)
			if path == "/consumers" && c.status == 200 {
				continue // the page says that the schema is missing
			}
			if w.Code != c.status || c.status != 200 && strings.Contains(w.Body.String(), "canary") {
				t.Errorf("%s: %s: status %d, want %d", name, path, w.Code, c.status)
			}
		}
	}
}

// TestLogin checks the way from a page to the form for the token and back, and that nobody sees anything without it.
func TestLogin(t *testing.T) {
	t.Parallel()
	s := newStore(t, mdbweb.WithToken(token))
	write(t, s.store, "canary-1", event("Seen", nil, nil))
	for _, path := range []string{"/", "/messages?category=canary", "/streams", "/types", "/health", "/live", "/throughput", "/find?q=canary", "/consumers", "/consumers/show?name=x"} {
		r := s.get(path)
		if want := "/login?next=" + url.QueryEscape(path); r.StatusCode != http.StatusSeeOther || r.Header.Get("Location") != want || strings.Contains(r.Body, "canary-1") {
			t.Errorf("%s: status %d to %q, want a redirect to %q", path, r.StatusCode, r.Header.Get("Location"), want)
		}
	}
	if r := s.get("/live/events"); r.StatusCode != http.StatusForbidden {
		t.Errorf("a live tail: status %d, want 403", r.StatusCode)
	}
	form := s.page("/login?next=" + url.QueryEscape("/messages?category=canary"))
	if strings.Contains(form, "mdb_test") || strings.Contains(form, "<nav") {
		t.Error("the form tells strangers the name of the database")
	}
	if r := s.post(form, "/login", "token", "another token of a test"); r.StatusCode != http.StatusForbidden || len(r.Cookies()) > 0 {
		t.Errorf("a wrong token: status %d, cookies %v", r.StatusCode, r.Cookies())
	}
	r := s.post(form, "/login", "token", token)
	if r.StatusCode != http.StatusSeeOther || r.Header.Get("Location") != "/messages?category=canary" {
		t.Fatalf("the token: status %d to %q", r.StatusCode, r.Header.Get("Location"))
	}
	session := cookieOf(r)
	if session == nil || !session.HttpOnly || session.SameSite != http.SameSiteStrictMode || session.Path != "/" || strings.Contains(session.Value, token) {
		t.Errorf("the cookie is %v", session)
	}
	s.wants(s.page("/messages?category=canary"), "canary-1", "Seen")
	for _, line := range s.log.lines(t, "a user has logged in to the pages") {
		if user, _ := line["user"].(string); !strings.HasPrefix(user, "session ") {
			t.Errorf("the login is logged as %v", line)
		}
	}
	if len(s.log.lines(t, "a user has logged in to the pages")) != 1 || len(s.log.lines(t, "a login to the pages has failed")) != 1 || strings.Contains(s.log.text.String(), token) {
		t.Errorf("logged:\n%s", s.log.text.String())
	}
	page := s.page("/")
	if r := s.post(page, "/logout"); r.StatusCode != http.StatusSeeOther {
		t.Errorf("log out: status %d", r.StatusCode)
	}
	if r := s.get("/"); r.StatusCode != http.StatusSeeOther {
		t.Errorf("after it: status %d, want a redirect to the form", r.StatusCode)
	}
}

func cookieOf(r reply) *http.Cookie {
	for _, cookie := range r.Cookies() {
		if strings.HasPrefix(cookie.Name, "mdbweb_session") {
			return cookie
		}
	}
	return nil
}

// TestCookies checks which cookies are valid, and that they need TLS unless the client is on this machine or Insecure says so.
func TestCookies(t *testing.T) {
	t.Parallel()
	store := connect(t, testdb.New(t))
	s := newSiteOf(t, store, mdbweb.WithToken(token), mdbweb.WithHosts("store.example.com"))
	session := cookieOf(s.post(s.page("/login"), "/login", "token", token))
	valid := session.Value
	other := newSiteOf(t, store, mdbweb.WithToken("another token of a test"))
	if c := cookieOf(other.post(other.page("/login"), "/login", "token", "another token of a test")); c.Name == session.Name {
		t.Errorf("a session on another port has a cookie of the same name, %s: it would end this one", c.Name)
	}
	same := newSiteOf(t, store, mdbweb.WithToken(token))
	status := func(s *site, value string) int {
		return withoutNetwork(s.pages, http.MethodGet, "/streams", func(r *http.Request) {
			r.AddCookie(&http.Cookie{Name: ofPort(r, "mdbweb_session"), Value: value})
		}).Code
	}
	if got := status(s, valid); got != 200 {
		t.Errorf("a session: status %d", got)
	}
	if got := status(same, valid); got != 200 {
		t.Errorf("another process with the same token: status %d", got)
	}
	if got := status(other, valid); got != 303 {
		t.Errorf("another token: status %d", got)
	}
	parts := strings.Split(valid, ".")
	for name, value := range map[string]string{
		"another time": "9999999999." + parts[1] + "." + parts[2], "another signature": parts[0] + "." + parts[1] + "." + strings.Repeat("A", len(parts[2])),
		"no signature": parts[0] + "." + parts[1], "an empty signature": parts[0] + "." + parts[1] + ".", "nothing": "", "dots": "..", "the token": "a-token-of-a-test",
	} {
		if got := status(s, value); got != 303 {
			t.Errorf("%s: status %d, want a redirect to the form", name, got)
		}
	}
	insecure := newSiteOf(t, store, mdbweb.WithToken(token), mdbweb.WithHosts("store.example.com"), mdbweb.Insecure())
	for name, c := range map[string]struct {
		s      *site
		target string
		secure bool
	}{
		"this machine": {s, "http://localhost/login", false}, "another name": {s, "http://store.example.com/login", true},
		"TLS": {s, "https://localhost/login", true}, "insecure": {insecure, "http://store.example.com/login", false}, "insecure, with TLS": {insecure, "https://store.example.com/login", true},
	} {
		w := withoutNetwork(c.s.pages, http.MethodGet, c.target, nil)
		if cookies := w.Result().Cookies(); len(cookies) != 1 || cookies[0].Secure != c.secure || !cookies[0].HttpOnly {
			t.Errorf("%s: the cookies are %v, want Secure: %t", name, cookies, c.secure)
		}
	}
}

// ofPort returns the name that a cookie of the pages has on the port of a request.
func ofPort(r *http.Request, cookie string) string {
	if _, port, err := net.SplitHostPort(r.Host); err == nil {
		return cookie + "_" + port
	}
	return cookie
}

// TestPagesOfOneHost checks that a form can be sent if the same browser opened pages on another port at the same time.
func TestPagesOfOneHost(t *testing.T) {
	t.Parallel()
	store := connect(t, testdb.New(t))
	s, other := newSiteOf(t, store, mdbweb.WithToken(token)), newSiteOf(t, store, mdbweb.WithToken(token))
	form, last := s.page("/login"), other.get("/login")
	here, err := url.Parse(s.server.URL)
	if err != nil {
		t.Fatal(err)
	}
	s.client.Jar.SetCookies(here, last.Cookies()) // a jar knows no ports
	if r := s.post(form, "/login", "token", token); r.StatusCode != http.StatusSeeOther {
		t.Errorf("status %d, want a redirect", r.StatusCode)
	}
}

// TestLoginLeadsHome checks that the form leads to a page of the handler, wherever a link to it says.
func TestLoginLeadsHome(t *testing.T) {
	t.Parallel()
	s := newStore(t, mdbweb.WithToken(token), mdbweb.WithPrefix("/mdb"))
	for next, want := range map[string]string{
		"/mdb/types": "/mdb/types", "": "/mdb/", "https://evil.example.com/": "/mdb/", "//evil.example.com/": "/mdb/", "/other": "/mdb/",
		"/mdb/\\evil.example.com": "/mdb/", "javascript:alert(1)": "/mdb/", "/mdb": "/mdb/",
	} {
		form := s.page("/mdb/login?next=" + url.QueryEscape(next))
		if r := s.post(form, "/mdb/login", "token", token); r.Header.Get("Location") != want {
			t.Errorf("next %q: leads to %q, want %q", next, r.Header.Get("Location"), want)
		}
	}
}

// TestGuesses checks that tokens cannot be guessed one after the other.
func TestGuesses(t *testing.T) {
	t.Parallel()
	s := newStore(t, mdbweb.WithToken(token))
	form := s.page("/login")
	for range 10 {
		if r := s.post(form, "/login", "token", "guess guess guess"); r.StatusCode != http.StatusForbidden {
			t.Fatalf("a guess: status %d", r.StatusCode)
		}
	}
	for _, guess := range []string{"guess guess guess", token} {
		if r := s.post(form, "/login", "token", guess); r.StatusCode != http.StatusTooManyRequests || cookieOf(r) != nil {
			t.Errorf("after many guesses: status %d, want 429", r.StatusCode)
		}
	}
	w := withoutNetwork(s.pages, http.MethodPost, "/login?form=0123456789abcdef&token="+url.QueryEscape(token), func(r *http.Request) {
		r.RemoteAddr = "10.0.0.9:4000"
		r.AddCookie(&http.Cookie{Name: ofPort(r, "mdbweb_form"), Value: "0123456789abcdef"})
	})
	if w.Code != http.StatusForbidden {
		t.Errorf("a token in a URL: status %d, want 403", w.Code)
	}
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "http://localhost/login", strings.NewReader(url.Values{"form": {"0123456789abcdef"}, "token": {token}}.Encode()))
	r.RemoteAddr = "10.0.0.9:4000"
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.AddCookie(&http.Cookie{Name: ofPort(r, "mdbweb_form"), Value: "0123456789abcdef"})
	another := httptest.NewRecorder()
	if s.pages.ServeHTTP(another, r); another.Code != http.StatusSeeOther {
		t.Errorf("another client: status %d, want 303", another.Code)
	}
}

// TestUser checks that a function of the caller's decides who sees the pages.
func TestUser(t *testing.T) {
	t.Parallel()
	s := newStore(t, mdbweb.WithUser(func(r *http.Request) string { return r.Header.Get("X-Test-User") }))
	for name, status := range map[string]int{"": 403, "ann": 200} {
		w := withoutNetwork(s.pages, http.MethodGet, "/", func(r *http.Request) {
			r.RemoteAddr = "10.0.0.9:4000"
			r.Header.Set("X-Test-User", name)
		})
		if w.Code != status {
			t.Errorf("user %q: status %d, want %d", name, w.Code, status)
		}
	}
	if w := withoutNetwork(s.pages, http.MethodGet, "/login", func(r *http.Request) { r.Header.Set("X-Test-User", "ann") }); w.Code != http.StatusNotFound {
		t.Errorf("the form: status %d, want 404", w.Code)
	}
}

// TestForms checks that forms are accepted from our own pages only.
func TestForms(t *testing.T) {
	t.Parallel()
	s := newStore(t, mdbweb.WithToken(token))
	send := func(change func(*http.Request, url.Values)) int {
		form := url.Values{"token": {token}, "form": {"0123456789abcdef"}}
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/login", nil)
		r.RemoteAddr, r.Host = "127.0.0.1:4000", "localhost:8090"
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.AddCookie(&http.Cookie{Name: ofPort(r, "mdbweb_form"), Value: "0123456789abcdef"})
		change(r, form)
		r.Body = http.NoBody
		r2 := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/login", strings.NewReader(form.Encode()))
		r2.RemoteAddr, r2.Host, r2.Header = r.RemoteAddr, r.Host, r.Header
		w := httptest.NewRecorder()
		s.pages.ServeHTTP(w, r2)
		return w.Code
	}
	for name, c := range map[string]struct {
		change func(r *http.Request, form url.Values)
		status int
	}{
		"our own": {func(r *http.Request, _ url.Values) {
			r.Header.Set("Origin", "http://localhost:8090")
			r.Header.Set("Sec-Fetch-Site", "same-origin")
		}, 303},
		"no origin, as of an older browser":   {func(*http.Request, url.Values) {}, 303},
		"a null origin, as without a referer": {func(r *http.Request, _ url.Values) { r.Header.Set("Origin", "null") }, 303},
		"another origin":                      {func(r *http.Request, _ url.Values) { r.Header.Set("Origin", "https://evil.example.com") }, 403},
		"another port":                        {func(r *http.Request, _ url.Values) { r.Header.Set("Origin", "http://localhost:9999") }, 403},
		"another site":                        {func(r *http.Request, _ url.Values) { r.Header.Set("Sec-Fetch-Site", "cross-site") }, 403},
		"another name of the site":            {func(r *http.Request, _ url.Values) { r.Header.Set("Sec-Fetch-Site", "same-site") }, 403},
		"typed":                               {func(r *http.Request, _ url.Values) { r.Header.Set("Sec-Fetch-Site", "none") }, 403},
		"no cookie":                           {func(r *http.Request, _ url.Values) { r.Header.Del("Cookie") }, 403},
		"no field":                            {func(_ *http.Request, form url.Values) { form.Del("form") }, 403},
		"another field":                       {func(_ *http.Request, form url.Values) { form.Set("form", "0123456789abcdeF") }, 403},
		"empty ones": {func(r *http.Request, form url.Values) {
			r.Header.Set("Cookie", ofPort(r, "mdbweb_form")+"=")
			form.Set("form", "")
		}, 403},
	} {
		if got := send(c.change); got != c.status {
			t.Errorf("%s: status %d, want %d", name, got, c.status)
		}
	}
}

// TestPrefix checks that a handler works below a path, and links only to what is below it.
func TestPrefix(t *testing.T) {
	t.Parallel()
	s := newStore(t, mdbweb.WithPrefix("/admin/mdb/"))
	w := write(t, s.store, "order-1", event("Placed", map[string]int{"n": 1}, nil))
	if r := s.get("/admin/mdb"); r.StatusCode != http.StatusMovedPermanently || r.Header.Get("Location") != "/admin/mdb/" {
		t.Errorf("without a slash: status %d to %q", r.StatusCode, r.Header.Get("Location"))
	}
	for _, path := range []string{"/", "/messages", "/streams", "/types", "/throughput", "/health", "/live", "/consumers", "/message/" + w.ID.String()} {
		page := s.page("/admin/mdb" + path)
		for _, attribute := range []string{`href="/`, `src="/`, `action="/`, `data-events="/`} {
			for _, after := range strings.Split(page, attribute)[1:] {
				if !strings.HasPrefix(after, "admin/mdb/") {
					t.Errorf("%s links to %.40s", path, after)
				}
			}
		}
	}
	if r := s.get("/messages"); r.StatusCode != http.StatusNotFound {
		t.Errorf("beside the prefix: status %d, want 404", r.StatusCode)
	}
}
