package mdb_test

import (
	"context"
	"errors"
	"iter"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
)

func wantProxied(t testing.TB, what string, err error) {
	t.Helper()
	if !errors.Is(err, mdb.ErrProxied) || mdb.IsTransient(err) || errors.As(err, new(*mdb.UnknownOutcomeError)) {
		t.Errorf("%s: got error %v, want an ErrProxied", what, err)
	}
}

// TestPLProxy checks what works through PL/Proxy, and that everything else is rejected before
// anything is sent.
func TestPLProxy(t *testing.T) {
	t.Parallel()
	p := newPLProxy(t)
	t.Run("single writes and reads work", p.testSingle)
	t.Run("WriteEach works", p.testWriteEach)
	t.Run("several messages are written together", p.testSeveral)
	t.Run("what needs a transaction or the table is rejected", p.testRejected)
	t.Run("the first call knows", p.testFirstCall)
	t.Run("transactions on other pools", p.testOtherPools)
	t.Run("direct SQL is rejected", p.testDirect)
	t.Run("conditions are rejected by the shard", p.testConditions)
	t.Run("Check looks at the shards", p.testCheck)
	t.Run("filtered subscriptions progress", p.testProgress)
	t.Run("a row of the placement decides", p.testPlacement)
	t.Run("IDs are unique in a shard", p.testDuplicates)
	t.Run("errors quote nothing", p.testScrub)
	t.Run("a wait for a standby is cancelled on the shard", p.testCancelledWait)
}

func (p *plproxy) testSingle(t *testing.T) {
	for _, mode := range execModes {
		s := newStore(t, newPool(t, p.url, execMode(mode)))
		for shard := range p.shards {
			category := p.category(t, shard)
			stream := category.Stream("1")
			first := write(t, s, stream, mdb.NewMessage("First", map[string]int{"n": 0}), mdb.ExpectNoStream())
			second := write(t, s, stream, mdb.NewMessage("Second", nil), mdb.ExpectVersion(0))
			several, err := s.WriteMessages(t.Context(), stream, proposals(1), mdb.ExpectStream())
			if err != nil || several[0].Position != 2 {
				t.Fatalf("%v: got %v, error %v, want position 2", mode, several, err)
			}
			if first.Position != 0 || second.Position != 1 {
				t.Errorf("%v: got %+v and %+v", mode, first, second)
			}
			all, err := s.GetStreamMessages(t.Context(), stream)
			if err != nil || len(all) != 3 {
				t.Fatalf("%v: got %v, error %v", mode, all, err)
			}
			for i, w := range []mdb.Written{first, second, several[0]} {
				wantStored(t, all[i], w)
			}
			if got := positions(t, p.shards[shard], stream); !slices.Equal(got, []int64{0, 1, 2}) {
				t.Errorf("%v: the shard has the positions %v", mode, got)
			}
			if got := positions(t, p.shards[1-shard], stream); len(got) != 0 {
				t.Errorf("%v: the other shard has the positions %v", mode, got)
			}
			_, err = s.WriteMessage(t.Context(), stream, mdb.NewMessage("Third", nil), mdb.ExpectVersion(7))
			if wrong := wantError[*mdb.WrongVersionError](t, err); wrong.Actual != 2 || wrong.Expected != 7 {
				t.Errorf("%v: got %+v", mode, wrong)
			}
			_, err = s.WriteMessage(t.Context(), category.Stream("2"), mdb.NewMessage("First", nil), mdb.ExpectStream())
			wantError[*mdb.WrongVersionError](t, err)

			messages, err := s.GetStreamMessages(t.Context(), stream, mdb.FromPosition(1))
			if err != nil || len(messages) != 2 || messages[0].ID != second.ID {
				t.Errorf("%v: got %v, error %v", mode, messages, err)
			}
			last, err := s.GetLastStreamMessage(t.Context(), stream, mdb.OfType("First"))
			if err != nil || last.ID != first.ID {
				t.Errorf("%v: got %v, error %v", mode, last, err)
			}
			if version, err := s.StreamVersion(t.Context(), stream); err != nil || version != 2 {
				t.Errorf("%v: got version %d, error %v", mode, version, err)
			}
			for _, opts := range [][]mdb.CategorySubscribeOption{nil, {mdb.AsConsumerGroup(0, 1)}} {
				r := receiveCategory(t, s, category, opts...)
				if got := r.next(t, 3); got[2].Position != 2 {
					t.Errorf("%v: a subscription has received %v", mode, places(got))
				}
				r.stop(t)
			}
		}
	}
}

