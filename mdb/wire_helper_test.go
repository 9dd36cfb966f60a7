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

// A wire lies between a pool and the server: it counts what is sent, and breaks
// where a test wants it to.
type wire struct {
	dials, sent atomic.Int64
	// trips counts the messages that make the server send all that it has to say,
	// which the client then waits for.
	trips atomic.Int64
	// turns counts how often the client reads behind having written: of what it has
	// sent in one go it waits for the answers together.
	turns atomic.Int64
	// answered is how long the answer was that was cut last.
	answered atomic.Int64

	mu   sync.Mutex
	cuts []cut
}

// A cut is where the connection of the next request that holds a text breaks.
type cut struct {
	request string
	// answer is how many bytes of the answer arrive. The server has come to the end
	// of the request by then.
	answer int
}

const (
	whole  = 1 << 30 // the answer arrives, and the connection breaks behind it; less n: all but its last n bytes
	lost   = -1      // the request is sent, and does not reach the server
	unsent = -2      // the request cannot even be sent
)

func (w *wire) attach(cfg *pgxpool.Config) {
	cfg.ConnConfig.AfterNetConnect = func(_ context.Context, _ *pgconn.Config, conn net.Conn) (net.Conn, error) {
		w.dials.Add(1)
		return &wireConn{Conn: conn, wire: w}, nil
	}
}

// cut makes the next requests break, one after the other.
func (w *wire) cut(cuts ...cut) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cuts = append(w.cuts, cuts...)
}

// uncut tells how many of the cuts have not happened.
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
	started bool         // the start-up message is over
	pending []byte       // of a request, until its frame is complete
	broken  atomic.Int64 // 1 more than the bytes to let through, 0 while whole
	early   []byte       // of that answer, met by a read that waited before the request
	rest    []byte       // of an answer that breaks off
	wrote   atomic.Bool  // and has not read since
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
		}
		c.broken.Store(int64(cut.answer) + 1)
	}
	n, err := c.Conn.Write(b)
	c.wire.sent.Add(int64(n))
	c.pending = append(c.pending, b[:n]...)
	for {
		header := 5 // a letter and the length, which counts itself
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
		c.rest = answer[:n]
	}
	if len(c.rest) == 0 {
		c.Close()
		return 0, io.EOF
	}
	n := copy(b, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// answer reads up to the message by which the server says that it is ready.
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
