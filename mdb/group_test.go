package mdb_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// TestGroup checks that writes that wait are sent in one round trip and one transaction, and
// that a write that finds no other one is sent alone.
func TestGroup(t *testing.T) {
	t.Parallel()
	onGroups(t, func(t *testing.T, way ...mdb.StoreOption) {
		var w wire
		s := newStore(t, groupPool(t, w.attach, oneConnection), way...)
		category := mdbtest.Category("group")
		writeGroup := func() (trips int64) {
			t.Helper()
			release := mdb.HoldTurn(s, category)
			var queue []*queued
			for i := range 4 {
				queue = append(queue, enqueue(t, s, category.Stream(fmt.Sprint(i)), proposals(1+i%2)))
			}
			before := w.trips.Load()
			release()
			first, err := queue[0].result(t)
			if err != nil {
				t.Fatal(err)
			}
			for _, q := range queue[1:] {
				written, err := q.result(t)
				if err != nil || written[0].Time != first[0].Time {
					t.Errorf("got %+v, error %v, want the time %v of the transaction", written, err, first[0].Time)
				}
			}
			return w.trips.Load() - before
		}
		write(t, s, category.Stream("0"), mdb.NewMessage("Happened", nil))
		writeGroup() // prepares the statement
		if n := writeGroup(); n != 1 {
			t.Errorf("a group: got %d round trips, want 1", n)
		}
		before := w.trips.Load()
		write(t, s, category.Stream("0"), mdb.NewMessage("Happened", nil))
		if n := w.trips.Load() - before; n != 1 {
			t.Errorf("a write that finds no other: got %d round trips, want 1", n)
		}
		wantNoGroups(t, s)
	})
}

// TestGroupContexts checks that the end of a context ends only its own call: with the context's
// error while the write waits, and with an unknown outcome once it has been sent. The group
// goes on, with the bytes that it was given.
func TestGroupContexts(t *testing.T) {
	t.Parallel()
	url := refusing(t)
	onGroups(t, func(t *testing.T, way ...mdb.StoreOption) {
		holder := newStore(t, newPool(t, url))
		s := newStore(t, newPool(t, url, connections(20)), way...)
		category := mdbtest.Category("contexts")
		unlock := holdLock(t, holder, category)
		ctx, cancel := context.WithCancel(t.Context())
		first := make(chan error, 1)
		go func() {
			_, err := s.WriteMessage(ctx, category.Stream("first"), mdb.NewMessage("Happened", nil))
			first <- err
		}()
		untilBlocked(t, holder.Pool(), category, 1)
		data := json.RawMessage(`{"n": 1}`)
		sent := enqueue(t, s, category.Stream("sent"), []mdb.ProposedMessage{mdb.NewMessage("Happened", data)})
		other := enqueue(t, s, category.Stream("other"), proposals(1))
		// The server refuses it, so that the group is sent once more.
		refused := enqueue(t, s, category.Stream("refused"), []mdb.ProposedMessage{mdb.NewMessage(refusedType, nil)})
		waits := enqueue(t, s, category.Stream("waits"), proposals(1))
		waits.cancel()
		if _, err := waits.result(t); !errors.Is(err, context.Canceled) || isUnknown(err) {
			t.Errorf("a write that waits: got error %v, want that of the context", err)
		}
		cancel()
		if err := <-first; !isUnknown(err) || !errors.Is(err, context.Canceled) {
			t.Errorf("the write that others wait for: got error %v, want an unknown outcome", err)
		}
		inTime(t, "the group is sent", func() bool { return mdb.Waiting(s, category) == 0 })
		untilBlocked(t, holder.Pool(), category, 1)
		until(t, holder.Pool(), `SELECT coalesce(bool_or(query LIKE '%acquire_lock%'), false) FROM pg_stat_activity JOIN pg_locks USING (pid) WHERE NOT granted AND `+keyLocks, mdb.Hash64(string(category)))
		sent.cancel()
		if _, err := sent.result(t); !isUnknown(err) || !errors.Is(err, context.Canceled) {
			t.Errorf("a write that was sent: got error %v, want an unknown outcome", err)
		}
		copy(data, `{"n": 2}`) // the caller may use it again
		late := enqueue(t, s, category.Stream("late"), proposals(1))
		closed := make(chan struct{})
		go func() {
			s.Close()
			close(closed)
		}()
		inTime(t, "Close waits", func() bool {
			select {
			case <-closed:
				t.Fatal("Close has returned while a group is under way")
			default:
			}
			return mdb.AwaitsGroups(s)
		})
		unlock()
		for _, q := range []*queued{other, late} {
			if written, err := q.result(t); err != nil || written[0].Position != 0 {
				t.Errorf("got %+v, error %v, want it written", written, err)
			}
		}
		_, err := refused.result(t)
		wantCode(t, err, refusedCode)
		<-closed
		wantNoGroups(t, s)
		m, err := holder.GetLastStreamMessage(t.Context(), category.Stream("sent"))
		if err != nil || string(m.Data) != `{"n": 1}` {
			t.Errorf("got %s, error %v, want what was written before the context ended", m.Data, err)
		}
		if got := positions(t, holder.Pool(), category.Stream("waits")); len(got) != 0 {
			t.Error("a write that left the queue was written")
		}
	})
}

