package conformance

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

func (s *suite) views(t *testing.T) {
	t.Helper()
	// Named so that every collation sorts them alike.
	a, b := mdbtest.Category("a"), mdbtest.Category("b")
	one, two, other := a.Stream("1"), a.Stream("2"), b.Stream("1")
	opened, closed := string(mdbtest.Category("Ajar")), string(mdbtest.Category("Closed"))
	for _, m := range []struct {
		stream mdb.StreamName
		typ    string
		n      int
	}{
		{other, closed, 40},
		{one, closed, 3},
		{two, opened, 1},
		{one, opened, 20},
		{other, opened, 5},
	} {
		writeMany(t, s.store.Pool(), m.stream, m.typ, m.n)
	}

	type group struct {
		by string // the grouping columns, as a JSON array
		n  int
	}
	by := func(columns ...any) string {
		var quoted []string
		for _, c := range columns {
			quoted = append(quoted, fmt.Sprintf("%q", c))
		}
		return "[" + strings.Join(quoted, ", ") + "]"
	}

	categories, streams, types := []string{string(a), string(b)}, []string{string(one), string(two), string(other)}, []string{opened, closed}
	for _, test := range []struct {
		view, columns string
		ours          string
		args          []any
		want          []group
	}{
		{
			"category_type_summary", "category, type", "category = ANY($1::text[]) AND type = ANY($2::text[])",
			[]any{categories, types},
			[]group{{by(a, opened), 21}, {by(a, closed), 3}, {by(b, opened), 5}, {by(b, closed), 40}},
		},
		{
			"stream_summary", "stream_name", "stream_name = ANY($1::text[])",
			[]any{streams},
			[]group{{by(one), 23}, {by(two), 1}, {by(other), 45}},
		},
		{
			"stream_type_summary", "stream_name, type", "stream_name = ANY($1::text[]) AND type = ANY($2::text[])",
			[]any{streams, types},
			[]group{{by(one, opened), 20}, {by(one, closed), 3}, {by(two, opened), 1}, {by(other, opened), 5}, {by(other, closed), 40}},
		},
		{
			"type_summary", "type", "type = ANY($1::text[])",
			[]any{types},
			[]group{{by(opened), 26}, {by(closed), 43}},
		},
		{
			"type_category_summary", "type, category", "category = ANY($1::text[]) AND type = ANY($2::text[])",
			[]any{categories, types},
			[]group{{by(opened, a), 21}, {by(opened, b), 5}, {by(closed, a), 3}, {by(closed, b), 40}},
		},
		{
			"type_stream_summary", "type, stream_name", "stream_name = ANY($1::text[]) AND type = ANY($2::text[])",
			[]any{streams, types},
			[]group{{by(opened, one), 20}, {by(opened, two), 1}, {by(opened, other), 5}, {by(closed, one), 3}, {by(closed, other), 40}},
		},
	} {
		s.check(t, test.view, func(t *testing.T) {
			// One snapshot, as others write meanwhile.
			tx := s.begin(t, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
			total := value[int](t, tx, `SELECT count(*) FROM message_store.messages`)

			type row struct {
				By      string
				Count   int64
				Percent string
			}
			got := collect(t, tx, pgx.RowToStructByPos[row],
				`SELECT jsonb_build_array(`+test.columns+`)::text, message_count, percent::text FROM message_store.`+test.view+`
				WHERE `+test.ours, test.args...)
			want := make([]row, len(test.want))
			for i, g := range test.want {
				hundredths := (2*g.n*100*100 + total) / (2 * total) // rounded half up
				want[i] = row{By: g.by, Count: int64(g.n), Percent: fmt.Sprintf("%d.%02d", hundredths/100, hundredths%100)}
			}
			if !slices.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}
