package mdb_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
	"github.com/messagedb-go/messagedb/mdb/poll"
)

// lockCategory locks a category until the transaction ends, which the test ends.
func lockCategory(t testing.TB, pool *pgxpool.Pool, c mdb.Category) pgx.Tx {
	t.Helper()
	tx := begin(t, pool)
	exec(t, tx, "SELECT message_store.acquire_lock($1)", string(c.Stream("1")))
	return tx
}

// waiters returns how many sessions wait for the lock of a category.
const waiters = `SELECT count(*) = $2 FROM pg_locks WHERE NOT granted AND ` + keyLocks

// tableWaiters counts the sessions that wait for the lock of the table. In a copy of the database the table has the same OID.
const tableWaiters = `SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'message_store.messages'::regclass
	AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`

// TestSilentLockWait checks that writes, transactions and reads that wait for a lock are not
// given up, however long they wait, so that writers keep their places in the queue. The pool
// has no free connection meanwhile, and one question at a time is about all of them.
func TestSilentLockWait(t *testing.T) {
	t.Parallel()
	url := testdb.New(t)
	admin := newPool(t, url)
	r, j := newRelay(t, url), new(journal)
	const writers = 4
	s := silentStore(t, r, url, j, func(cfg *pgxpool.Config) { cfg.MaxConns = writers })
	category := mdbtest.Category("silence")
	write(t, s, category.Stream("0"), mdb.NewMessage("Before", nil))

	lock := lockCategory(t, admin, category)
	var (
		all  sync.WaitGroup
		errs [writers]error
		at   [writers]int64
	)
	for i := range writers {
		stream, m := category.Stream("1"), mdb.NewMessage("Happened", i)
		all.Go(func() {
			var w mdb.Written
			switch i {
			case 0:
				errs[i] = s.Atomically(t.Context(), []mdb.Category{category}, func(tx *mdb.Tx) error {
					var err error
					w, err = tx.WriteMessage(t.Context(), stream, m)
					return err
				})
			case 1:
				results := s.WriteEach(t.Context(), []mdb.Write{{Stream: stream, Message: m}})
				w, errs[i] = results[0].Written, results[0].Err
			case 2:
				var ws []mdb.Written
				if ws, errs[i] = s.WriteMessages(t.Context(), stream, []mdb.ProposedMessage{m, mdb.NewMessage("Happened", i)}); errs[i] == nil {
					w = ws[0]
				}
			default:
				w, errs[i] = s.WriteMessage(t.Context(), stream, m)
			}
			at[i] = w.Position
		})
		until(t, admin, waiters, mdb.Hash64(string(category)), i+1)
	}
	opened := s.Pool().Stat().NewConnsCount()
	mdb.SetSilence(s, soon)
	j.until(t, waitsOn, 3)
	mdb.SetSilence(s, notYet)
	if err := lock.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	all.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		t.Fatal(err)
	}
	if want := [writers]int64{0, 1, 2, 4}; at != want {
		t.Errorf("got positions %v, want in the order of arrival %v", at, want)
	}
	if got := s.Pool().Stat().NewConnsCount(); got != opened {
		t.Errorf("the pool opened %d connections, want none", got-opened)
	}
	if got := r.atOnce.Load(); got != 1 {
		t.Errorf("got %d questions at a time, want 1", got)
	}
	j.wantNothingGivenUp(t)

	// A read that waits, for example because the table is being changed.
	table := begin(t, admin)
	exec(t, table, "LOCK TABLE message_store.messages")
	read := make(chan error)
	go func() {
		_, err := s.GetCategoryMessages(t.Context(), category)
		read <- err
	}()
	until(t, admin, "SELECT ("+tableWaiters+") = 1")
	mdb.SetSilence(s, soon)
	j.until(t, waitsOn, strings.Count(j.String(), waitsOn)+1)
	mdb.SetSilence(s, notYet)
	if err := table.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-read; err != nil {
		t.Error(err)
	}
	if got := r.cancels.Load(); got != 0 {
		t.Errorf("got %d cancel requests, want none", got)
	}
}