func (p *plproxy) testWriteEach(t *testing.T) {
	for _, mode := range execModes {
		s := newStore(t, newPool(t, p.url, execMode(mode)))
		a, b := p.category(t, 0).Stream("1"), p.category(t, 1).Stream("1")
		message := func() mdb.ProposedMessage { return mdb.NewMessage("Happened", nil) }
		results := s.WriteEach(t.Context(), []mdb.Write{
			{Stream: a, Message: message()},
			{Stream: b, Message: message()},
			{Stream: a, Message: message(), Options: []mdb.WriteOption{mdb.ExpectStream()}},
			{Stream: a, Message: message(), Options: []mdb.WriteOption{mdb.ExpectVersion(9)}},
			{Stream: b, Message: message(), Options: []mdb.WriteOption{mdb.ExpectVersion(0)}},
			{Stream: a, Message: message()},
		})
		for i, want := range map[int]int64{0: 0, 1: 0, 2: 1, 4: 1} {
			got := results[i]
			if got.Err != nil || got.Written.Position != want {
				t.Errorf("%v: write %d: got %+v, want position %d", mode, i, got, want)
				continue
			}
			stream := []mdb.StreamName{a, b, a, a, b}[i]
			all, err := s.GetStreamMessages(t.Context(), stream, mdb.FromPosition(want))
			if err != nil || len(all) == 0 {
				t.Fatalf("%v: got %v, error %v", mode, all, err)
			}
			wantStored(t, all[0], got.Written)
		}
		wantError[*mdb.WrongVersionError](t, results[3].Err)
		wantError[*mdb.SkippedError](t, results[5].Err)
		if got := positions(t, p.shards[0], a); !slices.Equal(got, []int64{0, 1}) {
			t.Errorf("%v: the shard has the positions %v", mode, got)
		}
	}
}

// rejected are the calls that a proxied store rejects.
func rejected(ctx context.Context, s *mdb.Store, tx *mdb.Tx, stream mdb.StreamName) map[string]error {
	errs := make(map[string]error)
	call := func(what string, f func() error) { errs[what] = f() }
	two := func(opts ...mdb.WriteOption) func() error {
		return func() error { _, err := tx.WriteMessages(ctx, stream, proposals(2), opts...); return err }
	}
	one := func(opts ...mdb.WriteOption) func() error {
		return func() error {
			_, err := tx.WriteMessage(ctx, stream, mdb.NewMessage("Happened", nil), opts...)
			return err
		}
	}
	if s != nil {
		call("GetAllMessages", func() error { _, err := s.GetAllMessages(ctx); return err })
		call("GetAllMessages, Backwards", func() error { _, err := s.GetAllMessages(ctx, mdb.Backwards()); return err })
		call("GetAllMessages, Since", func() error { _, err := s.GetAllMessages(ctx, mdb.Since(time.Unix(0, 0))); return err })
		call("AllMessages", func() error { return last(s.AllMessages(ctx)) })
		call("SubscribeToAll", func() error {
			return s.SubscribeToAll(ctx, func(context.Context, mdb.Message) error { panic("not reached") })
		})
		call("Head", func() error { _, err := s.Head(ctx); return err })
		call("Atomically", func() error {
			return s.Atomically(ctx, []mdb.Category{stream.Category()}, func(*mdb.Tx) error { panic("not reached") })
		})
	}
	reads := map[string]calls{"Tx.": tx}
	if s != nil {
		reads[""] = s
	}
	for of, c := range reads {
		call(of+"GetMessage", func() error { _, err := c.GetMessage(ctx, uuid.New()); return err })
		call(of+"GetStreamMessages, Since", func() error { _, err := c.GetStreamMessages(ctx, stream, mdb.Since(time.Unix(0, 0))); return err })
		call(of+"GetCategoryMessages, Since", func() error {
			_, err := c.GetCategoryMessages(ctx, stream.Category(), mdb.Since(time.Unix(0, 0)))
			return err
		})
		call(of+"GetStreamMessages, Backwards", func() error { _, err := c.GetStreamMessages(ctx, stream, mdb.Backwards()); return err })
		call(of+"GetCategoryMessages, Backwards", func() error { _, err := c.GetCategoryMessages(ctx, stream.Category(), mdb.Backwards()); return err })
		call(of+"GetLastCategoryMessage", func() error { _, err := c.GetLastCategoryMessage(ctx, stream.Category()); return err })
		call(of+"GetLastCategoryMessage, OfType", func() error {
			_, err := c.GetLastCategoryMessage(ctx, stream.Category(), mdb.OfType("Happened"))
			return err
		})
	}
	call("Tx.WriteMessage", one())
	call("Tx.WriteMessage, ExpectStream", one(mdb.ExpectStream()))
	call("Tx.WriteMessage, InSavepoint", one(mdb.InSavepoint()))
	call("Tx.WriteMessage, InSavepoint, Idempotent", one(mdb.InSavepoint(), mdb.Idempotent()))
	call("Tx.WriteMessages", two())
	call("Tx.WriteMessages, InSavepoint", two(mdb.InSavepoint()))
	call("Tx.LockCategories", func() error { return tx.LockCategories(ctx, stream.Category()) })
	return errs
}

