package consumer

import (
	"context"
	"runtime"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

const testTimeout = time.Minute

var execModes = []pgx.QueryExecMode{
	pgx.QueryExecModeCacheStatement,
	pgx.QueryExecModeCacheDescribe,
	pgx.QueryExecModeDescribeExec,
	pgx.QueryExecModeExec,
	pgx.QueryExecModeSimpleProtocol,
}

// effects are what handlers do: once may contain a message once, and log any number of times.
const effects = `
CREATE TABLE public.once (message uuid PRIMARY KEY);
CREATE TABLE public.log (n bigint GENERATED ALWAYS AS IDENTITY, message uuid NOT NULL, xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
	isolation text NOT NULL DEFAULT current_setting('transaction_isolation'));
CREATE TABLE public.late (message uuid UNIQUE DEFERRABLE INITIALLY DEFERRED)`

func installConsumers(ctx context.Context, url string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	if err := schema.InstallConsumers(ctx, conn); err != nil {
		return err
	}
	_, err = conn.Exec(ctx, effects)
	return err
}

// A stand is a consumer with one partition, of which messages are waiting.
type stand struct {
	testing.TB
	store    *mdb.Store
	category mdb.Category
	config   formConfig
	member   ledger.Member
	row      ledger.Row
	messages []mdb.Message
	observer *pgxpool.Pool // another pool, if the test needs one
}

func database(t testing.TB) string    { return testdb.SharedFrom(t, "forms", installConsumers) }
func ownDatabase(t testing.TB) string { return testdb.NewFrom(t, "forms", installConsumers) }

func newPool(t testing.TB, url string, prepare ...func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	var opts []mdb.ConfigureOption
	if testdb.Official() {
		opts = append(opts, mdb.StoreFirst())
	}
	mdb.Configure(cfg, opts...)
	cfg.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return false } // it would be counted
	for _, p := range prepare {
		p(cfg)
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

func execMode(mode pgx.QueryExecMode) func(*pgxpool.Config) {
	return func(cfg *pgxpool.Config) { cfg.ConnConfig.DefaultQueryExecMode = mode }
}

// behindPooler removes the start-up parameters that a pooler does not accept.
func behindPooler(cfg *pgxpool.Config) {
	clear(cfg.ConnConfig.RuntimeParams)
	mdb.Configure(cfg, mdb.BehindPooler())
}

func oneConnection(cfg *pgxpool.Config) { cfg.MaxConns = 1 }

func parameter(name, value string) func(*pgxpool.Config) {
	return func(cfg *pgxpool.Config) { cfg.ConnConfig.RuntimeParams[name] = value }
}

// newStand returns a stand with n messages, on a pool of its own.
func newStand(t testing.TB, n int, url string, prepare ...func(*pgxpool.Config)) *stand {
	t.Helper()
	store, err := mdb.New(newPool(t, url, prepare...))
	if err != nil {
		t.Fatal(err)
	}
	return standOn(t, store, n)
}

// standOn returns a stand with n messages on the store.
func standOn(t testing.TB, store *mdb.Store, n int) *stand {
	t.Helper()
	s := &stand{TB: t, store: store, category: mdbtest.Category("form")}
	name := string(s.category)
	start := int64(0)
	s.member = ledger.Member{ID: uuid.New()}
	joined, err := ledger.Join(t.Context(), store.Pool(), ledger.JoinParams{
		Name: name, Member: s.member.ID, Info: "test", Lease: time.Hour, Categories: []string{name}, Partitions: 1, Start: &start,
	})
	if err != nil {
		t.Fatal(err)
	}
	s.member.Consumer = joined.Consumer
	s.config = defaultForms()
	s.config.store, s.config.consumer = store, name
	s.config.perTx.handling = time.Hour
	s.config.member = func() ledger.Member { return s.member }
	s.claim()
	ms := make([]mdb.ProposedMessage, n)
	for i := range ms {
		ms[i] = mdb.NewMessage("Happened", nil)
	}
	if n > 0 {
		if _, err := store.WriteMessages(t.Context(), s.category.Stream("1"), ms); err != nil {
			t.Fatal(err)
		}
	}
	if s.messages, err = store.GetCategoryMessages(t.Context(), s.category, mdb.WithBatchSize(10000)); err != nil || len(s.messages) != n {
		t.Fatal(len(s.messages), err)
	}
	return s
}

// next writes a message, which is the only one of the next call.
func (s *stand) next() {
	s.Helper()
	if _, err := s.store.WriteMessage(s.Context(), s.category.Stream("1"), mdb.NewMessage("Happened", nil)); err != nil {
		s.Fatal(err)
	}
	last, err := s.store.GetLastStreamMessage(s.Context(), s.category.Stream("1"))
	if err != nil {
		s.Fatal(err)
	}
	s.messages = []mdb.Message{last}
}

// claim claims the partition, and reads its row.
func (s *stand) claim() {
	s.Helper()
	_, held, err := ledger.Rebalance(s.Context(), s.store.Pool(), s.member)
	if err != nil || len(held.Rows) != 1 {
		s.Fatal(held, err)
	}
	s.row = held.Rows[0]
}

// rob lets another member take over the partition.
func (s *stand) rob() {
	s.Helper()
	other := s.member
	other.ID = uuid.New()
	if err := ledger.Leave(s.Context(), s.store.Pool(), s.member, nil); err != nil {
		s.Fatal(err)
	}
	if _, err := ledger.Join(s.Context(), s.store.Pool(), ledger.JoinParams{
		Name: s.config.consumer, Member: other.ID, Info: "other", Lease: time.Hour, Categories: []string{string(s.category)},
	}); err != nil {
		s.Fatal(err)
	}
	if _, held, err := ledger.Rebalance(s.Context(), s.store.Pool(), other); err != nil || len(held.Rows) != 1 {
		s.Fatal(held, err)
	}
}

// calling returns the call for these messages, from where the checkpoint was at the claim.
func (s *stand) calling(ms []mdb.Message) call {
	c := call{from: ledger.Move{Partition: s.row.Partition, Epoch: s.row.Epoch, From: s.row.Position}}
	for i := range ms {
		c.deliveries = append(c.deliveries, delivery{
			message: ms[i], partition: s.row.Partition, epoch: s.row.Epoch, key: ms[i].Stream.CardinalID(), attempt: 1,
		})
	}
	return c
}

// handle calls the handler for all messages.
func (s *stand) handle(h Handler) (int, error) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), testTimeout)
	defer cancel()
	return h.form(s.config).call(ctx, s.calling(s.messages))
}

