package mdbweb

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/messagedb-go/messagedb/internal/beside"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
)

// A Handler serves the pages. [New] returns one. It is safe for concurrent use.
type Handler struct {
	config   config
	store    *mdb.Store // that of the caller
	reader   *reader
	follower *mdb.Store // on the reader's pool, for live tails
	watcher  *consumer.Operator
	operator *consumer.Operator // nil: read-only
	sessions *sessions          // nil: no token
	pages    map[string]*page
	mux      *http.ServeMux
	survey   surveys
	tails    chan struct{}

	ending context.Context //nolint:containedctx // ends the live tails when the handler is closed
	end    context.CancelFunc
	mu     sync.Mutex     // guards the beginning of live tails
	open   sync.WaitGroup // live tails
}

// New returns a handler of pages about the store's database. It connects when it is first used. The
// configuration of the connections is that of the store's pool. Close it.
//
// The error is an [*mdb.ArgumentError] if an option is wrong.
func New(store *mdb.Store, opts ...Option) (*Handler, error) {
	c, err := newConfig(store, opts)
	if err != nil {
		return nil, err
	}
	reader, err := newReader(store, &c)
	if err != nil {
		return nil, err
	}
	notify := beside.NotifyLike.(func(*mdb.Store) mdb.StoreOption) //nolint:forcetypeassert // what mdb sets
	follower, err := mdb.New(reader.pool, notify(store), mdb.WithDirectSQL(), mdb.WithLogger(c.logger))
	if err != nil {
		reader.pool.Close()
		return nil, err
	}
	h := &Handler{
		config: c, store: store, reader: reader, follower: follower, watcher: consumer.Admin(reader.pool),
		tails: make(chan struct{}, c.tails),
	}
	h.ending, h.end = context.WithCancel(context.Background())
	if c.token != "" {
		h.sessions = newSessions(c.token)
	}
	if c.writes {
		h.operator = consumer.Admin(store.Pool())
	}
	h.pages = parsePages(h)
	h.mux = h.routes()
	return h, nil
}

// Close ends the live tails, and closes the handler's own pool. The store remains open.
func (h *Handler) Close() {
	h.mu.Lock()
	h.end()
	h.mu.Unlock()
	h.open.Wait()
	h.reader.pool.Close()
}

// begin reports whether a live tail may begin, which Close waits for then.
func (h *Handler) begin() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ending.Err() != nil {
		return false
	}
	h.open.Add(1)
	return true
}

func (h *Handler) routes() *http.ServeMux {
	mux := http.NewServeMux()
	get := func(path string, f func(http.ResponseWriter, *http.Request) error) {
		mux.HandleFunc("GET "+h.config.prefix+path, func(w http.ResponseWriter, r *http.Request) { h.answer(w, r, f) })
	}
	post := func(path string, f func(http.ResponseWriter, *http.Request) error) {
		mux.HandleFunc("POST "+h.config.prefix+path, func(w http.ResponseWriter, r *http.Request) { h.answer(w, r, f) })
	}
	get("/{$}", h.overview)
	get("/streams", h.streams)
	get("/messages", h.messages)
	get("/message/{id}", h.message)
	get("/find", h.find)
	get("/live", h.live)
	get("/live/events", h.liveEvents)
	get("/types", h.types)
	get("/throughput", h.throughput)
	get("/health", h.health)
	get("/consumers", h.consumers)
	get("/consumers/show", h.consumer)
	get("/consumers/parked", h.parked)
	post("/consumers/parked", h.change)
	get("/login", h.login)
	post("/login", h.login)
	post("/logout", h.logout)
	get("/static/{file}", h.static)
	return mux
}

// ServeHTTP serves a page, after it has checked where the request comes from.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	protect(w.Header())
	if !h.config.hostAllowed(r.Host) {
		http.Error(w, "This host name is not allowed. Name it with -host or mdbweb.WithHosts.", http.StatusMisdirectedRequest)
		return
	}
	if r.URL.Path == h.config.prefix && h.config.prefix != "" {
		http.Redirect(w, r, h.config.prefix+"/", http.StatusMovedPermanently)
		return
	}
	_, pattern := h.mux.Handler(r)
	if pattern == "" {
		h.fail(w, r, errNotFound)
		return
	}
	if r.Method == http.MethodPost {
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		if !isOurForm(r) {
			h.fail(w, r, errForeignForm)
			return
		}
	}
	if !isText(r) {
		h.fail(w, r, wrongInput("A parameter is not valid UTF-8, or contains a zero byte."))
		return
	}
	user := h.userOf(r)
	public := strings.HasPrefix(r.URL.Path, h.config.prefix+"/static/") || r.URL.Path == h.config.prefix+"/login"
	switch {
	case user != "" || public && h.sessions != nil:
	case h.sessions != nil && r.Method == http.MethodGet && !strings.HasSuffix(r.URL.Path, "/events"):
		http.Redirect(w, r, h.config.prefix+"/login?next="+url.QueryEscape(r.URL.RequestURI()), http.StatusSeeOther)
		return
	default:
		h.fail(w, r, errForbidden)
		return
	}
	h.mux.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), userKey{}, user)))
}

// isText reports whether the database could store the parameters of a request.
func isText(r *http.Request) bool {
	if err := r.ParseForm(); err != nil {
		return false
	}
	for _, values := range r.Form {
		for _, value := range values {
			if !utf8.ValidString(value) || strings.ContainsRune(value, 0) {
				return false
			}
		}
	}
	return true
}

// maxForm is the size of the largest form.
const maxForm = 1 << 20

type userKey struct{}

func user(r *http.Request) string {
	name, _ := r.Context().Value(userKey{}).(string)
	return name
}

// answer calls f, and shows its error.
func (h *Handler) answer(w http.ResponseWriter, r *http.Request, f func(http.ResponseWriter, *http.Request) error) {
	if err := f(w, r); err != nil && !errors.Is(r.Context().Err(), context.Canceled) {
		h.fail(w, r, err)
	}
}
