package mdb_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
)

// A lossy store is one whose last messages a test takes away, as a failover to a standby
// does that has not received them.
type lossy struct {
	t    *testing.T
	url  string
	pool *pgxpool.Pool
	s    *mdb.Store
}

func newLossy(t *testing.T) *lossy {
	t.Helper()
	url := testdb.New(t)
	pool := newPool(t, url)
	return &lossy{t, url, pool, newStore(t, pool)}
}

// write writes n messages to three streams in turn, the second of which is selected by all
// filters.
func (l *lossy) write(n int) {
	l.t.Helper()
	exec(l.t, l.pool, l.writing(n))
}

func (l *lossy) writing(n int) string {
	return fmt.Sprintf(`SELECT message_store.write_message(gen_random_uuid()::varchar, 'account-' || i %% 3, CASE i %% 3 WHEN 1 THEN 'Selected' ELSE 'Foreign' END, '{}',
		jsonb_build_object('correlationStreamName', CASE i %% 3 WHEN 1 THEN 'origin-1' ELSE 'other-1' END)) FROM generate_series(0, %d) AS i`, n-1)
}

// lose takes away the last n messages, and their numbers, and writes others instead, in one
// transaction.
func (l *lossy) lose(n, others int) {
	l.t.Helper()
	tx := begin(l.t, l.pool)
	exec(l.t, tx, `LOCK TABLE message_store.messages`)
	exec(l.t, tx, `DELETE FROM message_store.messages WHERE global_position > (SELECT max(global_position) - $1 FROM message_store.messages)`, n)
	exec(l.t, tx, `SELECT setval('message_store.messages_global_position_seq', max(global_position)) FROM message_store.messages`)
	if others > 0 {
		exec(l.t, tx, l.writing(others))
	}
	if err := tx.Commit(l.t.Context()); err != nil {
		l.t.Fatal(err)
	}
}

// A subscriber records what a subscription is called with.
type subscriber struct {
	mu         sync.Mutex
	handled    []mdb.Message
	forks      []mdb.Fork
	checkpoint string
	texts      []string // of all checkpoints
	progress   []int64
	retries    []error
	end        context.CancelCauseFunc
	dropped    chan error
	onFork     func(mdb.Fork) error
	onMessage  func(context.Context, mdb.Message) error
}

func (r *subscriber) handle(ctx context.Context, m mdb.Message) (err error) {
	var f func(context.Context, mdb.Message) error
	if r.locked(func() { f = r.onMessage }); f != nil {
		err = f(ctx, m)
	}
	if err == nil {
		r.locked(func() { r.handled = append(r.handled, m) })
	}
	return err
}

func (r *subscriber) locked(f func()) { r.mu.Lock(); defer r.mu.Unlock(); f() }

// ids returns the IDs of the handled messages.
func (r *subscriber) ids() (ids []uuid.UUID) {
	r.locked(func() {
		for _, m := range r.handled {
			ids = append(ids, m.ID)
		}
	})
	return ids
}

// A forkKind is a kind of subscription.
type forkKind struct {
	name     string
	selected string // what it is delivered, in SQL
	stream   bool
	category []mdb.CategorySubscribeOption
	streamed []mdb.StreamSubscribeOption
}

func forkKinds() []forkKind {
	hash := mdb.Hash64("1")
	size := 2
	member := int(max(hash, -hash)) % size
	inGroup := func() string {
		var ids []string
		for i := range 3 {
			if h := mdb.Hash64(fmt.Sprint(i)); int(max(h, -h))%size == member {
				ids = append(ids, fmt.Sprintf("'account-%d'", i))
			}
		}
		return "stream_name IN (" + strings.Join(ids, ", ") + ")"
	}
	return []forkKind{
		{name: "plain", selected: "true"},
		{name: "workers", selected: "true", category: []mdb.CategorySubscribeOption{mdb.WithWorkers(3)}},
		{name: "group", selected: inGroup(), category: []mdb.CategorySubscribeOption{mdb.AsConsumerGroup(member, size)}},
		{name: "correlation", selected: "type = 'Selected'", category: []mdb.CategorySubscribeOption{mdb.WithCorrelation("origin")}},
		{name: "condition", selected: "type = 'Selected'", category: []mdb.CategorySubscribeOption{mdb.WithCondition("type = 'Selected'")}},
		{name: "stream", selected: "stream_name = 'account-1'", stream: true},
		{name: "stream with a condition", selected: "stream_name = 'account-1' AND position % 2 = 0", stream: true, streamed: []mdb.StreamSubscribeOption{mdb.WithCondition("position % 2 = 0")}},
	}
}