func (p *plproxy) testRejected(t *testing.T) {
	for _, mode := range execModes {
		var w wire
		s := newStore(t, newPool(t, p.url, execMode(mode), w.attach))
		stream := p.category(t, 0).Stream("1")
		write(t, s, stream, mdb.NewMessage("Happened", nil))
		for what, options := range map[string]pgx.TxOptions{"": {}, "read-only ": {AccessMode: pgx.ReadOnly}} {
			pgxTx := begin(t, s.Pool(), options)
			tx := s.WithTx(pgxTx)
			trips := w.trips.Load()
			for name, err := range rejected(t.Context(), s, tx, stream) {
				wantProxied(t, what+name, err)
			}
			if n := w.trips.Load() - trips; n != 0 {
				t.Errorf("%v: got %d round trips, want none", mode, n)
			}
			// The transaction is as usable as before.
			if version, err := tx.StreamVersion(t.Context(), stream); err != nil || version != 0 {
				t.Errorf("%v: got version %d in the transaction, error %v", mode, version, err)
			}
			if err := pgxTx.Commit(t.Context()); err != nil {
				t.Error(err)
			}
		}
		if got := positions(t, p.shards[0], stream); len(got) != 1 {
			t.Errorf("%v: the shard has the positions %v, want that of the first write", mode, got)
		}
	}
}

