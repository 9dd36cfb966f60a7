package chaos

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/backoff"
)

// An acceptance is the first write that a new primary has committed.
type acceptance struct {
	node *node
	at   time.Time
	last time.Time // when the old primary accepted its last write
}

// A poller finds out, without the client under test, when a cluster accepts writes on
// another node than its old primary.
type poller struct {
	accepted chan acceptance
	last     atomic.Pointer[time.Time] // when the old primary accepted a write
	stop     context.CancelFunc
	running  sync.WaitGroup
}

// poll starts a poller, and waits until the old primary has accepted a write of it. With a
// port of HAProxy, it writes to the others through it, otherwise directly.
func (c *cluster) poll(ctx context.Context, old *node, haproxy int) (*poller, error) {
	polled, stop := context.WithCancel(ctx)
	p := &poller{accepted: make(chan acceptance, 1), stop: stop}
	accepted := make(chan struct{})
	p.running.Go(func() {
		p.pollDirectly(polled, old, func() bool {
			now := time.Now()
			if p.last.Swap(&now) == nil {
				close(accepted)
			}
			return false
		})
	})
	select {
	case <-accepted:
	case <-ctx.Done():
		p.end()
		return nil, fmt.Errorf("the primary accepts no write: %w", context.Cause(ctx))
	}
	if haproxy != 0 {
		p.running.Go(func() { p.pollThrough(polled, c, old, haproxy) })
		return p, nil
	}
	for _, n := range c.nodes {
		if n != old {
			p.running.Go(func() {
				p.pollDirectly(polled, n, func() bool { p.report(n); return true })
			})
		}
	}
	return p, nil
}

func (p *poller) end() {
	p.stop()
	p.running.Wait()
}

const probe = "INSERT INTO probe DEFAULT VALUES RETURNING inet_server_port()"

// pollDirectly writes to a node, and calls accepted after each write that it accepts, until
// that returns true. It keeps its connection, which survives the promotion of a standby.
func (p *poller) pollDirectly(ctx context.Context, n *node, accepted func() (done bool)) {
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
			if _, err = conn.Exec(ctx, probe); err == nil && accepted() {
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
	case p.accepted <- acceptance{n, time.Now(), *p.last.Load()}:
		p.stop()
	default: // another attempt was first
	}
}