// start starts a subscription, from the checkpoint of an earlier one.
func (k forkKind) start(t *testing.T, s *mdb.Store, from string, opts ...mdb.SubscribeOption) *subscriber {
	t.Helper()
	r := &subscriber{dropped: make(chan error, 1), checkpoint: from}
	ctx, end := context.WithCancelCause(context.Background())
	r.end = end
	t.Cleanup(func() { end(errStopped) })
	keep := func(text fmt.Stringer, position int64) {
		r.locked(func() { r.checkpoint, r.progress = text.String(), append(r.progress, position) })
		r.locked(func() { r.texts = append(r.texts, r.checkpoint) })
	}
	opts = append(opts, mdb.OnFork(func(_ context.Context, f mdb.Fork) (err error) {
		r.locked(func() {
			r.forks = append(r.forks, f)
			if r.onFork != nil {
				err = r.onFork(f)
			}
		})
		return err
	}), mdb.OnRetry(func(retry mdb.Retry) { r.locked(func() { r.retries = append(r.retries, retry.Err) }) }))
	go func() {
		if k.stream {
			var c mdb.StreamCheckpoint
			if err := c.UnmarshalText([]byte(from)); err != nil {
				r.dropped <- err
				return
			}
			all := append(slices.Clone(k.streamed), mdb.AfterStreamCheckpoint(c),
				mdb.OnStreamProgress(func(_ context.Context, c mdb.StreamCheckpoint) error { keep(c, c.Position()); return nil }))
			for _, opt := range opts {
				all = append(all, opt)
			}
			r.dropped <- s.SubscribeToStream(ctx, "account-1", r.handle, all...)
			return
		}
		var c mdb.CategoryCheckpoint
		if err := c.UnmarshalText([]byte(from)); err != nil {
			r.dropped <- err
			return
		}
		all := append(slices.Clone(k.category), mdb.AfterCheckpoint(c),
			mdb.OnProgress(func(_ context.Context, c mdb.CategoryCheckpoint) error { keep(c, c.Position()); return nil }))
		for _, opt := range opts {
			all = append(all, opt)
		}
		r.dropped <- s.SubscribeToCategory(ctx, "account", r.handle, all...)
	}()
	return r
}

// stored returns the IDs of the messages that the kind selects.
func (l *lossy) stored(k forkKind) []uuid.UUID {
	l.t.Helper()
	return value[[]uuid.UUID](l.t, l.pool, `SELECT coalesce(array_agg(id ORDER BY global_position), '{}') FROM message_store.messages WHERE `+k.selected)
}

// end returns the position at which a subscription has handled everything. One that cannot
// see the table only moves with the messages that are selected.
func (l *lossy) end(k forkKind, tableless bool) int64 {
	l.t.Helper()
	where := "true"
	switch {
	case tableless:
		where = k.selected
	case k.stream:
		where = "stream_name = 'account-1'"
	}
	position := "global_position"
	if k.stream {
		position = "position"
	}
	return value[int64](l.t, l.pool, `SELECT max(`+position+`) FROM message_store.messages WHERE `+where)
}

// until waits until the subscription's last progress is the position.
func (r *subscriber) until(t *testing.T, db database, what string, position int64, ok func() bool) {
	t.Helper()
	var now []int64
	eventually(t, db, what, func() (yes bool) {
		select {
		case err := <-r.dropped:
			t.Fatalf("%s: the subscription ended: %v", what, err)
		default:
		}
		r.locked(func() {
			now = r.progress
			yes = len(now) > 0 && now[len(now)-1] == position && (ok == nil || ok())
		})
		return yes
	})
}

func (r *subscriber) stop(t *testing.T) {
	t.Helper()
	r.end(errStopped)
	select {
	case err := <-r.dropped:
		if !errors.Is(err, errStopped) {
			t.Errorf("got error %v, want %v", err, errStopped)
		}
	case <-time.After(testTimeout):
		t.Fatal("the subscription does not end")
	}
}

// A forkWay is a way to read, with what the role may do.
type forkWay struct {
	name      string
	role      func(t *testing.T, l *lossy) string
	opts      []mdb.StoreOption
	tableless bool
}

func forkWays() []forkWay {
	own := func(*testing.T, *lossy) string { return "" }
	return []forkWay{
		{"procedures", own, nil, false},
		{"direct", own, []mdb.StoreOption{mdb.WithDirectSQL()}, false},
		{"procedures alone", func(t *testing.T, l *lossy) string {
			exec(t, l.pool, `ALTER FUNCTION message_store.get_category_messages SECURITY DEFINER`)
			exec(t, l.pool, `ALTER FUNCTION message_store.get_stream_messages SECURITY DEFINER`)
			exec(t, l.pool, `ALTER FUNCTION message_store.stream_version SECURITY DEFINER`)
			return newRole(t, l.pool)
		}, nil, true},
	}
}