// position returns the position of the stored checkpoint and its anchor.
func (s *stand) position() (position int64, anchor ledger.Anchor) {
	s.Helper()
	var id *uuid.UUID
	var at *time.Time
	row := s.store.Pool().QueryRow(s.Context(), `SELECT position, anchor::text::uuid, anchor_time FROM message_store_consumers.checkpoints WHERE consumer = $1`, s.member.Consumer)
	if err := row.Scan(&position, &id, &at); err != nil {
		s.Fatal(err)
	}
	if id != nil {
		anchor = ledger.Anchor{ID: *id, Time: at.UTC()}
	}
	return position, anchor
}

// logged returns how often each message is in the log.
func (s *stand) logged() []int {
	s.Helper()
	counts := make([]int, len(s.messages))
	for i := range s.messages {
		counts[i] = value[int](s, s.store.Pool(), `SELECT count(*) FROM public.log WHERE message = $1`, s.messages[i].ID.String())
	}
	return counts
}

// check checks that the first n messages are in the log once, the others not, and that the
// checkpoint is where it has to be then.
func (s *stand) check(n int) {
	s.Helper()
	position, anchor := s.position()
	want, wantAnchor := s.row.Position, ledger.Anchor{}
	if n > 0 {
		last := s.messages[n-1]
		want, wantAnchor = last.GlobalPosition, ledger.Anchor{ID: last.ID, Time: last.Time}
	}
	if position != want || anchor != wantAnchor {
		s.Errorf("the checkpoint is at %d, %v, want %d, %v", position, anchor, want, wantAnchor)
	}
	for i, got := range s.logged() {
		want := 0
		if i < n {
			want = 1
		}
		if got != want {
			s.Errorf("message %d was logged %d times, want %d", i, got, want)
		}
	}
}

type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

func value[T any](t testing.TB, db querier, sql string, args ...any) T {
	t.Helper()
	rows, _ := db.Query(t.Context(), sql, args...)
	v, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[T])
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

func exec(t testing.TB, db querier, sql string, args ...any) {
	t.Helper()
	if _, err := db.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

const (
	insertLog  = `INSERT INTO public.log (message) VALUES ($1)`
	insertOnce = `INSERT INTO public.once (message) VALUES ($1)`
)

// txHandlers returns a handler of each form that moves the checkpoint. They execute a statement
// with the ID of each message. failing returns the error for a message, or nil.
func txHandlers(sql string, failing func(m mdb.Message) error) map[string]Handler {
	if failing == nil {
		failing = func(mdb.Message) error { return nil }
	}
	one := func(ctx context.Context, tx pgx.Tx, m mdb.Message) error {
		if err := failing(m); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, sql, m.ID.String())
		return err
	}
	return map[string]Handler{
		"EachTx": EachTx(one),
		"BatchTx": BatchTx(func(ctx context.Context, tx pgx.Tx, ms []mdb.Message) error {
			for i, m := range ms {
				if err := one(ctx, tx, m); err != nil {
					return &BatchError{i, err}
				}
			}
			return nil
		}),
		"EachQueued": EachQueued(func(b *pgx.Batch, m mdb.Message) error {
			b.Queue(sql, m.ID.String())
			return failing(m)
		}),
	}
}

// checkReleased checks that the pool's connections are released, which it does in the background
// if they were lost.
func checkReleased(t testing.TB, pool *pgxpool.Pool) {
	t.Helper()
	for end := time.Now().Add(testTimeout); pool.Stat().AcquiredConns() > 0; runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatal("connections were not released")
		}
	}
}

// isTransient reports whether err says that no message is its cause.
func isTransient(err error) bool {
	what, _ := said(err)
	return what == toWait
}