// TestGroupAbandoned checks that a group of which all writes have left while it waits for a
// connection gives up that wait.
func TestGroupAbandoned(t *testing.T) {
	t.Parallel()
	s := newStore(t, newPool(t, testdb.Shared(t), oneConnection), mdb.WithGroupCommit())
	category := mdbtest.Category("abandoned")
	conn, err := s.Pool().Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	release := mdb.HoldTurn(s, category)
	var queue []*queued
	for range 2 {
		queue = append(queue, enqueue(t, s, category.Stream("1"), proposals(1)))
	}
	release()
	for _, q := range queue {
		q.cancel()
		if _, err := q.result(t); !errors.Is(err, context.Canceled) || isUnknown(err) {
			t.Errorf("got error %v, want that of the context", err)
		}
	}
	s.Close()
	wantNoGroups(t, s)
}

// TestGroupSettles checks that each write of a group happens once and has its result, wherever
// the connection breaks, and that those that the server has refused are not reported as written.
func TestGroupSettles(t *testing.T) {
	t.Parallel()
	url := refusing(t)
	uncut := newPool(t, url) // whose connections are not cut
	onGroups(t, func(t *testing.T, way ...mdb.StoreOption) {
		for _, mode := range execModes {
			t.Run(mode.String(), func(t *testing.T) {
				t.Parallel()
				if testing.Short() && mode != pgx.QueryExecModeCacheStatement {
					t.Skip("the other modes take the same steps")
				}
				var w wire
				s := newStore(t, newPool(t, url, w.attach, oneConnection, execMode(mode)), append(way, attempts(3))...)
				mdb.NeverRest(s)
				length := 0
				for _, place := range []int{whole, unsent, lost, 0, 1, 2, whole - 60, whole - 7, whole - 6, whole - 1} {
					settleGroup(t, s, uncut, &w, "", place)
					if place == whole {
						length = int(w.answered.Load())
					}
				}
				for place := 3; place < length; place += 1 + length/20 {
					settleGroup(t, s, uncut, &w, "", place)
				}
				// The server refuses a write, and the connection breaks in the second transaction.
				for _, place := range []int{unsent, lost, 0, 20, whole - 6, whole - 1} {
					if mode != pgx.QueryExecModeSimpleProtocol {
						settleGroup(t, s, uncut, &w, "SAVEPOINT", place)
					}
				}
				if w.uncut() > 0 {
					t.Error("not all connections were cut")
				}
			})
		}
	})
}