func (l *lossy) store(w forkWay, opts ...func(*pgxpool.Config)) *mdb.Store {
	l.t.Helper()
	pool := newPool(l.t, l.url, append(opts, asRole(w.role(l.t, l)))...)
	return newStore(l.t, pool, append(slices.Clone(w.opts), often, mdb.WithConditions())...)
}

// eachFork runs a test for each kind of subscription in each way, or if the tests are short, in
// one of the ways.
func eachFork(t *testing.T, test func(t *testing.T, l *lossy, w forkWay, k forkKind)) {
	t.Helper()
	ways := forkWays()
	for i, w := range ways {
		for j, k := range forkKinds() {
			if testing.Short() && j%len(ways) != i {
				continue
			}
			t.Run(w.name+", "+k.name, func(t *testing.T) {
				t.Parallel()
				test(t, newLossy(t), w, k)
			})
		}
	}
}

// missingIDs returns the IDs of a fork's missing messages.
func missingIDs(f mdb.Fork) []uuid.UUID {
	ids := []uuid.UUID{}
	for _, m := range f.Missing {
		ids = append(ids, m.ID)
	}
	return ids
}

// TestFork checks that a running subscription notices that the last messages are lost,
// whether fewer or more others take their positions: it is delivered all new messages once,
// and reports exactly those that it has handled and that are lost, once.
func TestFork(t *testing.T) {
	t.Parallel()
	eachFork(t, func(t *testing.T, l *lossy, w forkWay, k forkKind) {
		for _, batch := range []int{1, 1000} {
			for _, others := range []int{3, 12, 30} {
				exec(t, l.pool, `TRUNCATE message_store.messages RESTART IDENTITY`)
				l.write(30)
				s := l.store(w)
				r := k.start(t, s, "", mdb.WithBatchSize(batch))
				r.until(t, l.pool, "before the loss", l.end(k, w.tableless), nil)
				before := l.stored(k)
				l.lose(12, others)
				after := l.stored(k)
				kept := 0
				for kept < min(len(before), len(after)) && before[kept] == after[kept] {
					kept++
				}
				// With fewer messages than before, the last progress may have been the same.
				want := slices.Concat(before, after[kept:])
				r.until(t, l.pool, "after the loss", l.end(k, w.tableless), func() bool { return len(r.forks) > 0 && len(r.handled) >= len(want) })
				r.stop(t)
				got := r.ids()
				if k.name == "workers" { // which handle several streams concurrently
					slices.SortFunc(got, compareIDs)
					slices.SortFunc(want, compareIDs)
				}
				if !slices.Equal(got, want) {
					t.Errorf("batch %d, %d others: got %d messages, want %d", batch, others, len(got), len(want))
				}
				if len(r.forks) != 1 || !slices.Equal(missingIDs(r.forks[0]), before[kept:]) {
					t.Fatalf("batch %d, %d others: got forks %+v, want one with %v", batch, others, r.forks, before[kept:])
				}
				f := r.forks[0]
				if f.Category != "account" || f.Stream != map[bool]mdb.StreamName{true: "account-1"}[k.stream] || len(f.Missing) > 0 && f.After >= f.Missing[0].Position {
					t.Errorf("got fork %+v", f)
				}
				if got, want := s.Stats(), (mdb.Stats{Forks: 1, Missing: int64(len(f.Missing))}); got != want {
					t.Errorf("got stats %+v, want %+v", got, want)
				}
			}
		}
	})
}

func compareIDs(a, b uuid.UUID) int { return slices.Compare(a[:], b[:]) }

// TestForkOfCheckpoint checks the same for a subscription that starts from the checkpoint of
// an earlier one. It may be delivered again messages that are still there.
func TestForkOfCheckpoint(t *testing.T) {
	t.Parallel()
	eachFork(t, func(t *testing.T, l *lossy, w forkWay, k forkKind) {
		for _, others := range []int{0, 3, 30} {
			exec(t, l.pool, `TRUNCATE message_store.messages RESTART IDENTITY`)
			l.write(300)
			s := l.store(w)
			first := k.start(t, s, "", mdb.WithBatchSize(7))
			first.until(t, l.pool, "before the loss", l.end(k, w.tableless), nil)
			first.stop(t)
			before := l.stored(k)
			l.lose(12, others)
			after := l.stored(k)
			kept := 0
			for kept < min(len(before), len(after)) && before[kept] == after[kept] {
				kept++
			}
			r := k.start(t, s, first.checkpoint)
			r.until(t, l.pool, "after the loss", l.end(k, w.tableless), func() bool { return len(r.forks) > 0 })
			r.stop(t)
			// Nine times as far back as the loss, in positions.
			got := r.ids()
			slices.SortFunc(got, compareIDs)
			again := 0
			for _, id := range after {
				if _, found := slices.BinarySearchFunc(got, id, compareIDs); found {
					again++
				} else if again > 0 || slices.Contains(after[kept:], id) {
					t.Fatalf("%d others: message %v is not delivered", others, id)
				}
			}
			if again != len(got) || again > len(after)-kept+9*12 {
				t.Errorf("%d others: got %d messages, %d of them of %d in the store", others, len(got), again, len(after))
			}
			missing := missingIDs(r.forks[0])
			if len(r.forks) != 1 || len(before) > kept && k.name != "stream with a condition" && len(missing) == 0 {
				t.Fatalf("%d others: got forks %+v", others, r.forks)
			}
			for _, id := range missing {
				if slices.Contains(after, id) {
					t.Errorf("%d others: message %v is reported, and is in the store", others, id)
				}
			}
		}
	})
}

