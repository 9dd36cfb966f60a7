package mdb_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
)

// hugeJSON is a few kilobytes of jsonb that the server cannot print, because the text would
// be longer than 1 GiB. It is the same as '[1e131071, 1e131071, …]'.
const hugeJSON = `('[' || repeat('1e131071,', 9999) || '1e131071]')::jsonb`

// insert inserts a message as other programs can, which is not checked.
func insert(t testing.TB, db database, stream mdb.StreamName, position int, typ, data, metadata string) {
	t.Helper()
	exec(t, db, `INSERT INTO message_store.messages (stream_name, position, type, data, metadata)
		VALUES ($1, $2, $3, `+data+`, `+metadata+`)`, string(stream), position, typ)
}

// TestUnreadablePayload checks that a message whose data the server cannot print is found
// and named, and that a subscription can go past it.
func TestUnreadablePayload(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	url := testdb.New(t)
	pool := newPool(t, url)
	for i := range 6 {
		data := `'{"n": 1}'`
		if i == 3 {
			data = hugeJSON
		}
		insert(t, pool, "account-1", i, "Happened", data, "NULL")
	}
	for way, opts := range map[string][]mdb.StoreOption{"procedures": nil, "direct": {mdb.WithDirectSQL()}} {
		t.Run(way, func(t *testing.T) {
			s := newStore(t, newPool(t, url), opts...)
			ms, err := s.GetCategoryMessages(t.Context(), "account")
			checkUnreadable(t, err, mdb.UnreadableError{Stream: "account-1", Type: "Happened", Position: 3, GlobalPosition: 4})
			wantCode(t, err, "54000")
			if got := streamPositions(ms); !slices.Equal(got, []int64{0, 1, 2}) {
				t.Errorf("got positions %v with the error, want those before it", got)
			}
			if opts == nil {
				return // the server would take half a minute
			}
			if got := subscribeOver(t, s, "account", 5); got != "0 1 2 (3) 4 5" {
				t.Errorf("got %s", got)
			}
		})
	}
}

