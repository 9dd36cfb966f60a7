package consumer_test

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// An outpost is a consumer whose state and effects are in another database than the messages. Several processes run it.
type outpost struct {
	*course

	state  *pgxpool.Pool
	plants map[*shift][]*plant // of the store, and of the state
}

// newState returns a pool of a database with the schema of consumers, and without messages.
func newState(t *testing.T) *pgxpool.Pool {
	t.Helper()
	return stateOf(t, directPool(t, testdb.Empty(t)))
}

// stateOf installs what consumers with StateIn need.
func stateOf(t *testing.T, pool *pgxpool.Pool) *pgxpool.Pool {
	t.Helper()
	sqlExec(t, pool, `DO $$BEGIN CREATE ROLE message_store; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END$$`)
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	if err := schema.InstallConsumers(t.Context(), conn.Conn()); err != nil {
		t.Fatal(err)
	}
	sqlExec(t, pool, sqlEffects)
	return pool
}

// newStore returns a primary and its standby with a message store, without consumers.
func newStore(t *testing.T) *past {
	t.Helper()
	p := &past{Pair: testdb.Pair(t)}
	p.old = directPool(t, p.Primary.URL("postgres"))
	if testdb.Official() {
		sqlExec(t, p.old, `ALTER ROLE postgres SET search_path = message_store, public`)
		p.old.Reset()
	}
	return p
}

func newOutpost(t *testing.T, p *past, state *pgxpool.Pool, scenario, form string) *outpost {
	t.Helper()
	return outpostOf(t, p.course(t, scenario, form), state)
}

func outpostOf(t *testing.T, c *course, state *pgxpool.Pool) *outpost {
	t.Helper()
	t.Cleanup(c.open)
	return &outpost{course: c, state: state, plants: make(map[*shift][]*plant)}
}

// join starts a process, which replaces the one that has the instance.
func (o *outpost) join(t *testing.T, instance string) *shift {
	t.Helper()
	p := plantOn(t, o.store)
	store, err := mdb.New(p.Pool(), mdb.WithLogger(slog.New(slog.NewTextHandler(&o.journal, nil))))
	if err != nil {
		t.Fatal(err)
	}
	home, err := mdb.New(o.state)
	if err != nil {
		t.Fatal(err)
	}
	state := plantOn(t, home)
	r := startNamed(t, store, o.name, mdb.Category(o.name), o.handlerIn(state.Pool()), append(slices.Clone(o.opts), consumer.WithInstance(instance), consumer.StateIn(state.Pool()))...)
	o.runs = append(o.runs, r)
	o.plants[r] = []*plant{p, state}
	return r
}

