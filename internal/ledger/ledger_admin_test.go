package ledger_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/internal/names"
	"github.com/messagedb-go/messagedb/internal/testdb"
)

// shop is a consumer of two categories of its own, and what tests write to them.
type shop struct {
	*group
	one, two string
}

func newShop(t testing.TB) *shop {
	t.Helper()
	unique := strings.ReplaceAll(uuid.NewString(), "-", "")
	return &shop{newGroup(t), "a" + unique, "b" + unique}
}

// says writes a message, and returns its position.
func (s *shop) says(stream string) (position int64) {
	s.Helper()
	if _, err := s.Exec(s.Context(), `SELECT message_store.write_message($1, $2, 'Happened', '{}')`, uuid.NewString(), stream); err != nil {
		s.Fatal(err)
	}
	if err := s.QueryRow(s.Context(), `SELECT max(global_position) FROM message_store.messages WHERE stream_name = $1`, stream).Scan(&position); err != nil {
		s.Fatal(err)
	}
	return position
}

func (s *shop) seek(p ledger.SeekParams) []ledger.Sought {
	s.Helper()
	got, err := ledger.Seek(s.Context(), s, s.name, p)
	if err != nil {
		s.Fatal(err)
	}
	return got
}

func ref[T any](v T) *T { return &v }

// of returns the rows of a category.
func of(rows []ledger.Row, category string) (of []ledger.Row) {
	for _, r := range rows {
		if r.Category == category {
			of = append(of, r)
		}
	}
	return of
}

// wantFenced checks that the fence refuses moves and parks by rows that were changed, and replays of them.
func (s *shop) wantFenced(m ledger.Member, rows []ledger.Row) {
	s.Helper()
	for _, r := range rows {
		if err := s.send(func(b *pgx.Batch) { ledger.QueueMove(b, m, move(r, r.Position)) }); !ledger.IsFenced(err) {
			s.Errorf("move of %+v: got %v, want that the fence refuses it", r, err)
		}
		if err := s.park(m, r, ledger.Parked{Key: "9", Stream: s.one + "-9"}, ""); !ledger.IsFenced(err) {
			s.Errorf("park of %+v: got %v, want that the fence refuses it", r, err)
		}
	}
	tick := s.beat(m, moves(rows, 1<<40)...)
	equal(s.TB, "refused moves", len(tick.Refused), len(rows))
	released, err := ledger.Release(s.Context(), s, m, moves(rows, 1<<40))
	if err != nil || len(released) > 0 {
		s.Errorf("released %v, %v, want nothing", released, err)
	}
}

// TestPause checks that members see a pause by their ticks and balances, and that nothing else changes.
func TestPause(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	a := s.join(s.params(s.one))
	_, held := s.balance(a)
	changes := s.beat(a).Changes
	why := "a reason"
	for _, reason := range []*string{&why, nil} {
		if err := ledger.Pause(t.Context(), s, s.name, reason); err != nil {
			t.Fatal(err)
		}
		tick := s.beat(a, moves(held.Rows[:1], 0)...)
		b, _ := s.balance(a)
		if paused := reason != nil; tick.Paused != paused || b.Paused != paused || tick.Changes != changes || len(tick.Moved) != 1 {
			t.Errorf("got %+v and %+v, want paused: %t", tick, b, paused)
		}
	}
	wantCode(t, "no consumer", ledger.Pause(t.Context(), s, "nobody", &why), ledger.NoConsumer)
}

