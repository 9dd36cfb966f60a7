package mdb_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// TestGomdb has the bugs of gomdb, whose place this package takes, stay away. They
// have the numbers of the list that was made of them; those that are missing were
// in subscriptions, in polling, or in its tests.
func TestGomdb(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]func(*testing.T){
		"3 statements leaked":             gomdb3,
		"4 no stream name":                gomdb4,
		"5 truncated pages":               gomdb5,
		"7 JSON null for no metadata":     gomdb7,
		"8 search path of one connection": gomdb8,
		"9 consumer group without a size": gomdb9,
		"10 categories unchecked":         gomdb10,
		"11 IDs unchecked":                gomdb11,
		"12 conflicts by substring":       gomdb12,
		"16 full pages":                   gomdb16,
		"18 options with state":           gomdb18,
		"19 columns by order":             gomdb19,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t)
		})
	}
}

// Each call prepared a statement and never closed it: 51 calls left 51.
func gomdb3(t *testing.T) {
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
	count() // its own question is prepared as well
	first := count()
	for range 50 {
		if n := count(); n != first {
			t.Fatalf("%d statements, want %d as before", n, first)
		}
	}
}

// The stream's name was read and dropped, so that the readers of categories could
// not know it.
func gomdb4(t *testing.T) {
	s := mdbtest.SharedStore(t)
	category := mdbtest.Category("gomdb")
	streams := []mdb.StreamName{category.Stream("1"), category.Stream("2"), mdb.StreamName(category), category.Stream("1")}
	for _, stream := range streams {
		seed(t, s, stream, 1)
	}
	ms, err := s.GetCategoryMessages(t.Context(), category)
	if err != nil {
		t.Fatal(err)
	}
	var got []mdb.StreamName
	for _, m := range ms {
		got = append(got, m.Stream)
	}
	if !slices.Equal(got, streams) {
		t.Errorf("streams %v, want %v", got, streams)
	}
}

// The error behind the rows was never looked at: a page that broke off looked
// complete, and a broken read of the last message like a stream without one.
func gomdb5(t *testing.T) {
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
				t.Errorf("%s: error %v, want that of the connection", what, err)
			}
		}
	}
}

// No metadata became JSON's null.
func gomdb7(t *testing.T) {
	s := mdbtest.SharedStore(t)
	stream := mdbtest.Category("gomdb").Stream("1")
	write(t, s, stream, mdb.NewMessage("Happened", map[string]int{"a": 1}))
	seed(t, s, stream, 2)
	if n := value[int](t, s.Pool(), `SELECT count(*) FROM message_store.messages WHERE stream_name = $1 AND metadata IS NULL`, string(stream)); n != 3 {
		t.Errorf("%d messages without metadata, want 3", n)
	}
}

// The search path was set on one connection of the pool: of 8 calls at once, 7
// failed.
func gomdb8(t *testing.T) {
	s := newStore(t, newPool(t, testdb.Shared(t), func(cfg *pgxpool.Config) { cfg.MaxConns = 8 }))
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
			all.Wait() // so that there are eight
			if path := value[string](t, conn.Conn(), `SHOW search_path`); !strings.HasPrefix(path, "message_store, ") {
				t.Errorf("the path is %s, want message_store first", path)
			}
			conn.Release()
			if _, err := s.WriteMessage(t.Context(), category.Stream(fmt.Sprint(i)), mdb.NewMessage("Happened", nil)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if ms, err := s.GetCategoryMessages(t.Context(), category); len(ms) != 8 || err != nil {
		t.Errorf("%d messages, error %v, want 8", len(ms), err)
	}
}

// A group without a size was taken for no group: each member read everything.
func gomdb9(t *testing.T) {
	s, tx := deafStore(t)
	for _, c := range []calls{s, tx} {
		for _, group := range [][2]int{{3, 0}, {0, 0}, {3, 3}, {-1, 3}, {0, -3}} {
			_, err := c.GetCategoryMessages(t.Context(), "account", mdb.AsConsumerGroup(group[0], group[1]))
			wantError[*mdb.ArgumentError](t, err)
		}
	}
}

// An empty category read nothing, without an error, and a correlation with a dash
// was left to the server.
func gomdb10(t *testing.T) {
	s, tx := deafStore(t)
	for _, c := range []calls{s, tx} {
		_, err := c.GetCategoryMessages(t.Context(), "")
		wantError[*mdb.ArgumentError](t, err)
		_, err = c.GetCategoryMessages(t.Context(), "account", mdb.WithCorrelation("account-1"))
		wantError[*mdb.ArgumentError](t, err)
	}
}

// IDs were said to be checked for being UUIDs, and were not. Now their type is, and
// what is stored is what was given.
func gomdb11(t *testing.T) {
	s := mdbtest.SharedStore(t)
	stream := mdbtest.Category("gomdb").Stream("1")
	id := uuid.MustParse("{" + strings.ToUpper(uuid.NewString()) + "}")
	w := write(t, s, stream, mdb.ProposedMessage{ID: id, Type: "Happened"})
	m, err := s.GetLastStreamMessage(t.Context(), stream)
	if err != nil || m.ID != id || w.ID != id {
		t.Errorf("IDs %s and %s, error %v, want %s", m.ID, w.ID, err, id)
	}
}

// A conflict was what had a certain text in its error; the version and the cause
// were dropped, and a duplicate ID was nothing in particular.
func gomdb12(t *testing.T) {
	s := mdbtest.SharedStore(t)
	stream := mdbtest.Category("Wrong expected version: ").Stream("1")
	m := mdb.NewMessage("Wrong expected version: 1", nil)
	write(t, s, stream, m)
	_, err := s.WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", nil), mdb.ExpectVersion(7))
	if wrong := wantError[*mdb.WrongVersionError](t, err); wrong.Actual != 0 || wrong.Expected != 7 {
		t.Errorf("error %+v, want expected 7 and actual 0", wrong)
	}
	wantCode(t, err, "P0001")
	_, err = s.WriteMessage(t.Context(), stream, m)
	wantError[*mdb.DuplicateIDError](t, err)
	wantCode(t, err, "23505")
	if wrong := (*mdb.WrongVersionError)(nil); errors.As(err, &wrong) {
		t.Errorf("a duplicate is a conflict: %v", err)
	}
}

// A page that was just full confused what followed, always so in pages of one.
func gomdb16(t *testing.T) {
	s := mdbtest.SharedStore(t)
	stream := mdbtest.Category("gomdb").Stream("1")
	seed(t, s, stream, 4)
	for _, size := range []int{1, 2, 4} {
		ms, err := collect(s.StreamMessages(t.Context(), stream, mdb.WithBatchSize(size)))
		if got, want := streamPositions(ms), []int64{0, 1, 2, 3}; err != nil || !slices.Equal(got, want) {
			t.Errorf("pages of %d: positions %v, error %v, want %v", size, got, err, want)
		}
	}
}

// An option's value held state, so that two users of it raced. These are for all
// to share, and so is a sequence.
func gomdb18(t *testing.T) {
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
				t.Errorf("%d messages, error %v, want 6", len(ms), err)
			}
			if ms, err := s.GetCategoryMessages(t.Context(), category, batch, correlation, group); len(ms) != 2 || err != nil {
				t.Errorf("%d messages, error %v, want 2", len(ms), err)
			}
			if _, err := s.WriteMessage(t.Context(), (category + "x").Stream(fmt.Sprint(i)), mdb.NewMessage("Happened", nil), expect); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// The columns were read in the order in which the server had them.
func gomdb19(t *testing.T) {
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
			t.Errorf("message %+v", got)
		}
	}
}