// byID returns the second column of rows by their IDs.
func byID[V any](t *testing.T, db *pgxpool.Pool, sql string, args ...any) map[uuid.UUID]V {
	t.Helper()
	rows, _ := db.Query(t.Context(), sql, args...)
	found := make(map[uuid.UUID]V)
	_, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (none struct{}, err error) {
		var id string
		var v V
		if err = row.Scan(&id, &v); err == nil {
			found[uuid.MustParse(id)] = v
		}
		return none, err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// messages returns what the store has, and whether it is poisoned.
func (o *outpost) messages(t *testing.T, db *pgxpool.Pool) map[uuid.UUID]bool {
	t.Helper()
	return byID[bool](t, db, `SELECT id::text, stream_name LIKE '%poisoned' FROM message_store.messages WHERE message_store.category(stream_name) = $1`, o.name)
}

// effects returns how often each message has an effect.
func (o *outpost) effects(t *testing.T) map[uuid.UUID]int {
	t.Helper()
	return byID[int](t, o.state, `SELECT id::text, count(*) FROM public.effects WHERE consumer = $1 GROUP BY id`, o.name)
}

// lacking returns how many messages of a store have no effect.
func (o *outpost) lacking(t *testing.T, db *pgxpool.Pool) (n int) {
	t.Helper()
	effects := o.effects(t)
	for id, poisoned := range o.messages(t, db) {
		if !poisoned && effects[id] == 0 {
			n++
		}
	}
	return n
}

// arrived waits until all messages of a store have effects, what cannot be handled is parked, and the checkpoints are stored.
func (o *outpost) arrived(t *testing.T, db *pgxpool.Pool, parked int) {
	t.Helper()
	o.until(t, "everything is handled and stored", func() bool {
		if o.lacking(t, db) > 0 || o.parked(t, o.state) != parked {
			return false
		}
		end := sqlValue[int64](t, db, `SELECT max(global_position) FROM message_store.messages WHERE message_store.category(stream_name) = $1`, o.name)
		return sqlValue[bool](t, o.state, `SELECT coalesce(bool_and(k.position >= $2), false) FROM message_store_consumers.consumers AS c
JOIN message_store_consumers.checkpoints AS k ON k.consumer = c.id WHERE c.name = $1`, o.name, end)
	})
}

// verify ends the processes, and checks that each message of a store has one effect, or with Each, at least one.
func (o *outpost) verify(t *testing.T, db *pgxpool.Pool) {
	t.Helper()
	for _, r := range o.runs {
		r.end(t)
	}
	effects := o.effects(t)
	missing, doubled := 0, 0
	for id, poisoned := range o.messages(t, db) {
		switch n := effects[id]; {
		case poisoned:
		case n == 0:
			missing++
		case n > 1 && o.form != "Each":
			doubled++
		}
	}
	if missing > 0 || doubled > 0 {
		t.Errorf("%s: %d messages have no effect, and %d more than one\n%s", o.name, missing, doubled, o.journal.String())
	}
}

// without leaves out a process that ends.
func (o *outpost) without(r *shift) {
	o.runs = slices.DeleteFunc(o.runs, func(other *shift) bool { return other == r })
}

// all returns what all processes have counted as rewound.
func (o *outpost) all() (n int64) {
	for r := range maps.Keys(o.plants) {
		n += r.Stats().Rewound
	}
	return n
}

// TestStateInFailover checks that a failover of the store which loses messages that were handled costs none of those that are left or
// come later, and doubles none, although the checkpoints are in a database that loses nothing. Two processes notice the loss at different times.
func TestStateInFailover(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	p, state := newStore(t), newState(t)
	var outposts []*outpost
	for _, form := range historyForms {
		o := newOutpost(t, p, state, "apart", form)
		outposts = append(outposts, o)
		o.join(t, "a")
		o.join(t, "b")
		o.write(t, p.old, 40)
		o.writePoison(t, p.old)
	}
	for _, o := range outposts {
		o.arrived(t, p.old, 1)
	}
	p.Hold(t)
	for _, o := range outposts {
		o.write(t, p.old, 60)
		sqlExec(t, p.old, `SELECT message_store.write_message(gen_random_uuid()::varchar, $1 || '-x-poisoned', 'Poison', '{}')`, o.name)
		o.arrived(t, p.old, 2)
	}
	p.promote(t)
	p.arrive(t)
	for _, o := range outposts {
		o.write(t, p.next, 50)
	}
	for _, o := range outposts {
		o.arrived(t, p.next, 1)
		if o.all() == 0 {
			t.Errorf("%s: no checkpoint was counted as rewound\n%s", o.name, o.journal.String())
		}
		o.write(t, p.next, 20)
	}
	for _, o := range outposts {
		o.arrived(t, p.next, 1)
		o.verify(t, p.next)
	}
}

// TestStateInLate checks the same with processes that know nothing before the last message that is left, because they began to read there. They
// notice the loss before the new primary has a message after it, which decides that there is one.
func TestStateInLate(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	p, state := newStore(t), newState(t)
	var outposts []*outpost
	for _, form := range historyForms {
		o := newOutpost(t, p, state, "late", form)
		outposts = append(outposts, o)
		first := o.join(t, "a")
		o.write(t, p.old, 40)
		o.arrived(t, p.old, 0)
		first.end(t)
		o.without(first)
		o.join(t, "a")
		o.join(t, "b")
	}
	p.Hold(t)
	for _, o := range outposts {
		o.until(t, "both have partitions", func() bool { return o.runs[0].Stats().Partitions == 2 && o.runs[1].Stats().Partitions == 2 })
		o.write(t, p.old, 60)
		o.arrived(t, p.old, 0)
	}
	p.promote(t)
	p.arrive(t)
	for _, o := range outposts {
		for _, r := range o.runs {
			o.until(t, "the loss is noticed", func() bool { return r.Stats().Forks > 0 })
			noticed := r.Stats().Ticks
			o.until(t, "the loss is not decided", func() bool { return r.Stats().Ticks > noticed+2 })
		}
		o.write(t, p.next, 50)
	}
	for _, o := range outposts {
		o.arrived(t, p.next, 0)
		o.verify(t, p.next)
	}
}

// TestStateInLag checks that a store which only has not received everything yet is no loss: a process that runs, and one that is started, wait for
// the rest, and handle nothing twice.
func TestStateInLag(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	p, state := newStore(t), newState(t)
	var outposts []*outpost
	for _, form := range historyForms {
		o := newOutpost(t, p, state, "lag", form)
		outposts = append(outposts, o)
		o.join(t, "a")
		o.write(t, p.old, 30)
		o.arrived(t, p.old, 0)
	}
	p.Hold(t)
	for _, o := range outposts {
		o.write(t, p.old, 30)
		o.arrived(t, p.old, 0)
	}
	for _, o := range outposts {
		o.road.lead(p.Standby)
		o.plants[o.runs[0]][0].Pool().Reset()
		late := o.join(t, "b")
		o.until(t, "the new process has looked", func() bool { return late.Stats().Ticks > 4 })
	}
	p.Release(t)
	for _, o := range outposts {
		o.write(t, p.old, 20)
		o.arrived(t, p.old, 0)
		if n := o.all(); n != 0 {
			t.Errorf("%s: got %d checkpoints counted as rewound", o.name, n)
		}
		o.verify(t, p.old)
	}
}

// TestStateInStateFailover checks that consumers outlast failovers of both databases that lose the last transactions: of the state alone, and of both.
func TestStateInStateFailover(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	p, home := newStore(t), pgtest.NewPair(t, nil)
	state := stateOf(t, directPool(t, home.Primary.URL("postgres")))
	var way road
	way.lead(home.Primary)
	cfg := state.Config()
	cfg.ConnConfig.DialFunc = way.dial
	moving, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(moving.Close)
	var outposts []*outpost
	for _, form := range historyForms {
		o := newOutpost(t, p, moving, "both", form)
		outposts = append(outposts, o)
		o.join(t, "a")
		o.join(t, "b")
		o.write(t, p.old, 40)
		o.arrived(t, p.old, 0)
	}
	home.Hold(t)
	for _, o := range outposts {
		o.write(t, p.old, 30)
		o.arrived(t, p.old, 0)
	}
	p.Hold(t)
	for _, o := range outposts {
		o.write(t, p.old, 60)
		o.arrived(t, p.old, 0)
	}
	home.Promote(t)
	way.lead(home.Standby)
	if err := home.Primary.Kill(); err != nil {
		t.Fatal(err)
	}
	p.promote(t)
	p.arrive(t)
	after := directPool(t, home.Standby.URL("postgres"))
	for _, o := range outposts {
		o.state = after
		o.write(t, p.next, 50)
	}
	for _, o := range outposts {
		o.arrived(t, p.next, 0)
		o.verify(t, p.next)
	}
}

// TestStateInPlace checks that a process which looks for the messages of a consumer in another place than it has them ends, and changes nothing, also if
// the database of the state has messages of its own.
func TestStateInPlace(t *testing.T) {
	t.Parallel()
	url := testdb.Consumers(t)
	state, store := directPool(t, url), directPool(t, testdb.New(t))
	sqlExec(t, state, sqlEffects)
	here, err := mdb.New(state)
	if err != nil {
		t.Fatal(err)
	}
	there, err := mdb.New(store)
	if err != nil {
		t.Fatal(err)
	}
	write := func(s *mdb.Store) {
		if _, err := s.WriteMessage(t.Context(), "place-1", mdb.NewMessage("Happened", nil)); err != nil {
			t.Fatal(err)
		}
	}
	run := func(s *mdb.Store, opts ...consumer.Option) error {
		c, err := consumer.New(s, "place", "place", consumer.EachTx(func(ctx context.Context, tx pgx.Tx, m mdb.Message) error {
			_, err := tx.Exec(ctx, "INSERT INTO public.effects VALUES ('place', $1, $2)", m.ID, m.GlobalPosition)
			return err
		}), opts...)
		if err != nil {
			t.Fatal(err)
		}
		return c.CatchUp(t.Context())
	}
	for range 3 {
		write(there)
	}
	write(here)
	if err := run(there, consumer.StateIn(state)); err != nil {
		t.Fatal(err)
	}
	var setup *mdb.SetupError
	if err := run(here); !errors.As(err, &setup) {
		t.Errorf("without StateIn, got %v, want a SetupError", err)
	}
	if err := run(here, consumer.WithCategories("other")); !errors.As(err, &setup) {
		t.Errorf("without StateIn and with another category, got %v, want a SetupError", err)
	}
	admin := consumer.Admin(state, consumer.Messages(there))
	if _, err := admin.Show(t.Context(), "place"); err != nil {
		t.Error(err)
	}
	var conflict *consumer.ConflictError
	if err := admin.WaitFor(t.Context(), "place", "place", 1); !errors.As(err, &conflict) {
		t.Errorf("WaitFor returned %v, want a ConflictError", err)
	}
	if err := admin.Resize(t.Context(), "place", 3); !errors.As(err, &conflict) {
		t.Errorf("Resize returned %v, want a ConflictError", err)
	}
	if err := admin.Resize(t.Context(), "place", 128); err != nil {
		t.Error(err)
	}
	write(there)
	if err := run(there, consumer.StateIn(state)); err != nil {
		t.Fatal(err)
	}
	if n := sqlValue[int](t, state, `SELECT count(*) FROM public.effects`); n != 4 {
		t.Errorf("got %d effects, want one of each of the store's 4 messages", n)
	}
	if _, err := consumer.New(there, "place", "place", consumer.Each(func(context.Context, mdb.Message) error { return nil }), consumer.StateIn(store)); !errors.As(err, new(*mdb.ArgumentError)) {
		t.Errorf("StateIn with the pool of the store: got %v, want an ArgumentError", err)
	}
}
