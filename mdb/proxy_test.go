package mdb_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

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
	t.Run("what needs a transaction is rejected", p.testRejected)
	t.Run("the first call knows", p.testFirstCall)
	t.Run("transactions on other pools", p.testOtherPools)
	t.Run("direct SQL is rejected", p.testDirect)
	t.Run("conditions are rejected by the shard", p.testConditions)
	t.Run("Check says so", p.testCheck)
	t.Run("IDs are unique in a shard", p.testDuplicates)
	t.Run("errors quote nothing", p.testScrub)
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
			// What the proxy cannot know is not made up.
			if want := (mdb.Written{ID: first.ID}); first != want || second.Position != 1 || !second.Time.IsZero() || second.GlobalPosition != 0 {
				t.Errorf("%v: got %+v and %+v", mode, first, second)
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
			if got := results[i]; got.Err != nil || got.Written.Position != want || !got.Written.Time.IsZero() {
				t.Errorf("%v: write %d: got %+v, want position %d", mode, i, got, want)
			}
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
	two := func(c calls, opts ...mdb.WriteOption) func() error {
		return func() error { _, err := c.WriteMessages(ctx, stream, proposals(2), opts...); return err }
	}
	one := func(opts ...mdb.WriteOption) func() error {
		return func() error {
			_, err := tx.WriteMessage(ctx, stream, mdb.NewMessage("Happened", nil), opts...)
			return err
		}
	}
	if s != nil {
		call("WriteMessages", two(s))
		call("WriteMessages, ExpectStream", two(s, mdb.ExpectStream()))
		call("WriteMessages, Idempotent", two(s, mdb.Idempotent()))
		call("GetAllMessages", func() error { _, err := s.GetAllMessages(ctx); return err })
		call("Head", func() error { _, err := s.Head(ctx); return err })
		call("Atomically", func() error {
			return s.Atomically(ctx, []mdb.Category{stream.Category()}, func(*mdb.Tx) error { panic("not reached") })
		})
	}
	call("Tx.WriteMessage", one())
	call("Tx.WriteMessage, ExpectStream", one(mdb.ExpectStream()))
	call("Tx.WriteMessage, InSavepoint", one(mdb.InSavepoint()))
	call("Tx.WriteMessage, InSavepoint, Idempotent", one(mdb.InSavepoint(), mdb.Idempotent()))
	call("Tx.WriteMessages", two(tx))
	call("Tx.WriteMessages, InSavepoint", two(tx, mdb.InSavepoint()))
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
	_, err = connected.WriteMessages(t.Context(), stream, proposals(2))
	wantProxied(t, "after Connect", err)

	pool := newPool(t, p.url)
	happened := mdb.NewMessage("Happened", nil)
	for what, call := range map[string]func(s *mdb.Store, tx *mdb.Tx) error{
		"WriteMessages": func(s *mdb.Store, _ *mdb.Tx) error {
			_, err := s.WriteMessages(t.Context(), stream, proposals(2))
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
		_, err := proxied.WriteMessages(t.Context(), p.category(t, 0).Stream("1"), proposals(2))
		wantProxied(t, "the Store", err)
		other := p.category(t, 0).Stream("1")
		if _, err := whole.WriteMessages(t.Context(), other, proposals(2)); err != nil {
			t.Error(err)
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
	s := newStore(t, newPool(t, p.url))
	err := s.Check(t.Context())
	wantProxied(t, "Check", err)
	wantError[*mdb.SetupError](t, err)
	if !strings.Contains(err.Error(), "PL/Proxy") || strings.Contains(err.Error(), "installed") {
		t.Errorf("got %v", err)
	}
	for _, shard := range p.shards {
		if err := newStore(t, shard).Check(t.Context()); err != nil {
			t.Errorf("a shard: %v", err)
		}
	}
}

func (p *plproxy) testDuplicates(t *testing.T) {
	var log journal
	s := newStore(t, newPool(t, p.url), log.option())
	m := mdb.NewMessage("Happened", map[string]int{"n": 1})
	m.ID = uuid.New()
	stream := p.category(t, 1).Stream("1")
	write(t, s, stream, m)
	_, err := s.WriteMessage(t.Context(), stream, m)
	if duplicate := wantError[*mdb.DuplicateIDError](t, err); !slices.Equal(duplicate.IDs, []uuid.UUID{m.ID}) || mdb.IsTransient(err) {
		t.Errorf("got %+v", duplicate)
	}
	// The look for the message needs a table.
	idempotent := func() (mdb.Written, error) { return s.WriteMessage(t.Context(), stream, m, mdb.Idempotent()) }
	_, err = idempotent()
	unknown := wantError[*mdb.UnknownOutcomeError](t, err)
	if !errors.Is(err, mdb.ErrProxied) || !slices.Equal(unknown.IDs, []uuid.UUID{m.ID}) {
		t.Errorf("got error %v, want the reason", err)
	}
	result := s.WriteEach(t.Context(), []mdb.Write{{Stream: stream, Message: m, Options: []mdb.WriteOption{mdb.Idempotent()}}})[0]
	wantError[*mdb.UnknownOutcomeError](t, result.Err)
	_, err = s.WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", nil), mdb.ExpectVersion(7), mdb.Idempotent())
	wantError[*mdb.UnknownOutcomeError](t, err)
	if log.retries() != 0 {
		t.Errorf("got retries, want none: %s", &log)
	}
	p.createView(t)
	if w, err := idempotent(); err != nil || !w.Duplicate || w.Position != 0 || w.GlobalPosition == 0 || w.Time.IsZero() {
		t.Errorf("with a view: got %+v, error %v, want the first write", w, err)
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

// TestPLProxyLost checks that a write through PL/Proxy is never reported as failed although it
// has happened, nor done twice, where the connection between the proxy and the shard is lost.
func TestPLProxyLost(t *testing.T) {
	t.Parallel()
	p := newPLProxy(t)
	t.Run("without a table", func(t *testing.T) {
		s, m := newStore(t, newPool(t, p.url)), mdb.NewMessage("Happened", nil)
		m.ID = uuid.New()
		stream := p.category(t, 1).Stream("1")
		write(t, s, stream, mdb.NewMessage("Happened", nil))
		p.relay.cut(cut{"write_message", 0})
		_, err := s.WriteMessage(t.Context(), stream, m)
		if !slices.Equal(wantError[*mdb.UnknownOutcomeError](t, err).IDs, []uuid.UUID{m.ID}) || mdb.IsTransient(err) {
			t.Errorf("got error %v", err)
		}
		if got := positions(t, p.shards[1], stream); len(got) != 2 {
			t.Errorf("the shard has the positions %v, want the write", got)
		}
	})
	p.createView(t)
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
		exec(t, p.shards[1], `ALTER DATABASE shard SET default_transaction_read_only = on`)
		var log journal
		log.onRecord = func() {
			if log.retries() == 4 {
				_, _ = p.shards[1].Exec(t.Context(), `ALTER DATABASE shard RESET default_transaction_read_only`)
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
	p.createView(t)
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
				m := mdb.NewMessage("Happened", map[string]int{"n": n})
				m.ID = uuid.New()
				if _, err := s.WriteMessage(t.Context(), streams[shard], m); err != nil {
					results[shard] <- err
					return
				}
				ids[shard] = append(ids[shard], m.ID)
				if n == 10 {
					begun <- struct{}{}
				}
			}
		}()
	}
	<-begun
	<-begun
	if err := p.server.Restart("immediate"); err != nil {
		t.Fatal(err)
	}
	written := value[int64](t, p.shards[0], `SELECT max(position) FROM message_store.messages WHERE stream_name = $1`, string(streams[0]))
	until(t, p.shards[0], `SELECT max(position) > $2 + 10 FROM message_store.messages WHERE stream_name = $1`, string(streams[0]), written)
	after := newPool(t, p.server.URL("shard"))
	until(t, after, `SELECT pg_postmaster_start_time() < max(time) AT TIME ZONE 'utc' FROM message_store.messages WHERE stream_name = $1`, string(streams[1]))
	close(stop)
	for shard := range results {
		if err := <-results[shard]; err != nil {
			t.Errorf("shard %d: %v", shard, err)
		}
	}
	if logs[0].retries() != 0 || logs[1].retries() == 0 {
		t.Errorf("got %d and %d retries, want none and some", logs[0].retries(), logs[1].retries())
	}
	for shard, db := range []*pgxpool.Pool{p.shards[0], after} {
		rows, _ := db.Query(t.Context(), `SELECT id FROM message_store.messages WHERE stream_name = $1 ORDER BY position`, string(streams[shard]))
		got, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
		if err != nil || !slices.Equal(got, ids[shard]) {
			t.Errorf("shard %d has %d messages, want the %d that were written, in order; error %v", shard, len(got), len(ids[shard]), err)
		}
	}
}
