package chaos

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/backoff"
)

// An acceptance is the first write that a new primary has committed.
type acceptance struct {
	node *node
	at   time.Time
}

// A poller finds out, without the client under test, when a cluster accepts writes on
// another node than its old primary.
type poller struct {
	accepted chan acceptance
	stop     context.CancelFunc
	running  sync.WaitGroup
}

// poll starts a poller. With a port of HAProxy, it writes through it, otherwise directly to
// the nodes.
func (c *cluster) poll(ctx context.Context, old *node, haproxy int) *poller {
	ctx, stop := context.WithCancel(ctx)
	p := &poller{accepted: make(chan acceptance, 1), stop: stop}
	if haproxy != 0 {
		p.running.Go(func() { p.pollThrough(ctx, c, old, haproxy) })
		return p
	}
	for _, n := range c.nodes {
		if n != old {
			p.running.Go(func() { p.pollDirectly(ctx, n) })
		}
	}
	return p
}

func (p *poller) end() {
	p.stop()
	p.running.Wait()
}

const probe = "INSERT INTO probe DEFAULT VALUES RETURNING inet_server_port()"

// pollDirectly writes to a node until it accepts a write. It keeps its connection, which
// survives the promotion of a standby.
func (p *poller) pollDirectly(ctx context.Context, n *node) {
	var conn *pgx.Conn
	defer func() {
		if conn != nil {
			_ = conn.Close(context.WithoutCancel(ctx))
		}
	}()
	for {
		var err error
		if conn == nil || conn.IsClosed() {
			if conn, err = pgx.Connect(ctx, n.url("postgres")); err != nil {
				conn = nil
			}
		}
		if conn != nil {
			if _, err = conn.Exec(ctx, probe); err == nil {
				p.report(n)
				return
			}
		}
		if backoff.Sleep(ctx, 20*time.Millisecond) != nil {
			return
		}
	}
}

// pollThrough writes through HAProxy until another node than the old primary accepts a
// write. It starts attempts at short intervals, as one that reaches a frozen node hangs.
func (p *poller) pollThrough(ctx context.Context, c *cluster, old *node, haproxy int) {
	var attempts sync.WaitGroup
	defer attempts.Wait()
	for backoff.Sleep(ctx, 100*time.Millisecond) == nil {
		attempts.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			conn, err := pgx.Connect(ctx, adminURL(haproxy, "postgres"))
			if err != nil {
				return
			}
			var port int
			err = conn.QueryRow(ctx, probe).Scan(&port)
			err = errors.Join(err, conn.Close(ctx))
			for _, n := range c.nodes {
				if err == nil && n != old && n.Port == port {
					p.report(n)
				}
			}
		})
	}
}

func (p *poller) report(n *node) {
	select {
	case p.accepted <- acceptance{n, time.Now()}:
		p.stop()
	default: // another attempt was first
	}
}
