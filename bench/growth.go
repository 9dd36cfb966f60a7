package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/bench/internal/figures"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
)

// A dimension is a size that grows, and the ops that are measured at each size.
type dimension struct {
	name, title string
	sizes       []int
	// fill grows a database from the size before.
	fill func(ctx context.Context, conn *pgx.Conn, before, size int) error
	// ops are measured by procedures and by direct SQL.
	ops []growthOp
}

type growthOp struct {
	name string
	op   func(c mdbClient, size int) func(context.Context) error
}

const insertGrowth = `INSERT INTO message_store.messages (stream_name, position, type, data)
SELECT $1 || i % $4::int || '-' || i / $4 % $5::int, i / $4 / $5, 'Deposited', $6::jsonb FROM generate_series($2::int, $3::int - 1) AS i`

// fill inserts the messages from before to size, in streams of each of the categories.
func fill(ctx context.Context, conn *pgx.Conn, prefix string, before, size, categories, streams int) error {
	if _, err := conn.Exec(ctx, insertGrowth, prefix, before, size, categories, streams, string(payload)); err != nil {
		return err
	}
	_, err := conn.Exec(ctx, "VACUUM ANALYZE message_store.messages")
	return err
}

// shrink divides the sizes that do not grow. Tests set it.
var shrink = 1

var dimensions = []dimension{
	{
		name: "store", title: "Messages in the store", sizes: []int{10_000, 100_000, 1_000_000, 3_000_000},
		fill: func(ctx context.Context, conn *pgx.Conn, before, size int) error {
			return fill(ctx, conn, "c", before, size, 16, 100)
		},
		ops: []growthOp{
			{"write 1 message", func(c mdbClient, _ int) func(context.Context) error {
				return func(ctx context.Context) error { return c.write(ctx, "new-1", payload) }
			}},
			{"read an empty page", func(c mdbClient, _ int) func(context.Context) error {
				return want(0, func(ctx context.Context) (int, error) { return c.category(ctx, "c3", 1<<40, 1000) })
			}},
			{"read 10 from the middle", func(c mdbClient, size int) func(context.Context) error {
				return want(10, func(ctx context.Context) (int, error) { return c.category(ctx, "c3", int64(size/2), 10) })
			}},
			{"read 100 as a member of 16", func(c mdbClient, _ int) func(context.Context) error {
				return func(ctx context.Context) error {
					_, err := c.member(ctx, "c3", 0, 100, 3, 16)
					return err
				}
			}},
			{"read the last message", func(c mdbClient, _ int) func(context.Context) error {
				return func(ctx context.Context) error { return c.last(ctx, "c3-7") }
			}},
		},
	},
	{
		name: "categories", title: "Categories in a store of 100,000 messages", sizes: []int{1, 10, 100, 1000, 10_000},
		fill: func(ctx context.Context, conn *pgx.Conn, _, size int) error {
			if _, err := conn.Exec(ctx, "TRUNCATE message_store.messages RESTART IDENTITY"); err != nil {
				return err
			}
			return fill(ctx, conn, "c", 0, 100_000/shrink, size, max(1, 1000/size))
		},
		ops: []growthOp{
			{"read an empty page", func(c mdbClient, _ int) func(context.Context) error {
				return want(0, func(ctx context.Context) (int, error) { return c.category(ctx, "c0", 1<<40, 1000) })
			}},
			{"read 10", func(c mdbClient, _ int) func(context.Context) error {
				return want(10, func(ctx context.Context) (int, error) { return c.category(ctx, "c0", 0, 10) })
			}},
			{"read 10, category of 10", func(c mdbClient, size int) func(context.Context) error {
				return want(10, func(ctx context.Context) (int, error) { return c.category(ctx, fmt.Sprintf("c%d", size-1), 0, 10) })
			}},
		},
	},
	{
		name: "stream", title: "Messages in the stream", sizes: []int{1, 100, 10_000, 1_000_000},
		fill: func(ctx context.Context, conn *pgx.Conn, _, size int) error {
			// The ops have written to the stream.
			if _, err := conn.Exec(ctx, "TRUNCATE message_store.messages RESTART IDENTITY"); err != nil {
				return err
			}
			return fill(ctx, conn, "c", 0, size, 1, 1)
		},
		ops: []growthOp{
			{"write 1 message", func(c mdbClient, _ int) func(context.Context) error {
				return func(ctx context.Context) error { return c.write(ctx, "c0-0", payload) }
			}},
			{"read the version", func(c mdbClient, _ int) func(context.Context) error {
				return func(ctx context.Context) error { return c.version(ctx, "c0-0") }
			}},
			{"read the last message", func(c mdbClient, _ int) func(context.Context) error {
				return func(ctx context.Context) error { return c.last(ctx, "c0-0") }
			}},
			{"read 10 from the middle", func(c mdbClient, size int) func(context.Context) error {
				return func(ctx context.Context) error {
					_, err := c.stream(ctx, "c0-0", int64(size/2), 10)
					return err
				}
			}},
		},
	},
	{
		name: "page", title: "Messages in the page", sizes: []int{1, 10, 100, 1000, 10_000},
		fill: func(ctx context.Context, conn *pgx.Conn, before, _ int) error {
			if before > 0 {
				return nil
			}
			return fill(ctx, conn, "c", 0, 200_000/shrink, 16, 1)
		},
		ops: []growthOp{
			{"read a page of a category", func(c mdbClient, size int) func(context.Context) error {
				return want(size, func(ctx context.Context) (int, error) { return c.category(ctx, "c3", 0, size) })
			}},
			{"read a page of a stream", func(c mdbClient, size int) func(context.Context) error {
				return want(size, func(ctx context.Context) (int, error) { return c.stream(ctx, "c3-0", 0, size) })
			}},
		},
	},
}