// checkUnreadable checks which message an error names. It does not compare IDs.
func checkUnreadable(t testing.TB, err error, want mdb.UnreadableError) {
	t.Helper()
	got := wantError[*mdb.UnreadableError](t, err)
	if got.Stream != want.Stream || got.Type != want.Type || got.Position != want.Position || got.GlobalPosition != want.GlobalPosition {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// subscribeOver subscribes to a category until the position in the stream, and goes past
// what cannot be read, which it returns in brackets.
func subscribeOver(t testing.TB, s *mdb.Store, category mdb.Category, last int64, opts ...mdb.CategorySubscribeOption) string {
	t.Helper()
	ctx, end := context.WithCancelCause(t.Context())
	defer end(nil)
	var got []string
	handle := func(_ context.Context, m mdb.Message) error {
		got = append(got, fmt.Sprint(m.Position))
		if m.Position == last {
			end(errStopped)
		}
		return nil
	}
	unreadable := func(_ context.Context, err *mdb.UnreadableError) error {
		got = append(got, fmt.Sprintf("(%d)", err.Position))
		return nil
	}
	if err := s.SubscribeToCategory(ctx, category, handle, append(opts, mdb.OnUnreadable(unreadable))...); err != errStopped { //nolint:errorlint // the cause itself
		t.Errorf("got error %v, want the cause", err)
	}
	return strings.Join(got, " ")
}

// unreadable makes the server fail for each message with the key "poison" in its data or
// metadata, when these are printed or looked at, as it fails for a text that is too long.
func unreadable(t testing.TB, pool *pgxpool.Pool) {
	t.Helper()
	exec(t, pool, `
		ALTER TABLE message_store.messages RENAME TO stored;
		CREATE FUNCTION message_store.printed(v jsonb) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$
			BEGIN
				IF jsonb_exists(v, 'poison') THEN
					RAISE EXCEPTION 'out of memory' USING ERRCODE = v->>'poison';
				END IF;
				RETURN v;
			END$$;
		CREATE VIEW message_store.messages AS
			SELECT id, stream_name, type, position, global_position, message_store.printed(data) AS data,
				message_store.printed(metadata) AS metadata, time
			FROM message_store.stored;
		GRANT SELECT ON message_store.messages TO message_store`)
}

// TestUnreadableFilters checks that messages which cannot be read are found by reads with
// all filters and in pages of all sizes, also if a filter looks at what cannot be read. It
// checks that nothing else is passed over, by roles that may read the table and that may
// not, and that no connection is lost.
func TestUnreadableFilters(t *testing.T) {
	t.Parallel()
	const (
		ok       = `'{"correlationStreamName": "it''s-1"}'`
		poison   = `'{"poison": "54000"}'`
		damaged  = `'{"poison": "XX001"}'`
		messages = 40
	)
	url := testdb.New(t)
	pool := newPool(t, url)
	bad := map[int][2]string{ // data, metadata
		3: {poison, ok}, 4: {damaged, ok}, 11: {`'{"n": 1}'`, poison}, 20: {poison, poison}, 38: {poison, ok},
	}
	insert(t, pool, "elsewhere-1", 0, "Happened", poison, poison)
	for i := range messages {
		data, metadata := `'{"n": 1}'`, ok
		if b, ok := bad[i]; ok {
			data, metadata = b[0], b[1]
		}
		insert(t, pool, "account-1", i, "Happened", data, metadata)
		insert(t, pool, "account-2", i, "Happened", poison, metadata) // of another member of a group, and of another stream
		insert(t, pool, "elsewhere-1", i+1, "Happened", poison, poison)
	}
	unreadable(t, pool)
	hash := mdb.Hash64("1")
	size := 2
	for max(mdb.Hash64("2"), -mdb.Hash64("2"))%int64(size) == max(hash, -hash)%int64(size) {
		size++
	}
	group := mdb.AsConsumerGroup(int(max(hash, -hash)%int64(size)), size)
	blind := newRole(t, pool)
	for _, signature := range []string{"get_stream_messages", "get_category_messages"} {
		exec(t, pool, `ALTER FUNCTION message_store.`+signature+` SECURITY DEFINER`)
	}
	want := make([]string, messages)
	for i := range want {
		want[i] = fmt.Sprint(i)
		if _, ok := bad[i]; ok {
			want[i] = "(" + want[i] + ")"
		}
	}
	for way, opts := range map[string][]mdb.StoreOption{"procedures": nil, "direct": {mdb.WithDirectSQL()}, "without the table": nil} {
		for name, filter := range map[string]mdb.CategoryOption{
			"stream":                nil,
			"stream and condition":  mdb.WithCondition("type = 'Happened'"),
			"group":                 group,
			"group and correlation": mdb.CategoryOptions{group, mdb.WithCorrelation("it's")},
			"condition":             mdb.WithCondition("stream_name = 'account-1'"),
			"condition on payload":  mdb.CategoryOptions{group, mdb.WithCondition("data->>'n' IS NOT NULL")},
		} {
			for _, batch := range []int{1, 7, 1000} {
				t.Run(fmt.Sprintf("%s, %s, %d", way, name, batch), func(t *testing.T) {
					t.Parallel()
					var w wire
					var role string
					if way == "without the table" {
						role = blind
					}
					s := newStore(t, newPool(t, url, asRole(role), w.attach, oneConnection), append(opts, mdb.WithConditions(), often)...)
					var read func(after int64) ([]mdb.Message, error)
					if strings.HasPrefix(name, "stream") {
						read = func(after int64) ([]mdb.Message, error) {
							opts := mdb.StreamOptions{mdb.WithBatchSize(batch), mdb.AfterPosition(after)}
							if filter != nil {
								opts = append(opts, mdb.WithCondition("type = 'Happened'"))
							}
							return s.GetStreamMessages(t.Context(), "account-1", opts...)
						}
					} else {
						read = func(after int64) ([]mdb.Message, error) {
							return s.GetCategoryMessages(t.Context(), "account", mdb.WithBatchSize(batch), mdb.AfterGlobalPosition(max(after, 0)), filter)
						}
					}
					for after, got := int64(-1), []string(nil); ; {
						ms, err := read(after)
						for _, m := range ms {
							if m.Stream != "account-1" {
								t.Fatalf("got message %v", m)
							}
							after = m.GlobalPosition
							if strings.HasPrefix(name, "stream") {
								after = m.Position
							}
							got = append(got, fmt.Sprint(m.Position))
						}
						var u *mdb.UnreadableError
						if errors.As(err, &u) {
							position := u.Position
							if !strings.HasPrefix(name, "stream") {
								after, position = u.GlobalPosition, (u.GlobalPosition-2)/3
							} else {
								after = u.Position
							}
							if role == "" && (u.Stream != "account-1" || u.Position != position || u.Type != "Happened" || u.ID == uuid.Nil) {
								// With these filters a message of the other stream may be the one that the filter fails on.
								if u.Stream != "account-2" || !strings.Contains(name, "payload") && !strings.Contains(name, "correlation") {
									t.Fatalf("got %+v", u)
								}
								continue
							}
							if role != "" && (u.GlobalPosition-2)%3 == 1 {
								continue
							}
							got = append(got, fmt.Sprintf("(%d)", position))
							continue
						}
						if err != nil {
							t.Fatal(err)
						}
						if len(ms) < batch {
							if !slices.Equal(got, want) {
								t.Errorf("got %v, want %v", got, want)
							}
							break
						}
					}
					if n := w.dials.Load(); n != 1 {
						t.Errorf("got %d connections, want 1", n)
					}
				})
			}
		}
	}
}

// poisoned returns the URL of a database in which the messages of account-1 at 3, 4, 9 and 10
// of 12 cannot be read.
func poisoned(t testing.TB) string {
	t.Helper()
	url := testdb.New(t)
	pool := newPool(t, url)
	for i := range 12 {
		data := `'{"n": 1}'`
		if i == 3 || i == 4 || i == 9 || i == 10 {
			data = `'{"poison": "54000"}'`
		}
		insert(t, pool, "account-1", i, "Happened", data, `'{"correlationStreamName": "origin-1"}'`)
	}
	unreadable(t, pool)
	return url
}

// TestUnreadableMethods checks what the methods return for a message that cannot be read.
func TestUnreadableMethods(t *testing.T) {
	t.Parallel()
	url := poisoned(t)
	for way, opts := range map[string][]mdb.StoreOption{"procedures": nil, "direct": {mdb.WithDirectSQL()}} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			s := newStore(t, newPool(t, url), opts...)
			third := mdb.UnreadableError{Stream: "account-1", Type: "Happened", Position: 3, GlobalPosition: 4}
			for _, opt := range []mdb.ReadOption{mdb.WithBatchSize(2), mdb.WithBatchSize(1000)} {
				ms, err := collect(s.StreamMessages(t.Context(), "account-1", opt))
				checkUnreadable(t, err, third)
				if got := streamPositions(ms); !slices.Equal(got, []int64{0, 1, 2}) {
					t.Errorf("got positions %v", got)
				}
			}
			ms, err := s.GetStreamMessages(t.Context(), "account-1", mdb.Unlimited(), mdb.FromPosition(5))
			checkUnreadable(t, err, mdb.UnreadableError{Stream: "account-1", Type: "Happened", Position: 9, GlobalPosition: 10})
			if got := streamPositions(ms); !slices.Equal(got, []int64{5, 6, 7, 8}) {
				t.Errorf("got positions %v", got)
			}
			ms, err = s.GetStreamMessages(t.Context(), "account-1", mdb.FromPosition(3))
			checkUnreadable(t, err, third)
			if len(ms) != 0 {
				t.Errorf("got messages %v", ms)
			}
			// A page that ends before it is not affected.
			ms, err = s.GetStreamMessages(t.Context(), "account-1", mdb.FromPosition(5), mdb.WithBatchSize(4))
			if len(ms) != 4 || err != nil {
				t.Errorf("got messages %v, error %v", ms, err)
			}
			if m, err := s.GetLastStreamMessage(t.Context(), "account-1"); m.Position != 11 || err != nil {
				t.Errorf("got message %v, error %v", m, err)
			}
			tx := begin(t, s.Pool())
			exec(t, tx, `DELETE FROM message_store.stored WHERE position = 11`)
			_, err = s.WithTx(tx).GetLastStreamMessage(t.Context(), "account-1")
			if wantCode(t, err, "54000"); errors.As(err, new(*mdb.UnreadableError)) {
				t.Errorf("got error %v in a transaction, which cannot ask for the message", err)
			}
			_, err = s.WithTx(begin(t, s.Pool())).GetStreamMessages(t.Context(), "account-1")
			if wantCode(t, err, "54000"); errors.As(err, new(*mdb.UnreadableError)) {
				t.Errorf("got error %v in a transaction, which cannot ask for the message", err)
			}
		})
	}
	t.Run("the last", func(t *testing.T) {
		url := poisoned(t)
		s := newStore(t, newPool(t, url))
		exec(t, s.Pool(), `DELETE FROM message_store.stored WHERE position = 11`)
		for _, opts := range [][]mdb.LastMessageOption{nil, {mdb.OfType("Happened")}} {
			_, err := s.GetLastStreamMessage(t.Context(), "account-1", opts...)
			checkUnreadable(t, err, mdb.UnreadableError{Stream: "account-1", Type: "Happened", Position: 10, GlobalPosition: 11})
		}
	})
}

