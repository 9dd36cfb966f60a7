package consumer

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/mdb"
)

// A desk has the parked rows of one partition and the messages of their streams, and counts statements. The engine calls one of
// its methods at a time, as all rows are of one key.
type desk struct {
	rows                                      []ledger.Parked
	streams                                   map[string][]mdb.Message
	turns, reads, readMessages, records, ends int
}

func (s *desk) beginTurn(context.Context, ledger.Key, *ledger.Move) ([]ledger.Parked, error) {
	s.turns++
	return slices.Clone(s.rows), nil
}

func (s *desk) reading(ledger.Anchor) readStream { return s.read }

func (s *desk) read(_ context.Context, stream string, from int64, most int) ([]mdb.Message, *mdb.UnreadableError, error) {
	ms := slices.DeleteFunc(slices.Clone(s.streams[stream]), func(m mdb.Message) bool { return m.Position < from })
	ms = ms[:min(most, len(ms))]
	s.reads++
	s.readMessages += len(ms)
	return ms, nil, nil
}

func (s *desk) record(_ context.Context, _ *ledger.Move, _ partition, _ int64, steps []step, failed *ledger.Postponed) error {
	s.records++
	for _, step := range steps {
		i := s.find(step.stream, step.from)
		if s.rows[i].Position = step.next; step.ends {
			s.rows = slices.Delete(s.rows, i, i+1)
		}
	}
	if failed != nil {
		row := &s.rows[s.find(failed.Stream, failed.Position)]
		row.Attempts, row.Replays, row.IsDue = failed.Attempts, failed.Replays, failed.Wait == time.Nanosecond
	}
	return nil
}

func (s *desk) find(stream string, position int64) int {
	return slices.IndexFunc(s.rows, func(r ledger.Parked) bool { return r.Stream == stream && r.Position == position })
}

func (s *desk) unpark(context.Context, ledger.Move, string) error {
	s.ends++
	s.rows = slices.DeleteFunc(s.rows, isOpen)
	return nil
}

// park parks a message of the stream, of which there are so many before it, alone or with those after it.
func (s *desk) park(id string, gp int64, alone, due bool) {
	stream := "order-" + id
	m := mdb.Message{ID: idOf(gp), Stream: mdb.StreamName(stream), Position: int64(len(s.streams[stream])), GlobalPosition: gp}
	if s.streams == nil {
		s.streams = make(map[string][]mdb.Message)
	}
	s.streams[stream] = append(s.streams[stream], m)
	row := ledger.Parked{Partition: orders(0), Key: m.Stream.CardinalID(), Stream: stream, Position: m.Position, GlobalPosition: gp, Attempts: 1, IsDue: due}
	if alone {
		row.Upto = &m.Position
	}
	s.rows = append(s.rows, row)
}

func (s *desk) wants(t *testing.T, want ...string) {
	t.Helper()
	var got []string
	for _, r := range s.rows {
		what := "with those after it"
		if !isOpen(r) {
			what = "alone"
		}
		got = append(got, fmt.Sprintf("%d %s after %d", r.GlobalPosition, what, r.Attempts))
	}
	if !slices.Equal(got, want) {
		t.Errorf("parked: got  %q\nwant %q", got, want)
	}
}

// TestParkAloneLimit checks that a key has no more messages that are parked alone than the limit, that the next one is parked with
// all that follow, and that the limit of parked keys does not keep a key from it that is parked already.
func TestParkAloneLimit(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, engineConfig{parkAlone: 3, maxParked: 1})
		defer r.stops()
		r.begin(1)
		r.do(func() {
			r.parks = func(d *delivery, f Failure) error {
				r.diary = append(r.diary, fmt.Sprintf("alone %t, beside others %t", f.alone, f.keyParked))
				return nil
			}
		})
		for gp := range int64(6) {
			r.fails(gp+1, 99, Permanent(errBroken))
		}
		r.give(0, 0, "a", "a", "a+1", "a", "a", "a+1", "a+2", "b")
		r.wantsTogether(
			"1", "park 1 after 1", "alone true, beside others false",
			"2", "park 2 after 1", "alone true, beside others true",
			"3", "park 3 after 1", "alone true, beside others true",
			"4", "park 4 after 1", "alone false, beside others true",
			"park 6 after 0", "alone false, beside others true",
			"park 7 after 0", "alone false, beside others true",
			"8",
		)
		r.at("0: 0-8")
	})
}