// TestLargestBatchSize checks that a subscription whose pages have no limit goes on after its
// first message.
func TestLargestBatchSize(t *testing.T) {
	t.Parallel()
	for _, w := range forkWays() {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			l := newLossy(t)
			l.write(3)
			s := l.store(w)
			category := receiveCategory(t, s, "account", mdb.WithBatchSize(math.MaxInt))
			stream := receiveStream(t, s, "account-1", mdb.WithBatchSize(math.MaxInt))
			category.next(t, 3)
			stream.next(t, 1)
			l.write(3)
			category.next(t, 3)
			stream.next(t, 1)
		})
	}
}

// TestForkWhileCut checks that a fork is noticed although the connection breaks while the page
// arrives that would show it: at many places of the answer, also after messages that are new.
func TestForkWhileCut(t *testing.T) {
	t.Parallel()
	eachFork(t, func(t *testing.T, l *lossy, w forkWay, k forkKind) {
		if k.name != "plain" && k.name != "group" && k.name != "stream" {
			return // these are read in the same ways
		}
		l.write(30)
		s := l.store(w)
		first := k.start(t, s, "")
		first.until(t, l.pool, "before the loss", l.end(k, w.tableless), nil)
		first.stop(t)
		l.lose(12, 40)
		var broken wire
		for _, eighths := range []int{8, 7, 6, 4, 2} {
			place := whole - 7
			if length := int(broken.answered.Load()); eighths < 8 {
				place = length * eighths / 8
			}
			s := l.store(w, broken.attach)
			broken.cut(cut{"account", place})
			r := k.start(t, s, first.checkpoint)
			r.until(t, l.pool, "after the loss", l.end(k, w.tableless), nil)
			r.stop(t)
			reads := slices.DeleteFunc(r.retries, func(err error) bool {
				return strings.Contains(err.Error(), "no connection") // as a busy machine may say
			})
			if broken.uncut() != 0 || len(reads) != 1 {
				t.Fatalf("cut at %d: got retries of reads %v, want 1", place, reads)
			}
			if len(r.forks) != 1 {
				t.Errorf("cut at %d: got %d forks, want 1", place, len(r.forks))
			}
			got := r.ids()
			for _, id := range l.stored(k) {
				if slices.Contains(first.ids(), id) {
					continue // it may be delivered again
				}
				if !slices.Contains(got, id) {
					t.Errorf("cut at %d: message %v is not delivered", place, id)
				}
			}
		}
	})
}

// TestForkOfEverything checks that a subscription ends, and does not wait for ever, if the
// store has none of the messages that it knows.
func TestForkOfEverything(t *testing.T) {
	t.Parallel()
	eachFork(t, func(t *testing.T, l *lossy, w forkWay, k forkKind) {
		for _, others := range []int{0, 3, 60} {
			exec(t, l.pool, `TRUNCATE message_store.messages RESTART IDENTITY`)
			l.write(30)
			s := l.store(w)
			r := k.start(t, s, "")
			r.until(t, l.pool, "before the loss", l.end(k, w.tableless), nil)
			handled := r.ids()
			exec(t, l.pool, `TRUNCATE message_store.messages RESTART IDENTITY`)
			if others > 0 {
				l.write(others)
			}
			select {
			case err := <-r.dropped:
				fork := wantError[*mdb.ForkError](t, err)
				if got := missingIDs(fork.Fork); !slices.Equal(got, handled) && k.name != "workers" || len(got) != len(handled) {
					t.Errorf("got %d missing messages, want %d", len(got), len(handled))
				}
				if len(r.forks) > 0 {
					t.Errorf("got %+v for OnFork, want nothing", r.forks)
				}
			case <-time.After(testTimeout):
				t.Fatal("the subscription does not end")
			}
			if others == 0 {
				continue // there is nothing to compare with, for a filter that lets nothing through
			}
			again := k.start(t, s, r.checkpoint)
			wantError[*mdb.ForkError](t, <-again.dropped)
		}
	})
}

