package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/mdb"
)

// projectionCommand makes the program the projection's process.
const projectionCommand = "projection"

// A projectionStatus is what the process reports on its standard output, in lines of JSON.
type projectionStatus struct {
	Position int64           `json:"position"` // stored
	Handled  int64           `json:"handled"`  // since the beginning of the run
	Took     []time.Duration `json:"took"`     // from the write to the end of the handler, since the last report
}

// A projector keeps the balances in tables, each message in one transaction with the
// position that it has.
type projector struct {
	store *mdb.Store
	db    *database

	checkpoint mdb.CategoryCheckpoint // of the last handled message

	mu     sync.Mutex // guards what follows
	status projectionStatus
}

// projectionProcess follows the accounts of a run until its standard input ends.
func projectionProcess(run string) int {
	signal.Ignore(os.Interrupt, syscall.SIGHUP) // which the terminal sends to the demo as well
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		defer cancel()
		_, _ = io.Copy(io.Discard, os.Stdin)
	}()
	p := &projector{db: &database{run: run, url: os.Getenv("DATABASE_URL")}}
	if err := p.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func (p *projector) run(ctx context.Context) (err error) {
	if p.store, err = p.db.open(ctx, mdb.WithNotify()); err != nil {
		return err
	}
	defer p.store.Pool().Close()
	var reporter sync.WaitGroup
	following, stop := context.WithCancel(ctx)
	reporter.Go(func() { p.report(following) })
	err = p.follow(following)
	stop()
	reporter.Wait()
	return err
}

// follow subscribes from the stored checkpoint, again after each lost connection.
func (p *projector) follow(ctx context.Context) error {
	for outage := (outage{}); ; {
		err := p.load(ctx)
		if err == nil {
			outage.since = time.Time{}
			err = p.store.SubscribeToCategory(ctx, p.db.accounts(), p.handle, mdb.AfterCheckpoint(p.checkpoint))
		}
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the end that was asked for
		}
		if rejected(err) {
			return err
		}
		if err := outage.wait(ctx, err); err != nil {
			return err
		}
	}
}

// rejected reports whether the server has rejected a statement, which is no lost connection.
func rejected(err error) bool {
	var server *pgconn.PgError
	return errors.As(err, &server) && !strings.HasPrefix(server.Code, "57P") && !strings.HasPrefix(server.Code, "08")
}

func (p *projector) load(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	err := p.store.Pool().QueryRow(ctx, "SELECT checkpoint, handled FROM progress").Scan(&p.checkpoint, &p.status.Handled)
	p.status.Position = p.checkpoint.Position()
	return err
}

// handle does everything in one round trip, which is one transaction.
func (p *projector) handle(ctx context.Context, m mdb.Message) error {
	change, err := effect(m)
	if err != nil {
		return err
	}
	next := p.checkpoint.After(m)
	var batch pgx.Batch
	batch.Queue("INSERT INTO balance AS b VALUES ($1, $2) ON CONFLICT (account) DO UPDATE SET amount = b.amount + $2", m.Stream, change)
	batch.Queue("INSERT INTO handled VALUES ($1)", m.GlobalPosition)
	batch.Queue("UPDATE progress SET checkpoint = $1, handled = handled + 1", next)
	if err := p.store.Pool().SendBatch(ctx, &batch).Close(); err != nil {
		return err
	}
	p.checkpoint = next
	took, err := age(m)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.status.Position = m.GlobalPosition
	p.status.Handled++
	p.status.Took = append(p.status.Took, took)
	return nil
}

// report writes a report forty times a second, and a last one when ctx ends.
func (p *projector) report(ctx context.Context) {
	for lines := json.NewEncoder(os.Stdout); ; {
		pause(ctx, 25*time.Millisecond)
		p.mu.Lock()
		status := p.status
		p.status.Took = nil
		p.mu.Unlock()
		if lines.Encode(status) != nil || ctx.Err() != nil {
			return
		}
	}
}