// recordGrowth prints how times grow, and writes growth.md if there is a folder for it.
func recordGrowth(ctx context.Context, o options) error {
	w := &output{w: os.Stdout}
	if o.out != "" {
		file, err := os.Create(filepath.Join(o.out, "growth.md"))
		if err != nil {
			return err
		}
		defer file.Close() //nolint:errcheck // it is not buffered
		w.w = io.MultiWriter(os.Stdout, file)
	}
	e, err := newServer(ctx)
	if err != nil {
		return err
	}
	defer e.Close()
	facts, err := e.facts(ctx, o)
	if err != nil {
		return err
	}
	w.printf("%s", growthHeading(results{facts: facts}))
	asked := func(name string) bool { return strings.Contains(name, o.only) }
	for _, d := range dimensions {
		if !asked(d.name) {
			continue
		}
		if err := e.grow(ctx, o, d, w); err != nil {
			return fmt.Errorf("%s: %w", d.name, err)
		}
	}
	if asked("whole") {
		if err := e.wholes(ctx, o, w); err != nil {
			return err
		}
	}
	return w.err
}

func growthHeading(r results) string {
	return fmt.Sprintf("# How times grow\n\n%s; %s, server and clients on this machine; %s on %s; PostgreSQL %s; commit %s.\n\nMedians of %s rounds of 2 × %s.\n",
		date(r), machine(r), r.fact("go"), r.fact("goos"), r.fact("postgresql"), r.fact("commit"), r.fact("rounds"), r.fact("turn"))
}

// grow prints a table with a column for each size.
func (e *environment) grow(ctx context.Context, o options, d dimension, w *output) error {
	conn, err := e.create(ctx, d.name, testdb.InstallOurs)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	var times [][]float64
	before := 0
	for _, size := range d.sizes {
		if err := d.fill(ctx, conn, before, size); err != nil {
			return err
		}
		before = size
		atSize, err := e.measureSize(ctx, o, d, size)
		if err != nil {
			return err
		}
		times = append(times, atSize)
	}
	w.printf("\n## %s\n\n| |", d.title)
	for _, size := range d.sizes {
		w.printf(" %s |", thousands(strconv.Itoa(size)))
	}
	w.printf("\n|---|%s\n", strings.Repeat("---:|", len(d.sizes)))
	for i, name := range d.names() {
		w.printf("| %s |", name)
		for _, atSize := range times {
			w.printf(" %s |", duration(atSize[i]))
		}
		w.printf("\n")
	}
	return nil
}

func (d dimension) names() (names []string) {
	for _, op := range d.ops {
		names = append(names, op.name, op.name+", direct SQL")
	}
	return names
}

// measureSize returns the medians of the ops, each by procedures and by direct SQL. It
// uses new connections, because plans can depend on what a connection has executed.
func (e *environment) measureSize(ctx context.Context, o options, d dimension, size int) ([]float64, error) {
	store, err := mdb.Connect(ctx, e.server.TCP(d.name))
	if err != nil {
		return nil, err
	}
	defer store.Close()
	direct, err := mdb.New(store.Pool(), mdb.WithDirectSQL())
	if err != nil {
		return nil, err
	}
	var c benchCase
	for i, op := range d.ops {
		c.variants = append(c.variants, variant{name: d.names()[2*i], op: op.op(mdbClient{store}, size)},
			variant{name: d.names()[2*i+1], op: op.op(mdbClient{direct}, size)})
	}
	h := &harness{postmaster: e.postmaster, rounds: o.rounds, turn: o.turn}
	samples, err := h.measure(ctx, c)
	if err != nil {
		return nil, err
	}
	var times []float64
	for i := range c.variants {
		times = append(times, figures.Summary(perRound(samples, "", c.variants[i].name, nanoseconds)).Center)
	}
	return times, nil
}
