package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// bare returns the Store of a process whose role has only the privileges of message_store.
func bare(t testing.TB, s *mdb.Store) *plant {
	t.Helper()
	return plantOn(t, s, func(cfg *pgxpool.Config) { cfg.ConnConfig.RuntimeParams["role"] = "message_store" })
}

// The statements of Eventide's message-store-postgres: Put, and Get::Stream::Last.
const (
	eventidePut  = "SELECT write_message($1::varchar, $2::varchar, $3::varchar, $4::jsonb, $5::jsonb, $6::bigint)"
	eventideLast = "SELECT * FROM get_last_stream_message($1::varchar)"
)

// beginAsEventide begins a transaction whose search path is that of the role that Eventide uses.
func beginAsEventide(t testing.TB, s *mdb.Store) pgx.Tx {
	t.Helper()
	tx, err := s.Pool().Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) })
	if _, err := tx.Exec(t.Context(), "SET LOCAL search_path = message_store, public"); err != nil {
		t.Fatal(err)
	}
	return tx
}

// putAsEventide stores a position as Consumer::Postgres::PositionStore#put does: without an expected version, and without metadata.
func putAsEventide(t testing.TB, s *mdb.Store, stream string, position int64) {
	t.Helper()
	tx := beginAsEventide(t, s)
	if _, err := tx.Exec(t.Context(), eventidePut, uuid.NewString(), stream, "Recorded", fmt.Sprintf(`{"position":%d}`, position), nil, nil); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// recorded returns the position that Eventide reads of a stream, and how many were stored. It checks that Eventide can read it.
func recorded(t testing.TB, s *mdb.Store, stream string) (position int64, n int) {
	t.Helper()
	tx := beginAsEventide(t, s)
	defer func() { _ = tx.Rollback(t.Context()) }()
	rows, err := tx.Query(t.Context(), eventideLast, stream)
	if err != nil {
		t.Fatal(err)
	}
	row, err := pgx.CollectExactlyOneRow(rows, pgx.RowToMap)
	if errors.Is(err, pgx.ErrNoRows) {
		return -1, 0
	} else if err != nil {
		t.Fatal(err)
	}
	data, _ := row["data"].(string)
	if _, err := fmt.Sscanf(data, `{"position": %d}`, &position); err != nil || data != fmt.Sprintf(`{"position": %d}`, position) ||
		row["type"] != "Recorded" || row["metadata"] != nil || row["stream_name"] != stream {
		t.Errorf("got %v", row)
	}
	version, _ := row["position"].(int64)
	return position, int(version) + 1
}

// TestPositionStream checks a consumer on a server that has nothing but Message DB, with a role that may do no more than use
// that: it continues where a consumer of Eventide was, the position is one that Eventide reads, and the next process repeats nothing.
func TestPositionStream(t *testing.T) {
	t.Parallel()
	s := mdbtest.Store(t)
	want := signUp(t, s, 30)
	putAsEventide(t, s, "signup:position-mailer", want[9])
	process := bare(t, s)
	if _, err := process.Pool().Exec(t.Context(), "CREATE TABLE message_store.made (n int)"); err == nil {
		t.Error("the role may create tables")
	}
	var a, b record
	opts := []consumer.Option{consumer.InPositionStream("mailer"), consumer.FlushEvery(time.Hour, 1<<30), consumer.WithWorkers(4), consumer.FromEnd()}
	first := start(t, process.Store, a.handler(), opts...)
	eventually(t, "the rest is handled, and the lease was renewed", func() bool { s := first.Stats(); return s.Handled == 20 && s.Ticks > 0 })
	if s := first.Stats(); s.Partitions != 1 || s.LeaseMargin <= 0 || s.Joins != 1 {
		t.Errorf("got %+v", s)
	}
	first.end(t)
	if position, n := recorded(t, s, "signup:position-mailer"); position != want[29] || n != 3 {
		t.Errorf("got the position %d in %d messages, want %d in 3", position, n, want[29])
	}
	more := signUp(t, s, 10)
	second := start(t, bare(t, s).Store, b.handler(), opts...)
	eventually(t, "the second process handles the rest", func() bool { return second.Stats().Handled == 10 })
	second.end(t)
	if got := a.sorted(); !slices.Equal(got, want[10:]) {
		t.Errorf("got %v handled, want the rest of %v", got, want)
	}
	if got := b.sorted(); !slices.Equal(got, more) {
		t.Errorf("got %v handled by the second, want %v", got, more)
	}
	if position, _ := recorded(t, s, "signup:position-mailer"); position != more[9] {
		t.Errorf("got the position %d, want %d", position, more[9])
	}
}

// TestPositionStreamReplaced checks that a process that starts takes over from one that is running, which ends with ErrReplaced and
// stores nothing more, also if it cannot know before it stops.
func TestPositionStreamReplaced(t *testing.T) {
	t.Parallel()
	s := mdbtest.Store(t)
	var a, b record
	opts := []consumer.Option{consumer.InPositionStream(""), consumer.FlushEvery(time.Hour, 1<<30)}
	first := start(t, bare(t, s).Store, a.handler(), opts...)
	want := signUp(t, s, 20)
	eventually(t, "the first has handled all", func() bool { return first.Stats().Handled == 20 })
	second := start(t, bare(t, s).Store, b.handler(), opts...)
	if err := first.wait(); !errors.Is(err, consumer.ErrReplaced) {
		t.Errorf("the first ended with %v", err)
	}
	want = append(want, signUp(t, s, 1)...)
	eventually(t, "the second handles what was not stored", func() bool { return second.Stats().Handled == 21 })
	if got := b.sorted(); !slices.Equal(got, want) {
		t.Errorf("got %v handled by the second, want %v", got, want)
	}
	if position, n := recorded(t, s, "signup:position"); position != 0 || n != 2 {
		t.Errorf("got the position %d in %d messages, want that of the start in 2", position, n)
	}
	second.end(t)
	if position, n := recorded(t, s, "signup:position"); position != want[20] || n != 3 {
		t.Errorf("got the position %d in %d messages", position, n)
	}
	// A position that is written by hand ends the process, and the next one continues there.
	third := start(t, bare(t, s).Store, (&record{}).handler(), opts...)
	eventually(t, "the third runs", func() bool { return third.Stats().Partitions == 1 })
	putAsEventide(t, s, "signup:position", want[17])
	if err := third.wait(); !errors.Is(err, consumer.ErrReplaced) {
		t.Errorf("the third ended with %v", err)
	}
	var c record
	fourth := start(t, bare(t, s).Store, c.handler(), opts...)
	eventually(t, "the fourth handles the rest", func() bool { return len(c.sorted()) == 3 })
	if got := c.sorted(); !slices.Equal(got, want[18:]) {
		t.Errorf("got %v handled by the fourth, want %v", got, want[18:])
	}
	fourth.end(t)
}

// TestPositionStreamCrash checks that after a crash everything that was not stored is handled again, and nothing else.
func TestPositionStreamCrash(t *testing.T) {
	t.Parallel()
	s := mdbtest.Store(t)
	want := signUp(t, s, 20)
	crashed := bare(t, s)
	opts := []consumer.Option{consumer.InPositionStream("mailer"), consumer.FlushEvery(time.Millisecond, 1), consumer.WithDrainTimeout(0)}
	var stored atomic.Bool
	reached := make(chan struct{})
	start(t, crashed.Store, consumer.Batch(func(ctx context.Context, ms []mdb.Message) error {
		if !stored.Load() {
			return nil
		}
		close(reached)
		<-ctx.Done()
		return ctx.Err()
	}), append(opts, consumer.WithBatchSize(7))...)
	eventually(t, "the position is stored", func() bool {
		position, _ := recorded(t, s, "signup:position-mailer")
		return position == want[19]
	})
	stored.Store(true)
	more := signUp(t, s, 5)
	<-reached
	crashed.cut()
	var b record
	c, err := consumer.New(bare(t, s).Store, "mailer", "signup", b.handler(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.CatchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := b.sorted(); !slices.Equal(got, more) {
		t.Errorf("got %v handled after the crash, want %v", got, more)
	}
}

// TestPositionStreamStart checks where a consumer begins whose stream is empty, and that nothing is written if it cannot begin.
func TestPositionStreamStart(t *testing.T) {
	t.Parallel()
	s := mdbtest.Store(t)
	positions := signUp(t, s, 10)
	for name, tt := range map[string]struct {
		opt  consumer.Option
		want []int64
	}{
		"beginning": {consumer.WithWorkers(1), positions},
		"position":  {consumer.FromPosition(positions[6]), positions[7:]},
		"end":       {consumer.FromEnd(), nil},
	} {
		var got record
		c, err := consumer.New(bare(t, s).Store, "mailer", "signup", got.handler(), consumer.InPositionStream(name), tt.opt)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.CatchUp(t.Context()); err != nil || !slices.Equal(got.sorted(), tt.want) {
			t.Errorf("%s: got %v, and %v handled, want %v", name, err, got.sorted(), tt.want)
		}
		if position, _ := recorded(t, s, "signup:position-"+name); position != positions[9] {
			t.Errorf("%s: got the position %d", name, position)
		}
	}
	run := func(name string, opts ...consumer.Option) error {
		c, err := consumer.New(bare(t, s).Store, "mailer", "signup", (&record{}).handler(), append(opts, consumer.InPositionStream(name))...)
		if err != nil {
			t.Fatal(err)
		}
		return c.Run(t.Context())
	}
	var ahead *mdb.AheadError
	if err := run("ahead", consumer.FromPosition(1<<40)); !errors.As(err, &ahead) || ahead.Position != 1<<40 {
		t.Errorf("got %v, want an AheadError", err)
	}
	if _, n := recorded(t, s, "signup:position-ahead"); n != 0 {
		t.Error("a position was written that the store has not used")
	}
	if _, err := s.WriteMessage(t.Context(), "signup:position-strange", mdb.NewMessage("PositionCommitted", map[string]int{"position": 3})); err != nil {
		t.Fatal(err)
	}
	var setup *mdb.SetupError
	if err := run("strange"); !errors.As(err, &setup) || !strings.Contains(err.Error(), `"PositionCommitted"`) {
		t.Errorf("got %v, want a SetupError", err)
	}
	if _, err := s.Pool().Exec(t.Context(), "CREATE ROLE "+pgx.Identifier{"stranger_" + s.Pool().Config().ConnConfig.Database}.Sanitize()); err != nil {
		t.Fatal(err)
	}
	role := "stranger_" + s.Pool().Config().ConnConfig.Database
	t.Cleanup(func() {
		_, _ = s.Pool().Exec(context.WithoutCancel(t.Context()), "DROP ROLE "+pgx.Identifier{role}.Sanitize())
	})
	stranger := plantOn(t, s, func(cfg *pgxpool.Config) { cfg.ConnConfig.RuntimeParams["role"] = role })
	c, err := consumer.New(stranger.Store, "mailer", "signup", (&record{}).handler(), consumer.InPositionStream("stranger"))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Run(t.Context()); !errors.As(err, &setup) {
		t.Errorf("got %v for a role without privileges, want a SetupError", err)
	}
}

// TestPositionStreamArguments checks that options that do not fit a position stream are rejected, before anything is sent.
func TestPositionStreamArguments(t *testing.T) {
	t.Parallel()
	each := consumer.Each(func(context.Context, mdb.Message) error { return nil })
	eachTx := consumer.EachTx(func(context.Context, pgx.Tx, mdb.Message) error { return nil })
	in := consumer.InPositionStream("x")
	for name, tt := range map[string]struct {
		category mdb.Category
		handler  consumer.Handler
		opts     []consumer.Option
		want     string // empty: no error
	}{
		"nothing is wrong":         {"a:command", each, []consumer.Option{in, consumer.WithWorkers(4), consumer.WithPartitions(4), consumer.FlushEvery(time.Second, 1)}, ""},
		"in order":                 {"a", each, []consumer.Option{in, consumer.InOrder(), consumer.StopOnError()}, ""},
		"without an id":            {"a", each, []consumer.Option{consumer.InPositionStream("")}, ""},
		"a transaction":            {"a", eachTx, []consumer.Option{in}, "got InPositionStream with EachTx, want it with Each or Batch"},
		"an id with NUL":           {"a", each, []consumer.Option{consumer.InPositionStream("a\x00")}, "U+0000"},
		"a lease":                  {"a", each, []consumer.Option{consumer.WithLease(time.Minute), in}, "WithLease with InPositionStream, want without it"},
		"an instance":              {"a", each, []consumer.Option{in, consumer.WithInstance("x")}, "WithInstance with"},
		"categories":               {"a", each, []consumer.Option{in, consumer.WithCategories("b")}, "want one consumer for each category"},
		"parked messages":          {"a", each, []consumer.Option{in, consumer.MaxParked(1)}, "nothing is parked"},
		"single messages parked":   {"a", each, []consumer.Option{in, consumer.ParkAlone()}, "nothing is parked"},
		"texts of parked messages": {"a", each, []consumer.Option{in, consumer.WithErrorText()}, "nothing is parked"},
		"a function that parks":    {"a", each, []consumer.Option{in, consumer.OnPark(func(context.Context, pgx.Tx, consumer.Parked) error { return nil })}, "nothing is parked"},
		"its own positions":        {"a:b+position", each, []consumer.Option{in}, "would receive its own positions"},
		"an interval alone":        {"a", each, []consumer.Option{consumer.FlushEvery(time.Second, 1)}, "got FlushEvery, want it with InPositionStream"},
		"no interval":              {"a", each, []consumer.Option{in, consumer.FlushEvery(0, 1)}, "interval of positions: got 0s"},
		"no messages":              {"a", each, []consumer.Option{in, consumer.FlushEvery(time.Second, 0)}, "messages of a position: got 0"},
	} {
		_, err := consumer.New(new(mdb.Store), "mailer", tt.category, tt.handler, tt.opts...)
		var argument *mdb.ArgumentError
		if tt.want == "" && err != nil || tt.want != "" && (!errors.As(err, &argument) || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: got %v, want %q", name, err, tt.want)
		}
	}
	store := new(mdb.Store)
	one, err1 := consumer.New(store, "one", "a", each, in)
	other, err2 := consumer.New(store, "other", "a", each, in)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	if err := consumer.Run(t.Context(), one, other); err == nil || !strings.Contains(err.Error(), "the position stream a:position-x twice") {
		t.Errorf("got %v for two consumers with one stream", err)
	}
	if err := one.Replay(t.Context()); err == nil || !strings.Contains(err.Error(), "one that parks messages") {
		t.Errorf("got %v for a replay", err)
	}
}
