package consumer

import (
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/messagedb-go/messagedb/internal/pgtest"
)

// TestReaderAgainstEverything checks that each partition receives every message after its
// checkpoint once and in order, while messages are written, handled fast and slowly,
// partitions are opened and closed, and the consumer is paused, all at random. Only rings
// wake the reader, so it must not forget one.
func TestReaderAgainstEverything(t *testing.T) {
	t.Parallel()
	pgtest.NeedNoServer(t)
	seeds := uint64(2_000)
	if testing.Short() {
		seeds = 300
	}
	for seed := range seeds {
		synctest.Test(t, func(t *testing.T) { readAgainstEverything(t, seed) })
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func readAgainstEverything(t *testing.T, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 0))
	partitions, batch := 1+random.IntN(8), 1+random.IntN(6)
	streams := streamsOf(partitions)
	s := newShelf(t)
	// Reads take time, in which the others do something.
	latency := rand.New(rand.NewPCG(seed, 1))
	s.during = func(int64) { time.Sleep(time.Duration(latency.IntN(5)) * time.Millisecond) }
	in, ended := begin(t, s, partitions, batch)
	in.most = 1 + random.IntN(2*batch)

	for range 8 {
		var actors sync.WaitGroup
		act := func(times, pause int, do func(*rand.Rand)) {
			random := rand.New(rand.NewPCG(seed, random.Uint64()))
			actors.Go(func() {
				for range random.IntN(times) {
					time.Sleep(time.Duration(random.IntN(pause*1000)) * time.Microsecond)
					do(random)
				}
			})
		}
		act(10, 10, func(random *rand.Rand) { // a writer
			for range random.IntN(5) {
				s.write(streams[random.IntN(partitions)], int64(random.IntN(2)*random.IntN(20)))
			}
		})
		act([]int{1, 2, 10}[random.IntN(3)], 10, func(random *rand.Rand) { // claims and releases
			p := random.IntN(partitions)
			if random.IntN(3) == 0 {
				in.close(p)
				return
			}
			from := random.Int64N(s.end() + 1)
			if random.IntN(10) == 0 {
				from += 10 // as FromPosition may be
			}
			in.open(p, from)
		})
		for p := range partitions { // handlers
			pause := []int{1, 1, 5, 30}[random.IntN(4)]
			act(10, pause, func(random *rand.Rand) { in.handle(p, 1+random.IntN(batch)) })
		}
		if random.IntN(2) == 0 {
			act(5, 20, func(random *rand.Rand) {
				barrier := random.Int64N(s.end() + 2)
				limit := &barrier
				if random.IntN(2) == 0 {
					limit = nil
				}
				in.limit(limit, random.IntN(4) == 0)
			})
		}
		actors.Wait()
		in.limit(nil, false)
		for idle := 0; idle < 3; idle++ { // handle what is left
			if s.count() > 0 {
				idle = 0
			}
			for p := range partitions {
				in.handle(p, 100)
			}
			time.Sleep(5 * time.Millisecond) // longer than a read
			synctest.Wait()
		}
		select {
		case err := <-ended:
			t.Fatalf("the reader ended: %v", err)
		default:
		}
		in.checkAll()
		if upto, ok := in.reader.caughtUp(); !ok {
			t.Fatalf("got %d, %t, want all caught up", upto, ok)
		}
		if t.Failed() {
			return
		}
	}
}
