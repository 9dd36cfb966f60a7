package mdbweb

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/beside"
	"github.com/messagedb-go/messagedb/mdb"
)

const (
	// A tail shows at most this many messages in a time. Nobody can read more, and it says how many it has left out.
	shownPerPeriod = 25
	tailPeriod     = 250 * time.Millisecond
	heartbeat      = 15 * time.Second
	// eventTime is how long a client may take for an event.
	eventTime = 10 * time.Second
)

// livePage is a live tail, which begins after a position.
type livePage struct {
	selection

	From int64
}

// Name returns what the messages are those of.
func (p *livePage) Name() string { return p.Stream + p.Category }

func (h *Handler) live(w http.ResponseWriter, r *http.Request) error {
	s, err := selected(r)
	if err != nil {
		return err
	}
	p := livePage{selection: s}
	if p.Type != "" {
		return wrongInput("A live tail shows all types.")
	}
	if s.After != nil {
		p.From = *s.After
		return h.render(w, r, "live", "Live", http.StatusOK, &p)
	}
	p.From = -1
	err = h.reader.read(r.Context(), func(ctx context.Context, tx pgx.Tx) error {
		latest := selection{Stream: s.Stream, Category: s.Category}
		var looked, last int64
		var positions []int64
		if err := tx.QueryRow(ctx, latest.sql(), latest.bound(), 1, 1, "", latest.Stream+latest.Category).Scan(&looked, &last, &positions); err != nil {
			return err
		}
		if looked > 0 {
			p.From = last
		}
		return nil
	})
	if err != nil {
		return err
	}
	return h.render(w, r, "live", "Live", http.StatusOK, &p)
}

// An event is a message as a live tail sends it. The page's script shows its fields as text.
type event struct {
	Link     string `json:"link"`
	Time     string `json:"time"`
	ISO      string `json:"iso"`
	Stream   string `json:"stream"`
	Position int64  `json:"position"`
	Global   int64  `json:"global"`
	Type     string `json:"type"`
	Preview  string `json:"preview"`
}

// liveEvents sends new messages as server-sent events, by a subscription. A client that has lost its connection goes on after the last one
// that it has received.
func (h *Handler) liveEvents(w http.ResponseWriter, r *http.Request) error {
	s, err := selected(r)
	if err != nil {
		return err
	}
	after := int64(-1)
	if s.After != nil {
		after = *s.After
	}
	if last, err := strconv.ParseInt(r.Header.Get("Last-Event-Id"), 10, 64); err == nil {
		after = last
	}
	if !h.begin() {
		return errBusy
	}
	defer h.open.Done()
	select {
	case h.tails <- struct{}{}:
		defer func() { <-h.tails }()
	default:
		w.Header().Set("Retry-After", "30")
		http.Error(w, "There are too many live tails.", http.StatusServiceUnavailable)
		return nil
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(h.ending, cancel)() //nolint:contextcheck // two contexts end it
	t := &tail{handler: h, w: w, control: http.NewResponseController(w), selection: s, cancel: cancel}
	// The deadlines of the caller's server are for pages.
	if err := t.control.SetReadDeadline(time.Time{}); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no")
	if err := t.send("retry: 3000\nevent: ready\ndata: {}\n\n"); err != nil {
		return nil
	}
	if err := t.followAndBeat(ctx, h.follower, after); err != nil && r.Context().Err() == nil && h.ending.Err() == nil {
		h.config.logger.Warn("a live tail of the pages has ended", "error", beside.Explain("follow messages", err))
		_, p := explain(err)
		_ = t.event("problem", "", p) // the client may have gone
	}
	return nil
}

// A tail is a live tail of one client.
type tail struct {
	selection

	handler *Handler
	control *http.ResponseController
	cancel  context.CancelFunc

	mu      sync.Mutex // guards what follows, and writes
	w       http.ResponseWriter
	period  time.Time // when the present period has begun
	sent    int       // messages in it
	omitted int64     // messages that were not shown and of which the client does not know
	last    int64     // the position of the last message
}

// followAndBeat follows messages while the heartbeat runs. Nothing is being written afterwards, also if a hook panics: the server then has its
// ResponseWriter back.
func (t *tail) followAndBeat(ctx context.Context, s *mdb.Store, after int64) error {
	var beats sync.WaitGroup
	defer beats.Wait()
	defer t.cancel()
	beats.Go(func() { t.beat(ctx) })
	return t.follow(ctx, s, after)
}

func (t *tail) follow(ctx context.Context, s *mdb.Store, after int64) error {
	handle := func(_ context.Context, m mdb.Message) error { return t.message(m) }
	switch {
	case t.Stream != "":
		return s.SubscribeToStream(ctx, mdb.StreamName(t.Stream), handle, mdb.AfterPosition(after))
	case t.Category != "":
		return s.SubscribeToCategory(ctx, mdb.Category(t.Category), handle, mdb.AfterGlobalPosition(max(after, 0)))
	}
	return s.SubscribeToAll(ctx, handle, mdb.AfterGlobalPosition(max(after, 0)))
}

// message sends a message, unless there were too many in the period.
func (t *tail) message(m mdb.Message) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := shown{Message: m, DataSize: int64(len(m.Data)), MetadataSize: int64(len(m.Metadata))}
	t.last = t.place(&s)
	if now := time.Now(); now.Sub(t.period) >= tailPeriod {
		t.period, t.sent = now, 0
	}
	if t.sent++; t.sent > shownPerPeriod {
		t.omitted++
		return nil
	}
	if err := t.tellOmitted(); err != nil {
		return err
	}
	link, err := t.handler.to("/message/" + m.ID.String())
	if err != nil {
		return err
	}
	s = t.handler.redacted(s)
	return t.event("message", strconv.FormatInt(t.last, 10), event{
		Link: link, Time: m.Time.Format("15:04:05.000"), ISO: iso(m.Time), Stream: string(m.Stream), Position: m.Position,
		Global: m.GlobalPosition, Type: m.Type, Preview: s.Preview(),
	})
}

// tellOmitted says how many messages were left out. The lock is held.
func (t *tail) tellOmitted() error {
	if t.omitted == 0 {
		return nil
	}
	n := t.omitted
	t.omitted = 0
	return t.event("omitted", strconv.FormatInt(t.last, 10), map[string]int64{"n": n})
}

// beat sends something now and then, so that proxies and both ends know that the connection is there, and says what was left out.
func (t *tail) beat(ctx context.Context) {
	defer t.cancel()
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for seconds := 1; ; seconds++ {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if t.beatOnce(seconds%int(heartbeat/time.Second) == 0) != nil {
			return
		}
	}
}

func (t *tail) beatOnce(silent bool) error {
	t.mu.Lock()
	defer t.mu.Unlock() // also if a ResponseWriter ends the goroutine: the tail waits for the lock
	if err := t.tellOmitted(); err != nil || !silent {
		return err
	}
	return t.send(": \n\n")
}

// event sends an event with an ID, from which the client resumes.
func (t *tail) event(name, id string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	text := "event: " + name + "\n"
	if id != "" {
		text += "id: " + id + "\n"
	}
	return t.send(fmt.Sprintf("%sdata: %s\n\n", text, data))
}

func (t *tail) send(text string) error {
	if err := t.control.SetWriteDeadline(time.Now().Add(eventTime)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	if _, err := t.w.Write([]byte(text)); err != nil {
		return err
	}
	return t.control.Flush()
}
