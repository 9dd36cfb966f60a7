package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/jackc/pgx/v5"
	"gonum.org/v1/plot/plotter"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
)

// A dimension is something that grows, and what is measured while it does.
type dimension struct {
	file, title, x string
	sizes          []int
	// fill makes a database of that size out of one of the size before.
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

// fill inserts those from before to size, over so many categories of so many streams.
func fill(ctx context.Context, conn *pgx.Conn, prefix string, before, size, categories, streams int) error {
	if _, err := conn.Exec(ctx, insertGrowth, prefix, before, size, categories, streams, string(payload)); err != nil {
		return err
	}
	_, err := conn.Exec(ctx, "VACUUM ANALYZE message_store.messages")
	return err
}

// shrink is how many times smaller the stores of fixed size are, in tests.
var shrink = 1

var dimensions = []dimension{
	{
		file: "store", title: "With the store", x: "messages in the store", sizes: []int{10_000, 100_000, 1_000_000, 3_000_000},
		fill: func(ctx context.Context, conn *pgx.Conn, before, size int) error {
			return fill(ctx, conn, "c", before, size, 16, 100)
		},
		ops: []growthOp{
			{"write 1", func(c mdbClient, _ int) func(context.Context) error {
				return func(ctx context.Context) error { return c.write(ctx, "new-1", payload) }
			}},
			{"empty page", func(c mdbClient, _ int) func(context.Context) error {
				return want(0, func(ctx context.Context) (int, error) { return c.category(ctx, "c3", 1<<40, 1000) })
			}},
			{"page of 10 from the middle", func(c mdbClient, size int) func(context.Context) error {
				return want(10, func(ctx context.Context) (int, error) { return c.category(ctx, "c3", int64(size/2), 10) })
			}},
			{"page of 100 as a member of 16", func(c mdbClient, _ int) func(context.Context) error {
				return func(ctx context.Context) error {
					_, err := c.member(ctx, "c3", 0, 100, 3, 16)
					return err
				}
			}},
			{"last message", func(c mdbClient, _ int) func(context.Context) error {
				return func(ctx context.Context) error { return c.last(ctx, "c3-7") }
			}},
		},
	},
	{
		file: "categories", title: "With the categories", x: "categories of a store of 100,000 messages", sizes: []int{1, 10, 100, 1000, 10_000},
		fill: func(ctx context.Context, conn *pgx.Conn, _, size int) error {
			if _, err := conn.Exec(ctx, "TRUNCATE message_store.messages RESTART IDENTITY"); err != nil {
				return err
			}
			return fill(ctx, conn, "c", 0, 100_000/shrink, size, max(1, 1000/size))
		},
		ops: []growthOp{
			{"empty page", func(c mdbClient, _ int) func(context.Context) error {
				return want(0, func(ctx context.Context) (int, error) { return c.category(ctx, "c0", 1<<40, 1000) })
			}},
			{"page of 10", func(c mdbClient, _ int) func(context.Context) error {
				return want(10, func(ctx context.Context) (int, error) { return c.category(ctx, "c0", 0, 10) })
			}},
			{"page of 10 of a category of 10", func(c mdbClient, size int) func(context.Context) error {
				return want(10, func(ctx context.Context) (int, error) { return c.category(ctx, fmt.Sprintf("c%d", size-1), 0, 10) })
			}},
		},
	},
	{
		file: "stream", title: "With a stream", x: "messages in the stream", sizes: []int{1, 100, 10_000, 1_000_000},
		fill: func(ctx context.Context, conn *pgx.Conn, _, size int) error {
			// What was written meanwhile took the next positions.
			if _, err := conn.Exec(ctx, "TRUNCATE message_store.messages RESTART IDENTITY"); err != nil {
				return err
			}
			return fill(ctx, conn, "c", 0, size, 1, 1)
		},
		ops: []growthOp{
			{"write 1", func(c mdbClient, _ int) func(context.Context) error {
				return func(ctx context.Context) error { return c.write(ctx, "c0-0", payload) }
			}},
			{"version", func(c mdbClient, _ int) func(context.Context) error {
				return func(ctx context.Context) error { return c.version(ctx, "c0-0") }
			}},
			{"last message", func(c mdbClient, _ int) func(context.Context) error {
				return func(ctx context.Context) error { return c.last(ctx, "c0-0") }
			}},
			{"page of 10 from the middle", func(c mdbClient, size int) func(context.Context) error {
				return func(ctx context.Context) error {
					_, err := c.stream(ctx, "c0-0", int64(size/2), 10)
					return err
				}
			}},
		},
	},
	{
		file: "page", title: "With the page", x: "messages in the page", sizes: []int{1, 10, 100, 1000, 10_000},
		fill: func(ctx context.Context, conn *pgx.Conn, before, _ int) error {
			if before > 0 {
				return nil
			}
			return fill(ctx, conn, "c", 0, 200_000/shrink, 16, 1)
		},
		ops: []growthOp{
			{"page of a category", func(c mdbClient, size int) func(context.Context) error {
				return want(size, func(ctx context.Context) (int, error) { return c.category(ctx, "c3", 0, size) })
			}},
			{"page of a stream", func(c mdbClient, size int) func(context.Context) error {
				return want(size, func(ctx context.Context) (int, error) { return c.stream(ctx, "c3-0", 0, size) })
			}},
		},
	},
}

// growth measures how the times grow.
func growth(ctx context.Context, o options, w *output) error {
	e, err := newServer(ctx)
	if err != nil {
		return err
	}
	defer e.Close()
	w.printf("# Growth\n\n%s\n\nPostgreSQL %d; %d rounds of 2 × %v; medians\n", machine(), e.server.Version(), o.rounds, o.turn)
	asked := func(name string) bool { return strings.Contains(name, o.only) }
	for _, d := range dimensions {
		if !asked(d.file) {
			continue
		}
		if err := e.grow(ctx, o, d, w); err != nil {
			return fmt.Errorf("%s: %w", d.file, err)
		}
	}
	if !asked("whole") {
		return nil
	}
	return e.wholes(ctx, o, w)
}

func (e *environment) grow(ctx context.Context, o options, d dimension, w *output) error {
	conn, err := e.create(ctx, d.file, testdb.InstallOurs)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	w.printf("\n## %s\n\n| %s | %s |\n|---:|%s\n", d.title, d.x, strings.Join(d.names(), " | "), strings.Repeat("---:|", len(d.names())))
	curves := make([]curve, len(d.names()))
	before := 0
	for _, size := range d.sizes {
		if err := d.fill(ctx, conn, before, size); err != nil {
			return err
		}
		before = size
		times, err := e.measureSize(ctx, o, d, size)
		if err != nil {
			return err
		}
		w.printf("| %d |", size)
		for i, ns := range times {
			w.printf(" %s |", duration(ns))
			curves[i].name = d.names()[i]
			curves[i].points = append(curves[i].points, plotter.XY{X: float64(size), Y: ns / 1e6})
		}
		w.printf("\n")
	}
	if o.out == "" {
		return nil
	}
	return growthChart(filepath.Join(o.out, "growth-"+d.file+".svg"), d.title, d.x, curves)
}

func (d dimension) names() (names []string) {
	for _, op := range d.ops {
		names = append(names, op.name, op.name+", direct SQL")
	}
	return names
}

// measureSize returns the medians of the ops, each by procedures and by direct SQL,
// on new connections: plans may depend on what a connection has seen.
func (e *environment) measureSize(ctx context.Context, o options, d dimension, size int) ([]float64, error) {
	store, err := mdb.Connect(ctx, e.server.TCP(d.file))
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
		c.rivals = append(c.rivals, rival{name: d.names()[2*i], op: op.op(mdbClient{store}, size)},
			rival{name: d.names()[2*i+1], op: op.op(mdbClient{direct}, size)})
	}
	h := &harness{postmaster: e.postmaster, rounds: o.rounds, turn: o.turn}
	samples, err := h.measure(ctx, c)
	if err != nil {
		return nil, err
	}
	var times []float64
	for i := range c.rivals {
		times = append(times, summary(perRound(samples, "", c.rivals[i].name, nanoseconds)).Center)
	}
	return times, nil
}
