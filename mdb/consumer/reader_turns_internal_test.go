package consumer

import (
	"math"
	"slices"
	"testing"
	"testing/synctest"
)

// TestReaderLeavesSlowPartition checks that a partition without room does not hold the others
// back, costs no reads, and receives everything when it has room.
func TestReaderLeavesSlowPartition(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newShelf(t)
		in, _ := begin(t, s, 4, 10)
		in.openAll(0)
		synctest.Wait()
		in.fill(1, true)
		streams := streamsOf(4)
		for i := range 400 {
			s.count()
			s.write(streams[i%4], 0)
			synctest.Wait()
			if n := s.count(); n != 1 {
				t.Fatalf("got %d reads for message %d, want 1", n, i)
			}
			for p, c := range in.claims {
				if want := s.between(p, 4, 0, math.MaxInt64); p != 1 && !slices.Equal(c.fed, want) || p == 1 && len(c.fed) > 0 {
					t.Fatalf("partition %d: got %d, want %d", p, c.fed, want)
				}
			}
		}
		if _, ok := in.reader.caughtUp(); ok {
			t.Error("got all caught up")
		}
		in.fill(1, false)
		synctest.Wait()
		in.checkAll()
		if n := s.count(); n > 82 {
			t.Errorf("got %d reads of the 40 pages that it missed, want at most twice as many", n)
		}
	})
}

// TestReaderMovesOnWithoutRoom checks that a partition without room follows the others past
// their messages, so that it is not read separately as long as it has none.
func TestReaderMovesOnWithoutRoom(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newShelf(t)
		in, _ := begin(t, s, 2, 10)
		in.openAll(0)
		synctest.Wait()
		in.fill(1, true)
		for range 100 {
			s.write(streamsOf(2)[0], 0)
		}
		synctest.Wait()
		s.count()
		if upto, ok := in.reader.caughtUp(); upto != 100 || !ok {
			t.Errorf("got %d, %t, want 100, true", upto, ok)
		}
		in.fill(1, false)
		synctest.Wait()
		if n := s.count(); n != 0 {
			t.Errorf("got %d reads, want none", n)
		}
	})
}

// TestReaderRoomMeanwhile checks that a partition is read that gets room just after the
// reader has seen that it has none.
func TestReaderRoomMeanwhile(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newShelf(t)
		s.fill(10, 1)
		in, _ := begin(t, s, 1, 3)
		in.refuses = func() { in.handle(0, 3) }
		in.most = 1
		in.open(0, 0)
		synctest.Wait()
		in.checkAll()
	})
}

// TestReaderKeepsPlaceWithoutRoom checks that a partition without room receives a message
// that was read for one at a higher position.
func TestReaderKeepsPlaceWithoutRoom(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newShelf(t)
		s.fill(10, 2)
		in, _ := begin(t, s, 2, 100)
		in.open(0, 0)
		in.open(1, 20)
		synctest.Wait()
		in.fill(0, true)
		s.write(streamsOf(2)[0], 20)
		synctest.Wait()
		in.fill(0, false)
		synctest.Wait()
		in.checkAll()
	})
}

// TestReaderKeepsUp checks that the others receive new messages after at most two reads
// while a partition has much to read.
func TestReaderKeepsUp(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newShelf(t)
		s.fill(2000, 4)
		in, _ := begin(t, s, 4, 10)
		for p := range 3 {
			in.open(p, 2000)
		}
		synctest.Wait()
		s.count()
		var written []int64
		live := in.claims[0]
		s.during = func(int64) {
			if n := len(written); n > 0 && n < 100 {
				in.mu.Lock()
				if got := len(live.fed); got < n-2 {
					t.Errorf("got %d of %d messages, want all but the last two", got, n)
				}
				in.mu.Unlock()
			}
			if len(written) < 100 {
				written = append(written, s.write(streamsOf(4)[0], 0))
			}
		}
		in.open(3, 0)
		synctest.Wait()
		in.checkAll()
		if n := s.count(); n > 2*211+2 {
			t.Errorf("got %d reads of 211 pages, want at most twice as many", n)
		}
	})
}

