package mdb_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// A plproxy is a proxy of several shards, see [testdb.Proxy]. It reaches the shards with odd numbers through a relay.
type plproxy struct {
	*testdb.Proxy

	url    string
	shards []*pgxpool.Pool // directly
	server *pgtest.Server  // of shard 1
	relay  *shardRelay
}

// newPLProxy starts the servers of a proxy with two shards, or skips the test where PL/Proxy is not installed.
func newPLProxy(t testing.TB) *plproxy {
	t.Helper()
	p := new(plproxy)
	p.Proxy = testdb.NewProxy(t, 2, func(server *pgtest.Server) string {
		p.relay = newShardRelay(t, server.TCP("postgres"))
		return fmt.Sprintf("host=127.0.0.1 port=%d", p.relay.port())
	})
	p.url, p.server = p.URL, p.Server
	for _, url := range p.Shards {
		p.shards = append(p.shards, newPool(t, url))
	}
	return p
}

// newPlainProxy is newPLProxy for a proxy that has only Message DB's functions.
func newPlainProxy(t testing.TB) *plproxy {
	t.Helper()
	p := newPLProxy(t)
	p.MakePlain(t.Context(), t)
	return p
}

// category returns a new category of the shard.
func (p *plproxy) category(t testing.TB, shard int) mdb.Category {
	t.Helper()
	for {
		if c := mdbtest.Category("proxied"); int(mdb.Hash64(string(c))&1) == shard {
			return c
		}
	}
}

// A shardRelay forwards connections to a server, and breaks them where a test says.
type shardRelay struct {
	address *net.TCPAddr
	server  string // its address

	mu    sync.Mutex
	cuts  []cut // whose answers do not arrive; those that are lost do not reach the server
	links map[net.Conn]struct{}
}

// newShardRelay returns a relay to the server at the URL, which is closed at the end of the test.
func newShardRelay(t testing.TB, target string) *shardRelay {
	t.Helper()
	cfg, err := pgx.ParseConfig(target)
	if err != nil {
		t.Fatal(err)
	}
	r := &shardRelay{server: net.JoinHostPort(cfg.Host, strconv.Itoa(int(cfg.Port))), links: make(map[net.Conn]struct{})}
	r.address = pgtest.Accept(t, r.serve, r.cutAll)
	return r
}

func (r *shardRelay) port() int { return r.address.Port }

// cut makes the next requests break, in the given order.
func (r *shardRelay) cut(cuts ...cut) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cuts = append(r.cuts, cuts...)
}

// cutAll breaks all connections.
func (r *shardRelay) cutAll() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for conn := range r.links {
		conn.Close()
	}
}

// uncut returns how many of the cuts did not happen.
func (r *shardRelay) uncut() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.cuts)
}

func (r *shardRelay) next(request []byte) (c cut, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.cuts) == 0 || !bytes.Contains(request, []byte(r.cuts[0].request)) {
		return cut{}, false
	}
	c, r.cuts = r.cuts[0], r.cuts[1:]
	return c, true
}

func (r *shardRelay) serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", r.server)
	if err != nil {
		return
	}
	defer server.Close()
	r.mu.Lock()
	r.links[client] = struct{}{}
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		delete(r.links, client)
		r.mu.Unlock()
	}()

	var muted atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer client.Close()
		answer(client, server, &muted)
	}()
	defer func() { <-done }()
	defer server.Close()
	for buf := make([]byte, 64<<10); ; {
		n, err := client.Read(buf)
		if err != nil {
			return
		}
		if c, ok := r.next(buf[:n]); ok {
			if c.answer == lost {
				return
			}
			muted.Store(true)
		}
		if _, err := server.Write(buf[:n]); err != nil {
			return
		}
	}
}

// answer forwards what the server sends. Once it is muted it forwards nothing, and returns
// when the server has reported the end of the request.
func answer(client io.Writer, server io.Reader, muted *atomic.Bool) {
	var withheld []byte
	for buf := make([]byte, 64<<10); ; {
		n, err := server.Read(buf)
		if err != nil {
			return
		}
		if muted.Load() {
			withheld = append(withheld, buf[:n]...)
			if ready := []byte("Z\x00\x00\x00\x05I"); bytes.HasSuffix(withheld, ready) {
				return
			}
		} else if _, err := client.Write(buf[:n]); err != nil {
			return
		}
	}
}
