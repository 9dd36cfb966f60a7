package mdb_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// allPages reads all messages, page after page.
func allPages(t testing.TB, s *mdb.Store, opts ...mdb.AllOption) (all []mdb.Message) {
	t.Helper()
	for m, err := range s.AllMessages(t.Context(), opts...) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, m)
	}
	return all
}

// draw draws n positions that no message gets.
func draw(t testing.TB, db database, n int) {
	t.Helper()
	exec(t, db, `SELECT nextval('message_store.messages_global_position_seq') FROM generate_series(1, $1)`, n)
}

// eachWay runs a test on a store of its own, by procedures and by direct SQL. open deletes all
// messages, and opens a Store that does not know what was final.
func eachWay(t *testing.T, test func(t *testing.T, open func() *mdb.Store)) {
	t.Helper()
	for way, opts := range map[string][]mdb.StoreOption{"procedures": nil, "direct": {mdb.WithDirectSQL()}} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			pool := newPool(t, testdb.New(t))
			test(t, func() *mdb.Store {
				exec(t, pool, `TRUNCATE message_store.messages RESTART IDENTITY`)
				return newStore(t, pool, append(opts, often)...)
			})
		})
	}
}

// TestGetAllMessages checks that all categories are read in the order of global positions, from
// any position, in pages of any size, with gaps between them.
func TestGetAllMessages(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, open func() *mdb.Store) {
		s := open()
		if got := allPages(t, s); len(got) > 0 {
			t.Errorf("got %d messages of an empty store", len(got))
		}
		var want []int64
		for i := range 60 {
			w := write(t, s, mdb.StreamName(fmt.Sprintf("category%d-%d", i%7, i%3)), mdb.NewMessage("Happened", map[string]int{"n": i}))
			want = append(want, w.GlobalPosition)
			if i%10 == 4 {
				draw(t, s.Pool(), i)
			}
		}
		head, err := s.Head(t.Context())
		if last := want[len(want)-1]; err != nil || head != last {
			t.Errorf("got the head %d, %v, want %d", head, err, last)
		}
		draw(t, s.Pool(), 5)
		if got, err := s.Head(t.Context()); err != nil || got != head+5 {
			t.Errorf("got the head %d, %v, want %d", got, err, head+5)
		}
		for _, size := range []int{1, 7, 60, 1000} {
			if got := globalPositions(allPages(t, s, mdb.WithBatchSize(size))); !slices.Equal(got, want) {
				t.Errorf("pages of %d: got %d, want %d", size, got, want)
			}
		}
		for from := range head + 7 {
			i, _ := slices.BinarySearch(want, from)
			if got := globalPositions(allPages(t, s, mdb.FromGlobalPosition(from))); !slices.Equal(got, want[i:]) {
				t.Errorf("from %d: got %d, want %d", from, got, want[i:])
			}
		}
		page, err := s.GetAllMessages(t.Context(), mdb.AfterGlobalPosition(want[3]), mdb.WithBatchSize(2))
		if err != nil || !slices.Equal(globalPositions(page), want[4:6]) || string(page[0].Data) != `{"n": 4}` || page[0].Stream != "category4-1" {
			t.Errorf("got %v, %v", page, err)
		}
	})
}