// TestReaderCohorts checks that partitions at many positions together cost at most four times
// the reads of the lowest one, and that the highest ones do not wait for it.
func TestReaderCohorts(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		const partitions = 16
		s := newShelf(t)
		s.fill(10_000, partitions)
		in, _ := begin(t, s, partitions, 10)
		in.reader.limit(nil, true)
		for p := range partitions {
			in.open(p, int64(p)*600)
		}
		done := make([]int, partitions) // reads until each partition has received everything
		s.during = func(int64) {
			in.mu.Lock()
			defer in.mu.Unlock()
			for p, c := range in.claims {
				if done[p]++; c.end >= 10_000 {
					done[p]--
				}
			}
		}
		in.reader.limit(nil, false)
		synctest.Wait()
		in.checkAll()
		if n := s.count(); n > 4000 {
			t.Errorf("got %d reads, want at most 4 times 1000", n)
		}
		if done[15] > 2*101 {
			t.Errorf("got %d reads until the highest was done, want at most twice its 101", done[15])
		}
		if done[14] > 4*161 {
			t.Errorf("got %d reads until the next one was done, want at most four times its 161", done[14])
		}
	})
}

// TestReaderGathers checks that partitions which are less than a page apart share their reads
// after the first ones, however much there is to read.
func TestReaderGathers(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newShelf(t)
		s.fill(10_000, 2)
		in, _ := begin(t, s, 2, 100)
		in.reader.limit(nil, true)
		in.open(0, 0)
		in.open(1, 90)
		in.reader.limit(nil, false)
		synctest.Wait()
		in.checkAll()
		if n := s.count(); n > 103 {
			t.Errorf("got %d reads of 100 pages, want at most three more", n)
		}
	})
}

// TestReaderKeepsRing checks that a ring during a page of the front is not forgotten when a
// page for others is read after it.
func TestReaderKeepsRing(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newShelf(t)
		s.fill(100, 2)
		in, _ := begin(t, s, 2, 10)
		in.open(0, 100)
		synctest.Wait()
		n := 0
		s.during = func(from int64) {
			switch n++; {
			case n == 1 && from == 100:
				s.write(streamsOf(2)[0], 0) // the page is already selected
			case n == 2 && from == 0:
				in.fill(1, true)
			default:
				if n < 3 {
					t.Errorf("got read %d from %d", n, from)
				}
			}
		}
		in.open(1, 0)
		synctest.Wait()
		if c := in.claims[0]; !slices.Equal(c.fed, []int64{101}) {
			t.Errorf("got %d, want the message", c.fed)
		}
	})
}

// TestReaderLowestCohort checks that a partition which falls back again and again takes no pages from the lowest cohort.
func TestReaderLowestCohort(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		const most = 200
		s := newShelf(t)
		s.fill(1000, 3)
		in, _ := begin(t, s, 3, 10)
		in.reader.limit(nil, true)
		in.open(0, 0)
		in.open(1, 1000)
		in.open(2, 1000)
		full, reads, lowest := false, 0, 0
		s.during = func(from int64) {
			switch reads++; {
			case reads > most || reads == most && !full:
			case from < 1000:
				lowest++
			case full: // it falls back
				full = false
				in.fill(1, false)
			default: // it reaches the front, and will have no room for the next message
				full = true
				in.fill(1, true)
				s.write(streamsOf(3)[1], 0)
				s.write(streamsOf(3)[2], 0)
			}
		}
		in.reader.limit(nil, false)
		synctest.Wait()
		in.fill(1, false)
		synctest.Wait()
		in.checkAll()
		if lowest < most/4 {
			t.Errorf("the lowest cohort got %d of %d pages, want a quarter", lowest, most)
		}
	})
}

// TestReaderGathersClaimed checks that partitions which are claimed a little before the end share one read, which also is that of the others.
func TestReaderGathersClaimed(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newShelf(t)
		s.fill(100, 4)
		in, _ := begin(t, s, 4, 1000)
		in.open(0, 100)
		synctest.Wait()
		for range 3 { // whoever's turn it is
			s.count()
			in.reader.limit(nil, true)
			for p := 1; p < 4; p++ {
				in.open(p, int64(20*p))
			}
			in.reader.limit(nil, false)
			synctest.Wait()
			if n := s.count(); n != 1 {
				t.Errorf("got %d reads, want 1", n)
			}
			in.checkAll()
		}
	})
}