// TestSilentConnection checks statements whose connection, or whose server, has become
// silent: the connection is given up without a cancel request, and a write's outcome is
// settled on another one.
func TestSilentConnection(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		fail   func(t *testing.T, r *relay, admin *pgxpool.Pool, pid uint32)
		repair func(r *relay) // when the connection was given up
		reason string
	}{
		"the statement does not arrive": {
			fail:   func(_ *testing.T, r *relay, _ *pgxpool.Pool, _ uint32) { r.silence() },
			reason: "not executing it",
		},
		"the answer does not arrive": {
			fail:   func(_ *testing.T, r *relay, _ *pgxpool.Pool, _ uint32) { r.deafen() },
			reason: "not executing it",
		},
		"the session is gone": {
			fail: func(t *testing.T, r *relay, admin *pgxpool.Pool, pid uint32) {
				t.Helper()
				r.silence()
				exec(t, admin, "SELECT pg_terminate_backend($1)", pid)
				until(t, admin, "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)", pid)
			},
			reason: "no such session",
		},
		"no other connection can be had": {
			fail:   func(_ *testing.T, r *relay, _ *pgxpool.Pool, _ uint32) { r.freeze(); r.silence() },
			repair: (*relay).thaw,
			reason: "does not answer another connection",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := testdb.Shared(t)
			admin := newPool(t, url)
			type call struct {
				do      func(s *mdb.Store, stream mdb.StreamName) error
				message bool // whether it writes one
				fails   bool // whether it may fail
			}
			for what, c := range map[string]call{
				"WriteMessage": {do: func(s *mdb.Store, stream mdb.StreamName) error {
					_, err := s.WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", 1))
					return err
				}, message: true},
				"WriteEach": {do: func(s *mdb.Store, stream mdb.StreamName) error {
					return s.WriteEach(t.Context(), []mdb.Write{{Stream: stream, Message: mdb.NewMessage("Happened", 1)}})[0].Err
				}, message: true},
				"StreamVersion": {do: func(s *mdb.Store, stream mdb.StreamName) error {
					_, err := s.StreamVersion(t.Context(), stream)
					return err
				}, fails: true},
			} {
				t.Run(what, func(t *testing.T) {
					t.Parallel()
					r := newRelay(t, url)
					j := &journal{onRecord: func() {
						if tt.repair != nil {
							tt.repair(r)
						}
					}}
					s := silentStore(t, r, url, j, oneConnection)
					stream := mdbtest.Category("silence").Stream("1")
					write(t, s, stream, mdb.NewMessage("Before", nil))
					pid := value[uint32](t, s.Pool(), "SELECT pg_backend_pid()")
					tt.fail(t, r, admin, pid)
					mdb.SetSilence(s, soon)

					err := c.do(s, stream)
					if c.fails {
						if err == nil || !strings.Contains(err.Error(), tt.reason) || !mdb.IsTransient(err) {
							t.Errorf("got error %v, want a transient one that contains %q", err, tt.reason)
						}
					} else if err != nil {
						t.Error(err)
					}
					want := []int64{0}
					if c.message {
						want = append(want, 1)
					}
					if got := positions(t, admin, stream); !slices.Equal(got, want) {
						t.Errorf("got positions %v, want %v", got, want)
					}
					if got := r.cancels.Load(); got != 0 {
						t.Errorf("got %d cancel requests, want none", got)
					}
					// The connection is closed before that is logged.
					j.until(t, gaveUp, 1)
					if log := j.String(); !strings.Contains(log, tt.reason) {
						t.Errorf("want a record that contains %q, got\n%s", tt.reason, log)
					}
				})
			}
		})
	}
}