// settleGroup sends a group whose connection breaks at the place. With a text that is in the
// request, the group has a write that the server refuses.
func settleGroup(t *testing.T, s *mdb.Store, uncut *pgxpool.Pool, w *wire, request string, place int) {
	t.Helper()
	category := mdbtest.Category("settles")
	old := mdb.NewMessage("Happened", map[string]int{"n": 7})
	write(t, s, category.Stream("old"), old)
	release := mdb.HoldTurn(s, category)
	ms := [][]mdb.ProposedMessage{proposals(1), proposals(3), proposals(1), {old}, proposals(1)}
	var queue []*queued
	for i, opts := range [][]mdb.WriteOption{nil, {mdb.ExpectNoStream()}, {mdb.ExpectVersion(7)}, nil, {mdb.ExpectStream()}} {
		stream := category.Stream([]string{"plain", "batch", "wrong", "taken", "missing"}[i])
		queue = append(queue, enqueue(t, s, stream, ms[i], opts...))
	}
	if request == "" {
		request = string(category)
	} else {
		refused := enqueue(t, s, category.Stream("refused"), []mdb.ProposedMessage{mdb.NewMessage(refusedType, nil)})
		defer func() {
			if _, err := refused.result(t); !isUnknown(err) { // the first attempt may still arrive
				wantCode(t, err, refusedCode)
			}
		}()
	}
	w.cut(cut{request, place})
	release()
	for i, q := range queue[:2] {
		written, err := q.result(t)
		if err != nil {
			t.Fatalf("cut at %d: write %d: got error %v, want none", place, i, err)
		}
		for j, got := range written {
			if got.Position != int64(j) || got.ID != ms[i][j].ID {
				t.Errorf("cut at %d: write %d: got %+v, want position %d", place, i, got, j)
			}
		}
	}
	if _, err := queue[2].result(t); outcomeOf(nil, err) != "version -1" && !isUnknown(err) {
		t.Errorf("cut at %d: got error %v, want a wrong version, or an unknown outcome because the first attempt may still arrive", place, err)
	}
	if _, err := queue[3].result(t); err == nil {
		t.Errorf("cut at %d: a write with an ID that is taken succeeds", place)
	}
	if _, err := queue[4].result(t); err == nil {
		t.Errorf("cut at %d: a write to a stream that is missing succeeds", place)
	}
	var got []uuid.UUID
	for _, row := range rows(t, uncut, category) {
		got = append(got, row.ID)
	}
	want := []uuid.UUID{old.ID, ms[0][0].ID, ms[1][0].ID, ms[1][1].ID, ms[1][2].ID}
	slices.SortFunc(got, func(a, b uuid.UUID) int { return slices.Compare(a[:], b[:]) })
	slices.SortFunc(want, func(a, b uuid.UUID) int { return slices.Compare(a[:], b[:]) })
	if !slices.Equal(got, want) {
		t.Errorf("cut at %d: got messages %v, want %v", place, got, want)
	}
}

// TestGroupRefused checks that a trigger which refuses a write fails no other one, in all modes
// of pgx, and that after several refusals the writes to the stream are not sent in groups.
func TestGroupRefused(t *testing.T) {
	t.Parallel()
	url := refusing(t)
	onGroups(t, func(t *testing.T, way ...mdb.StoreOption) {
		for _, mode := range execModes {
			t.Run(mode.String(), func(t *testing.T) {
				t.Parallel()
				var log journal
				s := newStore(t, newPool(t, url, connections(10), execMode(mode)), append(way, log.option())...)
				mdb.RestOn(s)
				category := mdbtest.Category("refused")
				for round := range 2 {
					release := mdb.HoldTurn(s, category)
					refused := enqueue(t, s, category.Stream("refused"), []mdb.ProposedMessage{mdb.NewMessage(refusedType, nil)})
					var others []*queued
					for i := range 3 {
						others = append(others, enqueue(t, s, category.Stream(fmt.Sprint(i)), proposals(1+i), mdb.ExpectVersion(int64(round*(1+i))-1)))
					}
					release()
					_, err := refused.result(t)
					wantCode(t, err, refusedCode)
					for i, q := range others {
						if written, err := q.result(t); err != nil || written[i].Position != int64(round*(1+i)+i) {
							t.Errorf("write %d: got %+v, error %v, want it written", i, written, err)
						}
					}
				}
				release := mdb.HoldTurn(s, category)
				_, err := s.WriteMessage(t.Context(), category.Stream("refused"), mdb.NewMessage(refusedType, nil))
				wantCode(t, err, refusedCode) // does not wait for the turn
				release()
				wantNoGroups(t, s)
			})
		}
	})
}

// TestGroupSnapshots checks groups where the database makes all transactions stricter: their
// snapshot may be older than the lock, which another store has held.
func TestGroupSnapshots(t *testing.T) {
	t.Parallel()
	onGroups(t, func(t *testing.T, way ...mdb.StoreOption) {
		for _, level := range []string{"repeatable read", "serializable"} {
			t.Run(level, func(t *testing.T) {
				t.Parallel()
				other := mdbtest.SharedStore(t)
				s := newStore(t, groupPool(t, parameter("default_transaction_isolation", level)), way...)
				category := mdbtest.Category("snapshots")
				stream := category.Stream("1")
				write(t, s, stream, mdb.NewMessage("Happened", nil))
				tx := begin(t, other.Pool())
				write(t, other.WithTx(tx), stream, mdb.NewMessage("Happened", nil))
				release := mdb.HoldTurn(s, category)
				var queue []*queued
				for range 3 {
					queue = append(queue, enqueue(t, s, stream, proposals(1)))
				}
				release()
				untilBlocked(t, other.Pool(), category, 1)
				if err := tx.Commit(t.Context()); err != nil {
					t.Fatal(err)
				}
				for _, q := range queue {
					if _, err := q.result(t); err != nil {
						t.Errorf("got error %v, want none", err)
					}
				}
				if got := positions(t, other.Pool(), stream); !slices.Equal(got, []int64{0, 1, 2, 3, 4}) {
					t.Errorf("got positions %v, want 5 in order", got)
				}
			})
		}
	})
}

