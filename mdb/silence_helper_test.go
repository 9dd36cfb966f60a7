package mdb_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/backoff"
	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/mdb"
)

// A relay forwards connections to a server. It can stop forwarding without closing them, as
// a network or a machine that has failed, and it counts cancel requests and questions.
type relay struct {
	address *net.TCPAddr
	target  *pgconn.Config

	cancels  atomic.Int64
	asking   atomic.Int64 // open connections on which a store asks
	atOnce   atomic.Int64 // the most that were open at a time
	received atomic.Int64 // bytes from the server

	mu     sync.Mutex
	moving *sync.Cond
	frozen bool // all connections, also new ones
	pooler bool // clients see other pids than the server's
	lines  []*line
	closed bool
	pids   []uint32 // of the sessions that cancel requests are for
}

// cancelled reports whether there was a cancel request for one of the sessions.
func (r *relay) cancelled(pids ...uint32) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.pids, func(pid uint32) bool { return slices.Contains(pids, pid) })
}

// A line is a connection through the relay.
type line struct {
	silent bool // neither direction is forwarded any more
	deaf   bool // what the server sends is not
	left   int  // bytes from the server until the line is silent, unless it is negative
}

func newRelay(t testing.TB, url string) *relay {
	t.Helper()
	cfg, err := pgconn.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{target: cfg}
	r.moving = sync.NewCond(&r.mu)
	r.address = pgtest.Accept(t, r.serve, func() { r.change(func() { r.closed = true }) })
	return r
}

// through makes the connections of a pool go through the relay. Those that begin while it is frozen are soon given up.
func (r *relay) through(cfg *pgxpool.Config) {
	cfg.ConnConfig.Host, cfg.ConnConfig.Port = "127.0.0.1", uint16(r.address.Port)
	cfg.ConnConfig.TLSConfig, cfg.ConnConfig.Fallbacks = nil, nil
	before, after := cfg.BeforeConnect, cfg.ConnConfig.AfterNetConnect
	cfg.BeforeConnect = func(ctx context.Context, cfg *pgx.ConnConfig) error {
		r.change(func() {
			if r.frozen {
				cfg.ConnectTimeout = 500 * time.Millisecond
			}
		})
		if before != nil {
			return before(ctx, cfg)
		}
		return nil
	}
	cfg.ConnConfig.AfterNetConnect = func(ctx context.Context, cfg *pgconn.Config, conn net.Conn) (net.Conn, error) {
		if after != nil {
			var err error
			if conn, err = after(ctx, cfg, conn); err != nil {
				return conn, err
			}
		}
		if !strings.HasSuffix(cfg.RuntimeParams["application_name"], "message_store silence") {
			return conn, nil
		}
		open := r.asking.Add(1)
		for most := r.atOnce.Load(); open > most && !r.atOnce.CompareAndSwap(most, open); {
			most = r.atOnce.Load()
		}
		return &questionConn{Conn: conn, closed: sync.OnceFunc(func() { r.asking.Add(-1) })}, nil
	}
}

// A questionConn is a connection on which a store asks. It counts until the store closes it, which the relay sees later.
type questionConn struct {
	net.Conn
	closed func()
}

func (c *questionConn) NetConn() net.Conn { return c.Conn }

func (c *questionConn) Close() error {
	c.closed()
	return c.Conn.Close()
}

// change changes what the relay does.
func (r *relay) change(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
	r.moving.Broadcast()
}

// freeze stops all connections, also new ones, until thaw.
func (r *relay) freeze() { r.change(func() { r.frozen = true }) }
func (r *relay) thaw()   { r.change(func() { r.frozen = false }) }

// silence stops the connections that are open, for ever.
func (r *relay) silence() { r.each(func(l *line) { l.silent = true }) }

// deafen stops what the server sends on the connections that are open.
func (r *relay) deafen() { r.each(func(l *line) { l.deaf = true }) }

// limit lets n more bytes of the server through on the connections that are open.
func (r *relay) limit(n int) { r.each(func(l *line) { l.left = n }) }

func (r *relay) each(f func(*line)) {
	r.change(func() {
		for _, l := range r.lines {
			f(l)
		}
	})
}