// TestSilentCommit checks that a transaction whose commit gets no answer is an unknown
// outcome, and that a silent connection does not keep it from its end.
func TestSilentCommit(t *testing.T) {
	t.Parallel()
	url := testdb.Shared(t)
	admin := newPool(t, url)
	r, j := newRelay(t, url), new(journal)
	s := silentStore(t, r, url, j)
	stream := mdbtest.Category("silence").Stream("1")
	var pids []uint32
	err := s.Atomically(t.Context(), []mdb.Category{stream.Category()}, func(tx *mdb.Tx) error {
		pids = append(pids, tx.Tx().Conn().PgConn().PID())
		_, err := tx.WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", nil))
		r.deafen()
		mdb.SetSilence(s, soon)
		return err
	})
	if unknown := wantError[*mdb.UnknownOutcomeError](t, err); len(unknown.IDs) != 1 {
		t.Errorf("got IDs %v, want one", unknown.IDs)
	}
	// The commit may still be on its way.
	until(t, admin, "SELECT count(*) > 0 FROM message_store.messages WHERE stream_name = $1", string(stream))
	if got := positions(t, admin, stream); !slices.Equal(got, []int64{0}) {
		t.Errorf("got positions %v, want 0", got)
	}
	// A statement of the function's own is not executed, either.
	s = newStore(t, s.Pool(), j.option(), forAWhile())
	err = s.Atomically(t.Context(), nil, func(tx *mdb.Tx) error {
		pids = append(pids, tx.Tx().Conn().PgConn().PID())
		r.silence()
		mdb.SetSilence(s, soon)
		_, err := tx.Tx().Exec(t.Context(), "SELECT 1")
		return err
	})
	if !mdb.IsTransient(err) {
		t.Errorf("got error %v, want a transient one", err)
	}
	if r.cancelled(pids...) {
		t.Errorf("got a cancel request for one of the sessions %v\n%s", pids, j.String())
	}
}

// TestSilenceOfCallersTransaction checks that the connection of the caller's transaction is
// not given up.
func TestSilenceOfCallersTransaction(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for pgx's cancel request on a silent connection, a quarter of a minute")
	}
	t.Parallel()
	url := testdb.Shared(t)
	r, j := newRelay(t, url), new(journal)
	s := silentStore(t, r, url, j)
	stream := mdbtest.Category("silence").Stream("1")
	write(t, s, stream, mdb.NewMessage("Before", nil))
	tx := begin(t, s.Pool())
	r.silence()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error)
	go func() {
		_, err := s.WithTx(tx).StreamVersion(ctx, stream)
		ended <- err
	}()
	// Meanwhile another connection is given up, and so would that one.
	if _, err := s.StreamVersion(t.Context(), stream); err != nil {
		t.Error(err)
	}
	r.silence()
	mdb.SetSilence(s, soon)
	if _, err := s.StreamVersion(t.Context(), stream); err == nil {
		t.Error("got an answer on a silent connection")
	}
	select {
	case err := <-ended:
		t.Errorf("the caller's transaction ended: %v", err)
	default:
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("got error %v, want that of the context", err)
	}
}

// TestSilentSubscription checks that a subscription retries a read on a silent connection, and
// delivers what had arrived once and in order, without reading it again.
func TestSilentSubscription(t *testing.T) {
	t.Parallel()
	url := testdb.Shared(t)
	admin := newStore(t, newPool(t, url))
	for way, direct := range map[string][]mdb.StoreOption{"procedures": nil, "direct": {mdb.WithDirectSQL()}} {
		for kind, filter := range map[string][]mdb.CategorySubscribeOption{
			"plain":       nil,
			"group":       {mdb.AsConsumerGroup(0, 1)},
			"correlation": {mdb.WithCorrelation("origin")},
			"condition":   {mdb.WithCondition("type = 'Happened'")},
		} {
			for page, before := range map[string]int{"first page": 0, "later page": 1} {
				if testing.Short() && (before == 0) != (kind == "group") {
					continue
				}
				t.Run(way+", "+kind+", "+page, func(t *testing.T) {
					t.Parallel()
					testSilentSubscription(t, url, admin, before, direct, filter)
				})
			}
		}
	}
}

