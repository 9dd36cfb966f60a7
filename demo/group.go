package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
)

// A group is the projection's processes, as the demo sees them. They share the accounts.
type group struct {
	db    *database
	meter meter
	fail  func(error)  // receives the error of a process that ends by itself
	total atomic.Int64 // messages that are handled, by the projection's table

	mu        sync.Mutex                       // guards what follows
	processes []*process                       // that run, the oldest first
	longest   map[mdb.StreamName]time.Duration // from a write to its commit, since mark
}

// A process is one of the group.
type process struct {
	version string // of the program
	cmd     *exec.Cmd
	stdin   io.Closer
	stderr  bytes.Buffer
	ended   chan struct{}
	err     error       // once ended is closed
	wanted  atomic.Bool // the end

	partitions []int // guarded by the group's mu
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// start starts a process. It gets its share of the accounts from those that run.
func (g *group) start(version string) (*process, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{version: version, cmd: exec.Command(program, projectionCommand, g.db.run, version), ended: make(chan struct{})} //nolint:gosec // this program
	p.cmd.Env = append(os.Environ(), "DATABASE_URL="+g.db.url)
	p.cmd.Stderr = &p.stderr
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	g.mu.Lock()
	g.processes = append(g.processes, p)
	g.mu.Unlock()
	go func() {
		defer close(p.ended)
		g.listen(p, stdout)
		p.err = p.cmd.Wait()
		if !p.wanted.Load() {
			g.fail(fmt.Errorf("a process of the projection has ended: %w: %s", p.err, bytes.TrimSpace(p.stderr.Bytes())))
		}
	}()
	return p, nil
}

// listen takes in the reports of a process until it ends.
func (g *group) listen(p *process, stdout io.Reader) {
	for reports := json.NewDecoder(stdout); ; {
		var r projectionReport
		if reports.Decode(&r) != nil {
			return
		}
		g.mu.Lock()
		p.partitions = r.Partitions
		for _, h := range r.Handled {
			if g.longest != nil {
				g.longest[h.Account] = max(g.longest[h.Account], h.Took)
			}
			g.meter.record(h.Took)
		}
		g.mu.Unlock()
	}
}

// count keeps the number of messages that are handled until ctx ends.
func (g *group) count(ctx context.Context, store *mdb.Store) error {
	for ctx.Err() == nil {
		var n int64
		if store.Pool().QueryRow(ctx, "SELECT count(*) FROM handled").Scan(&n) == nil { // it fails while the server is away
			g.total.Store(n)
		}
		pause(ctx, 25*time.Millisecond)
	}
	return nil
}

// kill ends a process as kill -9 does.
func (g *group) kill(p *process) {
	g.forget(p)
	_ = p.cmd.Process.Kill()
	<-p.ended
}

// stop ends a process by ending its standard input.
func (g *group) stop(p *process) error {
	g.forget(p)
	_ = p.stdin.Close()
	<-p.ended
	if p.err != nil {
		return fmt.Errorf("a process of the projection: %w: %s", p.err, bytes.TrimSpace(p.stderr.Bytes()))
	}
	return nil
}

func (g *group) forget(p *process) {
	p.wanted.Store(true)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.processes = slices.DeleteFunc(g.processes, func(other *process) bool { return other == p })
}

// running returns the processes, the oldest first.
func (g *group) running() []*process {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.processes)
}

// accounts returns the accounts of a process.
func (g *group) accounts(p *process) (own []mdb.StreamName) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range accounts {
		account := g.db.account(i)
		hash := mdb.Hash64(account.CardinalID())
		if slices.Contains(p.partitions, int(uint64(max(hash, -hash))%consumer.DefaultPartitions)) {
			own = append(own, account)
		}
	}
	return own
}

// busiest returns the process that has the most accounts.
func (g *group) busiest() *process {
	return slices.MaxFunc(g.running(), func(a, b *process) int { return len(g.accounts(a)) - len(g.accounts(b)) })
}

// shares reports whether a process has a part of the work. By chance, none of the few accounts may be in its partitions.
func (g *group) shares(p *process) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(p.partitions) > 0
}

// shared reports whether each process has a part of the work, and together they have all accounts.
func (g *group) shared() bool {
	all := 0
	for _, p := range g.running() {
		if !g.shares(p) {
			return false
		}
		all += len(g.accounts(p))
	}
	return all == accounts
}

// mark begins to record the longest time from a write to the commit of its effect.
func (g *group) mark() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.longest = make(map[mdb.StreamName]time.Duration)
}

// waited returns the longest times since mark, of these accounts and of the others.
func (g *group) waited(these ...mdb.StreamName) (longest, others time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for account, took := range g.longest {
		if slices.Contains(these, account) {
			longest = max(longest, took)
		} else {
			others = max(others, took)
		}
	}
	return longest, others
}

func (g *group) handled() int64 { return g.total.Load() }