// TestUnreadableSubscription checks that a subscription delivers everything before a message
// that cannot be read, and then ends, or goes past it if OnUnreadable says so.
func TestUnreadableSubscription(t *testing.T) {
	t.Parallel()
	url := poisoned(t)
	for way, opts := range map[string][]mdb.StoreOption{"procedures": nil, "direct": {mdb.WithDirectSQL()}} {
		for name, filter := range map[string]mdb.CategoryOption{
			"category":    mdb.CategoryOptions{},
			"group":       mdb.AsConsumerGroup(0, 1),
			"correlation": mdb.WithCorrelation("origin"),
			"condition":   mdb.WithCondition("type = 'Happened'"),
		} {
			for _, batch := range []int{1, 2, 5, 1000} {
				for _, workers := range []int{1, 3} {
					t.Run(fmt.Sprintf("%s, %s, %d, %d workers", way, name, batch, workers), func(t *testing.T) {
						t.Parallel()
						s := newStore(t, newPool(t, url), append(opts, mdb.WithConditions(), often)...)
						var progress []int64
						opts := []mdb.CategorySubscribeOption{
							filter, mdb.WithBatchSize(batch), mdb.WithWorkers(workers),
							onPosition(func(_ context.Context, position int64) error { progress = append(progress, position); return nil }),
						}
						if got := subscribeOver(t, s, "account", 11, opts...); got != "0 1 2 (3) (4) 5 6 7 8 (9) (10) 11" {
							t.Errorf("got %s", got)
						}
						for _, position := range []int64{4, 5, 10, 11, 12} {
							if !slices.Contains(progress, position) {
								t.Errorf("got progress %v, want %d in it", progress, position)
							}
						}
						if !slices.IsSorted(progress) {
							t.Errorf("got progress %v", progress)
						}

						progress = nil
						var handled atomic.Int64
						handle := func(context.Context, mdb.Message) error { handled.Add(1); return nil }
						err := s.SubscribeToCategory(t.Context(), "account", handle, opts...)
						checkUnreadable(t, err, mdb.UnreadableError{Stream: "account-1", Type: "Happened", Position: 3, GlobalPosition: 4})
						if handled.Load() != 3 || progress[len(progress)-1] != 3 {
							t.Errorf("got %d messages, progress %v", handled.Load(), progress)
						}

						err = s.SubscribeToCategory(t.Context(), "account", handle, append(opts,
							mdb.OnUnreadable(func(context.Context, *mdb.UnreadableError) error { return errStopped }))...)
						if h := wantError[*mdb.HandlerError](t, err); h.Stream != "account-1" || h.Position != 3 || h.GlobalPosition != 4 || !errors.Is(err, errStopped) {
							t.Errorf("got %+v", h)
						}
						if progress[len(progress)-1] != 3 {
							t.Errorf("got progress %v", progress)
						}
					})
				}
			}
		}
	}
}

