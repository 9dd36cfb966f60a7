package mdb_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/pgtest"
)

// A heldStandby is a synchronous standby of a server of its own: it receives the server's
// WAL, stores none of it, and confirms it only while it is not held. Only sessions with
// synchronous_commit = on wait for it, and by default they do not.
type heldStandby struct {
	url   string
	admin *pgxpool.Pool
	since time.Time // when the last statement began that stalledUntil has returned

	conn *pgconn.PgConn
	mu   sync.Mutex
	held bool
	// received is the end of the WAL that has arrived, and confirmed that of the WAL which
	// the server may consider to be on the standby.
	received, confirmed uint64
}

func newHeldStandby(t *testing.T) *heldStandby {
	t.Helper()
	server := pgtest.Own(t, pgtest.Setting("synchronous_commit", "local"), pgtest.Setting("synchronous_standby_names", "held"))
	h := &heldStandby{url: server.TCP("postgres")}
	h.admin = newPool(t, h.url)
	install(t, h.admin)
	h.stream(t)
	until(t, h.admin, `SELECT count(*) = 1 FROM pg_stat_replication WHERE sync_state = 'sync'`)
	return h
}

// attach makes the connections of a pool wait for the standby, with the rights of a service.
func (h *heldStandby) attach(cfg *pgxpool.Config) {
	parameter("synchronous_commit", "on")(cfg)
	asRole("message_store")(cfg)
}

// stream starts the replication.
func (h *heldStandby) stream(t *testing.T) {
	t.Helper()
	cfg, err := pgconn.ParseConfig(h.url)
	if err != nil {
		t.Fatal(err)
	}
	cfg.RuntimeParams["replication"], cfg.RuntimeParams["application_name"] = "true", "held"
	if h.conn, err = pgconn.ConnectConfig(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	begin := value[string](t, h.admin, `SELECT pg_current_wal_flush_lsn()::text`)
	h.received = uint64(value[int64](t, h.admin, `SELECT (pg_current_wal_flush_lsn() - '0/0')::bigint`))
	h.conn.Frontend().SendQuery(&pgproto3.Query{String: "START_REPLICATION " + begin})
	if err := h.conn.Frontend().Flush(); err != nil {
		t.Fatal(err)
	}
	h.mu.Lock()
	h.confirm() // without it the server has no standby until it writes something
	h.mu.Unlock()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			msg, err := h.conn.ReceiveMessage(context.Background())
			if err != nil {
				return
			}
			if data, ok := msg.(*pgproto3.CopyData); ok {
				h.receive(data.Data)
			}
		}
	}()
	t.Cleanup(func() {
		_ = h.conn.Conn().Close()
		<-ended
	})
}

// receive handles a message of the replication protocol: a piece of the WAL, or the
// question whether the standby is alive.
func (h *heldStandby) receive(b []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if b[0] == 'w' {
		const header = 1 + 8 + 8 + 8
		h.received = max(h.received, binary.BigEndian.Uint64(b[1:])+uint64(len(b)-header))
	}
	h.confirm()
}

func (h *heldStandby) confirm() {
	if !h.held {
		h.confirmed = h.received
	}
	status := []byte{'r'}
	for range 3 { // written, flushed and applied
		status = binary.BigEndian.AppendUint64(status, h.confirmed)
	}
	status = append(status, make([]byte, 8+1)...) // the time, and no request for an answer
	message, _ := (&pgproto3.CopyData{Data: status}).Encode(nil)
	_, _ = h.conn.Conn().Write(message)
}

// hold makes commits wait until release. What has begun before is not meant by stalledUntil.
func (h *heldStandby) hold(t *testing.T) {
	t.Helper()
	h.mu.Lock()
	h.held = true
	h.mu.Unlock()
	h.since = value[time.Time](t, h.admin, "SELECT clock_timestamp()")
}

func (h *heldStandby) release() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.held = false
	h.confirm()
}

// releaseOne ends the waits of the commits that have begun to wait, and of no later ones.
func (h *heldStandby) releaseOne(t *testing.T) {
	t.Helper()
	end := uint64(value[int64](t, h.admin, `SELECT (pg_current_wal_flush_lsn() - '0/0')::bigint`))
	h.mu.Lock()
	defer h.mu.Unlock()
	h.confirmed = max(h.confirmed, end)
	h.confirm()
}

// A stalled is a session whose commit waits for the standby.
type stalled struct {
	pid   int32
	query string
}

// stalledUntil waits for the next commit that waits for the standby. It fails the test if the
// call ends before that, because then something that the standby does not have was acknowledged.
func stalledUntil[R any](t *testing.T, h *heldStandby, call <-chan R) stalled {
	t.Helper()
	var last time.Time
	for end := time.Now().Add(testTimeout); time.Now().Before(end); {
		var s stalled
		var begun time.Time
		err := h.admin.QueryRow(t.Context(), `SELECT pid, query, query_start FROM pg_stat_activity
			WHERE wait_event = 'SyncRep' AND query_start > $1 ORDER BY query_start LIMIT 1`, h.since).Scan(&s.pid, &s.query, &begun)
		switch {
		case err == nil && begun.Equal(last):
			h.since = begun
			return s
		case err == nil:
			last = begun // the server may have read the statement before the one that waits
			continue
		}
		if err != pgx.ErrNoRows { //nolint:errorlint // Scan returns it as it is
			t.Fatal(err)
		}
		select {
		case result := <-call:
			t.Fatalf("the call has ended, with %v, and the standby has confirmed nothing", result)
		case <-time.After(5 * time.Millisecond): // so that the server has something left for the commit
		}
	}
	t.Fatal("no commit waits for the standby")
	return stalled{}
}

func (s stalled) signal(t *testing.T, h *heldStandby, function string) {
	t.Helper()
	exec(t, h.admin, fmt.Sprintf("SELECT %s(%d)", function, s.pid))
}
