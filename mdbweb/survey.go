package mdbweb

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// surveyPages is how many pages of the table a survey reads: megabytes, however large the table is.
	surveyPages = 400
	surveyTime  = time.Minute
	// surveyKinds limits the types and categories of a survey.
	surveyKinds = 2000
)

const (
	sqlTablePages = `SELECT pg_catalog.pg_relation_size('message_store.messages') / pg_catalog.current_setting('block_size')::bigint`
	// A sample of pages is the same each time, so that the numbers do not change when nothing is written.
	sqlSurvey = `SELECT s.category, s.type, s.n, s.total FROM (
	SELECT message_store.category(m.stream_name)::text AS category, m.type, pg_catalog.count(*) AS n, (pg_catalog.sum(pg_catalog.count(*)) OVER ())::bigint AS total
	FROM message_store.messages AS m TABLESAMPLE SYSTEM ($1::real) REPEATABLE (0) GROUP BY 1, 2
) AS s ORDER BY s.n DESC, s.category, s.type LIMIT $2::integer`
)

// A survey says of which categories and types the messages of a store are. That of a small store is exact, and
// that of a large one is estimated from a sample of the table's pages.
type survey struct {
	Kinds   []kind
	Total   count
	Sampled int64 // the messages of the sample
	At      time.Time
	scale   float64
}

// A kind is a type of a category.
type kind struct {
	Category, Type string
	N              int64 // in the sample
}

// surveys keeps the last survey for a while.
type surveys struct {
	mu   sync.Mutex
	last *survey
}

// take returns a survey that is not old. Those who ask at the same time share one.
func (s *surveys) take(ctx context.Context, tx pgx.Tx) (*survey, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last != nil && time.Since(s.last.At) < surveyTime {
		return s.last, nil
	}
	taken, err := takeSurvey(ctx, tx)
	if err != nil {
		return nil, err
	}
	if taken.Total.Estimated { // others are cheap, and should show each message
		s.last = taken
	}
	return taken, nil
}

func takeSurvey(ctx context.Context, tx pgx.Tx) (*survey, error) {
	var pages int64
	if err := tx.QueryRow(ctx, sqlTablePages).Scan(&pages); err != nil {
		return nil, err
	}
	s := &survey{At: time.Now(), scale: 1}
	share := 100.0
	if pages > surveyPages {
		s.Total.Estimated = true
		share *= float64(surveyPages) / float64(pages)
		s.scale = 100 / share
	}
	rows, _ := tx.Query(ctx, sqlSurvey, share, surveyKinds)
	var k kind
	_, err := pgx.ForEachRow(rows, []any{&k.Category, &k.Type, &k.N, &s.Sampled}, func() error {
		s.Kinds = append(s.Kinds, k)
		return nil
	})
	s.Total.N = int64(float64(s.Sampled) * s.scale)
	return s, err
}

// of returns how many messages n messages of the sample stand for.
func (s *survey) of(n int64) count {
	return count{N: int64(float64(n) * s.scale), Estimated: s.Total.Estimated}
}

// A summary is a line of a table of types or categories.
type summary struct {
	Name  string
	Count count
	Share float64
	Of    []string // the categories of a type, the most frequent first
}

// maxNamed is how many categories of a type are named.
const maxNamed = 3

// First returns some of the categories, and Rest says how many more there are.
func (s *summary) First() []string { return s.Of[:min(len(s.Of), maxNamed)] }

// Rest is explained with First.
func (s *summary) Rest() int { return max(len(s.Of)-maxNamed, 0) }

// SharePercent is the length of a bar.
func (s *summary) SharePercent() float64 { return 100 * s.Share }

// types returns the types, those of one category if it is not empty, the most frequent first.
func (s *survey) types(category string) []*summary {
	totals := make(map[string]int64)
	of := make(map[string][]string)
	var sum int64
	for _, k := range s.Kinds {
		if category == "" || k.Category == category {
			totals[k.Type] += k.N
			of[k.Type] = append(of[k.Type], k.Category)
			sum += k.N
		}
	}
	types := make([]*summary, 0, len(totals))
	for name, n := range totals {
		types = append(types, &summary{name, s.of(n), float64(n) / float64(max(sum, 1)), of[name]})
	}
	slices.SortFunc(types, func(a, b *summary) int {
		return cmp.Or(cmp.Compare(b.Count.N, a.Count.N), cmp.Compare(a.Name, b.Name))
	})
	return types
}

// categories returns how many messages of the sample are in each category.
func (s *survey) categories() map[string]int64 {
	totals := make(map[string]int64)
	for _, k := range s.Kinds {
		totals[k.Category] += k.N
	}
	return totals
}
