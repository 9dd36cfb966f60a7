package mdbweb

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	sessionCookie = "mdbweb_session"
	formCookie    = "mdbweb_form"
	formField     = "form"
	sessionTime   = 12 * time.Hour
	formTime      = 365 * 24 * time.Hour // pages that a browser restores at the same time would each get another value

	maxLogins  = 10 // failed ones of a client in a window
	maxClients = 10_000
	loginsTime = time.Minute
)

// sessions are those of a token. They are signed with a key that is made of the token, so that all
// processes with the same token accept them, and none with another one.
type sessions struct {
	token [sha256.Size]byte
	key   [sha256.Size]byte

	mu     sync.Mutex
	failed map[string]int // logins in the window, by client
	window time.Time      // its beginning
}

func newSessions(token string) *sessions {
	s := &sessions{token: sha256.Sum256([]byte(token))}
	mac := hmac.New(sha256.New, []byte(token))
	mac.Write([]byte("mdbweb session"))
	s.key = [sha256.Size]byte(mac.Sum(nil))
	return s
}

// is reports whether a token is right, in a time that does not depend on how much of it is.
func (s *sessions) is(given string) bool {
	sum := sha256.Sum256([]byte(given))
	return subtle.ConstantTimeCompare(sum[:], s.token[:]) == 1
}

// throttled reports whether too many logins of a client have failed.
func (s *sessions) throttled(client string, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Sub(s.window) > loginsTime {
		s.window, s.failed = now, make(map[string]int)
	}
	return s.failed[client] >= maxLogins || len(s.failed) >= maxClients
}

// fail counts a login of a client that has failed.
func (s *sessions) fail(client string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed[client]++
}

// issue returns the value of a cookie: when it ends, a random number that names it, and a signature.
func (s *sessions) issue(now time.Time) string {
	payload := strconv.FormatInt(now.Add(sessionTime).Unix(), 10) + "." + rand.Text()
	return payload + "." + s.sign(payload)
}

func (s *sessions) sign(payload string) string {
	mac := hmac.New(sha256.New, s.key[:])
	mac.Write([]byte(payload))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// check returns a name for the session of a cookie, or "" if it is not valid.
func (s *sessions) check(value string, now time.Time) (name string) {
	i := strings.LastIndexByte(value, '.')
	if i < 0 || !hmac.Equal([]byte(value[i+1:]), []byte(s.sign(value[:i]))) {
		return ""
	}
	ends, random, _ := strings.Cut(value[:i], ".")
	unix, err := strconv.ParseInt(ends, 10, 64)
	if err != nil || !now.Before(time.Unix(unix, 0)) {
		return ""
	}
	return "session " + random[:8]
}

// userOf returns who sends a request, or "" if nobody may.
func (h *Handler) userOf(r *http.Request) string {
	switch {
	case h.config.user != nil:
		return h.config.user(r)
	case h.sessions != nil:
		if cookie, err := r.Cookie(ofPort(r, sessionCookie)); err == nil {
			return h.sessions.check(cookie.Value, time.Now())
		}
		return ""
	case fromHere(r):
		return "local user"
	}
	return ""
}

// ofPort returns the name of a cookie that is used on one port. Browsers send the cookies of a host to all of its ports, on each of which
// there may be other pages, whose cookies of the same name would replace ours.
func ofPort(r *http.Request, cookie string) string {
	if _, port, err := net.SplitHostPort(r.Host); err == nil {
		return cookie + "_" + port
	}
	return cookie
}

// setCookie sets a cookie that scripts cannot read and that other sites cannot let browsers send.
func (h *Handler) setCookie(w http.ResponseWriter, r *http.Request, name, value string, age time.Duration) {
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	plain := r.TLS == nil && (h.config.insecure || isLoopback(strings.Trim(host, "[]")))
	cookie := &http.Cookie{ //nolint:gosec // Secure is left out only if the connection has no TLS and need not
		Name: name, Value: value, Path: h.config.prefix + "/", HttpOnly: true, SameSite: http.SameSiteStrictMode,
		Secure: !plain, MaxAge: int(age / time.Second),
	}
	if value == "" {
		cookie.MaxAge = -1
	}
	http.SetCookie(w, cookie)
}

// formToken returns the value of a form's hidden field, which is the same as that of a cookie. Other sites
// know neither.
func (h *Handler) formToken(w http.ResponseWriter, r *http.Request) string {
	name := ofPort(r, formCookie)
	if cookie, err := r.Cookie(name); err == nil && len(cookie.Value) >= MinToken {
		return cookie.Value
	}
	value := rand.Text()
	h.setCookie(w, r, name, value, formTime)
	return value
}

// isOurForm reports whether a form was sent from a page of ours.
func isOurForm(r *http.Request) bool {
	cookie, err := r.Cookie(ofPort(r, formCookie))
	return err == nil && len(cookie.Value) >= MinToken && sameOrigin(r) &&
		subtle.ConstantTimeCompare([]byte(cookie.Value), []byte(r.PostFormValue(formField))) == 1
}