// TestGroupSettings checks results under settings that change how the server executes a
// statement, with groups of 1, 2 and many writes.
func TestGroupSettings(t *testing.T) {
	t.Parallel()
	onGroups(t, func(t *testing.T, way ...mdb.StoreOption) {
		parallel := "debug_parallel_query"
		if value[int](t, mdbtest.SharedStore(t).Pool(), `SELECT current_setting('server_version_num')::int`) < 160000 {
			parallel = "force_parallel_mode"
		}
		for _, test := range []struct {
			name     string
			settings map[string]string
			most     int // writes in a group
		}{
			{"JIT", withJIT, 1000},
			{"parallel", map[string]string{parallel: "on", "parallel_setup_cost": "0", "parallel_tuple_cost": "0", "min_parallel_table_scan_size": "0"}, 1000},
			{"custom plans", map[string]string{"plan_cache_mode": "force_custom_plan"}, 1000},
			{"generic plans", map[string]string{"plan_cache_mode": "force_generic_plan"}, 1000},
			{"nested loops", map[string]string{"enable_hashjoin": "off", "enable_mergejoin": "off", "enable_sort": "off"}, 100},
		} {
			t.Run(test.name, func(t *testing.T) {
				t.Parallel()
				s := newStore(t, groupPool(t, parameters(test.settings)), way...)
				mdb.GroupAll(s)
				category := mdbtest.Category("settings")
				for _, n := range []int{1, 2, test.most} {
					wantInOrder(t, s, category.Stream(fmt.Sprint(n)), n)
				}
			})
		}
	})
}

// wantInOrder sends n writes to the stream in a group, of which each expects the one before, and
// checks where they are.
func wantInOrder(t *testing.T, s *mdb.Store, stream mdb.StreamName, n int) {
	t.Helper()
	release := mdb.HoldTurn(s, stream.Category())
	var queue []*queued
	for i := range n {
		queue = append(queue, enqueue(t, s, stream, proposals(1), mdb.ExpectVersion(int64(i)-1)))
		if i%10 == 9 {
			queue = append(queue, enqueue(t, s, stream, proposals(1), mdb.ExpectVersion(int64(i)-1)))
		}
	}
	release()
	next := int64(0)
	for i, q := range queue {
		written, err := q.result(t)
		if i%11 == 10 {
			if wrong := wantError[*mdb.WrongVersionError](t, err); wrong.Actual != next-1 {
				t.Errorf("write %d: got version %d, want %d", i, wrong.Actual, next-1)
			}
			continue
		}
		if err != nil || written[0].Position != next {
			t.Fatalf("write %d: got %+v, error %v, want position %d", i, written, err, next)
		}
		next++
	}
	if got := positions(t, s.Pool(), stream); len(got) != n || !slices.IsSorted(got) {
		t.Errorf("got positions %v, want %d in the order of global positions", got, n)
	}
}

