package main

import (
	"context"
	"fmt"
	"runtime/metrics"
	"strconv"

	"github.com/messagedb-go/messagedb/bench/internal/figures"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
)

// wholeSizes are the sizes of the categories that are read completely.
var wholeSizes = []int{10_000, 100_000, 1_000_000}

// A heapPeak is the largest live heap after a collection.
type heapPeak struct{ bytes uint64 }

func (p *heapPeak) look() {
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(live)
	p.bytes = max(p.bytes, live[0].Value.Uint64())
}

// wholes reads complete categories. Time per message and memory do not depend on their
// length.
func (e *environment) wholes(ctx context.Context, o options, w *output) error {
	conn, err := e.create(ctx, "whole", testdb.InstallOurs)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	address := e.server.TCP("whole")
	store, err := mdb.Connect(ctx, address)
	if err != nil {
		return err
	}
	defer store.Close()
	direct, err := mdb.New(store.Pool(), mdb.WithDirectSQL())
	if err != nil {
		return err
	}
	bare, err := newRawClient(ctx, address, 1)
	if err != nil {
		return err
	}
	e.close = append(e.close, bare.Close)
	peaks := make([]heapPeak, 2)
	whole := func(size int, s *mdb.Store, peak *heapPeak) func(context.Context) error {
		return want(size, func(ctx context.Context) (n int, err error) {
			for _, err := range s.CategoryMessages(ctx, "c0") {
				if err != nil {
					return n, err
				}
				if n++; n%mdb.DefaultBatchSize == 0 {
					peak.look()
				}
			}
			return n, nil
		})
	}
	w.printf("\n## Reading a whole category\n\nMessages/s, and the largest live heap.\n\n"+
		"| messages | %s | mdb | mdb, direct SQL | heap, mdb | heap, mdb, direct SQL |\n|---:|---:|---:|---:|---:|---:|\n", rawName)
	before := 0
	for _, size := range wholeSizes {
		size /= shrink
		if err := fill(ctx, conn, "c", before, size, 1, 1000); err != nil {
			return err
		}
		before = size
		clear(peaks)
		c := benchCase{messages: size, rounds: 3, variants: []variant{
			{name: rawName, op: want(size, func(ctx context.Context) (total int, err error) {
				for position := int64(1); ; position += mdb.DefaultBatchSize {
					got, err := wrapper{bare}.category(ctx, "c0", position, mdb.DefaultBatchSize)
					if total += got; err != nil || got < mdb.DefaultBatchSize {
						return total, err
					}
				}
			})},
			{name: proceduresName, op: whole(size, store, &peaks[0])},
			{name: directName, op: whole(size, direct, &peaks[1])},
		}}
		h := &harness{postmaster: e.postmaster, rounds: o.rounds, turn: o.turn}
		samples, err := h.measure(ctx, c)
		if err != nil {
			return err
		}
		w.printf("| %s |", thousands(strconv.Itoa(size)))
		for _, r := range c.variants {
			ns := figures.Summary(perRound(samples, "", r.name, nanoseconds)).Center
			w.printf(" %s |", thousands(strconv.Itoa(int(float64(size)/ns*1e9))))
		}
		w.printf(" %s | %s |\n", megabytes(peaks[0].bytes), megabytes(peaks[1].bytes))
	}
	return nil
}

func megabytes(n uint64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }
