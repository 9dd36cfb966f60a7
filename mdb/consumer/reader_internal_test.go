package consumer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/poll"
)

// TestReaderReadsOnce checks that all partitions share each page, that a message of the
// partitions costs one read, and one of others none.
func TestReaderReadsOnce(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		const partitions = 64
		s := newShelf(t)
		s.fill(1000, partitions)
		in, _ := begin(t, s, partitions, 100)
		in.openAll(0)
		synctest.Wait()
		in.checkAll()
		if n := s.count(); n != 11 {
			t.Errorf("got %d reads of 10 pages, want one for each, and an empty one", n)
		}
		streams := streamsOf(partitions)
		in.close(7)
		synctest.Wait()
		s.count()
		for p, stream := range streams {
			s.write(stream, 5)
			synctest.Wait()
			want := 1
			if p == 7 {
				want = 0
			}
			if n := s.count(); n != want {
				t.Errorf("got %d reads for a message of partition %d, want %d", n, p, want)
			}
		}
		in.checkAll()
		in.open(7, s.end())
		synctest.Wait()
		if len(s.asked) > 0 {
			t.Errorf("got questions for %d, want none", s.asked)
		}
	})
}

// TestReaderPauses checks that nothing is read while the consumer is paused, while nothing
// has room, and while nothing is open, and that what was written meanwhile is read then
// although nobody rings.
func TestReaderPauses(t *testing.T) {
	for name, tt := range map[string]struct{ stop, resume func(*intake) }{
		"paused": {func(in *intake) { in.limit(nil, true) }, func(in *intake) { in.limit(nil, false) }},
		"full": {
			func(in *intake) { in.fill(0, true); in.fill(1, true) },
			func(in *intake) { in.fill(0, false); in.fill(1, false) },
		},
		"closed": {
			func(in *intake) { in.close(0); in.close(1) },
			func(in *intake) { in.open(0, 10); in.open(1, 10) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				s := newShelf(t)
				s.fill(10, 2)
				in, _ := begin(t, s, 2, 100)
				in.openAll(0)
				synctest.Wait()
				tt.stop(in)
				s.count()
				for range 10 {
					s.writeSilently("category-1", 0)
					in.reader.signal()
					synctest.Wait()
				}
				if n := s.count(); n > 0 {
					t.Errorf("got %d reads, want none", n)
				}
				tt.resume(in)
				synctest.Wait()
				in.checkAll()
			})
		})
	}
}

// TestReaderStopsDuringRead checks that a page is read again that arrives while the consumer
// is paused or has come to a barrier.
func TestReaderStopsDuringRead(t *testing.T) {
	barrier := int64(3)
	for name, limit := range map[string]*int64{"paused": nil, "barrier": &barrier} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				s := newShelf(t)
				s.fill(5, 2)
				in, _ := begin(t, s, 2, 100)
				in.openAll(0)
				synctest.Wait()
				s.during = func(int64) { in.limit(limit, limit == nil) }
				s.fill(2, 2)
				synctest.Wait()
				s.during = nil
				in.limit(nil, false)
				synctest.Wait()
				in.checkAll()
			})
		})
	}
}

// TestReaderContinuesDuringRead checks that a page is read again that arrives while the
// consumer is paused, although it continues before the reader has seen that.
func TestReaderContinuesDuringRead(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newShelf(t)
		streams := streamsOf(2)
		var in *intake
		in, _ = begin(t, s, 2, 100, func(c *readerConfig) {
			c.live = func(_ string, live bool, _ int64) {
				if !live {
					in.limit(nil, false)
				}
			}
		})
		in.openAll(0)
		synctest.Wait()
		in.fill(1, true)
		s.write(streams[1], 0)
		synctest.Wait()
		s.during = func(int64) { s.during = nil; in.limit(nil, true) }
		s.write(streams[0], 0)
		synctest.Wait()
		if fed := in.claims[0].fed; !slices.Equal(fed, []int64{2}) {
			t.Errorf("got %d, want the message", fed)
		}
	})
}

// TestReaderBarrier checks that partitions stop exactly at the barrier once a message after
// it has shown that all before it are read, and cost no reads there.
func TestReaderBarrier(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		barrier := int64(35)
		s := newShelf(t)
		s.fill(30, 3)
		in, _ := begin(t, s, 3, 20)
		in.limit(&barrier, false)
		in.openAll(0)
		synctest.Wait()
		if upto, ok := in.reader.caughtUp(); upto != 30 || !ok {
			t.Errorf("got %d, %t, want 30, true", upto, ok)
		}
		s.write("category-1", 10)
		synctest.Wait()
		for _, c := range in.claims {
			if c.end != barrier {
				t.Errorf("got partition %d at %d, want %d", c.Number, c.end, barrier)
			}
		}
		s.count()
		s.write("category-1", 10)
		synctest.Wait()
		if n := s.count(); n > 0 {
			t.Errorf("got %d reads at the barrier, want none", n)
		}
		in.limit(nil, false)
		synctest.Wait()
		in.checkAll()
	})
}

// TestReaderPolling checks what the strategy receives: the messages of the open partitions,
// and the number of polls without any.
func TestReaderPolling(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newShelf(t)
		s.polls = true
		streams := streamsOf(2)
		var diary []string
		backoff := poll.Backoff(time.Second, time.Minute, 2)
		in, _ := begin(t, s, 2, 4, func(c *readerConfig) {
			c.polling = func(seen poll.Seen) time.Duration {
				diary = append(diary, fmt.Sprintf("%d/%d %d %v", seen.Retrieved, seen.BatchSize, seen.Empty, seen.Previous))
				return backoff(seen)
			}
		})
		s.fill(6, 2)
		in.open(0, 0)
		synctest.Wait() // two messages, and one
		time.Sleep(1500 * time.Millisecond)
		s.writeSilently(streams[1], 0) // of another partition
		time.Sleep(6 * time.Second)    // polls after 1, 2, 4 and 8 seconds
		s.writeSilently(streams[0], 0)
		time.Sleep(time.Second)
		for range 4 {
			s.writeSilently(streams[0], 0) // a full page, after which the strategy begins again
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if got, want := strings.Join(diary, ", "), "1/4 0 0s, 0/4 1 1s, 0/4 2 1s, 0/4 3 2s, 1/4 0 4s, 0/4 1 0s"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		in.checkAll()
	})
}

// TestReaderPollsBesideOthers checks that a partition which has room now and then does not
// prolong the wait for the next poll.
func TestReaderPollsBesideOthers(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newShelf(t)
		s.polls = true
		streams := streamsOf(2)
		in, _ := begin(t, s, 2, 4, func(c *readerConfig) { c.polling = poll.Constant(10 * time.Second) })
		in.openAll(0)
		in.fill(1, true)
		for range 1000 {
			s.write(streams[1], 0)
		}
		s.write(streams[0], 0)
		synctest.Wait()
		polls, polled := 0, time.Now()
		s.during = func(from int64) {
			if from < 1001 {
				in.mu.Lock()
				defer in.mu.Unlock()
				in.full[1] = true // each time it has room for one page
				return
			}
			polls++
			if d := time.Since(polled); d > 10*time.Second {
				t.Errorf("got a poll after %v", d)
			}
			polled = time.Now()
		}
		for range 100 {
			time.Sleep(3 * time.Second)
			in.fill(1, false)
			synctest.Wait()
			in.reader.signal()
		}
		if polls < 30 || polls > 201 {
			t.Errorf("got %d polls, want one every 10 seconds at least, and at most two for a page of the other", polls)
		}
		s.during = nil
		in.fill(1, false)
		synctest.Wait()
		in.checkAll()
	})
}