// TestGroupRace checks many concurrent writers, some of whose contexts end: every write that is
// reported is there once, and of those that expect a version one wins.
func TestGroupRace(t *testing.T) {
	t.Parallel()
	onGroups(t, func(t *testing.T, way ...mdb.StoreOption) {
		s := newStore(t, groupPool(t), way...)
		category := mdbtest.Category("race")
		const writers, rounds = 16, 20
		var mu sync.Mutex
		wins := make(map[int64]int)
		reported := make(map[uuid.UUID]bool)
		var wg sync.WaitGroup
		for i := range writers {
			wg.Go(func() {
				for round := range int64(rounds) {
					ctx, cancel := context.WithCancel(t.Context())
					m := mdb.NewMessage("Happened", nil)
					stream, opts := category.Stream("shared"), []mdb.WriteOption{mdb.ExpectVersion(round - 1)}
					if i%4 == 0 {
						stream, opts = category.Stream(fmt.Sprint(i)), nil
						go cancel()
					}
					w, err := s.WriteMessage(ctx, stream, m, opts...)
					cancel()
					mu.Lock()
					if err == nil {
						reported[m.ID] = true
						if i%4 != 0 {
							wins[w.Position]++
						}
					} else if !errors.As(err, new(*mdb.WrongVersionError)) && !errors.Is(err, context.Canceled) {
						t.Error(err)
					}
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		s.Close()
		wantNoGroups(t, s)
		there := make(map[uuid.UUID]int)
		for _, row := range rows(t, s.Pool(), category) {
			there[row.ID]++
		}
		for id := range reported {
			if there[id] != 1 {
				t.Errorf("message %s is there %d times, want 1", id, there[id])
			}
		}
		for position, n := range wins {
			if n != 1 {
				t.Errorf("%d writes have won position %d, want 1", n, position)
			}
		}
	})
}

// TestGroupUnprivileged checks that a store whose role may only call the functions writes
// without groups.
func TestGroupUnprivileged(t *testing.T) {
	t.Parallel()
	url := testdb.New(t)
	owner := newStore(t, newPool(t, url))
	exec(t, owner.Pool(), `
		ALTER FUNCTION message_store.write_message SECURITY DEFINER SET search_path = message_store, pg_temp;
		ALTER FUNCTION message_store.stream_version SECURITY DEFINER SET search_path = message_store, pg_temp;
		REVOKE ALL ON message_store.messages FROM message_store`)
	s := newStore(t, newPool(t, url, connections(5), asRole("message_store")), mdb.WithGroupCommit())
	mdb.RestOn(s)
	category := mdbtest.Category("unprivileged")
	for range 2 {
		release := mdb.HoldTurn(s, category)
		queue := []*queued{enqueue(t, s, category.Stream("1"), proposals(1)), enqueue(t, s, category.Stream("2"), proposals(2))}
		release()
		for _, q := range queue {
			if _, err := q.result(t); err != nil {
				t.Error(err)
			}
		}
	}
	release := mdb.HoldTurn(s, category)
	write(t, s, category.Stream("1"), mdb.NewMessage("Happened", nil)) // does not wait
	release()
}

// TestGroupLarge checks that writes beyond the limits of a group are sent by themselves, in order.
func TestGroupLarge(t *testing.T) {
	t.Parallel()
	onGroups(t, func(t *testing.T, way ...mdb.StoreOption) {
		s := newStore(t, groupPool(t), way...)
		category := mdbtest.Category("large")
		big := mdb.NewMessage("Happened", json.RawMessage(`"`+strings.Repeat("0123456789abcdef", 1<<16)+`"`))
		release := mdb.HoldTurn(s, category)
		queue := []*queued{
			enqueue(t, s, category.Stream("1"), proposals(1)),
			enqueue(t, s, category.Stream("1"), []mdb.ProposedMessage{big}, mdb.ExpectVersion(0)),
			enqueue(t, s, category.Stream("1"), proposals(1500), mdb.ExpectVersion(1)),
			enqueue(t, s, category.Stream("1"), proposals(1), mdb.ExpectVersion(1501)),
			enqueue(t, s, category.Stream("1"), proposals(1), mdb.ExpectVersion(1502)),
		}
		release()
		for i, q := range queue {
			if _, err := q.result(t); err != nil {
				t.Errorf("write %d: %v", i, err)
			}
		}
	})
}

// TestGroupKnownFailure checks that a write which a group has left out has failed, and has no unknown
// outcome, although the connection is lost before the end of the group's transaction.
func TestGroupKnownFailure(t *testing.T) {
	t.Parallel()
	onGroups(t, func(t *testing.T, way ...mdb.StoreOption) {
		var w wire
		s := newStore(t, groupPool(t, w.attach, oneConnection), way...)
		category := mdbtest.Category("known")
		write(t, s, category.Stream("1"), mdb.NewMessage("Happened", nil))
		release := mdb.HoldTurn(s, category)
		// A lost write that expects a later version might still arrive.
		left := enqueue(t, s, category.Stream("1"), proposals(1), mdb.ExpectVersion(7))
		other := enqueue(t, s, category.Stream("2"), proposals(1))
		w.cut(cut{string(category), whole - 6})
		release()
		_, err := left.result(t)
		if wrong := wantError[*mdb.WrongVersionError](t, err); wrong.Actual != 0 {
			t.Errorf("got version %d, want 0", wrong.Actual)
		}
		if written, err := other.result(t); err != nil || !written[0].Duplicate {
			t.Errorf("got %+v, error %v, want the write of the lost group", written, err)
		}
	})
}
