package main

import (
	"context"
	"fmt"
	"runtime/metrics"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
)

// wholeSizes are those of categories that are read from their first to their last
// message.
var wholeSizes = []int{10_000, 100_000, 1_000_000}

// A heapPeak is the most memory that a collection has left in use.
type heapPeak struct{ bytes uint64 }

func (p *heapPeak) look() {
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(live)
	p.bytes = max(p.bytes, live[0].Value.Uint64())
}

// wholes reads categories to their ends, which takes as long for each message and as
// much memory however long they are.
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
	bare, err := newFloor(ctx, address, 1)
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
	w.printf("\n## A whole category, from its first message to its last\n\n" +
		"| messages | messages/s, floor | mdb | mdb, direct SQL | most memory in use, mdb | mdb, direct SQL |\n|---:|---:|---:|---:|---:|---:|\n")
	before := 0
	for _, size := range wholeSizes {
		size /= shrink
		if err := fill(ctx, conn, "c", before, size, 1, 1000); err != nil {
			return err
		}
		before = size
		clear(peaks)
		c := benchCase{messages: size, rounds: 3, rivals: []rival{
			{name: floorName, op: want(size, func(ctx context.Context) (total int, err error) {
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
		w.printf("| %d |", size)
		for _, r := range c.rivals {
			ns := summary(perRound(samples, "", r.name, nanoseconds)).Center
			w.printf(" %.0f |", float64(size)/ns*1e9)
		}
		w.printf(" %s | %s |\n", megabytes(peaks[0].bytes), megabytes(peaks[1].bytes))
	}
	return nil
}

func megabytes(n uint64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }
