package mdb_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// TestGomdb checks that bugs of gomdb, the client that this package replaces, do not
// come back. Most of them would fail other tests; those listed here would not.
func TestGomdb(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]func(*testing.T){
		"leaked statements":             gomdbLeakedStatements,
		"truncated pages":               gomdbTruncatedPages,
		"search path of one connection": gomdbSearchPath,
		"options with state":            gomdbOptionsWithState,
		"columns by order":              gomdbColumnsByOrder,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t)
		})
	}
}

// gomdb prepared a statement in each call and never closed it: 51 calls left 51.
func gomdbLeakedStatements(t *testing.T) {
	s := newStore(t, newPool(t, testdb.Shared(t), oneConnection))
	stream := mdbtest.Category("gomdb").Stream("1")
	seed(t, s, stream, 1)
	count := func() int {
		for _, call := range everyReadAndWrite(s, stream) {
			if err := call(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		return value[int](t, s.Pool(), `SELECT count(*) FROM pg_prepared_statements`)
	}
	count() // this query is prepared as well
	first := count()
	for range 50 {
		if n := count(); n != first {
			t.Fatalf("got %d statements, want %d as before", n, first)
		}
	}
}

// gomdb did not check the error after the rows: a truncated page looked complete, and
// a truncated read of the last message like a stream without messages.
func gomdbTruncatedPages(t *testing.T) {
	var w wire
	s := newStore(t, newPool(t, testdb.Shared(t), w.attach, oneConnection))
	stream := mdbtest.Category("gomdb").Stream("1")
	seed(t, s, stream, 5)
	for _, place := range []int{whole - 100, whole - 6} {
		for what, read := range map[string]func() error{
			"get_stream_messages": func() error {
				_, err := s.GetStreamMessages(t.Context(), stream)
				return err
			},
			"get_category_messages": func() error {
				_, err := s.GetCategoryMessages(t.Context(), stream.Category())
				return err
			},
			"get_last_stream_message": func() error {
				_, err := s.GetLastStreamMessage(t.Context(), stream)
				return err
			},
		} {
			if err := read(); err != nil {
				t.Fatal(err)
			}
			w.cut(cut{what, place})
			if err := read(); err == nil || errors.Is(err, mdb.ErrNoMessage) {
				t.Errorf("%s: got error %v, want that of the connection", what, err)
			}
		}
	}
}

// gomdb set the search path on one connection of the pool: of 8 concurrent calls, 7
// failed.
func gomdbSearchPath(t *testing.T) {
	s := newStore(t, barePool(t, testdb.Shared(t), firstPath, func(cfg *pgxpool.Config) { cfg.MaxConns = 8 }))
	category := mdbtest.Category("gomdb")
	var wg, all sync.WaitGroup
	all.Add(8)
	for i := range 8 {
		wg.Go(func() {
			conn, err := s.Pool().Acquire(t.Context())
			all.Done()
			if err != nil {
				t.Error(err)
				return
			}
			all.Wait() // so that eight connections are open
			if path := value[string](t, conn.Conn(), `SHOW search_path`); !strings.HasPrefix(path, "message_store, ") {
				t.Errorf("got the path %s, want message_store first", path)
			}
			conn.Release()
			if _, err := s.WriteMessage(t.Context(), category.Stream(fmt.Sprint(i)), mdb.NewMessage("Happened", nil)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if ms, err := s.GetCategoryMessages(t.Context(), category); len(ms) != 8 || err != nil {
		t.Errorf("got %d messages, error %v, want 8", len(ms), err)
	}
}

// The options of gomdb had state, so that two users of one raced. Here options and
// sequences can be shared.
func gomdbOptionsWithState(t *testing.T) {
	s := mdbtest.SharedStore(t)
	category := mdbtest.Category("gomdb")
	for i := range 6 {
		write(t, s, category.Stream(fmt.Sprint(i)), mdb.ProposedMessage{Type: "Happened", Metadata: json.RawMessage(`{"correlationStreamName":"origin-1"}`)})
	}
	group, correlation, batch := mdb.AsConsumerGroup(0, 1), mdb.WithCorrelation("origin"), mdb.WithBatchSize(2)
	expect := mdb.ExpectNoStream()
	seq := s.CategoryMessages(t.Context(), category, group, correlation, batch)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			if ms, err := collect(seq); len(ms) != 6 || err != nil {
				t.Errorf("got %d messages, error %v, want 6", len(ms), err)
			}
			if ms, err := s.GetCategoryMessages(t.Context(), category, batch, correlation, group); len(ms) != 2 || err != nil {
				t.Errorf("got %d messages, error %v, want 2", len(ms), err)
			}
			if _, err := s.WriteMessage(t.Context(), (category + "x").Stream(fmt.Sprint(i)), mdb.NewMessage("Happened", nil), expect); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// gomdb read the columns in the order of the server.
func gomdbColumnsByOrder(t *testing.T) {
	s := mdbtest.Store(t)
	stream := mdbtest.Category("gomdb").Stream("1")
	m := mdb.ProposedMessage{ID: uuid.New(), Type: "Happened", Data: json.RawMessage(`"data"`), Metadata: json.RawMessage(`"metadata"`)}
	write(t, s, stream, m)
	exec(t, s.Pool(), `
		CREATE SCHEMA original;
		ALTER FUNCTION message_store.get_last_stream_message(varchar, varchar) SET SCHEMA original;
		CREATE FUNCTION message_store.get_last_stream_message(stream_name varchar, type varchar DEFAULT NULL)
		RETURNS TABLE (extra int, metadata varchar, data varchar, type varchar, stream_name varchar, "time" timestamp, global_position bigint, "position" bigint, id varchar)
		LANGUAGE sql AS 'SELECT 1, metadata, data, type, stream_name, time, global_position, position, id FROM original.get_last_stream_message($1, $2)'`)
	for _, opts := range [][]mdb.LastMessageOption{nil, {mdb.OfType("Happened")}} {
		got, err := s.GetLastStreamMessage(t.Context(), stream, opts...)
		if err != nil {
			t.Fatal(err)
		}
		if got.ID != m.ID || got.Stream != stream || got.Type != "Happened" || string(got.Data) != `"data"` || string(got.Metadata) != `"metadata"` {
			t.Errorf("got message %+v", got)
		}
	}
}
