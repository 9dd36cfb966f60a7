package consumer

import (
	"context"
	"fmt"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/source"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
)

// TestFilteredReads checks that the server leaves out the data of exactly those messages whose partitions are not wanted, by the same
// partitions as this package, from the beginning and after a message, and that nothing else is different.
func TestFilteredReads(t *testing.T) {
	t.Parallel()
	cfg, err := pgxpool.ParseConfig(testdb.Shared(t))
	if err != nil {
		t.Fatal(err)
	}
	if testdb.Official() {
		mdb.Configure(cfg, mdb.StoreFirst())
	} else {
		mdb.Configure(cfg)
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	store, err := mdb.New(pool, mdb.WithDirectSQL())
	if err != nil {
		t.Fatal(err)
	}
	const partitions = 7
	var category mdb.Category // as a cardinal ID, it is not in the partition of streams without one
	for category == "" || partitionOfKey(string(category), partitions) == partitionOfKey("", partitions) {
		category = mdb.Category("filtered" + uuid.NewString()[:8])
	}
	streams := []mdb.StreamName{mdb.StreamName(category), category.Stream("a+b"), category.Stream("a+c"), category.Stream("a-b"), category.Stream("ä")}
	for i := range 60 {
		streams = append(streams, category.Stream(fmt.Sprint(i)))
	}
	for _, stream := range streams {
		if _, err := store.WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", map[string]string{"in": string(stream)})); err != nil {
			t.Fatal(err)
		}
	}
	wanted, list := map[int]bool{}, ""
	opened, err := openCategory(store, category)(source.Hooks{Wanted: func() (int64, string) { return partitions, list }})
	if err != nil {
		t.Fatal(err)
	}
	for _, list = range []string{"", "{}", "{0,3,5}", "{0,1,2,3,4,5,6}", "{0}", "{1}", "{2}", "{3}", "{4}", "{5}", "{6}"} {
		clear(wanted)
		for n := range partitions {
			for _, c := range list {
				wanted[n] = wanted[n] || c == rune('0'+n)
			}
			wanted[n] = wanted[n] || list == ""
		}
		from, seen, left := source.At(0), 0, 0
		for full := true; full; {
			page, err := opened.Next(t.Context(), from, 20)
			if err != nil {
				t.Fatal(err)
			}
			for i := range page.Messages {
				m := &page.Messages[i]
				data := fmt.Sprintf(`{"in": %q}`, m.Stream)
				if !wanted[partitionOf(m.Stream, partitions)] {
					data = ""
					left++
				}
				if string(m.Data) != data || m.Stream != streams[seen] || m.ID == uuid.Nil || m.Time.IsZero() || m.Type != "Happened" {
					t.Errorf("with %s: got %+v, want the data %s of %s", list, m, data, streams[seen])
				}
				seen++
			}
			from, full = page.End, page.Full
		}
		if seen != len(streams) || left == 0 && len(list) == len("{0}") {
			t.Errorf("with %s: got %d of %d messages, %d of them without data", list, seen, len(streams), left)
		}
	}
}

// TestFilterNeedsDirectSQL checks that a store without direct SQL is rejected.
func TestFilterNeedsDirectSQL(t *testing.T) {
	t.Parallel()
	pool, err := pgxpool.New(t.Context(), "postgres://nobody@127.0.0.1:1/nothing") // nobody answers
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	for direct, opts := range map[bool][]mdb.StoreOption{true: {mdb.WithDirectSQL()}, false: nil} {
		store, err := mdb.New(pool, opts...)
		if err != nil {
			t.Fatal(err)
		}
		_, err = New(store, "mailer", "signup", Each(func(context.Context, mdb.Message) error { return nil }), FilterOnServer())
		if (err == nil) != direct {
			t.Errorf("with direct SQL %v: got %v", direct, err)
		}
	}
}