// TestForkByDeletion checks that a subscription whose last message is deleted goes on with
// new ones, and that it does not notice the deletion of earlier ones.
func TestForkByDeletion(t *testing.T) {
	t.Parallel()
	eachFork(t, func(t *testing.T, l *lossy, w forkWay, k forkKind) {
		l.write(30)
		r := k.start(t, l.store(w), "")
		end := l.end(k, w.tableless)
		r.until(t, l.pool, "before the deletion", end, nil)
		position := "global_position"
		if k.stream {
			position = "position"
		}
		before := l.stored(k)
		exec(t, l.pool, `DELETE FROM message_store.messages WHERE `+position+` < 5`)
		l.write(3)
		r.until(t, l.pool, "after the first deletion", l.end(k, w.tableless), nil)
		if len(r.forks) > 0 {
			t.Errorf("got forks %+v, want none", r.forks)
		}
		after := l.stored(k)
		last := after[len(after)-1]
		var handled int
		r.locked(func() { handled = len(r.handled) })
		exec(t, l.pool, `DELETE FROM message_store.messages WHERE global_position >= (SELECT global_position FROM message_store.messages WHERE id = $1)`, last)
		l.write(30)
		r.until(t, l.pool, "after the second deletion", l.end(k, w.tableless), func() bool { return len(r.forks) > 0 && len(r.handled) > handled })
		r.stop(t)
		if got := missingIDs(r.forks[0]); len(r.forks) != 1 || !slices.Equal(got, []uuid.UUID{last}) {
			if k.name != "plain" && k.name != "workers" && k.name != "group" || !slices.Contains(got, last) {
				t.Errorf("got forks %+v, want one with %v", r.forks, last)
			}
		}
		got := r.ids()
		slices.SortFunc(got, compareIDs)
		if n := len(slices.Compact(slices.Clone(got))); n != len(got) {
			t.Errorf("got %d messages, %d of them again", len(got), len(got)-n)
		}
		for _, id := range slices.Concat(before, l.stored(k)) {
			if _, found := slices.BinarySearchFunc(got, id, compareIDs); !found {
				t.Errorf("message %v is not delivered", id)
			}
		}
	})
}

// TestForkOfTheSameID checks that a message with the known ID in the known place is another
// one if it was written at another time, as by an import or by a publisher that repeats it.
func TestForkOfTheSameID(t *testing.T) {
	t.Parallel()
	eachFork(t, func(t *testing.T, l *lossy, w forkWay, k forkKind) {
		l.write(30)
		r := k.start(t, l.store(w), "")
		r.until(t, l.pool, "before the loss", l.end(k, w.tableless), nil)
		all := l.stored(k)
		last := all[len(all)-1]
		exec(t, l.pool, `UPDATE message_store.messages SET time = time + interval '1 second'
			WHERE global_position >= (SELECT global_position FROM message_store.messages WHERE id = $1)`, last)
		eventually(t, l.pool, "a fork", func() (yes bool) {
			r.locked(func() { yes = len(r.forks) == 1 && len(r.handled) == len(all)+1 })
			return yes
		})
		r.stop(t)
		if got := missingIDs(r.forks[0]); !slices.Equal(got, []uuid.UUID{last}) || r.handled[len(all)].ID != last {
			t.Errorf("got forks %+v and %v again, want %v", r.forks, r.handled[len(all)].ID, last)
		}
	})
}

// TestForkOnStandby checks that a standby which does not have the last messages yet is waited
// for, unless it has others in their place.
func TestForkOnStandby(t *testing.T) {
	t.Parallel()
	eachFork(t, func(t *testing.T, l *lossy, w forkWay, k forkKind) {
		pretendStandby(t, l.pool, true)
		l.write(30)
		s := l.store(w, pretendedStandby)
		r := k.start(t, s, "")
		r.until(t, l.pool, "before the lag", l.end(k, w.tableless), nil)
		exec(t, l.pool, `CREATE TABLE public.later AS SELECT * FROM message_store.messages WHERE global_position > 20`)
		exec(t, l.pool, `DELETE FROM message_store.messages WHERE global_position > 20`)
		eventually(t, l.pool, "three retries", func() (yes bool) {
			r.locked(func() { yes = len(r.retries) >= 3 })
			return yes
		})
		exec(t, l.pool, `INSERT INTO message_store.messages SELECT * FROM public.later`)
		l.write(3)
		all := l.stored(k)
		r.until(t, l.pool, "after the lag", l.end(k, w.tableless), nil)
		if got := r.ids(); len(r.forks) > 0 || len(got) != len(all) {
			t.Fatalf("got forks %+v, %d messages, want none, %d", r.forks, len(got), len(all))
		}
		for _, err := range r.retries {
			if !strings.Contains(err.Error(), "standby") {
				t.Errorf("got retry %v", err)
			}
		}

		l.lose(6, 30)
		want := l.stored(k)
		r.until(t, l.pool, "after the loss", l.end(k, w.tableless), func() bool {
			return len(r.forks) == 1 && slices.ContainsFunc(r.handled, func(m mdb.Message) bool { return m.ID == want[len(want)-1] })
		})
		r.stop(t)
	})
}