// TestAllFilters checks the filters by category and by type, alone and together, against a
// selection of what is there, from every position and in pages of several sizes.
func TestAllFilters(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, open func() *mdb.Store) {
		s := open()
		for i := range 80 {
			write(t, s, mdb.StreamName(fmt.Sprintf("c%d-1", i*i%5)), mdb.NewMessage(fmt.Sprintf("Type%d", i*i*i%7), map[string]int{"n": i}))
			if i%9 == 0 {
				draw(t, s.Pool(), 3)
			}
		}
		all := allPages(t, s)
		for _, test := range []struct {
			categories []mdb.Category
			types      []string
		}{
			{[]mdb.Category{"c0"}, nil},
			{[]mdb.Category{"c4", "c0", "c4", "nothing"}, nil},
			{[]mdb.Category{"nothing", "c"}, nil},
			{nil, []string{"Type1"}},
			{nil, []string{"Type6", "Type0", "None"}},
			{nil, []string{"None"}},
			{[]mdb.Category{"c1", "c4"}, []string{"Type1", "Type6"}},
			{[]mdb.Category{"c1"}, []string{"None"}},
		} {
			opts := mdb.AllOptions{}
			if test.categories != nil {
				opts = append(opts, mdb.InCategories(test.categories...))
			}
			if test.types != nil {
				opts = append(opts, mdb.OfTypes(test.types...))
			}
			var want []mdb.Message
			for _, m := range all {
				if (test.categories == nil || slices.Contains(test.categories, m.Stream.Category())) && (test.types == nil || slices.Contains(test.types, m.Type)) {
					want = append(want, m)
				}
			}
			for _, size := range []int{1, 3, 1000} {
				got := allPages(t, s, opts, mdb.WithBatchSize(size))
				if !slices.EqualFunc(got, want, func(a, b mdb.Message) bool {
					return a.ID == b.ID && a.GlobalPosition == b.GlobalPosition && string(a.Data) == string(b.Data)
				}) {
					t.Errorf("%v, pages of %d: got %d, want %d", test, size, globalPositions(got), globalPositions(want))
				}
			}
			for from := range all[len(all)-1].GlobalPosition + 2 {
				i := slices.IndexFunc(want, func(m mdb.Message) bool { return m.GlobalPosition >= from })
				if i < 0 {
					i = len(want)
				}
				if got := allPages(t, s, opts, mdb.FromGlobalPosition(from), mdb.WithBatchSize(4)); !slices.Equal(globalPositions(got), globalPositions(want[i:])) {
					t.Errorf("%v from %d: got %d, want %d", test, from, globalPositions(got), globalPositions(want[i:]))
				}
			}
		}
	})
}

// TestAllOfRareType checks that a type that no statement finds in what it looks at is found.
func TestAllOfRareType(t *testing.T) {
	t.Parallel()
	s := newStore(t, newPool(t, testdb.New(t)))
	exec(t, s.Pool(), `INSERT INTO message_store.messages (stream_name, type, position, data)
SELECT 'c' || i % 2 || '-1', CASE WHEN i % 14000 = 0 THEN 'Rare' ELSE 'Common' END, i, '{}' FROM generate_series(1, 30000) AS i`)
	for _, opts := range []mdb.AllOptions{
		{mdb.OfTypes("Rare")},
		{mdb.OfTypes("Rare"), mdb.InCategories("c0")},
		{mdb.OfTypes("Rare"), mdb.InCategories("c0", "c1", "c2")},
	} {
		if got := globalPositions(allPages(t, s, opts)); !slices.Equal(got, []int64{14000, 28000}) {
			t.Errorf("got %d", got)
		}
		page, err := s.GetAllMessages(t.Context(), opts, mdb.AfterGlobalPosition(14000), mdb.WithBatchSize(1))
		if err != nil || len(page) != 1 || page[0].Type != "Rare" {
			t.Errorf("got %v, %v", page, err)
		}
	}
}

