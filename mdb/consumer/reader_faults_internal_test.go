package consumer

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/internal/source"
	"github.com/messagedb-go/messagedb/mdb"
)

type pageFunc = func(source.Checkpoint) (*source.Page[mdb.Message], error)

func failing(err error) pageFunc {
	return func(source.Checkpoint) (*source.Page[mdb.Message], error) { return &source.Page[mdb.Message]{}, err }
}

func openFailing(err error) func(source.Hooks) (*source.Opened[mdb.Message], error) {
	return func(source.Hooks) (*source.Opened[mdb.Message], error) { return nil, err }
}

// rewinds collects what a reader reports to its member.
type rewinds struct{ calls []string }

func (r *rewinds) note(c *readerConfig) {
	c.rewound = func(category string, end int64, gone []source.Anchor) {
		r.calls = append(r.calls, fmt.Sprintf("%s %d %d", category, end, len(gone)))
	}
}

func (r *rewinds) want(t *testing.T, want ...string) {
	t.Helper()
	synctest.Wait()
	if !slices.Equal(r.calls, want) {
		t.Errorf("got %q, want %q", r.calls, want)
	}
	r.calls = nil
}

// TestReaderFork checks that a loss of messages closes all partitions and is reported, and
// that reading goes on when they are open again, also if the row still names a lost message.
func TestReaderFork(t *testing.T) {
	for name, err := range map[string]error{"some are left": nil, "none is left": &mdb.ForkError{}} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				s := newShelf(t)
				s.fill(20, 2)
				var r rewinds
				in, _ := begin(t, s, 2, 100, r.note)
				in.openAll(0)
				synctest.Wait()
				gone := through(source.Checkpoint{}, s.messages[15:]).Anchors()
				lost := through(source.Checkpoint{}, s.messages)
				s.answer = func(from source.Checkpoint) (*source.Page[mdb.Message], error) {
					if len(from.Anchors()) == 0 || from.Anchors()[0] != lost.Anchors()[0] {
						return nil, nil
					}
					page := &source.Page[mdb.Message]{Forked: true, Full: true, Gone: gone}
					if err == nil {
						page.End = through(source.Checkpoint{}, s.messages[:15])
					}
					return page, err
				}
				s.messages, s.next = s.messages[:15:15], 16
				s.rung <- struct{}{}
				if err == nil {
					r.want(t, fmt.Sprintf("category 15 %d", len(gone)))
				} else {
					r.want(t, fmt.Sprintf("category 0 %d", len(gone)))
				}
				s.count()
				s.fill(10, 2)
				synctest.Wait()
				if n := s.count(); n > 0 {
					t.Errorf("got %d reads while nothing was open, want none", n)
				}
				clear(in.claims)
				in.open(0, 13)
				in.openAt(1, source.At(lost.Position))
				r.want(t)
				in.checkAll()
				if !slices.Contains(s.asked, 20) {
					t.Errorf("got questions for %d, want one for 20", s.asked)
				}
			})
		})
	}
}

// TestReaderOpenDuringRead checks that partitions which are opened while a page is read
// neither receive nor pass over its messages, because it may be from a history before that of
// their rows.
func TestReaderOpenDuringRead(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newShelf(t)
		s.fill(11, 2)
		streams := streamsOf(2)
		in, _ := begin(t, s, 2, 100)
		in.openAll(0)
		synctest.Wait()
		s.during = func(int64) {
			s.during = nil
			s.mu.Lock() // the last message is lost
			s.messages, s.next = s.messages[:11:11], 12
			s.mu.Unlock()
			clear(in.claims)
			in.open(0, 11)
			in.open(1, 11)
		}
		s.write(streams[0], 0)
		synctest.Wait()
		if fed := in.claims[0].fed; len(fed) > 0 {
			t.Errorf("got %d, want nothing of the page", fed)
		}
		s.write(streams[1], 0) // another message at the same position
		synctest.Wait()
		in.checkAll()
	})
}

// TestReaderAsksAfterFork checks that after a loss of messages it is no longer known which
// positions the store has used.
func TestReaderAsksAfterFork(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newShelf(t)
		s.fill(20, 2)
		var r rewinds
		in, _ := begin(t, s, 2, 100, r.note)
		in.openAll(0)
		synctest.Wait()
		s.answer = func(source.Checkpoint) (*source.Page[mdb.Message], error) {
			s.answer = nil
			return &source.Page[mdb.Message]{Forked: true, Full: true, End: through(source.Checkpoint{}, s.messages[:15])}, nil
		}
		s.messages, s.next = s.messages[:15:15], 16
		s.rung <- struct{}{}
		r.want(t, "category 15 0")
		clear(in.claims)
		in.open(0, 13)
		synctest.Wait()
		in.open(1, 18)
		synctest.Wait()
		if !slices.Equal(s.asked, []int64{13, 18}) {
			t.Errorf("got questions for %d, want 13 and 18", s.asked)
		}
	})
}

// TestReaderAhead checks that a position which the store has not used is reported once, since
// the row may have been read before a failover, and ends the reader the second time.
func TestReaderAhead(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newShelf(t)
		s.fill(10, 2)
		used := int64(10)
		s.uses(&used)
		var r rewinds
		in, ended := begin(t, s, 2, 100, r.note)
		in.open(0, 5)
		synctest.Wait()
		in.open(1, 15)
		r.want(t, "category 10 0")
		in.open(0, 5)
		in.open(1, 8)
		r.want(t)
		in.checkAll()
		in.open(1, 15)
		var ahead *mdb.AheadError
		if err := <-ended; !errors.As(err, &ahead) || ahead.Position != 15 {
			t.Errorf("got %v, want an AheadError", err)
		}
		r.want(t)
	})
}

// TestReaderAheadTogether checks that a position which the store has not used is reported if the reader begins to read before it.
func TestReaderAheadTogether(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newShelf(t)
		s.fill(10, 2)
		used := int64(10)
		s.uses(&used)
		var r rewinds
		in, _ := begin(t, s, 2, 100, r.note)
		in.open(1, 15)
		in.open(0, 5)
		r.want(t, "category 10 0")
	})
}

// TestReaderAheadLater checks that a position which the store has used meanwhile is reported
// again: that is another failover.
func TestReaderAheadLater(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newShelf(t)
		s.fill(10, 2)
		used := int64(10)
		s.uses(&used)
		var r rewinds
		in, _ := begin(t, s, 2, 100, r.note)
		in.open(0, 15)
		r.want(t, "category 10 0")
		in.open(0, 10)
		synctest.Wait()
		used = 20
		s.fill(10, 2)
		synctest.Wait()
		used = 12
		in.open(1, 15)
		synctest.Wait()
		in.reader.forget() // as after a fork, so that nothing is known to be used
		in.open(1, 15)
		r.want(t, "category 12 0")
	})
}

// TestReaderAsksForAnchorsOnce checks that the message before a stored position is looked up
// once, and not for each poll, also if there is none.
func TestReaderAsksForAnchorsOnce(t *testing.T) {
	for name, written := range map[string]int{"messages before it": 60, "none before it": 0} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				s := newShelf(t)
				s.fill(written, 4)
				in, _ := begin(t, s, 4, 5)
				in.openAll(50)
				synctest.Wait()
				s.next = max(s.next, 51)
				for range 10 {
					s.rung <- struct{}{}
					synctest.Wait()
				}
				s.fill(1, 4)
				synctest.Wait()
				in.checkAll()
				if !slices.Equal(s.asked, []int64{50}) {
					t.Errorf("got questions for %d, want one for 50", s.asked)
				}
			})
		})
	}
	t.Run("a checkpoint with anchors", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			s := newShelf(t)
			s.fill(20, 1)
			in, _ := begin(t, s, 1, 100)
			in.openAt(0, through(source.Checkpoint{}, s.messages[:10]))
			synctest.Wait()
			in.checkAll()
			if len(s.asked) > 0 {
				t.Errorf("got questions for %d, want none", s.asked)
			}
		})
	})
	t.Run("several positions", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			s := newShelf(t)
			s.fill(20, 4)
			in, _ := begin(t, s, 4, 100)
			in.open(0, 0)
			synctest.Wait()
			for p := 3; p > 0; p-- {
				in.open(p, int64(p)*10+20)
			}
			for range 10 {
				s.rung <- struct{}{}
				synctest.Wait()
			}
			if !slices.Equal(s.asked, []int64{50}) {
				t.Errorf("got questions for %d, want one for the highest", s.asked)
			}
		})
	})
}