// TestForkCallback checks that an error of OnFork ends the subscription.
func TestForkCallback(t *testing.T) {
	t.Parallel()
	l := newLossy(t)
	for _, k := range forkKinds()[:2] {
		exec(t, l.pool, `TRUNCATE message_store.messages RESTART IDENTITY`)
		l.write(30)
		r := k.start(t, l.store(forkWays()[0]), "")
		r.locked(func() { r.onFork = func(mdb.Fork) error { return errStopped } })
		r.until(t, l.pool, "before the loss", 30, nil)
		l.lose(3, 6)
		if h := wantError[*mdb.HandlerError](t, <-r.dropped); !errors.Is(h, errStopped) || len(r.handled) != 30 || h.Position != 30 {
			t.Errorf("got error %v after %d messages", h, len(r.handled))
		}
	}
}

// TestForkProgress checks that OnProgress receives the checkpoint to which a subscription goes
// back, before those of new messages.
func TestForkProgress(t *testing.T) {
	t.Parallel()
	l := newLossy(t)
	k := forkKinds()[0]
	l.write(30)
	r := k.start(t, l.store(forkWays()[0]), "")
	r.until(t, l.pool, "before the loss", 30, nil)
	l.lose(12, 3)
	r.until(t, l.pool, "after the loss", 21, nil)
	r.stop(t)
	n := len(r.progress)
	if n < 3 || !slices.Equal(r.progress[n-2:], []int64{18, 21}) || r.progress[n-3] != 30 {
		t.Errorf("got progress %v, want it to end with 30, 18, 21", r.progress)
	}
}

// TestAheadError checks that a subscription does not start from a position that the store has
// not reached, unless that cannot be known.
func TestAheadError(t *testing.T) {
	t.Parallel()
	l := newLossy(t)
	l.write(30)
	write(t, l.s, "quiet-1", mdb.NewMessage("Happened", nil)) // 31
	role := newRole(t, l.pool)
	exec(t, l.pool, `GRANT SELECT ON message_store.messages TO `+role)
	exec(t, l.pool, `ALTER FUNCTION message_store.get_category_messages SECURITY DEFINER`)
	pretendStandby(t, l.pool, true)
	h := func(context.Context, mdb.Message) error { return nil }
	for way, opts := range map[string][]mdb.StoreOption{"procedures": nil, "direct": {mdb.WithDirectSQL()}} {
		s := newStore(t, l.pool, opts...)
		err := s.SubscribeToCategory(t.Context(), "account", h, mdb.AfterGlobalPosition(32))
		if e := wantError[*mdb.AheadError](t, err); e.Category != "account" || e.Position != 32 || e.Last != 31 {
			t.Errorf("%s: got %+v", way, e)
		}
		for name, s := range map[string]*mdb.Store{
			"":           s,
			"a standby":  newStore(t, newPool(t, l.url, pretendedStandby), opts...),
			"a poor one": newStore(t, newPool(t, l.url, asRole(role)), opts...),
		} {
			from := int64(31) // beyond the category's last message, and not beyond the store's
			if name != "" {
				from = 1000
			}
			ctx, end := context.WithCancelCause(t.Context())
			live := mdb.OnLive(func(bool) { end(errStopped) })
			if err := s.SubscribeToCategory(ctx, "account", h, mdb.AfterGlobalPosition(from), live); !errors.Is(err, errStopped) {
				t.Errorf("%s, %s: got error %v", way, name, err)
			}
		}
	}
	exec(t, l.pool, `ALTER SEQUENCE message_store.messages_global_position_seq RESTART WITH 32`)
	ctx, end := context.WithCancelCause(t.Context())
	if err := l.s.SubscribeToCategory(ctx, "account", h, mdb.AfterGlobalPosition(31), mdb.OnLive(func(bool) { end(errStopped) })); !errors.Is(err, errStopped) {
		t.Errorf("a sequence that has no last number yet: got error %v", err)
	}
	err := l.s.SubscribeToCategory(t.Context(), "account", h, mdb.AfterGlobalPosition(32))
	if e := wantError[*mdb.AheadError](t, err); e.Last != 31 {
		t.Errorf("got %+v, want 31", e)
	}
	exec(t, l.pool, `TRUNCATE message_store.messages RESTART IDENTITY`)
	err = l.s.SubscribeToCategory(t.Context(), "account", h, mdb.AfterGlobalPosition(1))
	if e := wantError[*mdb.AheadError](t, err); e.Last != 0 {
		t.Errorf("got %+v, want 0", e)
	}
}

