package consumer

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A tap wraps the connections between a pool and the server, and knows where the protocol's
// messages begin. It counts round trips. It can break a connection after a message, while the
// server keeps the session, as if the network had failed.
type tap struct {
	mu sync.Mutex
	// trips counts the messages for whose answer the client waits, sent and received those of
	// both sides, since the last reset.
	trips, sent, received int
	// mostSent and mostReceived say after how many messages the connection breaks; -1: never.
	mostSent, mostReceived int
	held                   *tapConn
}

func (t *tap) attach(cfg *pgxpool.Config) {
	t.reset(-1, -1)
	cfg.ConnConfig.AfterNetConnect = func(_ context.Context, _ *pgconn.Config, conn net.Conn) (net.Conn, error) {
		return &tapConn{Conn: conn, tap: t}, nil
	}
}

// reset begins to count, and breaks the connection of the next message after these numbers of
// messages.
func (t *tap) reset(mostSent, mostReceived int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.trips, t.sent, t.received = 0, 0, 0
	t.mostSent, t.mostReceived = mostSent, mostReceived
	t.held = nil
}

func (t *tap) counts() (trips, sent, received int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.trips, t.sent, t.received
}

// release ends the session of the connection that was broken, after it has received the rest of
// what the client has written, or without that. It returns after the session's end.
func (t *tap) release(late bool) {
	t.mu.Lock()
	c := t.held
	t.mu.Unlock()
	if c == nil {
		return
	}
	if late {
		_, _ = c.Conn.Write(c.rest)
	}
	_ = c.Conn.(interface{ CloseWrite() error }).CloseWrite()
	_, _ = io.Copy(io.Discard, c.Conn)
	_ = c.Conn.Close()
}

// A tapConn is one connection. The tap's mu guards it.
type tapConn struct {
	net.Conn
	tap     *tap
	started bool   // the start-up message was sent
	pending []byte // the part of a message that the client has written
	answer  []byte // the part of a message that the server has written
	ready   []byte // what the client may read
	broken  bool
	rest    []byte // what was written after that
}

// frame returns the length of the message that b begins with, or 0 if it is incomplete.
func frame(b []byte, header int) int {
	if len(b) < header {
		return 0
	}
	if n := header - 4 + int(binary.BigEndian.Uint32(b[header-4:])); n <= len(b) {
		return n
	}
	return 0
}

func (c *tapConn) Write(b []byte) (int, error) {
	t := c.tap
	t.mu.Lock()
	defer t.mu.Unlock()
	c.pending = append(c.pending, b...)
	for {
		header := 5
		if !c.started {
			header = 4
		}
		n := frame(c.pending, header)
		if n == 0 {
			return len(b), nil
		}
		message := c.pending[:n]
		c.pending = c.pending[n:]
		switch {
		case c.broken && message[0] != 'X':
			c.rest = append(c.rest, message...)
			continue
		case c.broken:
			continue // the client closes the connection
		}
		if c.started {
			t.sent++
			switch message[0] {
			case 'S', 'H', 'Q':
				t.trips++
			}
		}
		c.started = true
		if _, err := c.Conn.Write(message); err != nil {
			return 0, err
		}
		if t.held == nil && t.sent == t.mostSent {
			c.broken, t.held = true, c
		}
	}
}

func (c *tapConn) Read(b []byte) (int, error) {
	for {
		c.tap.mu.Lock()
		if n := copy(b, c.ready); n > 0 {
			c.ready = c.ready[n:]
			c.tap.mu.Unlock()
			return n, nil
		}
		broken := c.broken
		c.tap.mu.Unlock()
		if broken {
			return 0, io.EOF
		}
		buffer := make([]byte, len(b))
		n, err := c.Conn.Read(buffer)
		c.tap.mu.Lock()
		c.answer = append(c.answer, buffer[:n]...)
		c.deliver()
		c.tap.mu.Unlock()
		if err != nil && n == 0 {
			return 0, err
		}
	}
}

// deliver makes complete messages ready.
func (c *tapConn) deliver() {
	t := c.tap
	for !c.broken {
		n := frame(c.answer, 5)
		if n == 0 {
			return
		}
		if t.held == nil && t.received == t.mostReceived && t.sent > 0 {
			c.broken, t.held = true, c
			return
		}
		t.received++
		c.ready = append(c.ready, c.answer[:n]...)
		c.answer = c.answer[n:]
	}
}

func (c *tapConn) Close() error {
	c.tap.mu.Lock()
	broken := c.broken
	c.tap.mu.Unlock()
	if broken {
		return nil // release closes it
	}
	return c.Conn.Close()
}
