package chaos

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// A side is one of the two ends of a connection.
type side string

const (
	client side = "client"
	server side = "server"
)

// An action is what a proxy does with a message.
type action int

const (
	pass      action = iota
	cut              // closes the connection
	reset            // closes it so that the client gets a TCP reset instead of an end
	halfClose        // ends the direction to the client and keeps the other open
	blackHole        // forwards nothing more, and closes nothing
	drop             // drops this message
)

// A verdict is an action, before or after the message is forwarded.
type verdict struct {
	do    action
	after bool
}

// A proxy forwards the messages of PostgreSQL's protocol between clients and a server,
// one by one.
type proxy struct {
	network, address string // of the server
	listener         net.Listener
	target           *pgconn.Config
	tls              *tls.Config // nil: rejects TLS, like a server without it

	accepted, startups, injected atomic.Int64
	running                      sync.WaitGroup

	mu       sync.Mutex
	links    map[*link]struct{}
	decide   func(from side, message string) verdict
	open     chan struct{} // closed unless there is an outage
	latency  time.Duration // of each message
	lifetime func() time.Duration
	closed   bool
}

// newProxy returns a proxy to the server at the URL. It is closed at the end of the
// test.
func newProxy(t testing.TB, target string) *proxy {
	t.Helper()
	cfg, err := pgconn.ParseConfig(target)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: listener, target: cfg, links: make(map[*link]struct{}), open: make(chan struct{})}
	p.network, p.address = pgconn.NetworkAddress(cfg.Host, cfg.Port)
	close(p.open)
	p.running.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

// password is in the URL of every client unless the server requires another one. It
// must not appear in logs or errors.
const password = "canary-password"

// url returns the URL that clients connect to.
func (p *proxy) url() string {
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword(p.target.User, cmp.Or(p.target.Password, password)),
		Host: p.listener.Addr().String(), Path: "/" + p.target.Database, RawQuery: "sslmode=disable",
	}
	return u.String()
}

// onMessage makes the proxy call decide for each message, never concurrently. If decide
// is nil, all messages pass.
func (p *proxy) onMessage(decide func(from side, message string) verdict) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.decide = decide
}

// onNth returns a function for onMessage with a verdict on the nth matching message
// only.
func onNth(from side, message string, nth int, v verdict) func(side, string) verdict {
	return func(f side, m string) verdict {
		if f != from || message != "" && m != message {
			return verdict{}
		}
		if nth--; nth == 0 {
			return v
		}
		return verdict{}
	}
}

// setLatency delays each message, which limits the throughput too.
func (p *proxy) setLatency(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.latency = d
}

// setLifetime makes the proxy cut each new connection after the time that lifetime
// returns.
func (p *proxy) setLifetime(lifetime func() time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lifetime = lifetime
}

// setOutage stops all traffic, of new connections too, or lets it go on.
func (p *proxy) setOutage(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if on {
		p.open = make(chan struct{})
		p.injected.Add(1)
	} else {
		close(p.open)
	}
}

// blackHoleAll turns all open connections into black holes.
func (p *proxy) blackHoleAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		p.injected.Add(1)
		l.blackHoled.Store(true)
	}
}

// cutAll cuts all open connections.
func (p *proxy) cutAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		p.injected.Add(1)
		l.close()
	}
}

func (p *proxy) close() {
	_ = p.listener.Close()
	p.mu.Lock()
	p.closed = true
	for l := range p.links {
		l.close()
	}
	p.mu.Unlock()
	p.running.Wait()
}

func (p *proxy) accept() {
	for {
		conn, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.accepted.Add(1)
		l := &link{proxy: p, raw: conn, client: conn, done: make(chan struct{})}
		p.mu.Lock()
		if p.closed {
			l.close()
		}
		p.links[l] = struct{}{}
		lifetime := time.Duration(0)
		if p.lifetime != nil {
			lifetime = p.lifetime()
		}
		p.mu.Unlock()
		p.running.Go(func() {
			if lifetime > 0 {
				timer := time.AfterFunc(lifetime, func() { p.injected.Add(1); l.close() })
				defer timer.Stop()
			}
			l.serve()
			l.close()
			p.mu.Lock()
			delete(p.links, l)
			p.mu.Unlock()
		})
	}
}

// A link is a client's connection together with the proxy's connection to the server.
type link struct {
	proxy  *proxy
	raw    net.Conn // the TCP connection
	client net.Conn // raw, or TLS on it

	mu         sync.Mutex
	server     net.Conn
	once       sync.Once
	done       chan struct{}
	blackHoled atomic.Bool // until the client closes it
}

func (l *link) close() {
	l.once.Do(func() { close(l.done) })
	_ = l.raw.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.server != nil {
		_ = l.server.Close()
	}
}