// TestAheadErrorOfStream checks that a subscription to a stream does not start after a position
// beyond the stream's last message, unless that cannot be known. Messages before the last one
// may be missing.
func TestAheadErrorOfStream(t *testing.T) {
	t.Parallel()
	l := newLossy(t)
	l.write(30) // positions 0 to 9 of account-1
	exec(t, l.pool, `DELETE FROM message_store.messages WHERE stream_name = 'account-1' AND position = 7`)
	role := newRole(t, l.pool)
	exec(t, l.pool, `ALTER FUNCTION message_store.get_stream_messages SECURITY DEFINER`)
	pretendStandby(t, l.pool, true)
	h := func(context.Context, mdb.Message) error { return nil }
	start := func(s *mdb.Store, stream mdb.StreamName, opts ...mdb.StreamSubscribeOption) error {
		ctx, end := context.WithCancelCause(t.Context())
		return s.SubscribeToStream(ctx, stream, h, append(opts, mdb.OnLive(func(bool) { end(errStopped) }))...)
	}
	for way, opts := range map[string][]mdb.StoreOption{"procedures": nil, "direct": {mdb.WithDirectSQL()}} {
		s := newStore(t, l.pool, opts...)
		e := wantError[*mdb.AheadError](t, start(s, "account-1", mdb.AfterPosition(10)))
		if *e != (mdb.AheadError{Category: "account", Stream: "account-1", Position: 10, Last: 9}) {
			t.Errorf("%s: got %+v", way, e)
		}
		e = wantError[*mdb.AheadError](t, start(s, "account-9", mdb.AfterPosition(0)))
		if e.Last != mdb.NoStream || mdb.IsTransient(e) {
			t.Errorf("%s: got %+v", way, e)
		}
		if err := start(s, "account-9", mdb.AfterPosition(0), mdb.RequireStream()); !errors.Is(err, mdb.ErrNoStream) {
			t.Errorf("%s: got error %v, want that of a stream without messages", way, err)
		}
		for _, from := range []int64{0, 7, 9} {
			if err := start(s, "account-1", mdb.AfterPosition(from)); !errors.Is(err, errStopped) {
				t.Errorf("%s, after %d: got error %v", way, from, err)
			}
		}
		standby := newStore(t, newPool(t, l.url, pretendedStandby), opts...)
		if err := start(standby, "account-1", mdb.AfterPosition(10)); !errors.Is(err, errStopped) {
			t.Errorf("%s, on a standby: got error %v", way, err)
		}
	}
	blind := newStore(t, newPool(t, l.url, asRole(role)))
	if err := start(blind, "account-1", mdb.AfterPosition(10)); !errors.Is(err, errStopped) {
		t.Errorf("without the table: got error %v", err)
	}
}

// TestAheadCheckpoint checks that a checkpoint which only has a position is treated like one:
// that of a subscription which has only passed a message that cannot be read.
func TestAheadCheckpoint(t *testing.T) {
	t.Parallel()
	l := newLossy(t)
	write(t, l.s, "account-1", mdb.NewMessage("Happened", map[string]any{"poison": "54000"}))
	unreadable(t, l.pool)
	var c mdb.CategoryCheckpoint
	keep := mdb.OnProgress(func(_ context.Context, at mdb.CategoryCheckpoint) error { c = at; return errStopped })
	pass := mdb.OnUnreadable(func(context.Context, *mdb.UnreadableError) error { return nil })
	h := func(context.Context, mdb.Message) error { return nil }
	if err := l.s.SubscribeToCategory(t.Context(), "account", h, pass, keep); !errors.Is(err, errStopped) || c.Position() != 1 {
		t.Fatalf("got checkpoint %d, error %v", c.Position(), err)
	}
	r := receiveCategory(t, l.s, "account", mdb.AfterCheckpoint(c))
	r.untilLive(t)
	r.stop(t)
	exec(t, l.pool, `TRUNCATE message_store.stored RESTART IDENTITY`)
	ctx, end := context.WithCancelCause(t.Context())
	err := l.s.SubscribeToCategory(ctx, "account", h, mdb.AfterCheckpoint(c), mdb.OnLive(func(bool) { end(errStopped) }))
	if e := wantError[*mdb.AheadError](t, err); e.Position != 1 || e.Last != 0 {
		t.Errorf("got %+v", e)
	}
}