// testSilentSubscription lets half of a page arrive. Before the page there are messages that a
// subscription has handled, so that it looks whether they are still there.
func testSilentSubscription(t *testing.T, url string, admin *mdb.Store, before int, direct []mdb.StoreOption, opts []mdb.CategorySubscribeOption) {
	t.Helper()
	category := mdbtest.Category("silence")
	const messages, size = 20, 10_000
	last := int64(0)
	for i := range before + messages {
		m := mdb.NewMessage("Happened", map[string]any{"n": i, "filler": strings.Repeat("x", size)})
		m.Metadata = map[string]string{"correlationStreamName": "origin-1"}
		write(t, admin, category.Stream("1"), m)
		if i == before-1 {
			var err error
			if last, err = admin.CategoryHead(t.Context(), category); err != nil {
				t.Fatal(err)
			}
		}
	}
	r, j := newRelay(t, url), new(journal)
	pool := newPool(t, url, oneConnection, r.through)
	s := newStore(t, pool, append(direct, j.option(), mdb.WithConditions())...)
	if err := pool.Ping(t.Context()); err != nil { // connects
		t.Fatal(err)
	}
	r.limit(messages / 2 * size)
	mdb.SetSilence(s, soon)
	got := receiveCategory(t, s, category, append(opts, mdb.AfterGlobalPosition(last), mdb.WithBatchSize(messages))...)
	j.until(t, gaveUp, 1)
	mdb.SetSilence(s, notYet) // the rest arrives, however long that takes
	for i, m := range got.next(t, messages) {
		if m.Position != int64(before+i) {
			t.Errorf("got position %d, want %d", m.Position, before+i)
		}
	}
	// The end of the context sends one for a read that is executing.
	if got := r.cancels.Load(); got != 0 {
		t.Errorf("got %d cancel requests, want none", got)
	}
	got.stop(t)
	if got := r.received.Load(); got > messages*size*5/4 {
		t.Errorf("got %d bytes of %d: what has arrived was read again", got, messages*size)
	}
}

// TestSilentProbe checks that a call which looks whether the server is back does not wait for
// ever on a connection that has become silent.
func TestSilentProbe(t *testing.T) {
	t.Parallel()
	url := testdb.Shared(t)
	category := mdbtest.Category("silence")
	r, j := newRelay(t, url), new(journal)
	s := silentStore(t, r, url, j, oneConnection)
	write(t, s, category.Stream("1"), mdb.NewMessage("Before", nil))
	r.silence()
	mdb.SetSilence(s, soon)
	mdb.LoseConnection(s)
	write(t, s, category.Stream("1"), mdb.NewMessage("Happened", nil))
	j.until(t, gaveUp, 1)
}

