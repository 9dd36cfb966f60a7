package chaos

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/mdb"
)

// An outcome is the outcome of a write as far as its writer knows it.
type outcome int

const (
	pending outcome = iota // not known, or not yet
	acked
	failed // with an error that says that nothing was written
)

// An op is one write. Its IDs are recorded before they are sent.
type op struct {
	name     string // in the data of its messages, whatever their IDs are
	stream   mdb.StreamName
	ids      []uuid.UUID
	expected *int64

	outcome    outcome
	unknown    bool // at some time an attempt ended with an UnknownOutcomeError
	written    []mdb.Written
	sent, done time.Time
}

// messages returns the op's messages, which are the same for every attempt.
func (o *op) messages() []mdb.ProposedMessage {
	ms := make([]mdb.ProposedMessage, len(o.ids))
	for i, id := range o.ids {
		ms[i] = mdb.ProposedMessage{
			ID: id, Type: messageType,
			Data:     map[string]any{"op": o.name, "index": i, "text": payload},
			Metadata: map[string]any{"correlationStreamName": correlation(o.name) + "-1"},
		}
	}
	return ms
}

const messageType = "Happened"

// payload is in every message and must not appear in logs or errors.
const payload = "canary-payload"

// correlation returns one of two categories, by a hash of the op's name.
func correlation(name string) string {
	return fmt.Sprintf("origin%d", uuid.NewSHA1(uuid.Nil, []byte(name))[0]%2)
}

// A stored message is a message as it is in the store.
type stored struct {
	id               uuid.UUID
	stream           mdb.StreamName
	position, global int64
	op               string
	index            int
}

// A delivery is a message that a subscription has handled.
type delivery struct {
	id               uuid.UUID
	stream           mdb.StreamName
	position, global int64
}

func (m *stored) delivery() delivery { return delivery{m.id, m.stream, m.position, m.global} }

// A missed message is one that a subscriber has handled and that is no longer in the
// store. The position is the one that the subscription is ordered by.
type missed struct {
	position int64
	id       uuid.UUID
}

// An incarnation is one call of Subscribe, from its start to its end.
type incarnation struct {
	from       int64 // the position after which it started
	deliveries []delivery
}

// A subscriber is a subscription across all its incarnations. Its exported fields are
// sent to child processes.
type subscriber struct {
	Name        string
	Category    mdb.Category
	Stream      mdb.StreamName // if set, a subscription to this stream
	Member, Of  int            // if Of is set, a member of a consumer group
	Correlation mdb.Category   // if set, the subscription's correlation
	All         bool           // a subscription to all categories
	Type        string         // if set, of a subscription to all categories
	Batch       int

	group        string // whose members must not receive the same message
	crashes      bool   // it may be killed, and then receives up to a batch again
	incarnations []*incarnation
	missing      map[missed]bool // what was reported to it as no longer there
	end          delivery        // the message that the workload waits for
	reached      bool            // it was delivered
}

func (s *subscriber) wants(m *stored) bool {
	switch {
	case s.All: // all messages are of the type
		return true
	case s.Stream != "":
		return m.stream == s.Stream
	case m.stream.Category() != s.Category:
		return false
	case s.Of > 0:
		hash := mdb.Hash64(m.stream.CardinalID())
		return max(hash, -hash)%int64(s.Of) == int64(s.Member)
	case s.Correlation != "":
		return correlation(m.op) == string(s.Correlation)
	}
	return true
}

// position returns the position that the subscription is ordered by.
func (s *subscriber) position(position, global int64) int64 {
	if s.Stream != "" {
		return position
	}
	return global
}

func (s *subscriber) beginning() int64 {
	if s.Stream != "" {
		return mdb.NoStream
	}
	return 0
}

// A history records what clients did and what they received.
type history struct {
	mu          sync.Mutex
	changed     chan struct{} // receives a value after each change
	ops         []*op
	subscribers []*subscriber
	errors      []error // that calls returned
	faults      []time.Time
	leaks       []string
	acks        int            // acknowledged messages
	counted     func(*op) bool // if set, acks counts only the messages of these
	refused     []error        // of writes, except those that the version of a stream rejects and those of unknown outcome
	stuck       error          // why some messages were not received
	store       []stored       // the messages in the store at the end
}

func newHistory() *history { return &history{changed: make(chan struct{}, 1)} }

func (h *history) send(o *op) *op {
	h.mu.Lock()
	defer h.mu.Unlock()
	o.sent = time.Now()
	h.ops = append(h.ops, o)
	return o
}

func (h *history) end(o *op, result outcome, written []mdb.Written) {
	h.mu.Lock()
	defer h.mu.Unlock()
	o.outcome, o.written, o.done = result, written, time.Now()
	if result == acked {
		if h.counted == nil || h.counted(o) {
			h.acks += len(o.ids)
		}
	}
	h.signal()
}

func (h *history) met(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil && len(h.errors) < 10_000 {
		h.errors = append(h.errors, err)
	}
}

// refuse records an error of a write that should have succeeded.
func (h *history) refuse(err error) {
	h.met(err)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.refused = append(h.refused, err)
}

func (h *history) begin(s *subscriber, from int64) *incarnation {
	h.mu.Lock()
	defer h.mu.Unlock()
	i := &incarnation{from: from}
	s.incarnations = append(s.incarnations, i)
	return i
}

func (h *history) deliver(s *subscriber, i *incarnation, d delivery) {
	h.mu.Lock()
	defer h.mu.Unlock()
	i.deliveries = append(i.deliveries, d)
	s.reached = s.reached || d == s.end
	h.signal()
}

// miss records what was reported to the subscriber as missing.
func (h *history) miss(s *subscriber, fork mdb.Fork) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.missing == nil {
		s.missing = make(map[missed]bool)
	}
	for _, m := range fork.Missing {
		s.missing[missed{m.Position, m.ID}] = true
	}
}

// awaitDelivery waits until the subscriber has received the message.
func (h *history) awaitDelivery(ctx context.Context, s *subscriber, m *stored) error {
	h.mu.Lock()
	s.end, s.reached = m.delivery(), false
	for _, i := range s.incarnations {
		s.reached = s.reached || slices.Contains(i.deliveries, s.end)
	}
	h.mu.Unlock()
	return h.await(ctx, func() bool { return s.reached })
}

func (h *history) noteFault() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.faults = append(h.faults, time.Now())
}

func (h *history) signal() {
	select {
	case h.changed <- struct{}{}:
	default:
	}
}

// acknowledged returns the number of acknowledged messages.
func (h *history) acknowledged() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.acks
}

// await waits until ready returns true. It calls ready with the history locked.
func (h *history) await(ctx context.Context, ready func() bool) error {
	for {
		h.mu.Lock()
		ok := ready()
		h.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-h.changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// untilAcked waits until the given number of further messages are acknowledged.
func (h *history) untilAcked(ctx context.Context, messages int) error {
	enough := h.acknowledged() + messages
	return h.await(ctx, func() bool { return h.acks >= enough })
}

// readStore returns the messages of the categories in the order of their global
// positions. It uses plain SQL, independently of the client under test.
func readStore(ctx context.Context, pool *pgxpool.Pool, categories []string) ([]stored, error) {
	rows, _ := pool.Query(ctx, `SELECT id, stream_name, position, global_position, coalesce(data->>'op', ''), coalesce((data->>'index')::int, 0)
FROM message_store.messages WHERE split_part(stream_name, '-', 1) = ANY ($1) ORDER BY global_position`, categories)
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (m stored, err error) {
		err = row.Scan(&m.id, &m.stream, &m.position, &m.global, &m.op, &m.index)
		return m, err
	})
}
