package pgtest

import (
	"io"
	"net"
	"sync"
	"testing"
)

// A Relay forwards TCP connections to one server at a time, like a virtual IP address or a
// load balancer, for what cannot be given two addresses.
type Relay struct {
	listener net.Listener
	running  sync.WaitGroup

	mu     sync.Mutex
	to     *Server
	conns  map[net.Conn]struct{}
	closed bool
}

// NewRelay returns a relay to a server that Start has started. It is closed at the end of
// the test.
func NewRelay(t testing.TB, to *Server) *Relay {
	t.Helper()

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &Relay{listener: listener, to: to, conns: make(map[net.Conn]struct{})}
	r.running.Go(r.accept)
	t.Cleanup(func() {
		_ = listener.Close()
		r.mu.Lock()
		r.closed = true
		r.cut()
		r.mu.Unlock()
		r.running.Wait()
	})

	return r
}

// URL returns the URL of a database through the relay.
func (r *Relay) URL(database string) string {
	r.mu.Lock()
	defer r.mu.Unlock()

	u := *r.to.tcp
	u.Host = r.listener.Addr().String()

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

func (r *Relay) accept() {
	for {
		conn, err := r.listener.Accept()
		if err != nil {
			return
		}
		r.running.Go(func() { r.forward(conn) })
	}
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

	r.running.Go(func() {
		_, _ = io.Copy(server, conn)
		_ = server.Close()
		_ = conn.Close()
	})
	_, _ = io.Copy(conn, server)
	_ = server.Close()
}