// TestSilentCopy checks that a transaction whose caller has no rows to copy for a while is not
// given up: the server waits for them.
func TestSilentCopy(t *testing.T) {
	t.Parallel()
	url := testdb.New(t)
	admin := newPool(t, url)
	exec(t, admin, "CREATE TABLE copied (n int)")
	r, j := newRelay(t, url), new(journal)
	s := silentStore(t, r, url, j)
	rows := 0
	err := s.Atomically(t.Context(), nil, func(tx *mdb.Tx) error {
		rows = 0
		_, err := tx.Tx().CopyFrom(t.Context(), pgx.Identifier{"copied"}, []string{"n"}, pgx.CopyFromFunc(func() ([]any, error) {
			if rows == 2 {
				mdb.SetSilence(s, notYet)
				return nil, nil
			}
			mdb.SetSilence(s, soon)
			j.until(t, "statements without an answer", strings.Count(j.String(), "statements without an answer")+1)
			rows++
			return []any{rows}, nil
		}))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	j.wantNothingGivenUp(t)
}

// TestSilenceAndHook checks that no statement is given up because a hook of the pool fails,
// without which the store cannot ask: a statement may wait for a lock.
func TestSilenceAndHook(t *testing.T) {
	t.Parallel()
	url := testdb.New(t)
	admin := newPool(t, url)
	r, j := newRelay(t, url), new(journal)
	var failing atomic.Bool
	s := silentStore(t, r, url, j, func(cfg *pgxpool.Config) {
		cfg.BeforeConnect = func(context.Context, *pgx.ConnConfig) error {
			if failing.Load() {
				return errors.New("no password at the moment")
			}
			return nil
		}
	})
	category := mdbtest.Category("silence")
	write(t, s, category.Stream("1"), mdb.NewMessage("Before", nil))
	lock := lockCategory(t, admin, category)
	failing.Store(true)
	done := make(chan error)
	go func() {
		_, err := s.WriteMessage(t.Context(), category.Stream("1"), mdb.NewMessage("Happened", nil))
		done <- err
	}()
	until(t, admin, waiters, mdb.Hash64(string(category)), 1)
	mdb.SetSilence(s, soon)
	j.until(t, "statements without an answer", 2)
	mdb.SetSilence(s, notYet)
	if err := lock.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	j.wantNothingGivenUp(t)
}

// TestSilenceBoundsNoStatement checks that limits of the server end a statement as before,
// while the store asks about it.
func TestSilenceBoundsNoStatement(t *testing.T) {
	t.Parallel()
	url := testdb.Shared(t)
	admin := newPool(t, url)
	r, j := newRelay(t, url), new(journal)
	s := silentStore(t, r, url, j, parameter("statement_timeout", "5s"))
	category := mdbtest.Category("silence")
	defer lockCategory(t, admin, category).Rollback(context.Background())
	ended := make(chan error, 1)
	go func() {
		_, err := s.WriteMessage(t.Context(), category.Stream("1"), mdb.NewMessage("Happened", nil))
		ended <- err
	}()
	until(t, admin, waiters, mdb.Hash64(string(category)), 1)
	mdb.SetSilence(s, soon)
	wantCode(t, <-ended, "57014")
	if log := j.String(); !strings.Contains(log, waitsOn) || strings.Contains(log, gaveUp) {
		t.Errorf("got log\n%s", log)
	}
}

// TestSilentStandby checks a write whose commit waits for a synchronous standby: it waits on,
// and if its connection must be given up, the wait goes on, so that nobody sees a
// message that is not replicated.
func TestSilentStandby(t *testing.T) {
	t.Parallel()
	p := testdb.Pair(t)
	url := p.Primary.URL("postgres")
	admin := newPool(t, url)
	r := newRelay(t, url)
	j := &journal{}
	s := silentStore(t, r, url, j)
	stream := mdbtest.Category("silence").Stream("1")
	write(t, s, stream, mdb.NewMessage("Before", nil))
	p.Hold(t)
	p.Synchronous(t, true)
	written := make(chan error)
	go func() {
		_, err := s.WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", nil))
		written <- err
	}()
	const waiting = "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
	until(t, admin, waiting)
	mdb.SetSilence(s, soon)
	j.until(t, waitsOn, 2)
	r.freezeUnasked(t, s)
	j.until(t, gaveUp, 1)
	untilUnasked(t, s)
	r.thaw()
	// The write is sent again. It waits for the lock of the first attempt, which still waits.
	until(t, admin, waiters, mdb.Hash64(string(stream.Category())), 1)
	mdb.SetSilence(s, soon)
	j.until(t, waitsOn, strings.Count(j.String(), waitsOn)+1)
	mdb.SetSilence(s, notYet)
	if !value[bool](t, admin, waiting) {
		t.Error("the first attempt does not wait for the standby any more")
	}
	if got := positions(t, admin, stream); len(got) != 1 {
		t.Errorf("got positions %v, want none that is not replicated", got)
	}
	if got := r.cancels.Load(); got != 0 {
		t.Errorf("got %d cancel requests, want none", got)
	}
	p.Release(t)
	if err := <-written; err != nil {
		t.Error(err)
	}
	if got := positions(t, admin, stream); !slices.Equal(got, []int64{0, 1}) {
		t.Errorf("got positions %v, want 0 and 1", got)
	}
}

// TestFrozenPrimary checks that writes and subscriptions continue on the promoted standby
// while the former primary is frozen, and keeps its connections. A pool that pings an idle
// connection, as it does by default, does not wait for the answer for ever.
func TestFrozenPrimary(t *testing.T) {
	t.Parallel()
	for name, pings := range map[string]bool{"with pings": true, "without": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if pings && testing.Short() {
				t.Skip("waits for pgx's own timeouts")
			}
			p := testdb.Pair(t)
			j := new(journal)
			pool := newPool(t, p.URL(), func(cfg *pgxpool.Config) {
				cfg.MaxConns = 2
				cfg.ConnConfig.ConnectTimeout = 500 * time.Millisecond
				cfg.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return pings }
			})
			s := newStore(t, pool, j.option(), attempts(1_000_000), mdb.WithPolling(poll.Constant(time.Millisecond)))
			mdb.SetSilence(s, soon)
			stream := mdbtest.Category("silence").Stream("1")
			subscription := receiveStream(t, s, stream)
			write(t, s, stream, mdb.NewMessage("Before", nil))
			subscription.next(t, 1)
			p.CatchUp(t)
			if err := p.Primary.Freeze(); err != nil {
				t.Fatal(err)
			}
			written := make(chan error)
			go func() {
				_, err := s.WriteMessage(t.Context(), stream, mdb.NewMessage("After", nil))
				written <- err
			}()
			if !pings {
				j.until(t, "does not answer another connection", 1)
			}
			p.Promote(t)
			if err := <-written; err != nil {
				t.Error(err)
			}
			if m := subscription.next(t, 1)[0]; m.Type != "After" {
				t.Errorf("got message %s, want After", m.Type)
			}
			subscription.stop(t)
		})
	}
}