// TestReplayAlone checks that messages which are parked alone are replayed when they are due, that one which fails again keeps none of the
// others, and that each of them is read once and costs two statements more at most.
func TestReplayAlone(t *testing.T) {
	for _, most := range []int{1, 4} {
		t.Run(fmt.Sprint(most, " messages a call"), func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				const n = 90
				s := &desk{}
				r := newRig(t, engineConfig{parkAlone: n, replays: s, form: form{most: most}})
				defer r.stops()
				var want []string
				failing := 0
				for gp := int64(1); gp <= n; gp++ {
					s.park("a", gp, true, true)
					if gp%9 == 0 {
						r.fails(gp, 99, Permanent(errBroken))
						want = append(want, fmt.Sprintf("%d alone after 2", gp))
						failing++
					}
				}
				r.claim(ledger.Row{Partition: orders(0), Epoch: 1, Position: n}, s.rows)
				key := []ledger.Key{{Partition: orders(0), Key: "a"}}
				r.replay(key)
				pass(time.Hour)
				s.wants(t, want...)
				if most == 1 && (s.readMessages != n || s.reads != n) || s.turns > 2*failing+2 || s.records > 2*failing+1 {
					t.Errorf("got %d turns, %d reads of %d messages and %d records of %d messages, of which %d fail", s.turns, s.reads, s.readMessages, s.records, n, failing)
				}
				r.do(func() { r.diary = nil })

				r.replay(key) // nothing is due
				r.wants()
				s.wants(t, want...)
				r.heal()
				s.rows[failing-1].IsDue = true
				r.replay(key)
				r.wants(fmt.Sprint(n))
				s.wants(t, want[:failing-1]...)

				for i := range s.rows {
					s.rows[i].IsDue = true
				}
				r.replay(key)
				pass(time.Hour)
				if s.wants(t); r.stats().parkedKeys != 0 {
					t.Error("the key is parked although nothing of it is")
				}
			})
		})
	}
}

// TestReplayAloneAgain checks that a message which is parked alone, and is due again as soon as it has failed, keeps no others, and
// is replayed once in a replay.
func TestReplayAloneAgain(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := &desk{}
		r := newRig(t, engineConfig{parkAlone: 2, replays: s})
		defer r.stops()
		s.park("a", 1, true, true)
		s.park("a", 2, true, true)
		r.fails(1, 2, RetryAfter(errBroken, time.Nanosecond))
		r.claim(ledger.Row{Partition: orders(0), Epoch: 1, Position: 2}, s.rows)
		key := []ledger.Key{{Partition: orders(0), Key: "a"}}
		for _, want := range [][]string{{"1", "2"}, {"1"}, {"1"}, nil} {
			r.replay(key)
			r.wants(want...)
		}
		s.wants(t)
	})
}

// TestReplayAloneDeleted checks that a message that was parked alone, and that somebody has deleted, is no longer parked, whether others of
// its stream follow or not.
func TestReplayAloneDeleted(t *testing.T) {
	for _, most := range []int{1, 4} {
		t.Run(fmt.Sprint(most, " messages a call"), func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				s := &desk{}
				r := newRig(t, engineConfig{parkAlone: 9, replays: s, form: form{most: most}})
				defer r.stops()
				for gp := range int64(6) {
					s.park("a", gp+1, true, gp != 2)
				}
				s.park("a", 7, true, true)
				s.park("a", 20, true, true) // the checkpoint has not reached it
				s.streams["order-a"] = slices.DeleteFunc(s.streams["order-a"], func(m mdb.Message) bool {
					return slices.Contains([]int64{1, 2, 3, 5, 7, 20}, m.GlobalPosition)
				})
				r.claim(ledger.Row{Partition: orders(0), Epoch: 1, Position: 8}, s.rows)
				key := []ledger.Key{{Partition: orders(0), Key: "a"}}
				r.replay(key)
				pass(time.Hour)
				r.wants("4", "6")
				s.wants(t, "3 alone after 1", "20 alone after 1") // which are not due, or ahead
				if s.turns > 3 {
					t.Errorf("got %d turns", s.turns)
				}
				r.give(0, 8, slices.Repeat([]string{"b"}, 12)...)
				r.at("0: 8-20")
				r.do(func() { r.diary = nil })
				s.rows[0].IsDue = true
				r.replay(key)
				pass(time.Hour)
				r.wants()
				if s.wants(t); r.stats().parkedKeys != 0 {
					t.Error("the key is parked although nothing of it is")
				}
			})
		})
	}
}

// TestReplayAloneBesideStream checks that a stream which is parked, and is not due, remains so when a message is replayed that is
// parked alone, and that it and what follows are replayed when it is due, although that message fails.
func TestReplayAloneBesideStream(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := &desk{}
		r := newRig(t, engineConfig{parkAlone: 2, replays: s})
		defer r.stops()
		s.park("a", 1, true, true)
		s.park("a", 2, true, true)
		s.park("a", 3, false, false)
		s.park("a+1", 4, false, false)
		r.fails(2, 1, Permanent(errBroken))
		r.claim(ledger.Row{Partition: orders(0), Epoch: 1, Position: 4}, s.rows)
		key := []ledger.Key{{Partition: orders(0), Key: "a"}}
		r.replay(key)
		pass(time.Hour)
		r.wants("1", "2")
		s.wants(t, "2 alone after 2", "3 with those after it after 1", "4 with those after it after 1")
		r.position["order-a"] = 3
		r.give(0, 4, "a") // it waits
		r.wants()
		s.streams["order-a"] = append(s.streams["order-a"], mdb.Message{ID: idOf(5), Stream: "order-a", Position: 3, GlobalPosition: 5})

		s.rows[0].IsDue, s.rows[1].IsDue = true, true
		r.fails(2, 1, Permanent(errBroken))
		r.replay(key)
		pass(time.Hour)
		r.wants("2", "3", "4", "5")
		s.wants(t, "2 alone after 3")
		if s.ends != 1 {
			t.Errorf("the streams were unparked %d times", s.ends)
		}
	})
}

// TestReplayBeforeParked checks that a stream remains parked if its key is replayed before the checkpoint has reached the message that was
// parked, as after a seek that keeps what is parked: the message comes live later.
func TestReplayBeforeParked(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := &desk{}
		r := newRig(t, engineConfig{replays: s})
		defer r.stops()
		s.park("a", 10, false, true)
		r.claim(ledger.Row{Partition: orders(0), Epoch: 1, Position: 5}, s.rows)
		key := []ledger.Key{{Partition: orders(0), Key: "a"}}
		r.replay(key)
		pass(time.Hour)
		r.wants()
		s.wants(t, "10 with those after it after 1")
		r.give(0, 9, "a")
		r.wants() // it is still parked
		r.at("0: 5-10")
		r.replay(key)
		pass(time.Hour)
		r.wants("10")
		if s.wants(t); s.ends != 1 {
			t.Errorf("the stream was unparked %d times", s.ends)
		}
	})
}

// TestFollowerOfReplayed checks that a message is handled which could not be parked after others of its key, if these are replayed
// before the next attempt: nothing would let it be replayed.
func TestFollowerOfReplayed(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := &desk{}
		r := newRig(t, engineConfig{replays: s})
		defer r.stops()
		s.park("a", 1, false, true)
		r.claim(ledger.Row{Partition: orders(0), Epoch: 1, Position: 1}, s.rows)
		r.do(func() {
			r.parks = func(*delivery, Failure) error { return &pgconn.PgError{Severity: "ERROR", Code: "53100"} }
		})
		r.give(0, 1, "a+1")
		r.wants("park 2 after 0")
		r.replay([]ledger.Key{{Partition: orders(0), Key: "a"}})
		pass(time.Hour)
		r.wants("1", "2")
		s.wants(t)
		r.at("0: 1-2")
	})
}

// TestFollowerWithAlone checks that a message which was parked alone waits with the others of its stream when one before it is
// parked because its key is, as after a crash, and that each is replayed once and in order.
func TestFollowerWithAlone(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := &desk{}
		r := newRig(t, engineConfig{parkAlone: 2, replays: s})
		defer r.stops()
		s.park("a", 1, true, true)
		s.rows = nil // it was handled
		s.park("a", 2, true, true)
		s.park("a+1", 3, false, true)
		r.do(func() {
			r.parks = func(d *delivery, _ Failure) error {
				s.rows = append(slices.DeleteFunc(s.rows, func(row ledger.Parked) bool { return row.Stream == string(d.message.Stream) }),
					ledger.Parked{Partition: d.partition, Key: d.key, Stream: string(d.message.Stream), GlobalPosition: d.message.GlobalPosition, IsDue: true})
				return nil
			}
		})
		r.claim(ledger.Row{Partition: orders(0), Epoch: 1}, s.rows)
		r.give(0, 0, "a", "a", "a+1") // again, as the checkpoint is before them
		r.wants("park 1 after 0")
		r.at("0: 0-3")
		if rows := r.parts[orders(0)].blocked["a"].rows; len(rows) != 2 || !isOpen(rows[0]) || !isOpen(rows[1]) {
			t.Errorf("the engine has the rows %+v", rows)
		}
		r.replay([]ledger.Key{{Partition: orders(0), Key: "a"}})
		pass(time.Hour)
		r.wants("1", "2", "3")
		s.wants(t)
	})
}