// TestUndecodable checks the same for a row that the client cannot decode.
func TestUndecodable(t *testing.T) {
	t.Parallel()
	url := testdb.New(t)
	pool := newPool(t, url)
	for i := range 6 {
		insert(t, pool, "account-1", i, "Happened", `'"c4n4ry"'`, "NULL")
	}
	// Message DB's own views depend on the column.
	exec(t, pool, `DO $$ DECLARE v name; BEGIN
			FOR v IN SELECT relname FROM pg_class WHERE relkind = 'v' AND relnamespace = 'message_store'::regnamespace LOOP
				EXECUTE format('DROP VIEW IF EXISTS message_store.%I CASCADE', v);
			END LOOP;
		END $$;
		ALTER TABLE message_store.messages ALTER id TYPE varchar;
		UPDATE message_store.messages SET id = 'c4n4ry' || position WHERE position IN (0, 3)`)
	for _, mode := range execModes {
		t.Run(mode.String(), func(t *testing.T) {
			s := newStore(t, newPool(t, url, execMode(mode)), mdb.WithDirectSQL())
			onBoth := map[string]calls{"Store": s, "Tx": s.WithTx(begin(t, s.Pool()))}
			for name, c := range onBoth {
				ms, err := c.GetStreamMessages(t.Context(), "account-1", mdb.FromPosition(1))
				checkUnreadable(t, err, mdb.UnreadableError{Stream: "account-1", Type: "Happened", Position: 3, GlobalPosition: 4})
				checkNoCanary(t, err)
				if got := streamPositions(ms); !slices.Equal(got, []int64{1, 2}) {
					t.Errorf("%s: got positions %v", name, got)
				}
				_, err = c.GetStreamMessages(t.Context(), "account-1")
				checkUnreadable(t, err, mdb.UnreadableError{Stream: "account-1", Type: "Happened", Position: 0, GlobalPosition: 1})
			}
			if got := subscribeOver(t, s, "account", 5); got != "(0) 1 2 (3) 4 5" {
				t.Errorf("got %s", got)
			}
		})
	}
}