// TestSilencePastPooler checks that with a pooler, which does not show the sessions of the
// server, a statement is given up only if the pooler does not answer another connection.
func TestSilencePastPooler(t *testing.T) {
	t.Parallel()
	url := testdb.Shared(t)
	admin := newPool(t, url)
	r := newRelay(t, url)
	r.pooler = true
	j := new(journal)
	s := silentStore(t, r, url, j, oneConnection)
	stream := mdbtest.Category("silence").Stream("1")
	write(t, s, stream, mdb.NewMessage("Before", nil))
	r.silence()
	mdb.SetSilence(s, soon)
	written := make(chan error)
	go func() {
		_, err := s.WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", nil))
		written <- err
	}()
	j.until(t, waitsOn, 2)
	if log := j.String(); strings.Contains(log, gaveUp) {
		t.Errorf("the statement was given up although the pooler answers:\n%s", log)
	}
	r.freezeUnasked(t, s)
	j.until(t, gaveUp, 1)
	untilUnasked(t, s)
	r.thaw()
	if err := <-written; err != nil {
		t.Error(err)
	}
	if got := positions(t, admin, stream); !slices.Equal(got, []int64{0, 1}) {
		t.Errorf("got positions %v, want 0 and 1", got)
	}
	if got := r.cancels.Load(); got != 0 {
		t.Errorf("got %d cancel requests, want none", got)
	}
}

// TestSilencePastPgBouncer checks that a write through a PgBouncer that waits for the lock of a
// category is not given up, however long it waits.
func TestSilencePastPgBouncer(t *testing.T) {
	t.Parallel()
	bouncers := pgtest.PgBouncers(t)
	if len(bouncers) == 0 {
		t.Skip("no PgBouncer on this machine")
	}
	pgtest.NeedPrograms(t)
	url := testdb.New(t)
	admin := newPool(t, url)
	if testdb.Official() { // PgBouncer rejects the search path of a connection
		exec(t, admin, `ALTER ROLE postgres IN DATABASE `+pgx.Identifier{admin.Config().ConnConfig.Database}.Sanitize()+` SET search_path = message_store, public`)
	}
	pool := barePool(t, bouncers[0].Start(t, url, "transaction"), func(cfg *pgxpool.Config) { mdb.Configure(cfg, mdb.BehindPooler()) })
	j := new(journal)
	s := newStore(t, pool, j.option())
	mdb.SetSilence(s, notYet)
	stream := mdbtest.Category("silence").Stream("1")
	write(t, s, stream, mdb.NewMessage("Before", nil))
	lock := lockCategory(t, admin, stream.Category())
	written := make(chan error)
	go func() {
		_, err := s.WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", nil))
		written <- err
	}()
	until(t, admin, waiters, mdb.Hash64(string(stream.Category())), 1)
	mdb.SetSilence(s, soon)
	j.until(t, waitsOn, 3)
	mdb.SetSilence(s, notYet)
	if err := lock.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-written; err != nil {
		t.Error(err)
	}
	if got := positions(t, admin, stream); !slices.Equal(got, []int64{0, 1}) {
		t.Errorf("got positions %v, want 0 and 1", got)
	}
	j.wantNothingGivenUp(t)
}