func (r *relay) serve(conn net.Conn) {
	defer conn.Close()
	l := &line{left: -1}
	r.change(func() { r.lines = append(r.lines, l) })
	network, address := pgconn.NetworkAddress(r.target.Host, r.target.Port)
	server, err := net.Dial(network, address)
	if err != nil {
		return
	}
	defer server.Close()
	ended := make(chan struct{}) // closed when the relay or the server is
	go func() {
		defer conn.Close()
		r.copy(l, conn, server, true)
		close(ended)
	}()
	go func() {
		r.change(func() {
			for !r.closed {
				r.moving.Wait()
			}
		})
		_ = conn.Close()
		_ = server.Close()
	}()
	r.copy(l, server, conn, false)
	// A client that closes its end is only seen by a server that can be reached.
	if r.wait(l, false) {
		_ = server.Close()
	}
	<-ended
}

// copy forwards one direction until its source ends.
func (r *relay) copy(l *line, to, from net.Conn, answers bool) {
	buf := make([]byte, 4096)
	for first := true; ; first = false {
		n, err := from.Read(buf)
		if first && !answers {
			r.note(buf[:n])
		}
		if answers && r.pooler {
			// The pid in a message of 12 bytes and the type K, see BackendKeyData.
			if i := bytes.Index(buf[:n], []byte{'K', 0, 0, 0, 12}); i >= 0 && i+8 < n {
				buf[i+8] ^= 0xff
			}
		}
		for sent := 0; sent < n; {
			if !r.wait(l, answers) {
				return
			}
			part := n - sent
			r.change(func() {
				if answers && l.left >= 0 {
					part = min(part, l.left)
					l.left -= part
					l.silent = l.left == 0
				}
			})
			if _, err := to.Write(buf[sent : sent+part]); err != nil {
				return
			}
			sent += part
			if answers {
				r.received.Add(int64(part))
			}
		}
		if err != nil {
			return
		}
	}
}

// wait waits until the direction is forwarded. It returns false if the relay is closed.
func (r *relay) wait(l *line, answers bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for !r.closed && (r.frozen || l.silent || l.deaf && answers) {
		r.moving.Wait()
	}
	return !r.closed
}

// note counts the first message of a connection if it is a cancel request.
func (r *relay) note(message []byte) {
	const cancelRequest = 80877102
	if len(message) >= 8 && binary.BigEndian.Uint32(message[4:]) == cancelRequest {
		r.cancels.Add(1)
		if len(message) >= 12 {
			r.change(func() { r.pids = append(r.pids, binary.BigEndian.Uint32(message[8:])) })
		}
	}
}

const (
	// soon is how long a store of these tests waits before it asks.
	soon = 50 * time.Millisecond
	// notYet is set while a test does something in which a slow machine may pause for that long, and the server then say that it does
	// not execute a statement which has not arrived yet, or whose answer has not.
	notYet = time.Hour
)

// silentStore returns a store on a pool through the relay, which does not ask before SetSilence.
func silentStore(t testing.TB, r *relay, url string, j *journal, prepare ...func(*pgxpool.Config)) *mdb.Store {
	t.Helper()
	pool := newPool(t, url, append(prepare, r.through)...)
	s := newStore(t, pool, j.option())
	mdb.SetSilence(s, notYet)
	return s
}

// freezeUnasked freezes the relay while no question of the store is under way, so that the next one finds it frozen.
func (r *relay) freezeUnasked(t testing.TB, s *mdb.Store) {
	t.Helper()
	untilUnasked(t, s)
	r.freeze()
	mdb.SetSilence(s, soon)
}

// untilUnasked makes the store ask no further question, and waits for the end of one that is under way.
func untilUnasked(t testing.TB, s *mdb.Store) {
	t.Helper()
	mdb.SetSilence(s, notYet)
	inTime(t, "the store does not ask", func() bool { return !mdb.Asks(s) })
}

// wantNothingGivenUp fails the test if a statement was given up or retried. A busy machine may fail to connect in time, before anything
// is sent.
func (j *journal) wantNothingGivenUp(t testing.TB) {
	t.Helper()
	log := j.String()
	for line := range strings.SplitSeq(log, "\n") {
		if strings.Contains(line, gaveUp) || strings.Contains(line, "retrying") && !strings.Contains(line, "no connection: ") {
			t.Errorf("a statement was given up:\n%s", log)
			return
		}
	}
}

// until waits until the journal contains a text n times.
func (j *journal) until(t testing.TB, text string, n int) {
	t.Helper()
	for end := time.Now().Add(testTimeout); strings.Count(j.String(), text) < n; {
		if err := backoff.Sleep(t.Context(), time.Millisecond); err != nil {
			t.Fatal(err)
		}
		if time.Now().After(end) {
			t.Fatalf("not logged %d times in time: %q in\n%s", n, text, j)
		}
	}
}

const (
	waitsOn = "so they wait on"
	gaveUp  = "their connections were given up"
)