// TestSeek checks that a seek moves the checkpoints of the categories that it is for, for their members too, and that what
// these knew before is refused.
func TestSeek(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	first, second := s.says(s.one+"-1"), s.says(s.two+"-1")
	a, b := s.join(s.params(s.one, s.two)), s.params(s.one, s.two)
	s.balance(s.join(b))
	_, before := s.balance(a)
	changes := s.beat(a, ledger.Move{Partition: before.Rows[0].Partition, Epoch: before.Rows[0].Epoch, To: first, Anchor: ledger.Anchor{ID: s.anchor(first)}}).Changes

	got := s.seek(ledger.SeekParams{Categories: []string{s.one}, Position: ref(second)})
	equal(t, "what has changed", got, []ledger.Sought{{s.one, second, 0, first, 0}})
	after := s.read(a)
	equal(t, "the other category", of(after.Rows, s.two), of(before.Rows, s.two))
	for i, r := range of(after.Rows, s.one) {
		old := of(before.Rows, s.one)[i]
		if r.Epoch <= old.Epoch || r.Partition != old.Partition || r.Position != second || r.ID != uuid.Nil {
			t.Errorf("got %+v, want it at %d with a new epoch", r, second)
		}
	}
	s.wantFenced(a, of(before.Rows, s.one))
	if tick := s.beat(a, moves(after.Rows, second)...); tick.Changes == changes || len(tick.Moved) != len(after.Rows) {
		t.Errorf("got %+v, want a change, and that it can move", tick)
	}
	equal(t, "positions of all", query[[]int64](s.group, `SELECT array_agg(DISTINCT position) FROM message_store_consumers.checkpoints WHERE consumer = $1 AND category = $2`, s.one), []int64{second})

	got = s.seek(ledger.SeekParams{})
	equal(t, "to the end", got, []ledger.Sought{{s.one, first, second, second, 0}, {s.two, second, 0, second, 0}})
	got = s.seek(ledger.SeekParams{Position: ref(int64(0))})
	equal(t, "to the beginning", got, []ledger.Sought{{s.one, 0, first, first, 0}, {s.two, 0, second, second, 0}})

	for what, p := range map[string]ledger.SeekParams{
		ledger.Conflict: {Categories: []string{"none"}}, ledger.Ahead: {Position: ref(int64(1) << 60)},
	} {
		_, err := ledger.Seek(t.Context(), s, s.name, p)
		wantCode(t, "seek", err, what)
	}
	_, err := ledger.Seek(t.Context(), s, "nobody", ledger.SeekParams{})
	wantCode(t, "no consumer", err, ledger.NoConsumer)
}

// anchor returns the ID of a message.
func (s *shop) anchor(position int64) (id uuid.UUID) {
	s.Helper()
	return uuid.MustParse(query[string](s.group, `SELECT id::text FROM message_store.messages WHERE $1 > 0 AND global_position = $2`, position))
}

// TestSeekParked checks which streams remain parked: those whose messages are neither handled again nor skipped, or all,
// and that what remains is replayed from the position on.
func TestSeekParked(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		to   int // the number of the message
		keep bool
		want []string // key, position and the message of the global position
	}{
		{"back before all", 0, false, nil},
		{"back before all, kept", 0, true, []string{"1 0 @1", "2 0 @3", "3 5 @6 alone", "4 0 @7"}},
		{"between", 1, false, []string{"1 1 @2"}},
		{"between, kept", 1, true, []string{"1 1 @2", "2 0 @3", "3 5 @6 alone", "4 0 @7"}},
		{"where it is", 6, false, []string{"1 2 @1", "2 1 @5", "3 5 @6 alone"}},
		{"forward", 8, false, []string{"1 2 @1", "2 1 @5", "3 5 @6 alone"}},
		{"forward, kept", 8, true, []string{"1 2 @1", "2 1 @5", "3 5 @6 alone", "4 0 @7"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newShop(t)
			at := []int64{0}
			for _, key := range []int{1, 1, 2, 1, 2, 3, 4, 4} { // messages 1 to 8
				at = append(at, s.says(fmt.Sprintf("%s-%d", s.one, key)))
			}
			p := s.params(s.one)
			p.Partitions = 1
			m := s.join(p)
			_, held := s.balance(m)
			r := held.Rows[0]
			s.beat(m, move(r, at[6]))
			five := int64(5)
			for _, p := range []ledger.Parked{ // stream 1 was parked at its first message, and is replayed up to its second
				{Key: "1", Stream: s.one + "-1", Position: 2, GlobalPosition: at[1], Attempts: 3},
				{Key: "2", Stream: s.one + "-2", Position: 1, GlobalPosition: at[5], Attempts: 3},
				{Key: "3", Stream: s.one + "-3", Position: 5, Upto: &five, GlobalPosition: at[6], Attempts: 3},
				{Key: "4", Stream: s.one + "-4", Position: 0, GlobalPosition: at[7], Attempts: 3}, // the checkpoint has not passed it
			} {
				if err := s.park(m, r, p, "text"); err != nil {
					t.Fatal(err)
				}
			}
			got := s.seek(ledger.SeekParams{Position: ref(at[test.to]), Keep: test.keep})
			var left []string
			for _, p := range s.read(m).Parked {
				text := fmt.Sprintf("%s %d @%d", p.Key, p.Position, slices.Index(at, p.GlobalPosition))
				if p.Upto != nil {
					text += " alone"
				}
				left = append(left, text)
			}
			slices.Sort(left)
			equal(t, "parked", left, test.want)
			equal(t, "what has changed", got, []ledger.Sought{{s.one, at[test.to], at[6], at[6], int64(4 - len(left))}})
		})
	}
}