// TestReaderOpensInOneTrip checks that a partition which is opened receives its messages after one round trip, wherever it begins:
// before, at or after what the reader has read.
func TestReaderOpensInOneTrip(t *testing.T) {
	for name, at := range map[string]int64{"before": 5, "at the end": 20, "after": 22, "alone": -5} {
		inSubBubble(t, name, func(t *testing.T) {
			s := newShelf(t)
			s.fill(20, 2)
			in, _ := begin(t, s, 2, 100)
			if at > 0 {
				in.open(0, 0)
				synctest.Wait()
			}
			s.mu.Lock()
			s.trips = 0
			s.mu.Unlock()
			for range 5 {
				s.writeSilently(streamsOf(2)[1], 0)
			}
			in.open(1, max(at, -at))
			synctest.Wait()
			in.checkAll()
			if s.trips != 1 {
				t.Errorf("got %d round trips, and questions for %d; want 1", s.trips, s.asked)
			}
		})
	}
}

// TestReaderUnreadable checks that a message which cannot be read is passed to its partition
// as such, once, in order, and not to others, and that it waits for room as others do.
func TestReaderUnreadable(t *testing.T) {
	arrange := func(t *testing.T, s *shelf, stream mdb.StreamName) {
		t.Helper()
		s.fill(4, 2)
		broken := s.write(stream, 0)
		s.fill(4, 2)
		s.answer = func(from source.Checkpoint) (*source.Page[mdb.Message], error) {
			if from.Position >= broken {
				return nil, nil
			}
			var page source.Page[mdb.Message]
			page.Messages = s.messages[from.Position : broken-1]
			page.End = through(from, page.Messages)
			page.Unreadable = fmt.Errorf("read: %w", &mdb.UnreadableError{ID: uuid.New(), Stream: stream, Position: 2, GlobalPosition: broken})
			page.Past = page.End.Past(broken)
			return &page, nil
		}
	}
	streams := streamsOf(2)
	check := func(t *testing.T, s *shelf, in *intake, want ...string) {
		t.Helper()
		synctest.Wait()
		if !slices.Equal(in.broken, want) {
			t.Errorf("got unreadable messages %q, want %q", in.broken, want)
		}
		for p, c := range in.claims {
			all := slices.DeleteFunc(s.between(p, 2, c.from, 100), func(position int64) bool { return position == 5 })
			if c.end == 9 && !slices.Equal(c.fed, all) {
				t.Errorf("partition %d: got %d, want %d", p, c.fed, all)
			}
		}
	}
	t.Run("it has room", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			s := newShelf(t)
			arrange(t, s, streams[1])
			in, _ := begin(t, s, 2, 100)
			in.openAll(0)
			check(t, s, in, "1: 5 to 5")
		})
	})
	t.Run("it is at the message", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			s := newShelf(t)
			arrange(t, s, streams[1])
			in, _ := begin(t, s, 2, 100)
			in.reader.limit(nil, true)
			in.open(0, 0)
			in.open(1, 5) // it is done with
			in.reader.limit(nil, false)
			check(t, s, in)
		})
	})
	t.Run("it has no room", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			s := newShelf(t)
			arrange(t, s, streams[1])
			in, _ := begin(t, s, 2, 100)
			in.reader.limit(nil, true)
			in.open(0, 4)
			in.open(1, 4)
			in.fill(1, true)
			in.reader.limit(nil, false)
			check(t, s, in)
			if in.claims[1].end != 4 {
				t.Errorf("got the partition at %d, want 4", in.claims[1].end)
			}
			in.fill(1, false)
			check(t, s, in, "1: 5 to 5")
		})
	})
	t.Run("it is after a barrier", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			s := newShelf(t)
			arrange(t, s, streams[1])
			in, _ := begin(t, s, 2, 100)
			barrier := int64(4)
			in.limit(&barrier, false)
			in.openAll(0)
			check(t, s, in)
			in.limit(nil, false)
			check(t, s, in, "1: 5 to 5")
		})
	})
	t.Run("its partition is not open", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			s := newShelf(t)
			arrange(t, s, streams[1])
			in, _ := begin(t, s, 2, 100)
			c := in.open(0, 0)
			synctest.Wait()
			if len(in.broken) > 0 || c.end != 9 {
				t.Errorf("got %q, up to %d, want none, up to 9", in.broken, c.end)
			}
		})
	})
	t.Run("its stream is unknown", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			s := newShelf(t)
			arrange(t, s, "")
			in, ended := begin(t, s, 2, 100)
			in.openAll(0)
			if err := <-ended; err == nil || !strings.Contains(err.Error(), "cannot be read") {
				t.Errorf("got %v, want the error of the message", err)
			}
			check(t, s, in)
			if c := in.claims[0]; c.end != 4 {
				t.Errorf("got partition 0 at %d, want 4", c.end)
			}
		})
	})
}