// TestPageTooLarge checks that a page which is too large for the server is read in parts,
// and is complete.
func TestPageTooLarge(t *testing.T) {
	t.Parallel()
	url := testdb.New(t)
	pool := newPool(t, url)
	const messages = 50
	for i := range messages {
		insert(t, pool, "account-1", i, "Happened", `to_jsonb(repeat('x', 100000))`, "NULL")
	}
	// The procedures collect the page in a temporary file. Without sorting, nothing else does,
	// in a table that is too small for the planner to use the index.
	s := newStore(t, newPool(t, url, parameter("temp_file_limit", "1MB"), parameter("work_mem", "64kB"),
		parameter("enable_seqscan", "off"), parameter("enable_bitmapscan", "off"), parameter("enable_sort", "off")))
	for _, opt := range []mdb.ReadOption{mdb.Unlimited(), mdb.WithBatchSize(1000), mdb.WithBatchSize(messages)} {
		ms, err := s.GetStreamMessages(t.Context(), "account-1", opt)
		if err != nil || len(ms) != messages {
			t.Errorf("got %d messages, error %v, want %d", len(ms), err, messages)
		}
		for i, m := range ms {
			if m.Position != int64(i) {
				t.Fatalf("got position %d as number %d", m.Position, i)
			}
		}
	}
	r := receiveCategory(t, s, "account", mdb.AsConsumerGroup(0, 1), mdb.OnRetry(func(r mdb.Retry) { t.Errorf("got retry %v, want none", r) }))
	r.next(t, messages)
	r.stop(t)
}

// TestUndecodableColumn checks that a column of another type, with which no row can be
// decoded, ends a subscription at its first read.
func TestUndecodableColumn(t *testing.T) {
	t.Parallel()
	url := testdb.New(t)
	pool := newPool(t, url)
	insert(t, pool, "account-1", 0, "Happened", `'"c4n4ry"'`, "NULL")
	exec(t, pool, `ALTER TABLE message_store.messages ALTER time TYPE timestamptz`)
	s := newStore(t, newPool(t, url), mdb.WithDirectSQL())
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	err := s.SubscribeToCategory(ctx, "account", func(context.Context, mdb.Message) error { return nil },
		mdb.OnRetry(func(r mdb.Retry) { t.Errorf("got retry %v, want none", r) }),
		mdb.OnUnreadable(func(_ context.Context, err *mdb.UnreadableError) error {
			t.Errorf("got %v, want none", err)
			return nil
		}))
	if err == nil || ctx.Err() != nil || !strings.Contains(err.Error(), `"time"`) {
		t.Errorf("got error %v, want one that names the column", err)
	}
}
