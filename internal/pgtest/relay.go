package pgtest

import (
	"io"
	"net"
	"sync"
	"testing"
)

// Accept calls serve, in a goroutine of its own, for each connection to the address that it
// returns, which is on loopback. At the end of the test it accepts no more, calls stop, which
// must end the calls of serve, and waits for them.
func Accept(t testing.TB, serve func(net.Conn), stop func()) *net.TCPAddr {
	t.Helper()

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			running.Go(func() { serve(conn) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		stop()
		running.Wait()
	})

	return listener.Addr().(*net.TCPAddr)
}

// A Relay forwards TCP connections to one server at a time, like a virtual IP address or a
// load balancer, for what cannot be given two addresses.
type Relay struct {
	address *net.TCPAddr

	mu     sync.Mutex
	to     *Server
	conns  map[net.Conn]struct{}
	closed bool
}

// NewRelay returns a relay to a server that Start has started. It is closed at the end of
// the test.
func NewRelay(t testing.TB, to *Server) *Relay {
	t.Helper()

	r := &Relay{to: to, conns: make(map[net.Conn]struct{})}
	r.address = Accept(t, r.forward, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.closed = true
		r.cut()
	})

	return r
}

// URL returns the URL of a database through the relay.
func (r *Relay) URL(database string) string {
	r.mu.Lock()
	defer r.mu.Unlock()

	u := *r.to.tcp
	u.Host = r.address.String()

	return withDatabase(&u, database)
}

// Switch closes all connections, and forwards later ones to another server.
func (r *Relay) Switch(to *Server) {
	r.mu.Lock()
	defer r.mu.Unlock()

	r.to = to
	r.cut()
}

func (r *Relay) cut() {
	for conn := range r.conns {
		_ = conn.Close()
	}
	clear(r.conns)
}

func (r *Relay) forward(conn net.Conn) {
	defer conn.Close()
	// The lock is held meanwhile, so that Switch finds every connection. A dial on loopback
	// returns immediately.
	r.mu.Lock()
	server, err := net.Dial("tcp", r.to.tcp.Host)
	if err != nil || r.closed {
		r.mu.Unlock()
		return
	}
	r.conns[conn], r.conns[server] = struct{}{}, struct{}{}
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		delete(r.conns, conn)
		delete(r.conns, server)
		r.mu.Unlock()
	}()

	var copying sync.WaitGroup
	copying.Go(func() {
		_, _ = io.Copy(server, conn)
		_ = server.Close()
		_ = conn.Close()
	})
	_, _ = io.Copy(conn, server)
	_ = server.Close()
	_ = conn.Close()
	copying.Wait()
}
