package mdb

import (
	"context"
	"net"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// An observedConn is a connection of a pool that [Configure] has prepared. It shows whether
// bytes arrive or leave, and it can be given up without a cancel request.
type observedConn struct {
	net.Conn
	moved   atomic.Uint64 // changes whenever bytes have arrived or left
	waiting atomic.Int32  // reads and writes that have not returned
	givenUp atomic.Bool
}

// maxWritten is the most that is written in one piece, so that a large statement on a slow
// network shows that bytes leave.
const maxWritten = 64 << 10

func (c *observedConn) Read(b []byte) (int, error) {
	c.waiting.Add(1)
	n, err := c.Conn.Read(b)
	c.moved.Add(1)
	c.waiting.Add(-1)
	return n, err
}

func (c *observedConn) Write(b []byte) (n int, err error) {
	c.waiting.Add(1)
	defer c.waiting.Add(-1)
	for {
		written, err := c.Conn.Write(b[n:min(n+maxWritten, len(b))])
		n += written
		c.moved.Add(1)
		if err != nil || n == len(b) {
			return n, err
		}
	}
}

// NetConn returns the connection that is observed, as the method of a tls.Conn does.
func (c *observedConn) NetConn() net.Conn { return c.Conn }

// RemoteAddr returns an address that cannot be dialled once the connection is given up. When
// a connection fails, pgx sends a cancel request to this address. It would end a wait for a
// synchronous standby, and make a message visible that is not replicated.
func (c *observedConn) RemoteAddr() net.Addr {
	if c.givenUp.Load() {
		return noAddress{}
	}
	return c.Conn.RemoteAddr()
}

// noAddress is the address of a connection that was given up.
type noAddress struct{}

const noNetwork = "none"

func (noAddress) Network() string { return noNetwork }
func (noAddress) String() string  { return "a connection that was given up" }

// observe makes the connections of a configuration observed ones.
func observe(cfg *pgx.ConnConfig) {
	after, dial := cfg.AfterNetConnect, cfg.DialFunc
	cfg.AfterNetConnect = func(ctx context.Context, config *pgconn.Config, conn net.Conn) (net.Conn, error) {
		if after != nil {
			var err error
			if conn, err = after(ctx, config, conn); err != nil {
				return conn, err
			}
		}
		return &observedConn{Conn: conn}, nil
	}
	// A function that ignores the address must not dial this one, either.
	cfg.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		if network == noNetwork {
			return nil, &net.OpError{Op: "dial", Net: network, Addr: noAddress{}, Err: net.UnknownNetworkError(network)}
		}
		return dial(ctx, network, address)
	}
}

// observed returns the observed connection below conn, or nil, and the connection below all
// others, which can be closed without writing to it.
func observed(conn net.Conn) (seen *observedConn, lowest net.Conn) {
	for {
		if c, ok := conn.(*observedConn); ok && seen == nil {
			seen = c
		}
		below, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			return seen, conn
		}
		conn = below.NetConn()
	}
}