var errLinkClosed = errors.New("the link is closed")

// wait waits until a message may pass.
func (l *link) wait() error {
	l.proxy.mu.Lock()
	open, latency := l.proxy.open, l.proxy.latency
	l.proxy.mu.Unlock()
	select {
	case <-open:
	case <-l.done:
		return errLinkClosed
	}
	if latency == 0 {
		return nil
	}
	timer := time.NewTimer(latency)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-l.done:
		return errLinkClosed
	}
}

// serve answers the client's start-up messages until it can be connected to the server.
func (l *link) serve() {
	backend := pgproto3.NewBackend(l.client, l.client)
	for {
		msg, err := backend.ReceiveStartupMessage()
		if err != nil || l.wait() != nil {
			return
		}
		switch msg := msg.(type) {
		case *pgproto3.SSLRequest:
			if l.proxy.tls == nil {
				_, err = l.client.Write([]byte("N"))
				break
			}
			if _, err = l.client.Write([]byte("S")); err == nil {
				conn := tls.Server(l.client, l.proxy.tls)
				err = conn.Handshake()
				l.client = conn
				backend = pgproto3.NewBackend(conn, conn)
			}
		case *pgproto3.GSSEncRequest:
			_, err = l.client.Write([]byte("N"))
		case *pgproto3.CancelRequest:
			l.cancel(msg)
			return
		case *pgproto3.StartupMessage:
			l.proxy.startups.Add(1)
			l.session(backend, msg)
			return
		}
		if err != nil {
			return
		}
	}
}

func (l *link) dial() (net.Conn, error) {
	conn, err := net.Dial(l.proxy.network, l.proxy.address)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.done:
		_ = conn.Close()
		return nil, net.ErrClosed
	default:
	}
	l.server = conn
	return conn, nil
}

func (l *link) cancel(msg *pgproto3.CancelRequest) {
	if conn, err := l.dial(); err == nil {
		_ = forward(conn, msg)
		_, _ = conn.Read(make([]byte, 1)) // the server closes the connection when it is done
	}
}

func forward(to net.Conn, msg pgproto3.Message) error {
	raw, err := msg.Encode(nil)
	if err == nil {
		_, err = to.Write(raw)
	}
	return err
}

func (l *link) session(backend *pgproto3.Backend, startup *pgproto3.StartupMessage) {
	conn, err := l.dial()
	if err != nil {
		return
	}
	frontend := pgproto3.NewFrontend(conn, conn)
	if forward(conn, startup) != nil {
		return
	}
	// During authentication, one side sends at a time.
	for authenticated := false; !authenticated; {
		msg, err := frontend.Receive()
		if err != nil {
			return
		}
		_ = backend.SetAuthType(frontend.GetAuthType())
		if forward(l.client, msg) != nil {
			return
		}
		switch msg.(type) {
		case *pgproto3.AuthenticationOk:
			authenticated = true
		case *pgproto3.AuthenticationSASLFinal:
		case *pgproto3.ErrorResponse:
			return
		default:
			answer, err := backend.Receive()
			if err != nil || forward(conn, answer) != nil {
				return
			}
		}
	}
	l.proxy.running.Go(func() {
		l.pump(client, conn, func() (pgproto3.Message, error) { return backend.Receive() })
	})
	l.pump(server, l.client, func() (pgproto3.Message, error) { return frontend.Receive() })
}

// pump forwards the messages of one side to the other.
func (l *link) pump(from side, to net.Conn, receive func() (pgproto3.Message, error)) {
	defer l.close()
	for {
		msg, err := receive()
		// During an outage, the end of a connection does not reach the other side either.
		if l.wait() != nil || err != nil {
			return
		}
		if l.blackHoled.Load() {
			continue
		}
		name := strings.TrimPrefix(fmt.Sprintf("%T", msg), "*pgproto3.")
		var v verdict
		l.proxy.mu.Lock()
		if l.proxy.decide != nil {
			v = l.proxy.decide(from, name)
		}
		l.proxy.mu.Unlock()
		if v.do != pass {
			l.proxy.injected.Add(1)
		}
		if (v.do == pass || v.after) && forward(to, msg) != nil {
			return
		}
		switch v.do {
		case cut:
			return
		case reset:
			if tcp, ok := l.raw.(*net.TCPConn); ok {
				_ = tcp.SetLinger(0)
			}
			return
		case halfClose:
			if tcp, ok := l.raw.(*net.TCPConn); ok {
				_ = tcp.CloseWrite()
			}
			l.blackHoled.Store(true)
		case blackHole:
			l.blackHoled.Store(true)
		}
	}
}
