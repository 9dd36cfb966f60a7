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

// A side is one of the two that talk through a proxy.
type side string

const (
	client side = "client"
	server side = "server"
)

// An action is what a proxy does about a message.
type action int

const (
	pass      action = iota
	cut              // closes the connection
	reset            // closes it so that the client meets a reset instead of an end
	halfClose        // tells the client that nothing more comes
	hole             // forwards nothing more, and closes nothing
	drop             // forgets this message
)

// A verdict is an action, before the message is forwarded or after that.
type verdict struct {
	do    action
	after bool
}

// A proxy lies between clients and a server, and knows where a message of
// PostgreSQL's protocol begins and ends.
type proxy struct {
	network, address string // of the server
	listener         net.Listener
	target           *pgconn.Config
	tls              *tls.Config // nil: refuses TLS, as a plain server does

	accepted, startups, hits atomic.Int64
	running                  sync.WaitGroup

	mu     sync.Mutex
	links  map[*link]struct{}
	decide func(from side, message string) verdict
	open   chan struct{} // closed while messages get through
	pace   time.Duration // before each message
	life   func() time.Duration
	closed bool
}

// newProxy returns a proxy to the server at the URL, which ends with the test.
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

// password is sent by every client whose server asks for no other one, and has no
// business in logs and errors.
const password = "canary-password"

// url is where clients find the proxy.
func (p *proxy) url() string {
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword(p.target.User, cmp.Or(p.target.Password, password)),
		Host: p.listener.Addr().String(), Path: "/" + p.target.Database, RawQuery: "sslmode=disable",
	}
	return u.String()
}

// script makes the proxy ask what to do about each message, one at a time. nil
// lets all pass.
func (p *proxy) script(decide func(from side, message string) verdict) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.decide = decide
}

// once is a script that acts on the nth message and on none behind it.
func once(from side, message string, nth int, v verdict) func(side, string) verdict {
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

// setPace makes each message wait, which delays and throttles.
func (p *proxy) setPace(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pace = d
}

// setLife lets each further connection live that long.
func (p *proxy) setLife(life func() time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.life = life
}

// blackHole stops all traffic, of new connections too, and lets it go on.
func (p *proxy) blackHole(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if on {
		p.open = make(chan struct{})
		p.hits.Add(1)
	} else {
		close(p.open)
	}
}

// holeAll makes black holes of the connections that there are.
func (p *proxy) holeAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		p.hits.Add(1)
		l.holed.Store(true)
	}
}

// cutAll cuts the connections that there are.
func (p *proxy) cutAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		p.hits.Add(1)
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
		life := time.Duration(0)
		if p.life != nil {
			life = p.life()
		}
		p.mu.Unlock()
		p.running.Go(func() {
			if life > 0 {
				timer := time.AfterFunc(life, func() { p.hits.Add(1); l.close() })
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

// A link is a client's connection with its connection to the server.
type link struct {
	proxy  *proxy
	raw    net.Conn // what closes
	client net.Conn // the same, or TLS on it

	mu     sync.Mutex
	server net.Conn
	once   sync.Once
	done   chan struct{}
	holed  atomic.Bool // until the client gives up
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

var errHole = errors.New("the link ends in a hole")

// wait lets a message through when the proxy does.
func (l *link) wait() error {
	l.proxy.mu.Lock()
	open, pace := l.proxy.open, l.proxy.pace
	l.proxy.mu.Unlock()
	select {
	case <-open:
	case <-l.done:
		return errHole
	}
	if pace == 0 {
		return nil
	}
	timer := time.NewTimer(pace)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-l.done:
		return errHole
	}
}

// serve answers for the server until the client may talk to it.
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
		_, _ = conn.Read(make([]byte, 1)) // the server closes when it has done so
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
	// Until the server is content one side speaks at a time.
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

// pump forwards what one side says to the other.
func (l *link) pump(from side, to net.Conn, receive func() (pgproto3.Message, error)) {
	defer l.close()
	for {
		msg, err := receive()
		// In a hole the other side does not hear of the end either.
		if l.wait() != nil || err != nil {
			return
		}
		if l.holed.Load() {
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
			l.proxy.hits.Add(1)
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
			l.holed.Store(true)
		case hole:
			l.holed.Store(true)
		}
	}
}
