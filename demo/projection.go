package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
)

// projectionCommand makes the program a process of the projection.
const projectionCommand = "projection"

// The versions of the projection's program. The first does not know the messages of type Audited.
const (
	firstVersion  = "1"
	secondVersion = "2"
)

// lease is how long the others wait for a process that has died. It is short, as the demo is.
const lease = 2 * time.Second

// A projectionReport is what the process reports on its standard output, in lines of JSON.
type projectionReport struct {
	Partitions []int            `json:"partitions"` // that the process has
	Handled    []handledMessage `json:"handled"`    // since the last report
}

type handledMessage struct {
	Account mdb.StreamName `json:"account"`
	Took    time.Duration  `json:"took"` // from the write to the commit of its effect
}

// A projection keeps the balances in tables. It is a consumer, which any number of processes run.
type projection struct {
	db      *database
	version string

	mu     sync.Mutex // guards what follows
	report projectionReport
}

// projectionProcess takes part in the projection of a run until its standard input ends.
func projectionProcess(run, version string) int {
	signal.Ignore(os.Interrupt, syscall.SIGHUP) // which the terminal sends to the demo as well
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		defer cancel()
		_, _ = io.Copy(io.Discard, os.Stdin)
	}()
	p := &projection{db: &database{run: run, url: os.Getenv("DATABASE_URL")}, version: version}
	if err := p.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func (p *projection) run(ctx context.Context) error {
	store, err := p.db.open(ctx, mdb.WithNotify())
	if err != nil {
		return err
	}
	defer store.Pool().Close()
	c, err := consumer.New(store, p.db.consumer(), p.db.accounts(), consumer.EachQueued(p.handle),
		consumer.WithLease(lease), consumer.OnPartitions(p.setPartitions))
	if err != nil {
		return err
	}
	var reporter sync.WaitGroup
	running, stop := context.WithCancel(ctx)
	reporter.Go(func() { p.send(running) })
	err = c.Run(ctx)
	stop()
	reporter.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// handle queues what a message changes. The consumer stores it together with its progress, in one transaction.
func (p *projection) handle(b *pgx.Batch, m mdb.Message) error {
	change, err := effect(m)
	if err == nil && m.Type == audited && p.version == firstVersion {
		err = errors.New("an unknown type of message")
	}
	if err != nil {
		return consumer.Permanent(err)
	}
	b.Queue("INSERT INTO balance AS b VALUES ($1, $2) ON CONFLICT (account) DO UPDATE SET amount = b.amount + $2", m.Stream, change)
	b.Queue("INSERT INTO handled (account, global_position) VALUES ($1, $2)", m.Stream, m.GlobalPosition).Exec(func(pgconn.CommandTag) error {
		return p.committed(m)
	})
	return nil
}

func (p *projection) committed(m mdb.Message) error {
	took, err := age(m)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.report.Handled = append(p.report.Handled, handledMessage{m.Stream, took})
	return nil
}

func (p *projection) setPartitions(held []int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.report.Partitions = held
}

// send writes a report forty times a second, and a last one when ctx ends.
func (p *projection) send(ctx context.Context) {
	for lines := json.NewEncoder(os.Stdout); ; {
		pause(ctx, 25*time.Millisecond)
		p.mu.Lock()
		report := p.report
		p.report.Handled = nil
		p.mu.Unlock()
		if lines.Encode(report) != nil || ctx.Err() != nil {
			return
		}
	}
}
