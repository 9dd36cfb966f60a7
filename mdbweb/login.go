package mdbweb

import (
	"net"
	"net/http"
	"strings"
	"time"
)

// loginPage is the form for the token.
type loginPage struct {
	Next   string
	Failed string
}

func (h *Handler) login(w http.ResponseWriter, r *http.Request) error {
	if h.sessions == nil {
		return errNotFound
	}
	next := h.ownPath(r.FormValue("next"))
	page := loginPage{Next: next}
	client, _, _ := net.SplitHostPort(r.RemoteAddr)
	switch {
	case r.Method != http.MethodPost:
		return h.render(w, r, "login", "Log in", http.StatusOK, page)
	case h.sessions.throttled(client, time.Now()):
		page.Failed = "Too many wrong tokens. Wait a minute."
		return h.render(w, r, "login", "Log in", http.StatusTooManyRequests, page)
	case !h.sessions.is(r.PostFormValue("token")):
		h.sessions.fail(client)
		h.config.logger.Warn("a login to the pages has failed", "remote", r.RemoteAddr)
		page.Failed = "That is not the token."
		return h.render(w, r, "login", "Log in", http.StatusForbidden, page)
	}
	session := h.sessions.issue(time.Now())
	h.setCookie(w, r, ofPort(r, sessionCookie), session, sessionTime)
	h.config.logger.Info("a user has logged in to the pages", "user", h.sessions.check(session, time.Now()), "remote", r.RemoteAddr)
	http.Redirect(w, r, next, http.StatusSeeOther) //nolint:gosec // see ownPath
	return nil
}

func (h *Handler) logout(w http.ResponseWriter, r *http.Request) error {
	h.setCookie(w, r, ofPort(r, sessionCookie), "", 0)
	http.Redirect(w, r, h.config.prefix+"/login", http.StatusSeeOther)
	return nil
}

// ownPath returns a path of the handler's own, so that no link can send a user elsewhere after the login.
func (h *Handler) ownPath(next string) string {
	home := h.config.prefix + "/"
	if !strings.HasPrefix(next, home) || strings.HasPrefix(next, "//") || strings.ContainsAny(next, "\\\r\n\t") {
		return home
	}
	return next
}
