package archive_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/archive"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// left returns the streams and positions that are in the store, in the order of global positions.
func left(t testing.TB, s *mdb.Store) (all []string) {
	t.Helper()
	for m, err := range s.AllMessages(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, fmt.Sprintf("%s/%d", m.Stream, m.Position))
	}
	return all
}

// TestDelete checks which messages are deleted: those before a position or a time, but never the last one of a stream.
func TestDelete(t *testing.T) {
	t.Parallel()
	streams := []mdb.StreamName{"a-1", "b-1", "a-2", "a-1", "a-1", "b-1", "ab-1", "ab-1", "a-2"} // from global position 1 on
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	all := []string{"a-1/0", "b-1/0", "a-2/0", "a-1/1", "a-1/2", "b-1/1", "ab-1/0", "ab-1/1", "a-2/1"}
	for name, c := range map[string]struct {
		old  archive.Old
		gone string
	}{
		"a stream":                         {archive.Old{Stream: "a-1", Before: 2}, "a-1/0 a-1/1"},
		"a part of it":                     {archive.Old{Stream: "a-1", Before: 1}, "a-1/0"},
		"its last message":                 {archive.Old{Stream: "a-1", Before: 99}, "a-1/0 a-1/1"},
		"a category":                       {archive.Old{Category: "a", Before: 99}, "a-1/0 a-2/0 a-1/1"},
		"a part of it by position":         {archive.Old{Category: "a", Before: 3}, "a-1/0"},
		"up to one of its positions":       {archive.Old{Category: "a", Before: 4}, "a-1/0 a-2/0"},
		"a stream by time":                 {archive.Old{Stream: "a-1", BeforeTime: begin.Add(4 * time.Hour)}, "a-1/0"},
		"just after a time":                {archive.Old{Stream: "a-1", BeforeTime: begin.Add(4*time.Hour + time.Microsecond)}, "a-1/0 a-1/1"},
		"a category by time":               {archive.Old{Category: "a", BeforeTime: begin.Add(3 * time.Hour)}, "a-1/0"},
		"by time and position":             {archive.Old{Category: "a", BeforeTime: begin.Add(99 * time.Hour), Before: 2}, "a-1/0"},
		"by time in another zone":          {archive.Old{Category: "a", BeforeTime: begin.Add(3 * time.Hour).In(time.FixedZone("", 7200))}, "a-1/0"},
		"what is kept in any case":         {archive.Old{Category: "a", Before: 99, KeepFrom: 3}, "a-1/0"},
		"what is kept of a stream":         {archive.Old{Stream: "a-1", Before: 99, KeepFrom: 4}, "a-1/0"},
		"another with the same beginning":  {archive.Old{Category: "ab", Before: 99}, "ab-1/0"},
		"a stream without old messages":    {archive.Old{Stream: "b-1", BeforeTime: begin}, ""},
		"a stream that is not there":       {archive.Old{Stream: "c-1", Before: 99}, ""},
		"a category that is not there":     {archive.Old{Category: "c", Before: 99}, ""},
		"a category, from no position on":  {archive.Old{Category: "a", Before: 1}, ""},
		"a category in the distant future": {archive.Old{Category: "b", BeforeTime: begin.AddDate(5000, 0, 0)}, "b-1/0"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := mdbtest.Store(t)
			for _, stream := range streams {
				write(t, s, stream, "Happened")
			}
			execute(t, s, `UPDATE message_store.messages SET time = '2026-01-01'::timestamp + global_position * interval '1 hour'`)
			gone := strings.Fields(c.gone)
			n := int64(len(gone))
			if got, err := archive.Count(t.Context(), s.Pool(), c.old); err != nil || got != n {
				t.Errorf("counted %d, %v, want %d", got, err, n)
			}
			var last int64
			if got, err := archive.Delete(t.Context(), s.Pool(), c.old, func(deleted int64) { last = deleted }); err != nil || got != n || last != n {
				t.Errorf("deleted %d, at last %d, %v, want %d", got, last, err, n)
			}
			want := slices.DeleteFunc(slices.Clone(all), func(m string) bool { return slices.Contains(gone, m) })
			if got := left(t, s); !slices.Equal(got, want) {
				t.Errorf("left are %v, want %v", got, want)
			}
			if got, err := archive.Delete(t.Context(), s.Pool(), c.old, nil); err != nil || got != 0 {
				t.Errorf("then deleted %d, %v", got, err)
			}
			// Versions go on.
			if w := write(t, s, "a-1", "Happened"); w.Position != 3 {
				t.Errorf("the next position is %d, want 3", w.Position)
			}
		})
	}
}

// TestDeleteMany checks a deletion of several parts, in which last messages of streams are all over, while messages are written.
func TestDeleteMany(t *testing.T) {
	t.Parallel()
	s := mdbtest.Store(t)
	execute(t, s, `INSERT INTO message_store.messages (stream_name, position, type)
		SELECT 'a-' || i / 7, i % 7, 'Happened' FROM generate_series(0, 34999) AS i`) // the last message of a-4999 has position 6
	before := write(t, s, "b-1", "Happened").GlobalPosition
	parts := 0
	n, err := archive.Delete(t.Context(), s.Pool(), archive.Old{Category: "a", Before: before}, func(int64) {
		parts++
		write(t, s, "a-4999", "Later") // so that its last message of old is not its last one
	})
	if err != nil || n != 5000*6+1 || parts != 4 {
		t.Errorf("deleted %d in %d parts, %v, want %d in 4", n, parts, err, 5000*6+1)
	}
	var streams, messages int64
	if err := s.Pool().QueryRow(t.Context(), `SELECT count(DISTINCT stream_name), count(*) FROM message_store.messages WHERE stream_name LIKE 'a-%'`).Scan(&streams, &messages); err != nil {
		t.Fatal(err)
	}
	if streams != 5000 || messages != 4999+4 {
		t.Errorf("%d streams with %d messages, want 5000 with %d", streams, messages, 4999+4)
	}
}

// TestDeleteByOthers checks that roles which may not delete get an error that says who may.
func TestDeleteByOthers(t *testing.T) {
	t.Parallel()
	s := mdbtest.Store(t)
	write(t, s, "a-1", "Happened")
	write(t, s, "a-1", "Happened")
	cfg := s.Pool().Config()
	cfg.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, `SET ROLE message_store`)
		return err
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	old := archive.Old{Category: "a", Before: 99}
	if n, err := archive.Count(t.Context(), pool, old); err != nil || n != 1 {
		t.Errorf("counted %d, %v", n, err)
	}
	_, err = archive.Delete(t.Context(), pool, old, nil)
	if setup := (*mdb.SetupError)(nil); !errors.As(err, &setup) || !strings.Contains(setup.Remedy, "owner") {
		t.Errorf("got %v, want a SetupError", err)
	}
}