// TestAllWaits checks that a read does not pass over a position that an open transaction has
// drawn: it returns what comes before it, and then waits, and is not delayed by a position that
// was rolled back.
func TestAllWaits(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, open func() *mdb.Store) {
		for _, commits := range []bool{true, false} {
			for _, opts := range []mdb.AllOptions{nil, {mdb.OfTypes("Happened")}, {mdb.InCategories("fast", "slow")}} {
				s := open()
				first := write(t, s, "fast-1", mdb.NewMessage("Happened", nil)).GlobalPosition
				tx := begin(t, s.Pool())
				slow := write(t, s.WithTx(tx), "slow-1", mdb.NewMessage("Happened", nil)).GlobalPosition
				last := write(t, s, "fast-1", mdb.NewMessage("Happened", nil)).GlobalPosition

				soon, end := context.WithTimeout(t.Context(), testTimeout)
				page, err := s.GetAllMessages(soon, opts)
				end()
				if err != nil || !slices.Equal(globalPositions(page), []int64{first}) {
					t.Fatalf("got %d, %v, want what comes before the open transaction", globalPositions(page), err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				result := make(chan error, 2)
				read := func(ctx context.Context) []int64 {
					page, err := s.GetAllMessages(ctx, opts, mdb.AfterGlobalPosition(first))
					result <- err
					return globalPositions(page)
				}
				go read(ctx)
				looking(t, s.Pool())
				cancel()
				if err := <-result; !errors.Is(err, context.Canceled) {
					t.Errorf("got %v", err)
				}
				got := make(chan []int64)
				go func() { got <- read(t.Context()) }()
				looking(t, s.Pool())
				want := []int64{last}
				if commits {
					want = []int64{slow, last}
					if err := tx.Commit(t.Context()); err != nil {
						t.Fatal(err)
					}
				} else if err := tx.Rollback(t.Context()); err != nil {
					t.Fatal(err)
				}
				if positions := <-got; !slices.Equal(positions, want) {
					t.Errorf("got %d, want %d", positions, want)
				}
				if err := <-result; err != nil {
					t.Error(err)
				}
			}
		}
	})
}

// TestAllEndsWhileATransactionIsOpen checks that a read of all that is visible ends, although a
// transaction has drawn the position after it.
func TestAllEndsWhileATransactionIsOpen(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, open func() *mdb.Store) {
		s := open()
		first := write(t, s, "fast-1", mdb.NewMessage("Happened", nil)).GlobalPosition
		write(t, s.WithTx(begin(t, s.Pool())), "slow-1", mdb.NewMessage("Happened", nil))
		ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
		defer cancel()
		for i, opts := range []mdb.AllOptions{nil, {mdb.InCategories("fast", "slow")}, {mdb.OfTypes("Happened")}, {mdb.OfTypes("None")}} {
			want := []int64{first}
			if i == 3 {
				want = nil
			}
			var got []int64
			for m, err := range s.AllMessages(ctx, opts) {
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, m.GlobalPosition)
			}
			if !slices.Equal(got, want) {
				t.Errorf("%d: got %d, want %d", i, got, want)
			}
		}
	})
}