func (p *plproxy) testFirstCall(t *testing.T) {
	stream := p.category(t, 0).Stream("1")
	connected, err := mdb.Connect(t.Context(), p.url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(connected.Close)
	if _, err := connected.WriteMessages(t.Context(), p.category(t, 0).Stream("1"), proposals(2)); err != nil {
		t.Errorf("after Connect: %v", err)
	}
	_, err = connected.GetMessage(t.Context(), uuid.New())
	wantProxied(t, "after Connect", err)

	pool := newPool(t, p.url)
	happened := mdb.NewMessage("Happened", nil)
	for what, call := range map[string]func(s *mdb.Store, tx *mdb.Tx) error{
		"GetMessage": func(s *mdb.Store, _ *mdb.Tx) error { _, err := s.GetMessage(t.Context(), uuid.New()); return err },
		"GetLastCategoryMessage": func(s *mdb.Store, _ *mdb.Tx) error {
			_, err := s.GetLastCategoryMessage(t.Context(), stream.Category())
			return err
		},
		"Atomically": func(s *mdb.Store, _ *mdb.Tx) error {
			return s.Atomically(t.Context(), nil, func(*mdb.Tx) error { panic("not reached") })
		},
		"Tx.LockCategories": func(_ *mdb.Store, tx *mdb.Tx) error { return tx.LockCategories(t.Context(), stream.Category()) },
		"Tx.WriteMessage": func(_ *mdb.Store, tx *mdb.Tx) error {
			_, err := tx.WriteMessage(t.Context(), stream, happened)
			return err
		},
		"Tx.WriteMessage, InSavepoint": func(_ *mdb.Store, tx *mdb.Tx) error {
			_, err := tx.WriteMessage(t.Context(), stream, happened, mdb.InSavepoint())
			return err
		},
	} {
		tx, s := begin(t, pool), newStore(t, pool)
		wantProxied(t, what, call(s, s.WithTx(tx)))
		if err := tx.Commit(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if got := positions(t, p.shards[0], stream); len(got) != 0 {
		t.Errorf("the shard has the positions %v, want none", got)
	}
}

// testOtherPools checks that it is the transaction's database that decides, whatever that of
// the store's pool is.
func (p *plproxy) testOtherPools(t *testing.T) {
	proxied, whole := newStore(t, newPool(t, p.url)), newStore(t, newPool(t, p.shards[0].Config().ConnString()))
	for range 2 { // at the first call of the stores, and later
		stream := p.category(t, 0).Stream("1")
		for name, err := range rejected(t.Context(), nil, whole.WithTx(begin(t, proxied.Pool())), stream) {
			wantProxied(t, name, err)
		}
		onWhole := proxied.WithTx(begin(t, whole.Pool()))
		if err := onWhole.LockCategories(t.Context(), stream.Category()); err != nil {
			t.Error(err)
		}
		write(t, onWhole, stream, mdb.NewMessage("Happened", nil))
		for _, s := range []*mdb.Store{proxied, whole} {
			if _, err := s.WriteMessages(t.Context(), p.category(t, 0).Stream("1"), proposals(2)); err != nil {
				t.Error(err)
			}
		}
	}
	stream := p.category(t, 0).Stream("1")
	direct := newStore(t, whole.Pool(), mdb.WithDirectSQL())
	if _, err := direct.StreamVersion(t.Context(), stream); err != nil {
		t.Fatal(err)
	}
	_, err := direct.WithTx(begin(t, proxied.Pool())).GetStreamMessages(t.Context(), stream)
	wantProxied(t, "direct SQL in a transaction", err)
	// Also if another store has looked at the transaction's connection.
	tx := begin(t, proxied.Pool())
	if _, err := proxied.WithTx(tx).StreamVersion(t.Context(), stream); err != nil {
		t.Fatal(err)
	}
	_, err = direct.WithTx(tx).GetStreamMessages(t.Context(), stream)
	wantProxied(t, "direct SQL in a transaction that is known to be proxied", err)
}

func (p *plproxy) testDirect(t *testing.T) {
	stream := p.category(t, 0).Stream("1")
	connected, err := mdb.Connect(t.Context(), p.url, mdb.WithDirectSQL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(connected.Close)
	replicated := newStore(t, newPool(t, p.url), mdb.WithReplica(newPool(t, p.url)))
	t.Cleanup(replicated.Close)
	for _, s := range []*mdb.Store{connected, newStore(t, newPool(t, p.url), mdb.WithDirectSQL()), replicated} {
		remedy := "WithDirectSQL"
		if s == replicated {
			remedy = "WithReplica"
		}
		for range 2 {
			for what, call := range map[string]func() error{
				"WriteMessage": func() error {
					_, err := s.WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", nil))
					return err
				},
				"GetStreamMessages": func() error { _, err := s.GetStreamMessages(t.Context(), stream); return err },
				"SubscribeToStream": func() error {
					return s.SubscribeToStream(t.Context(), stream, func(context.Context, mdb.Message) error { return nil })
				},
				"Tx": func() error {
					_, err := s.WithTx(begin(t, s.Pool())).GetStreamMessages(t.Context(), stream)
					return err
				},
				"WriteEach": func() error {
					return s.WriteEach(t.Context(), []mdb.Write{{Stream: stream, Message: mdb.NewMessage("Happened", nil)}})[0].Err
				},
			} {
				err := call()
				wantProxied(t, what, err)
				if setup := wantError[*mdb.SetupError](t, err); !strings.Contains(setup.Remedy, remedy) {
					t.Errorf("%s: got %v", what, setup)
				}
			}
		}
	}
	if got := positions(t, p.shards[0], stream); len(got) != 0 {
		t.Errorf("the shard has the positions %v, want none", got)
	}
}

func (p *plproxy) testConditions(t *testing.T) {
	s := newStore(t, newPool(t, p.url), mdb.WithConditions())
	for shard := range p.shards {
		category := p.category(t, shard)
		write(t, s, category.Stream("1"), mdb.NewMessage("Happened", nil))
		condition := mdb.WithCondition("type = 'Happened'")
		_, ofCategory := s.GetCategoryMessages(t.Context(), category, condition)
		_, ofStream := s.GetStreamMessages(t.Context(), category.Stream("1"), condition)
		subscription := s.SubscribeToCategory(t.Context(), category, func(context.Context, mdb.Message) error { return nil }, condition)
		for what, err := range map[string]error{"a category": ofCategory, "a stream": ofStream, "a subscription": subscription} {
			if wantCode(t, err, "P0001"); mdb.IsTransient(err) { // which Message DB raises if conditions are not activated
				t.Errorf("shard %d, %s: got a transient error: %v", shard, what, err)
			}
		}
	}
}

func (p *plproxy) testCheck(t *testing.T) {
	for _, mode := range execModes {
		s := newStore(t, newPool(t, p.url, execMode(mode)))
		if err := s.Check(t.Context()); err != nil {
			t.Errorf("%v: got error %v, want none", mode, err)
		}
		exec(t, p.shards[0], `ALTER SEQUENCE message_store.messages_global_position_seq INCREMENT BY 1`)
		exec(t, p.shards[1], `DROP INDEX message_store.messages_category`)
		err := s.Check(t.Context())
		for _, want := range []string{"shard 0: its global positions", "mdb install -shard 0", "shard 1: the index messages_category is missing"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v: got error %v, want one with %q", mode, err, want)
			}
		}
		exec(t, p.shards[0], `ALTER SEQUENCE message_store.messages_global_position_seq INCREMENT BY 1024`)
		exec(t, p.shards[1], `CREATE INDEX messages_category ON message_store.messages (message_store.category(stream_name), global_position, message_store.category(metadata->>'correlationStreamName'))`)
	}
	s := newStore(t, newPool(t, p.url))
	exec(t, p.shards[0], `ALTER SEQUENCE message_store.messages_global_position_seq START 5`)
	if err := s.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "shard 0: it is shard 5") {
		t.Errorf("got error %v, want the number of the shard", err)
	}
	exec(t, p.shards[0], `ALTER SEQUENCE message_store.messages_global_position_seq START 1024`)
	exec(t, p.shards[1], `ALTER FUNCTION message_store_shard.check(integer, boolean) RENAME TO absent`)
	wantProblem(t, s.Check(t.Context()), "shard 1: it lacks the functions", "mdb install -shard 1")
	exec(t, p.shards[1], `ALTER FUNCTION message_store_shard.absent(integer, boolean) RENAME TO "check"`)

	exec(t, p.shards[1], `ALTER ROLE message_store NOLOGIN`)
	fresh := newStore(t, newPool(t, p.url))
	wantProblem(t, fresh.Check(t.Context()), "shard 1: the proxy cannot connect to it", "option p1")
	exec(t, p.shards[1], `ALTER ROLE message_store LOGIN`)
	if err := fresh.Check(t.Context()); err != nil {
		t.Errorf("after the repair: %v", err)
	}
	for _, shard := range p.shards {
		if err := newStore(t, shard).Check(t.Context()); err != nil {
			t.Errorf("a shard: %v", err)
		}
	}
}

// wantProblem checks the one problem of Check.
func wantProblem(t testing.TB, err error, problem, remedy string) {
	t.Helper()
	if setup := wantError[*mdb.SetupError](t, err); !strings.HasPrefix(setup.Problem, problem) || !strings.Contains(setup.Remedy, remedy) {
		t.Errorf("got %+v, want problem %q, remedy %q", setup, problem, remedy)
	}
}

// wantStored checks that what a write has returned is so in the store.
func wantStored(t testing.TB, m mdb.Message, w mdb.Written) {
	t.Helper()
	if w.ID != m.ID || w.Position != m.Position || w.GlobalPosition != m.GlobalPosition || !w.Time.Equal(m.Time) || w.Duplicate {
		t.Errorf("got %+v, want that of message %s at %d, global position %d, of %v", w, m.ID, m.Position, m.GlobalPosition, m.Time)
	}
}

// last returns the error of a sequence.
func last(messages iter.Seq2[mdb.Message, error]) (err error) {
	for _, err = range messages {
		continue
	}
	return err
}

func (p *plproxy) testSeveral(t *testing.T) {
	for _, mode := range execModes {
		s := newStore(t, newPool(t, p.url, execMode(mode)))
		for shard := range p.shards {
			stream := p.category(t, shard).Stream("1")
			_, err := s.WriteMessages(t.Context(), stream, proposals(2), mdb.ExpectStream())
			wantError[*mdb.WrongVersionError](t, err)
			ms := proposals(3)
			for i := range ms {
				ms[i].ID = uuid.New()
			}
			var written []mdb.Written
			for _, opts := range [][]mdb.WriteOption{{mdb.ExpectNoStream()}, {mdb.ExpectVersion(2)}, {mdb.ExpectStream()}, nil} {
				ws, err := s.WriteMessages(t.Context(), stream, proposals(3), opts...)
				if err != nil {
					t.Fatalf("%v: %v", mode, err)
				}
				written = append(written, ws...)
			}
			_, err = s.WriteMessages(t.Context(), stream, proposals(2), mdb.ExpectVersion(3))
			if wrong := wantError[*mdb.WrongVersionError](t, err); wrong.Actual != 11 {
				t.Errorf("%v: got %+v", mode, wrong)
			}
			// All of them or none.
			several := proposals(3)
			several[2].ID = written[5].ID
			_, err = s.WriteMessages(t.Context(), stream, several)
			wantError[*mdb.DuplicateIDError](t, err)
			all, err := s.GetStreamMessages(t.Context(), stream)
			if err != nil || len(all) != len(written) {
				t.Fatalf("%v: got %d messages, error %v, want %d", mode, len(all), err, len(written))
			}
			for i, m := range all {
				wantStored(t, m, written[i])
			}
		}
	}
}

// testProgress checks that the progress of a subscription passes over what its filter leaves out.
func (p *plproxy) testProgress(t *testing.T) {
	for shard := range p.shards {
		category := p.category(t, shard)
		s := newStore(t, newPool(t, p.url))
		for range 3 {
			write(t, s, category.Stream("1"), mdb.NewMessage("Happened", nil))
		}
		head, err := s.CategoryHead(t.Context(), category)
		if want := value[int64](t, p.shards[shard], `SELECT max(global_position) FROM message_store.messages WHERE message_store.category(stream_name) = $1`, string(category)); err != nil || head != want {
			t.Errorf("got head %d, error %v, want %d", head, err, want)
		}
		member := 0
		if hash := mdb.Hash64("1"); max(hash, -hash)%2 == 0 {
			member = 1 // which has nothing
		}
		for _, known := range []bool{false, true} {
			if !known { // the first statement of a store is that of the subscription
				s = newStore(t, newPool(t, p.url))
			}
			ctx, cancel := context.WithCancel(t.Context())
			var progress mdb.CategoryCheckpoint
			err := s.SubscribeToCategory(ctx, category, func(context.Context, mdb.Message) error { panic("not reached") },
				mdb.AsConsumerGroup(member, 2), mdb.OnProgress(func(_ context.Context, c mdb.CategoryCheckpoint) error {
					progress = c
					cancel()
					return nil
				}))
			if !errors.Is(err, context.Canceled) || progress.Position() != head {
				t.Errorf("got progress %d, error %v, want %d", progress.Position(), err, head)
			}
		}
	}
}

// testPlacement checks that a row decides where a category is.
func (p *plproxy) testPlacement(t *testing.T) {
	s := newStore(t, newPool(t, p.url))
	category := p.category(t, 0)
	exec(t, newPool(t, p.url), `INSERT INTO message_store_proxy.placement VALUES ($1, 1)`, string(category))
	write(t, s, category.Stream("1"), mdb.NewMessage("Happened", nil))
	if got := positions(t, p.shards[1], category.Stream("1")); len(got) != 1 {
		t.Errorf("shard 1 has the positions %v, want one", got)
	}
	messages, err := s.GetCategoryMessages(t.Context(), category)
	if err != nil || len(messages) != 1 {
		t.Errorf("got %v, error %v", messages, err)
	}
}

func (p *plproxy) testDuplicates(t *testing.T) {
	var log journal
	s := newStore(t, newPool(t, p.url), log.option())
	m := mdb.NewMessage("Happened", map[string]int{"n": 1})
	m.ID = uuid.New()
	stream := p.category(t, 1).Stream("1")
	first := write(t, s, stream, m)
	_, err := s.WriteMessage(t.Context(), stream, m)
	if duplicate := wantError[*mdb.DuplicateIDError](t, err); !slices.Equal(duplicate.IDs, []uuid.UUID{m.ID}) || mdb.IsTransient(err) {
		t.Errorf("got %+v", duplicate)
	}
	repeated := first
	repeated.Duplicate = true
	if w, err := s.WriteMessage(t.Context(), stream, m, mdb.Idempotent()); err != nil || w != repeated {
		t.Errorf("got %+v, error %v, want %+v", w, err, repeated)
	}
	result := s.WriteEach(t.Context(), []mdb.Write{{Stream: stream, Message: m, Options: []mdb.WriteOption{mdb.Idempotent()}}})[0]
	if result.Err != nil || result.Written != repeated {
		t.Errorf("got %+v, want %+v", result, repeated)
	}
	several := append(proposals(1), m)
	several[0].ID = uuid.New()
	_, err = s.WriteMessages(t.Context(), stream, several, mdb.Idempotent())
	if duplicate := wantError[*mdb.DuplicateIDError](t, err); !slices.Equal(duplicate.IDs, []uuid.UUID{m.ID}) {
		t.Errorf("got %+v, want only the ID that is there", duplicate)
	}
	_, err = s.WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", nil), mdb.ExpectVersion(7), mdb.Idempotent())
	wantError[*mdb.WrongVersionError](t, err)
	changed := m
	changed.Data = map[string]int{"n": 2}
	_, err = s.WriteMessage(t.Context(), stream, changed, mdb.Idempotent())
	if duplicate := wantError[*mdb.DuplicateIDError](t, err); duplicate.Differs != "data" {
		t.Errorf("got %+v, want a difference of the data", duplicate)
	}
	if log.retries() != 0 {
		t.Errorf("got retries, want none: %s", &log)
	}
	// The other shard has no message with the ID.
	other := p.category(t, 0).Stream("1")
	if w := write(t, s, other, m); w.Position != 0 || w.Duplicate {
		t.Errorf("got %+v, want a write", w)
	}
}

func (p *plproxy) testScrub(t *testing.T) {
	const canary = "canary-7d1f"
	exec(t, p.shards[0], `CREATE FUNCTION public.quote_row() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN RAISE EXCEPTION 'row %', NEW.data USING ERRCODE = NEW.type; END $$;
		CREATE TRIGGER quote_row BEFORE INSERT ON message_store.messages FOR EACH ROW WHEN (NEW.type ~ '^[0-9A-Z]{5}$') EXECUTE FUNCTION public.quote_row()`)
	s := newStore(t, newPool(t, p.url), attempts(1))
	for _, code := range []string{"23505", "P0001", "57P03", "XX000", "08000", "53200", "42501"} {
		_, err := s.WriteMessage(t.Context(), p.category(t, 0).Stream("1"), mdb.NewMessage(code, []string{canary}))
		if pgErr := wantCode(t, err, code); !strings.Contains(pgErr.Message, canary) {
			t.Errorf("%s: got the server's text %q, which does not quote the payload, so this proves nothing", code, pgErr.Message)
		}
		if strings.Contains(err.Error(), canary) {
			t.Errorf("%s: got error %v, want one without the payload", code, err)
		}
	}
}

// testCancelledWait checks that a write is looked for after the shard has reported that it has not waited for its standby.
func (p *plproxy) testCancelledWait(t *testing.T) {
	exec(t, p.shards[0], `CREATE FUNCTION public.warn() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN RAISE WARNING '%', NEW.type; RETURN NULL; END $$;
		CREATE TRIGGER warn AFTER INSERT ON message_store.messages FOR EACH ROW EXECUTE FUNCTION public.warn()`)
	for warning, retries := range map[string]int{"canceling wait for synchronous replication due to user request": 1, "another warning": 0} {
		var log journal
		s := newStore(t, newPool(t, p.url), log.option())
		stream := p.category(t, 0).Stream("1")
		w := write(t, s, stream, mdb.NewMessage(warning, nil))
		if log.retries() != retries || w.Duplicate != (retries > 0) || w.Position != 0 {
			t.Errorf("%s: got %+v after %d retries, want %d", warning, w, log.retries(), retries)
		}
		if got := positions(t, p.shards[0], stream); len(got) != 1 {
			t.Errorf("%s: the shard has the positions %v", warning, got)
		}
	}
}

// TestPLProxyLost checks that a write through PL/Proxy is never reported as failed although it
// has happened, nor done twice, where the connection between the proxy and the shard is lost.
func TestPLProxyLost(t *testing.T) {
	t.Parallel()
	p := newPLProxy(t)
	for what, answer := range map[string]int{"the request is lost": lost, "the answer is lost": 0} {
		for _, each := range []bool{false, true} {
			t.Run(what, func(t *testing.T) {
				var log journal
				s := newStore(t, newPool(t, p.url), log.option())
				stream := p.category(t, 1).Stream("1")
				write(t, s, stream, mdb.NewMessage("Happened", nil))
				p.relay.cut(cut{"write_message", answer})
				var results []mdb.WriteResult
				if each {
					results = s.WriteEach(t.Context(), []mdb.Write{
						{Stream: stream, Message: mdb.NewMessage("Happened", nil)},
						{Stream: stream, Message: mdb.NewMessage("Happened", nil)},
					})
				} else {
					w, err := s.WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", nil))
					results = []mdb.WriteResult{{Written: w, Err: err}}
				}
				for i, r := range results {
					if r.Err != nil || r.Written.Position != int64(i)+1 || r.Written.Duplicate != (answer == 0 && i == 0) {
						t.Errorf("write %d: got %+v", i, r)
					}
				}
				if p.relay.uncut() != 0 || log.retries() != 1 {
					t.Errorf("got %d retries, want 1: %s", log.retries(), &log)
				}
				if got := positions(t, p.shards[1], stream); len(got) != len(results)+1 {
					t.Errorf("the shard has the positions %v", got)
				}
			})
		}
	}
	t.Run("the session on the shard is terminated", func(t *testing.T) {
		var log journal
		s := newStore(t, newPool(t, p.url), log.option())
		stream := p.category(t, 1).Stream("1")
		p.blocked(t, stream, func() error {
			_, err := s.WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", nil))
			return err
		}, func(release func()) {
			pid := value[int](t, p.shards[1], `SELECT pid FROM pg_locks WHERE NOT granted AND `+keyLocks, mdb.Hash64(string(stream.Category())))
			exec(t, p.shards[1], `SELECT pg_terminate_backend($1)`, pid)
			until(t, p.shards[1], `SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND pid <> $2 AND `+keyLocks+`)`, mdb.Hash64(string(stream.Category())), pid)
			release()
		}, nil)
		if got := positions(t, p.shards[1], stream); len(got) != 1 || log.retries() != 1 {
			t.Errorf("got the positions %v after %d retries", got, log.retries())
		}
	})
	// The proxy gives up waiting for the shard, which may commit all the same.
	t.Run("the statement is cancelled on the proxy", func(t *testing.T) {
		s := newStore(t, newPool(t, p.url, parameter("application_name", "cancelled")), attempts(1))
		stream := p.category(t, 1).Stream("1")
		unknown := new(mdb.UnknownOutcomeError)
		p.blocked(t, stream, func() error {
			_, err := s.WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", nil))
			return err
		}, func(func()) {
			exec(t, newPool(t, p.url), `SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE application_name = 'cancelled' AND state = 'active'`)
		}, &unknown)
	})
}

// TestPLProxyReadOnly checks that a write is retried through another session on the shard after
// the shard has rejected it as read-only, as the old primary does after a failover, and that the
// policy's time limits these retries, not its attempts.
func TestPLProxyReadOnly(t *testing.T) {
	t.Parallel()
	p := newPLProxy(t)
	stream := p.category(t, 1).Stream("1")
	for name, do := range map[string]func(s *mdb.Store) error{
		"WriteMessage": func(s *mdb.Store) error {
			_, err := s.WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", nil))
			return err
		},
		"WriteEach": func(s *mdb.Store) error {
			return s.WriteEach(t.Context(), []mdb.Write{{Stream: stream, Message: mdb.NewMessage("Happened", nil)}})[0].Err
		},
	} {
		exec(t, p.shards[1], `ALTER DATABASE shard1 SET default_transaction_read_only = on`)
		var log journal
		log.onRecord = func() {
			if log.retries() == 4 {
				_, _ = p.shards[1].Exec(t.Context(), `ALTER DATABASE shard1 RESET default_transaction_read_only`)
			}
		}
		if err := do(newStore(t, newPool(t, p.url, oneConnection), log.option(), attempts(2))); err != nil || log.retries() != 5 {
			t.Errorf("%s: got error %v after %d retries, want none after 5", name, err, log.retries())
		}
	}
}

// blocked calls write while the category's lock is held on shard 1, then during, and then
// waits for the result of write. It wants no error, or one of the target's type.
func (p *plproxy) blocked(t *testing.T, stream mdb.StreamName, write func() error, during func(release func()), target any) {
	t.Helper()
	release := holdLock(t, newStore(t, p.shards[1]), stream.Category())
	defer release()
	done := make(chan error, 1)
	go func() { done <- write() }()
	untilBlocked(t, p.shards[1], stream.Category(), 1)
	during(release)
	switch err := <-done; {
	case target == nil && err != nil:
		t.Error(err)
	case target != nil && !errors.As(err, target):
		t.Errorf("got error %v, want a %T", err, target)
	}
}

// TestPLProxyRestart checks that writes to a shard are retried while it restarts, and that
// those to the other shard do not notice.
func TestPLProxyRestart(t *testing.T) {
	t.Parallel()
	p := newPLProxy(t)
	p.underLoad(t, func() *pgxpool.Pool {
		if err := p.server.Restart("immediate"); err != nil {
			t.Fatal(err)
		}
		return newPool(t, p.server.URL("shard1"))
	})
}

// TestPLProxyFailover checks that nothing is lost that was acknowledged, nor written twice, when a shard with a
// synchronous standby fails over, and that the other shard does not notice.
func TestPLProxyFailover(t *testing.T) {
	t.Parallel()
	pair := pgtest.NewPair(t, nil)
	hosts := func(part func(*pgx.ConnConfig) string) string {
		var parts []string
		for _, server := range []*pgtest.Server{pair.Primary, pair.Standby} {
			parts = append(parts, part(barePool(t, server.TCP("postgres")).Config().ConnConfig))
		}
		return strings.Join(parts, ",")
	}
	reach := "host=" + hosts(func(c *pgx.ConnConfig) string { return c.Host }) +
		" port=" + hosts(func(c *pgx.ConnConfig) string { return strconv.Itoa(int(c.Port)) }) +
		" target_session_attrs=read-write"
	p := &plproxy{Proxy: testdb.ProxyOf(t, 2, pair.Primary, reach)}
	p.url = p.URL
	p.shards = []*pgxpool.Pool{newPool(t, p.Shards[0]), newPool(t, p.Shards[1])}
	pair.Synchronous(t, true)
	p.underLoad(t, func() *pgxpool.Pool {
		if err := pair.Primary.Kill(); err != nil {
			t.Fatal(err)
		}
		pair.Promote(t)
		return newPool(t, pair.Standby.URL("shard1"))
	})
}

// underLoad writes to both shards while something happens to shard 1, and checks that each stream has what was acknowledged, in
// order. during returns a pool of shard 1 as it is then.
func (p *plproxy) underLoad(t *testing.T, during func() *pgxpool.Pool) {
	t.Helper()
	var logs [2]journal
	var ids [2][]uuid.UUID
	var results [2]chan error
	stop := make(chan struct{})
	pool := newPool(t, p.url, func(cfg *pgxpool.Config) { cfg.MaxConns = 4 })
	var streams [2]mdb.StreamName
	begun := make(chan struct{}, 2)
	for shard := range p.shards {
		s := newStore(t, pool, logs[shard].option(), mdb.WithRetry(mdb.RetryPolicy{For: testTimeout}))
		streams[shard], results[shard] = p.category(t, shard).Stream("1"), make(chan error, 1)
		go func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					results[shard] <- nil
					return
				default:
				}
				written, err := s.WriteMessages(t.Context(), streams[shard], proposals(1+n%3)) // one by another function than several
				if err != nil {
					results[shard] <- err
					return
				}
				for _, w := range written {
					ids[shard] = append(ids[shard], w.ID)
				}
				if n == 10 {
					begun <- struct{}{}
				}
			}
		}()
	}
	<-begun
	<-begun
	pools := []*pgxpool.Pool{p.shards[0], during()}
	const end = `SELECT max(position) FROM message_store.messages WHERE stream_name = $1`
	for shard, db := range pools {
		written := value[int64](t, db, end, string(streams[shard]))
		until(t, db, `SELECT (`+end+`) > $2 + 10`, string(streams[shard]), written)
	}
	close(stop)
	for shard := range results {
		if err := <-results[shard]; err != nil {
			t.Errorf("shard %d: %v", shard, err)
		}
	}
	if logs[0].retries() != 0 || logs[1].retries() == 0 {
		t.Errorf("got %d and %d retries, want none and some", logs[0].retries(), logs[1].retries())
	}
	for shard, db := range pools {
		rows, _ := db.Query(t.Context(), `SELECT id FROM message_store.messages WHERE stream_name = $1 ORDER BY position`, string(streams[shard]))
		got, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
		if err != nil || !slices.Equal(got, ids[shard]) {
			t.Errorf("shard %d has %d messages, want the %d that were written, in order; error %v", shard, len(got), len(ids[shard]), err)
		}
	}
}
