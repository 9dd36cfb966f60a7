package mdb_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"sync/atomic"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A wire wraps the connections between a pool and the server: it counts round trips, and
// breaks connections where a test says.
type wire struct {
	dials, sent, received atomic.Int64
	// trips counts the messages that make the server send its pending answers, for which
	// the client then waits.
	trips atomic.Int64
	// turns counts how often the client begins to read after it has written. It waits once
	// for the answers to what it sent in one go.
	turns atomic.Int64
	// answered is the length of the last answer that was cut.
	answered atomic.Int64

	mu   sync.Mutex
	cuts []cut
}

// A cut is the place where the connection breaks, in the next request that contains a
// text.
type cut struct {
	request string
	// answer is how many bytes of the answer arrive. The server has completed the request
	// by then.
	answer int
}

const (
	whole  = 1 << 30 // the answer arrives, and then the connection breaks; minus n: all but its last n bytes arrive
	lost   = -1      // the request is sent, and does not reach the server
	unsent = -2      // the request cannot even be sent
	halved = -3      // the server receives the request, but Write reports that it received only a part
)

func (w *wire) attach(cfg *pgxpool.Config) {
	cfg.ConnConfig.AfterNetConnect = func(_ context.Context, _ *pgconn.Config, conn net.Conn) (net.Conn, error) {
		w.dials.Add(1)
		return &wireConn{Conn: conn, wire: w}, nil
	}
}

// cut makes the next requests break, in the given order.
func (w *wire) cut(cuts ...cut) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cuts = append(w.cuts, cuts...)
}

// uncut returns how many of the cuts did not happen.
func (w *wire) uncut() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.cuts)
}

func (w *wire) next(request []byte) (c cut, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.cuts) == 0 || !bytes.Contains(request, []byte(w.cuts[0].request)) {
		return cut{}, false
	}
	c, w.cuts = w.cuts[0], w.cuts[1:]
	return c, true
}

type wireConn struct {
	net.Conn
	wire    *wire
	started bool         // whether the start-up message was sent
	pending []byte       // the part of a request whose frame is incomplete
	broken  atomic.Int64 // number of bytes to let through, plus 1; 0 while the connection is whole
	early   []byte       // the part of the answer read by a call that waited before the request
	rest    []byte       // the rest of an answer that will be cut
	wrote   atomic.Bool  // whether there was a write since the last read
}

func (c *wireConn) Write(b []byte) (int, error) {
	c.wrote.Store(true)
	if cut, ok := c.wire.next(b); ok {
		switch cut.answer {
		case unsent:
			c.Close()
			return 0, io.ErrClosedPipe
		case lost:
			c.Close()
			return len(b), nil
		case halved:
			_, _ = c.Conn.Write(b)
			return len(b) / 2, io.ErrShortWrite
		}
		c.broken.Store(int64(cut.answer) + 1)
	}
	n, err := c.Conn.Write(b)
	c.wire.sent.Add(int64(n))
	c.pending = append(c.pending, b[:n]...)
	for {
		header := 5 // a letter and the length, which includes itself
		if !c.started {
			header = 4
		}
		if len(c.pending) < header {
			return n, err
		}
		size := header - 4 + int(binary.BigEndian.Uint32(c.pending[header-4:]))
		if len(c.pending) < size {
			return n, err
		}
		if c.started {
			switch c.pending[0] {
			case 'S', 'H', 'Q': // Sync, Flush, Query
				c.wire.trips.Add(1)
			}
		}
		c.started = true
		c.pending = c.pending[size:]
	}
}

func (c *wireConn) Read(b []byte) (int, error) {
	if c.wrote.CompareAndSwap(true, false) {
		c.wire.turns.Add(1)
	}
	if c.broken.Load() == 0 {
		n, err := c.Conn.Read(b)
		c.wire.received.Add(int64(n))
		// While a write takes long, pgx reads in the background, and that read may still
		// wait when the next request is sent.
		if n > 0 && c.wrote.CompareAndSwap(true, false) {
			c.wire.turns.Add(1)
		}
		if n == 0 || c.broken.Load() == 0 {
			return n, err
		}
		c.early = bytes.Clone(b[:n])
	}
	if c.rest == nil {
		answer, err := c.answer()
		if err != nil {
			return 0, err
		}
		c.wire.answered.Store(int64(len(answer)))
		n := int(c.broken.Load()) - 1
		if n > whole/2 {
			n = len(answer) - (whole - n)
		}
		c.rest = answer[:min(n, len(answer))]
	}
	if len(c.rest) == 0 {
		c.Close()
		return 0, io.EOF
	}
	n := copy(b, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// answer reads up to the message with which the server reports that it is ready.
func (c *wireConn) answer() ([]byte, error) {
	answer := []byte{}
	server := io.MultiReader(bytes.NewReader(c.early), c.Conn)
	for {
		var header [5]byte
		if _, err := io.ReadFull(server, header[:]); err != nil {
			return nil, err
		}
		body := make([]byte, binary.BigEndian.Uint32(header[1:])-4)
		if _, err := io.ReadFull(server, body); err != nil {
			return nil, err
		}
		answer = append(append(answer, header[:]...), body...)
		if header[0] == 'Z' {
			return answer, nil
		}
	}
}