// TestSeekTime checks that no message of the time or later is left out, and that few older ones are not, although a message can be
// older than the one before it by up to the time of a write.
func TestSeekTime(t *testing.T) {
	t.Parallel()
	url := testdb.Consumers(t)
	owner := testdb.Session(t, url)
	random := rand.New(rand.NewPCG(19, 19))
	begin := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	const n, slack = 200, 60
	var times []time.Time
	for i := range n {
		at := begin.Add(time.Duration(10*i-random.IntN(slack)) * time.Second)
		category := [...]string{"some", "some", "other"}[random.IntN(3)]
		if category == "some" {
			times = append(times, at)
		} else {
			times = append(times, time.Time{})
		}
		if _, err := owner.Exec(t.Context(), `INSERT INTO message_store.messages (global_position, position, stream_name, type, id, time) VALUES ($1, $1, $2, 'Happened', gen_random_uuid(), $3)`,
			i+1, category+"-1", at); err != nil {
			t.Fatal(err)
		}
	}
	g := groupOn(t, url, func(*pgxpool.Config) {})
	g.join(g.params("some"))
	exact := 0
	for i := -10; i < n+10; i++ {
		at := begin.Add(time.Duration(10*i) * time.Second)
		got, err := ledger.Seek(t.Context(), g, g.name, ledger.SeekParams{Time: at, Slack: slack * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		position := got[0].Position
		for p, written := range times {
			switch {
			case written.IsZero():
			case int64(p+1) <= position && !written.Before(at):
				t.Fatalf("to %v: the position is %d, and message %d of %v is left out", at, position, p+1, written)
			case int64(p+1) > position && written.Before(at.Add(-2*slack*time.Second)):
				t.Fatalf("to %v: the position is %d, and message %d of %v is not left out", at, position, p+1, written)
			}
		}
		if position > 0 && int(position) < n && !times[position-1].IsZero() {
			exact++
		}
	}
	if exact < n/2 {
		t.Errorf("%d times are between messages, want more", exact)
	}
}

// TestSkipReplayed checks that a message which is not written yet is not skipped, where everything that waited is replayed.
func TestSkipReplayed(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	at := s.says(s.one + "-1")
	p := s.params(s.one)
	p.Partitions = 1
	m := s.join(p)
	_, held := s.balance(m)
	r := held.Rows[0]
	s.beat(m, move(r, at))
	if err := s.park(m, r, ledger.Parked{Key: "1", Stream: s.one + "-1", Position: 1}, ""); err != nil {
		t.Fatal(err)
	}
	for _, want := range []int64{0, 1} {
		if n, err := ledger.Skip(t.Context(), s, s.name, s.one+"-1", nil, false); err != nil || n != want {
			t.Errorf("got %d, %v, want %d", n, err, want)
		}
		s.says(s.one + "-1")
	}
}

// TestSkipNotPassed checks that a message that was parked alone is not skipped before the checkpoint has passed it: it would be handled again.
func TestSkipNotPassed(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	at := s.says(s.one + "-5")
	p := s.params(s.one)
	p.Partitions = 1
	m := s.join(p)
	_, held := s.balance(m)
	r := held.Rows[0]
	if err := s.park(m, r, ledger.Parked{Key: "5", Stream: s.one + "-5", Upto: new(int64), GlobalPosition: at, Attempts: 1}, ""); err != nil {
		t.Fatal(err)
	}
	skip := func() error {
		_, err := ledger.Skip(t.Context(), s, s.name, s.one+"-5", nil, false)
		return err
	}
	wantCode(t, "a member runs", skip(), ledger.Unstored) // which operators repeat
	s.exec(`UPDATE message_store_consumers.members SET seen = seen - 2 * lease WHERE consumer = $1`)
	wantCode(t, "no member runs", skip(), ledger.Conflict)
	s.beat(m, move(r, at))
	if err := skip(); err != nil {
		t.Errorf("got %v after the move", err)
	}
}

// TestSkip checks that a message is skipped, or all that wait for it, and that the rest is due. If nothing waits for it, the member sees
// by a new epoch that the key is not parked any more.
func TestSkip(t *testing.T) {
	t.Parallel()
	four := int64(4)
	for _, test := range []struct {
		name       string
		stream     string
		position   *int64
		everything bool
		n          int64
		want       []string
	}{
		{"a message", "-1", nil, false, 1, []string{"-1 3 due", "-1+2 0", "-5 4"}},
		{"a message at its position", "-1", ref(int64(2)), false, 1, []string{"-1 3 due", "-1+2 0", "-5 4"}},
		{"a message at another position", "-1", ref(int64(1)), false, 0, []string{"-1 2", "-1+2 0", "-5 4"}},
		{"a single message", "-5", nil, false, 1, []string{"-1 2", "-1+2 0"}},
		{"a stream that is not parked", "-3", nil, false, 0, []string{"-1 2", "-1+2 0", "-5 4"}},
		{"all that waits", "-1", nil, true, 2, []string{"-1 4 due", "-1+2 1 due", "-5 4"}},
		{"all that waits for another stream", "-1+2", nil, true, 2, []string{"-1 4 due", "-1+2 1 due", "-5 4"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newShop(t)
			var at int64
			for range 4 {
				s.says(s.one + "-1") // 0 to 3
			}
			at = s.says(s.one + "-1+2") // 0
			s.says(s.one + "-1")        // the checkpoint is before it
			p := s.params(s.one)
			p.Partitions = 1
			m := s.join(p)
			_, held := s.balance(m)
			r := held.Rows[0]
			s.beat(m, move(r, at))
			for _, p := range []ledger.Parked{
				{Key: "1", Stream: s.one + "-1", Position: 2, Attempts: 3},
				{Key: "1", Stream: s.one + "-1+2"},
				{Key: "5", Stream: s.one + "-5", Position: 4, Upto: &four, Attempts: 3},
			} {
				if err := s.park(m, r, p, "text"); err != nil {
					t.Fatal(err)
				}
			}
			changes := s.beat(m).Changes
			n, err := ledger.Skip(t.Context(), s, s.name, s.one+test.stream, test.position, test.everything)
			if err != nil || n != test.n {
				t.Errorf("got %d, %v, want %d", n, err, test.n)
			}
			after, ends := s.read(m), len(test.want) == 2
			if (after.Rows[0].Epoch > r.Epoch) != ends || (s.beat(m).Changes > changes) != ends {
				t.Errorf("got the epoch %d after %d, and changes, want new ones: %t", after.Rows[0].Epoch, r.Epoch, ends)
			}
			var left []string
			for _, p := range after.Parked {
				text := fmt.Sprintf("%s %d", strings.TrimPrefix(p.Stream, s.one), p.Position)
				if p.Due != nil {
					text += " due"
					equal(t, "attempts", []int{p.Attempts, p.Replays}, []int{0, 0})
				}
				left = append(left, text)
			}
			slices.Sort(left)
			equal(t, "parked", left, test.want)
		})
	}
	s := newShop(t)
	_, err := ledger.Skip(t.Context(), s, "nobody", "a-1", nil, false)
	wantCode(t, "no consumer", err, ledger.NoConsumer)
}

// TestPartitionOf checks that the server assigns keys to partitions as Message DB does with members of groups.
func TestPartitionOf(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	for i := range 300 {
		key, n := uuid.NewString()[:i%36], int64(i%70+1)
		var got int64
		if err := g.QueryRow(t.Context(), `SELECT message_store_consumers.partition_of($1, $2)`, key, n).Scan(&got); err != nil {
			t.Fatal(err)
		}
		if want := names.Member("a-"+key, n); got != want {
			t.Errorf("%q of %d: got %d, want %d", key, n, got, want)
		}
	}
}