// TestReaderReportsLive checks when live is called.
func TestReaderReportsLive(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newShelf(t)
		s.fill(95, 4)
		var calls []bool
		in, _ := begin(t, s, 4, 10, func(c *readerConfig) {
			c.live = func(_ string, live bool, _ int64) { calls = append(calls, live) }
		})
		expect := func(want ...bool) {
			t.Helper()
			synctest.Wait()
			if !slices.Equal(calls, want) {
				t.Errorf("got %t, want %t", calls, want)
			}
			calls = nil
		}
		in.openAll(0)
		expect(false, true)
		for range 10 {
			s.write("category-1", 0)
			expect()
		}
		in.limit(nil, true)
		s.fill(12, 4) // a page, and a bit more
		in.limit(nil, false)
		expect()
		in.limit(nil, true)
		s.fill(30, 4)
		in.limit(nil, false)
		expect(false, true)
		in.fill(2, true)
		s.fill(4, 4)
		synctest.Wait()
		s.fill(4, 4)
		expect(false)
		in.fill(2, false)
		expect(true)
	})
}

// TestReaderEnds checks what ends run.
func TestReaderEnds(t *testing.T) {
	failure := errors.New("failure")
	for name, tt := range map[string]struct {
		arrange func(*shelf, *readerConfig)
		want    string
	}{
		"a read fails": {func(s *shelf, _ *readerConfig) {
			s.answer = failing(failure)
		}, "failure"},
		"the source cannot be opened": {func(_ *shelf, c *readerConfig) {
			c.open = openFailing(failure)
		}, "failure"},
		"the strategy panics": {func(_ *shelf, c *readerConfig) {
			c.polling = func(poll.Seen) time.Duration { panic("strategy") }
		}, "the polling strategy failed: panic"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				s := newShelf(t)
				in, ended := begin(t, s, 1, 10, func(c *readerConfig) { tt.arrange(s, c) })
				in.open(0, 0)
				if err := <-ended; err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("got %v, want %s", err, tt.want)
				}
			})
		})
	}
	t.Run("the context ends", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			in := newReader(readerConfig{category: "category", partitions: 1, batch: 10, open: newShelf(t).open})
			ctx, cancel := context.WithCancelCause(t.Context())
			cancel(failure)
			if err := in.run(ctx); !errors.Is(err, failure) {
				t.Errorf("got %v, want the cause", err)
			}
		})
	})
}

// TestPartitionOf checks the partitions of streams against Message DB's groups, whose members
// do not receive streams without an ID.
func TestPartitionOf(t *testing.T) {
	t.Parallel()
	for _, stream := range []mdb.StreamName{"category-1", "category-1+x", "category-1+y", "category-0000-1111+z"} {
		hash := mdb.Hash64(stream.CardinalID())
		if got, want := partitionOf(stream, 64), int(max(hash, -hash)%64); got != want {
			t.Errorf("%s: got %d, want %d", stream, got, want)
		}
	}
	if a, b, c := partitionOf("category-1", 1024), partitionOf("category-1+x", 1024), partitionOf("category-2", 1024); a != b || a == c {
		t.Errorf("got %d, %d and %d, want two equal ones", a, b, c)
	}
	if a, b := partitionOf("category", 1024), partitionOf("category-", 1024); a != b {
		t.Errorf("got %d and %d for streams without an ID, want the same", a, b)
	}
}

// TestNumbering checks that the partitions that are remembered are those of the IDs, also if
// more IDs than can be remembered, long ones and streams without one come in turns.
func TestNumbering(t *testing.T) {
	t.Parallel()
	var n numbering
	for round := range 3 {
		for i := range 4 * numberedPairs {
			stream := mdb.StreamName(fmt.Sprintf("category-%d+x%d", i, round))
			switch i % 8 {
			case 0:
				stream = mdb.StreamName("category-" + strings.Repeat("x", i%64))
			case 1:
				stream = "category"
			}
			if got, want := n.of(stream, 1024), partitionOf(stream, 1024); got != want {
				t.Fatalf("%s: got %d, want %d", stream, got, want)
			}
		}
	}
}