// TestForkOfPosition checks that a subscription that starts from a position, or from the end,
// takes the message before it for the last known one.
func TestForkOfPosition(t *testing.T) {
	t.Parallel()
	for _, w := range forkWays()[:2] {
		l := newLossy(t)
		for name, opt := range map[string][2]mdb.SubscribeOption{
			"from the end":    {mdb.FromEnd(), mdb.FromEnd()},
			"from a position": {oneOf{StreamSubscribeOption: mdb.AfterPosition(9)}, oneOf{CategorySubscribeOption: mdb.AfterGlobalPosition(31)}},
		} {
			for i := range 2 {
				exec(t, l.pool, `TRUNCATE message_store.messages RESTART IDENTITY`)
				l.write(30)
				exec(t, l.pool, `SELECT nextval('message_store.messages_global_position_seq')`)
				s := l.store(w)
				var r *recipient
				if i == 0 {
					r = receiveStream(t, s, "account-1", opt[0])
				} else {
					r = receiveCategory(t, s, "account", opt[1])
				}
				r.untilLive(t)
				l.lose(6, 30)
				fork := wantError[*mdb.ForkError](t, <-r.dropped)
				if len(fork.Missing) > 1 {
					t.Errorf("%s, %s, %d: got %+v, want at most the last message", w.name, name, i, fork)
				}
			}
		}
	}
}

// TestForkOfForeignMessages checks that a filtered subscription moves with the last message of
// the category, selected or not, and notices that this one is lost: a message that is selected
// may take its place.
func TestForkOfForeignMessages(t *testing.T) {
	t.Parallel()
	eachFork(t, func(t *testing.T, l *lossy, w forkWay, k forkKind) {
		if w.tableless || k.name != "correlation" && k.name != "condition" {
			t.Skip("it does not move over messages that it leaves out")
		}
		l.write(30)
		r := k.start(t, l.store(w), "")
		r.until(t, l.pool, "before the loss", 30, nil)
		before := l.stored(k)
		tx := begin(t, l.pool)
		exec(t, tx, `DELETE FROM message_store.messages WHERE global_position = 30`)
		exec(t, tx, `SELECT setval('message_store.messages_global_position_seq', 29)`)
		exec(t, tx, strings.Replace(l.writing(2), "generate_series(0", "generate_series(1", 1))
		if err := tx.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		want := l.stored(k)
		if len(want) != len(before)+1 {
			t.Fatalf("got %d messages, want one more than %d", len(want), len(before))
		}
		eventually(t, l.pool, "the new message", func() (yes bool) {
			r.locked(func() { yes = len(r.handled) == len(want) && len(r.forks) == 1 })
			return yes
		})
		r.stop(t)
		if got := r.ids(); !slices.Equal(got, want) || len(r.forks[0].Missing) > 0 {
			t.Errorf("got %v, forks %+v", got, r.forks)
		}
	})
}

// TestForkBeforeThePage checks that a poll notices that history was lost and rewritten
// after the poll had begun, and before it read its page: the look at the anchor comes after
// the page.
func TestForkBeforeThePage(t *testing.T) {
	t.Parallel()
	l := newLossy(t)
	l.write(9)
	s := newStore(t, newPool(t, l.url, oneConnection))
	src, at := sourceAtEnd(t, s, "account")
	exec(t, l.pool, `DO $do$ BEGIN
	EXECUTE (SELECT regexp_replace(pg_get_functiondef(oid), '\mBEGIN\M', 'BEGIN PERFORM pg_advisory_xact_lock(4711);')
		FROM pg_proc WHERE oid = 'message_store.get_category_messages'::regproc);
END $do$`)
	hold := begin(t, newPool(t, l.url))
	exec(t, hold, `SELECT pg_advisory_xact_lock(4711)`)
	done := make(chan error, 1)
	go func() {
		page, err := src.Next(t.Context(), at, mdb.DefaultBatchSize)
		if err == nil && (!page.Forked || len(page.Gone) != 1) {
			err = fmt.Errorf("got %d messages, forked: %t, gone: %v, want a fork of one message", len(page.Messages), page.Forked, page.Gone)
		}
		done <- err
	}()
	until(t, l.pool, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory')`)
	exec(t, l.pool, `DELETE FROM message_store.messages WHERE global_position = $1`, at.Position)
	exec(t, l.pool, `SELECT setval('message_store.messages_global_position_seq', max(global_position)) FROM message_store.messages`)
	l.write(2)
	if err := hold.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}
