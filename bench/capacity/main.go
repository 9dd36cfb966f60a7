// Command capacity measures what messages take: bytes of the table and of the write-ahead log, CPU of the server, and transaction IDs.
// It compares ways to write, and shards with a single server. From its figures it computes what a target takes. It starts PostgreSQL
// servers with fsync and prints Markdown.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"time"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/bench/internal/figures"
)

// A bench is a run of the measurements.
type bench struct {
	messages int
	rounds   int
	turn     time.Duration
	target   target
}

func main() {
	b := new(bench)
	flag.IntVar(&b.messages, "messages", 1_000_000, "messages of each table that is filled and vacuumed")
	flag.IntVar(&b.rounds, "rounds", 6, "rounds, in each of which every way and every number of shards has a turn")
	flag.DurationVar(&b.turn, "turn", 500*time.Millisecond, "how long a turn is")
	flag.Float64Var(&b.target.rate, "target", 1e6, "messages a second to plan for")
	flag.Float64Var(&b.target.messages, "keep", 1e12, "messages in the store to plan for")
	flag.IntVar(&b.target.cores, "cores", 16, "CPU cores of each server of the plan")
	flag.Float64Var(&b.target.spare, "spare", 0.5, "part of its CPU that is not planned for")
	flag.Float64Var(&b.target.disk, "disk", 8e12, "bytes of messages on each server of the plan")
	doc := flag.String("doc", "", "page to put the tables into")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := b.run(ctx, *doc)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "capacity:", err)
		os.Exit(2)
	}
}

func (b *bench) check() error {
	switch {
	case b.messages < 1 || b.rounds < 1 || b.turn <= 0:
		return errors.New("-messages, -rounds and -turn must be positive")
	case runtime.GOOS != "linux":
		return errors.New("the CPU time of a server is only known on Linux")
	case b.target.rate <= 0 || b.target.messages <= 0 || b.target.cores < 1 || b.target.disk <= 0 || b.target.spare < 0 || b.target.spare >= 1:
		return errors.New("-target, -keep, -cores and -disk must be positive, and -spare at least 0 and less than 1")
	}
	return nil
}

func (b *bench) run(ctx context.Context, doc string) error {
	if err := b.check(); err != nil {
		return err
	}
	r, err := b.results(ctx)
	if err != nil {
		return err
	}
	tables, err := b.tables(r)
	if err != nil {
		return err
	}
	for _, table := range tables {
		fmt.Printf("## %s\n\n%s\n", table.name, table.text)
		if doc != "" {
			if err := figures.Put(doc, docBegin(table.name), docEnd(table.name), table.text); err != nil {
				return err
			}
		}
	}
	return nil
}

// The names of the tables.
var tableNames = []string{"messages", "ways", "shards", "the plan"}

func docBegin(name string) string {
	return "<!-- bench-capacity puts the table of " + name + " here -->\n"
}
func docEnd(name string) string { return "<!-- end of the table of " + name + " -->\n" }

// A table is a part of the page.
type table struct{ name, text string }

// tables returns the tables of the results, in the order of tableNames.
func (b *bench) tables(r results) (tables []table, err error) {
	measured := fmt.Sprintf("Measured on %s by `make bench-capacity` with PostgreSQL %s with fsync, servers and clients on one machine with %d CPUs.\n",
		time.Now().UTC().Format("2 January 2006"), r.version, runtime.NumCPU())
	plan, err := b.planOf(r)
	if err != nil {
		return nil, err
	}
	for i, text := range []string{b.messagesBlock(r), b.waysBlock(r), b.shardsBlock(r), plan} {
		tables = append(tables, table{tableNames[i], text + measured})
	}
	return tables, nil
}

// results are all figures of a run.
type results struct {
	version         string
	random, ordered volume // by the kind of IDs
	afterCheckpoint float64
	ways, slow      []series // as ways
	routes          []route
	shards          []series // as routes
}

// afterCheckpointWrites is how many writes are averaged: so few that most of them change a page for the first time.
const afterCheckpointWrites = 200

func (b *bench) results(ctx context.Context) (r results, err error) {
	s, err := newServer(ctx)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if err := s.admin.QueryRow(ctx, "SHOW server_version").Scan(&r.version); err != nil {
		return r, err
	}
	if r.random, err = s.fill(ctx, "random", b.messages, uuid.New); err != nil {
		return r, err
	}
	ordered := func() uuid.UUID { return uuid.Must(uuid.NewV7()) }
	if r.ordered, err = s.fill(ctx, "ordered", b.messages, ordered); err != nil {
		return r, err
	}
	if r.ways, err = b.waysOn(ctx, s, "ordered"); err != nil {
		return r, err
	}
	if err := s.create(ctx, "slow", ours("ALTER DATABASE slow SET commit_delay = 2000; ALTER DATABASE slow SET commit_siblings = 0")); err != nil {
		return r, err
	}
	if r.slow, err = b.waysOn(ctx, s, "slow"); err != nil {
		return r, err
	}
	if r.afterCheckpoint, err = s.afterCheckpoint(ctx, "ordered", min(afterCheckpointWrites, b.messages)); err != nil {
		return r, err
	}
	r.routes, r.shards, err = b.shards(ctx)
	return r, err
}