// looking waits until a session executes a look of a barrier, after the call.
func looking(t testing.TB, db database) {
	t.Helper()
	now := value[time.Time](t, db, `SELECT clock_timestamp()`)
	until(t, db, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
	AND query LIKE '%string_to_array($1::text%' AND pid <> pg_backend_pid() AND query_start > $1)`, now)
}

// TestAllRefuses checks that a server which does not show what is final is not read, and that
// the error says what to do.
func TestAllRefuses(t *testing.T) {
	t.Parallel()
	pool := newPool(t, testdb.New(t))
	s := newStore(t, pool)
	const sequence = `ALTER SEQUENCE message_store.messages_global_position_seq `
	refuse := func(s *mdb.Store, remedy string) {
		t.Helper()
		_, get := s.GetAllMessages(t.Context())
		_, head := s.Head(t.Context())
		subscribe := s.SubscribeToAll(t.Context(), func(context.Context, mdb.Message) error { return nil })
		for _, err := range []error{get, head, subscribe} {
			if setup := wantError[*mdb.SetupError](t, err); !strings.Contains(setup.Remedy, remedy) {
				t.Errorf("got %v, want the remedy %s", setup, remedy)
			}
		}
	}
	for change, undo := range map[string]string{"CACHE 5": "CACHE 1", "CYCLE": "NO CYCLE", "INCREMENT BY -1 MINVALUE -9": "INCREMENT BY 1"} {
		exec(t, pool, sequence+change)
		refuse(s, undo)
		exec(t, pool, sequence+undo)
	}
	if page, err := s.GetAllMessages(t.Context()); err != nil || len(page) > 0 {
		t.Errorf("got %v, %v", page, err)
	}
	exec(t, pool, sequence+"INCREMENT BY 10")
	for range 3 {
		write(t, s, "account-1", mdb.NewMessage("Happened", nil))
	}
	if got := allPages(t, s); len(got) != 3 {
		t.Errorf("got %d messages with INCREMENT BY 10, want 3", len(got))
	}

	role := newRole(t, pool)
	denied := newStore(t, newPool(t, pool.Config().ConnString(), asRole(role)))
	_, err := denied.GetAllMessages(t.Context())
	if setup := wantError[*mdb.SetupError](t, err); !strings.Contains(setup.Remedy, "GRANT message_store") {
		t.Errorf("got %v", setup)
	}

	exec(t, pool, `SELECT setval('message_store.messages_global_position_seq', 1)`)
	_, err = s.GetAllMessages(t.Context(), mdb.AfterGlobalPosition(5))
	if setup := wantError[*mdb.SetupError](t, err); !strings.Contains(setup.Remedy, "setval") {
		t.Errorf("got %v", setup)
	}

	pretendStandby(t, pool, true)
	standby := newStore(t, newPool(t, pool.Config().ConnString(), pretendedStandby))
	for _, call := range []func() error{
		func() error { _, err := standby.GetAllMessages(t.Context()); return err },
		func() error { _, err := standby.Head(t.Context()); return err },
	} {
		if setup := wantError[*mdb.SetupError](t, call()); !strings.Contains(setup.Remedy, "primary") {
			t.Errorf("got %v", setup)
		}
	}
}

// newShard returns a pool of a database that is a shard.
func newShard(t testing.TB, number int, prepare ...func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	pool := newPool(t, testdb.New(t), prepare...)
	if err := schema.InstallShard(t.Context(), pool, number); err != nil {
		t.Fatal(err)
	}
	return pool
}

// moved inserts messages as they come from another shard.
func moved(t testing.TB, db database, positions ...int64) {
	t.Helper()
	exec(t, db, `INSERT INTO message_store.messages (global_position, stream_name, type, position) SELECT p, 'moved-' || p, 'Happened', 0 FROM unnest($1::bigint[]) AS p`, positions)
}

// TestAllOfShard checks that the positions which a shard cannot use are not missing: they cost no barrier, whether there are
// messages between them that come from other shards or not. Those that are missing are waited for.
func TestAllOfShard(t *testing.T) {
	t.Parallel()
	for _, number := range []int{0, 1, 5, 1023} {
		t.Run(strconv.Itoa(number), func(t *testing.T) {
			t.Parallel()
			var w wire
			pool := newShard(t, number, oneConnection, w.attach)
			s := newStore(t, pool, often)
			start := int64(number)
			if number == 0 {
				start = schema.ShardStride
			}
			for i := range 20 {
				write(t, s, mdb.StreamName(fmt.Sprintf("c%d-1", i%3)), mdb.NewMessage("Happened", nil))
			}
			moved(t, pool, start+1, start+2, start+7, start+1024*3-1, start+1024*3+1, start+1024*18+1)
			allPages(t, s, mdb.WithBatchSize(5)) // prepares, as the next call does
			if _, err := s.Head(t.Context()); err != nil {
				t.Fatal(err)
			}
			// Of this store nothing is final. Its first call looks at the search path.
			s = newStore(t, pool, often)
			if _, err := s.StreamVersion(t.Context(), "c1-1"); err != nil {
				t.Fatal(err)
			}
			trips := w.trips.Load()
			if got := allPages(t, s, mdb.WithBatchSize(5)); len(got) != 26 {
				t.Errorf("got %d messages, want 26", len(got))
			}
			if n := w.trips.Load() - trips; n != 7 {
				t.Errorf("got %d round trips for six pages and an empty one, want 7", n)
			}
			draw(t, pool, 1)
			last := write(t, s, "c1-1", mdb.NewMessage("Happened", nil)).GlobalPosition
			moved(t, pool, last-2, last-1)
			trips = w.trips.Load()
			page, err := s.GetAllMessages(t.Context(), mdb.AfterGlobalPosition(start+1024*19))
			if want := []int64{last - 2, last - 1, last}; err != nil || !slices.Equal(globalPositions(page), want) {
				t.Errorf("got %d, %v, want %d", globalPositions(page), err, want)
			}
			if n := w.trips.Load() - trips; n != 3 {
				t.Errorf("got %d round trips for a page, a barrier and the page, want 3", n)
			}
		})
	}
}

// TestAllOfShardWaits checks that a read of a shard does not pass over a position of an open transaction, also one that follows
// messages which come from another shard, and that a filter finds what follows without a gap.
func TestAllOfShardWaits(t *testing.T) {
	t.Parallel()
	for _, opts := range []mdb.AllOptions{nil, {mdb.OfTypes("Happened")}, {mdb.InCategories("fast", "slow", "moved")}} {
		pool := newShard(t, 3)
		s := newStore(t, pool, often)
		var before []int64
		for range 3 {
			before = append(before, write(t, s, "fast-1", mdb.NewMessage("Happened", nil)).GlobalPosition)
		}
		tx := begin(t, pool)
		slow := write(t, s.WithTx(tx), "slow-1", mdb.NewMessage("Happened", nil)).GlobalPosition
		moved(t, pool, slow-1000, slow-1)
		before = append(before, slow-1000, slow-1)
		last := write(t, s, "fast-1", mdb.NewMessage("Happened", nil)).GlobalPosition
		moved(t, pool, last-1)

		page, err := s.GetAllMessages(t.Context(), opts)
		if err != nil || !slices.Equal(globalPositions(page), before) {
			t.Fatalf("got %d, %v, want %d, which come before the open transaction", globalPositions(page), err, before)
		}
		got := make(chan []int64, 1)
		go func() {
			page, err := s.GetAllMessages(t.Context(), opts, mdb.AfterGlobalPosition(slow-1))
			if err != nil {
				t.Error(err)
			}
			got <- globalPositions(page)
		}()
		looking(t, pool)
		if err := tx.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		if positions, want := <-got, []int64{slow, last - 1, last}; !slices.Equal(positions, want) {
			t.Errorf("got %d, want %d", positions, want)
		}
	}
}

// TestAllAfterSetval checks that every position may be missing where the sequence has left those of the shard.
func TestAllAfterSetval(t *testing.T) {
	t.Parallel()
	pool := newShard(t, 3)
	s := newStore(t, pool, often)
	first := write(t, s, "fast-1", mdb.NewMessage("Happened", nil)).GlobalPosition
	exec(t, pool, `SELECT setval('message_store.messages_global_position_seq', $1)`, first+10)
	tx := begin(t, pool)
	write(t, s.WithTx(tx), "slow-1", mdb.NewMessage("Happened", nil))
	write(t, s, "fast-1", mdb.NewMessage("Happened", nil))
	page, err := s.GetAllMessages(t.Context(), mdb.AfterGlobalPosition(first-1))
	if err != nil || !slices.Equal(globalPositions(page), []int64{first}) {
		t.Errorf("got %d, %v, want %d", globalPositions(page), err, first)
	}
}

// TestAllRoundTrips checks that a page of what is final is one round trip, and that a page
// after a gap makes one barrier for all that follow.
func TestAllRoundTrips(t *testing.T) {
	t.Parallel()
	var w wire
	s := newStore(t, newPool(t, testdb.New(t), oneConnection, w.attach))
	for i := range 20 {
		write(t, s, mdb.StreamName(fmt.Sprintf("c%d-1", i%3)), mdb.NewMessage("Happened", nil))
		draw(t, s.Pool(), i%2)
	}
	allPages(t, s, mdb.WithBatchSize(5)) // prepares
	trips := w.trips.Load()
	if got := allPages(t, s, mdb.WithBatchSize(5)); len(got) != 20 {
		t.Errorf("got %d messages", len(got))
	}
	if n := w.trips.Load() - trips; n != 5 {
		t.Errorf("got %d round trips for four pages and an empty one, want 5", n)
	}
	draw(t, s.Pool(), 1)
	write(t, s, "c1-1", mdb.NewMessage("Happened", nil))
	trips = w.trips.Load()
	page, err := s.GetAllMessages(t.Context(), mdb.AfterGlobalPosition(30))
	if err != nil || len(page) != 1 {
		t.Errorf("got %v, %v", page, err)
	}
	if n := w.trips.Load() - trips; n != 3 {
		t.Errorf("got %d round trips for a page, a barrier and the page, want 3", n)
	}
}

// TestAllUnreadable checks that a message that cannot be read is named after those before it,
// also with a filter, and can be skipped.
func TestAllUnreadable(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, open func() *mdb.Store) {
		s := open()
		for i := range 6 {
			data := `'{}'`
			if i == 3 {
				data = `'{"poison": "54000"}'`
			}
			insert(t, s.Pool(), mdb.StreamName(fmt.Sprintf("c%d-1", i%2)), i, "Happened", data, `'{}'`)
			draw(t, s.Pool(), 2)
		}
		positions := globalPositions(allPages(t, s))
		unreadable(t, s.Pool())
		for _, opts := range []mdb.AllOptions{nil, {mdb.OfTypes("Happened")}, {mdb.InCategories("c0", "c1")}, {mdb.InCategories("c1"), mdb.OfTypes("Happened")}} {
			before, after := 3, 2
			if len(opts) == 2 {
				before, after = 1, 1
			}
			page, err := s.GetAllMessages(t.Context(), opts)
			unreadable := wantError[*mdb.UnreadableError](t, err)
			if len(page) != before || unreadable.GlobalPosition != positions[3] || unreadable.Stream != "c1-1" || unreadable.Type != "Happened" {
				t.Errorf("got %d messages, then %v", len(page), unreadable)
			}
			page, err = s.GetAllMessages(t.Context(), opts, mdb.AfterGlobalPosition(unreadable.GlobalPosition))
			if err != nil || len(page) != after {
				t.Errorf("got %d messages after it, %v", len(page), err)
			}
		}
	})
}

// TestAllModes checks reads in all modes of pgx, and with a stricter isolation level.
func TestAllModes(t *testing.T) {
	t.Parallel()
	url := testdb.New(t)
	for _, mode := range execModes {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			s := newStore(t, newPool(t, url, execMode(mode), parameter("default_transaction_isolation", "serializable")))
			write(t, s, "account-1", mdb.NewMessage("Happened", nil))
			draw(t, s.Pool(), 2)
			write(t, s, "order-1", mdb.NewMessage("Happened", nil))
			for _, opts := range []mdb.AllOptions{nil, {mdb.InCategories("order")}, {mdb.OfTypes("Happened")}, {mdb.OfTypes("Happened"), mdb.InCategories("order")}} {
				if got := allPages(t, s, opts); len(got) == 0 || got[len(got)-1].Type != "Happened" {
					t.Errorf("got %v", got)
				}
			}
		})
	}
}

// TestAllRestart checks that what was final on a server is not on the next one.
func TestAllRestart(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	server := pgtest.Own(t)
	pool := newPool(t, server.URL("postgres"))
	install(t, pool)
	s := newStore(t, pool)
	for range 3 {
		write(t, s, "account-1", mdb.NewMessage("Happened", nil))
	}
	if _, err := s.Head(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := server.Restart("fast"); err != nil {
		t.Fatal(err)
	}
	pool.Reset()
	if got := globalPositions(allPages(t, s)); !slices.Equal(got, []int64{1, 2, 3}) {
		t.Errorf("got %d", got)
	}
}
