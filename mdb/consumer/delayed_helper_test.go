package consumer_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A slowRoad is the network of a process. It can keep what the process sends on a connection, and deliver it after the process has
// given the connection up, as a proxy or a network that is slow does. Requests to cancel a statement do not arrive.
type slowRoad struct {
	t *testing.T

	mu     sync.Mutex
	wanted string // the text of a statement whose connection is to be held
	held   *slowConn
	seized chan struct{} // is closed when there is one
	ticks  *slowConn     // the connection of the last tick
	counts map[string]int
}

func newSlowRoad(t *testing.T) *slowRoad {
	t.Helper()
	return &slowRoad{t: t, counts: make(map[string]int)}
}

// prepare lets a pool use it. Statements are sent as texts.
func (r *slowRoad) prepare(cfg *pgxpool.Config) {
	cfg.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec
	dial := cfg.ConnConfig.DialFunc
	cfg.ConnConfig.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &slowConn{Conn: conn, road: r, given: make(chan struct{})}, nil
	}
}

// hold holds the connection on which a statement with the text is sent next. The channel is closed when it was sent.
func (r *slowRoad) hold(text string) <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wanted, r.seized = text, make(chan struct{})
	return r.seized
}

// cutTicks breaks the connection of the ticks, after the first one.
func (r *slowRoad) cutTicks() {
	r.t.Helper()
	eventually(r.t, "a tick", func() bool { return r.count("tick") > 0 })
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ticks.Conn.Close()
}

// cutHeld lets the process lose the connection that is held.
func (r *slowRoad) cutHeld() {
	r.mu.Lock()
	defer r.mu.Unlock()
	_ = r.held.Conn.SetDeadline(time.Unix(1, 0))
}

// deliver sends what was held to the server, after the process has given the connection up, and returns the SQLSTATE of the answer, or "".
func (r *slowRoad) deliver() (code string) {
	r.t.Helper()
	c := r.held
	select {
	case <-c.given:
	case <-time.After(time.Minute):
		r.t.Fatal("the process does not give the connection up")
	}
	defer c.Conn.Close()
	_ = c.Conn.SetDeadline(time.Now().Add(time.Minute))
	if _, err := c.Conn.Write(c.buffer); err != nil {
		r.t.Fatal(err)
	}
	for f := pgproto3.NewFrontend(c.Conn, c.Conn); ; {
		switch m, err := f.Receive(); m := m.(type) {
		case *pgproto3.ErrorResponse:
			code = m.Code
		case *pgproto3.ReadyForQuery:
			return code
		case nil:
			r.t.Fatal(err)
		}
	}
}

// count returns how often a function was called.
func (r *slowRoad) count(function string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.counts[function]
}

// reread waits until the process has read its rows since it was called last with that number of balances.
func (r *slowRoad) reread(since int) {
	r.t.Helper()
	eventually(r.t, "the rows are read", func() bool { return r.count("balance") > since })
	ticks := r.count("tick")
	eventually(r.t, "it ticks", func() bool { return r.count("tick") > ticks })
}

// A slowConn is a connection of a process. The road's mu guards what is not net.Conn.
type slowConn struct {
	net.Conn

	road   *slowRoad
	isHeld bool
	buffer []byte        // what was sent since it is held
	given  chan struct{} // is closed when the process gives it up while it is held
}

func (c *slowConn) Write(b []byte) (int, error) {
	r := c.road
	r.mu.Lock()
	if len(b) >= 16 && binary.BigEndian.Uint32(b[4:]) == 80877102 { // a request to cancel
		r.mu.Unlock()
		c.Conn.Close()
		return len(b), nil
	}
	for _, function := range []string{"balance", "tick"} {
		if bytes.Contains(b, []byte("message_store_consumers."+function+"(")) {
			r.counts[function]++
			if function == "tick" {
				r.ticks = c
			}
		}
	}
	if r.wanted != "" && bytes.Contains(b, []byte(r.wanted)) {
		r.wanted, r.held, c.isHeld = "", c, true
		close(r.seized)
	}
	if c.isHeld {
		if b[0] == 'X' { // the process ends the session, and would wait until the server closes it
			c.giveUp()
		} else {
			c.buffer = slices.Concat(c.buffer, b)
		}
		r.mu.Unlock()
		return len(b), nil
	}
	r.mu.Unlock()
	return c.Conn.Write(b)
}

func (c *slowConn) Close() error {
	c.road.mu.Lock()
	defer c.road.mu.Unlock()
	if !c.isHeld {
		return c.Conn.Close()
	}
	c.giveUp()
	return nil
}

// giveUp is called with the road's mu.
func (c *slowConn) giveUp() {
	select {
	case <-c.given:
	default:
		close(c.given)
		_ = c.Conn.SetReadDeadline(time.Unix(1, 0))
	}
}

// These have no effect on a connection that the process has given up.
func (c *slowConn) SetDeadline(at time.Time) error      { return c.set(at, c.Conn.SetDeadline) }
func (c *slowConn) SetReadDeadline(at time.Time) error  { return c.set(at, c.Conn.SetReadDeadline) }
func (c *slowConn) SetWriteDeadline(at time.Time) error { return c.set(at, c.Conn.SetWriteDeadline) }

func (c *slowConn) set(at time.Time, f func(time.Time) error) error {
	c.road.mu.Lock()
	defer c.road.mu.Unlock()
	select {
	case <-c.given:
		return nil
	default:
		return f(at)
	}
}
