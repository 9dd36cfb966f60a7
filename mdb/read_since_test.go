package mdb_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/messagedb-go/messagedb/mdb"
)

// A dated message is one whose transaction began at a time, in seconds, and took some.
type dated struct {
	stream   mdb.StreamName
	position int64
	begun    int
}

var sinceEpoch = time.Date(2026, 3, 29, 0, 0, 0, 0, time.UTC)

func second(n int) time.Time { return sinceEpoch.Add(time.Duration(n) * time.Second) }

// writeDated writes messages at increasing times, of transactions that have taken up to most seconds.
func writeDated(t testing.TB, s *mdb.Store, r *rand.Rand, n, most int) (all []dated) {
	t.Helper()
	drawn := 0
	for i := range n {
		drawn += r.IntN(5)
		m := dated{stream: mdb.StreamName(fmt.Sprintf("c%d-%d", r.IntN(3), r.IntN(2))), begun: drawn - r.IntN(most+1)}
		exec(t, s.Pool(), `INSERT INTO message_store.messages (stream_name, type, position, data, time) VALUES ($1, 'Happened', $2, '{}', $3)`, string(m.stream), i, second(m.begun))
		m.position = value[int64](t, s.Pool(), `SELECT max(global_position) FROM message_store.messages`)
		all = append(all, m)
		draw(t, s.Pool(), r.IntN(4))
	}
	return all
}

// sincePages returns what each kind of read returns since a time, and what it should.
func sincePages(t testing.TB, s *mdb.Store, all []dated, from int, opts ...mdb.ReadOption) (what []string, got, want [][]int64) {
	t.Helper()
	since := []mdb.ReadOption{mdb.Since(second(from))}
	since = append(since, opts...)
	add := func(name string, read func() []int64, selects func(dated) bool) {
		var positions []int64
		for _, m := range all {
			if m.begun >= from && selects(m) {
				positions = append(positions, m.position)
			}
		}
		what, got, want = append(what, name), append(got, read()), append(want, positions)
	}
	var stream mdb.StreamOptions
	var category mdb.CategoryOptions
	var every mdb.AllOptions
	for _, opt := range since {
		stream, category, every = append(stream, opt), append(category, opt), append(every, opt)
	}
	add("stream", func() []int64 { return collected(t, s.StreamMessages(t.Context(), "c1-0", stream)) }, func(m dated) bool { return m.stream == "c1-0" })
	add("category", func() []int64 { return collected(t, s.CategoryMessages(t.Context(), "c2", category)) }, func(m dated) bool { return m.stream.Category() == "c2" })
	add("all", func() []int64 { return collected(t, s.AllMessages(t.Context(), every)) }, func(dated) bool { return true })
	add("categories", func() []int64 { return collected(t, s.AllMessages(t.Context(), every, mdb.InCategories("c0", "c2"))) }, func(m dated) bool { return m.stream.Category() != "c1" })
	add("types", func() []int64 { return collected(t, s.AllMessages(t.Context(), every, mdb.OfTypes("Happened"))) }, func(dated) bool { return true })
	return what, got, want
}

// TestSince checks that each read returns all messages that are not older than a time, and no others,
// if their transactions took less than the margin: from each time, in an empty store, with gaps,
// and with pages of one message or of one byte.
func TestSince(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, open func() *mdb.Store) {
		for seed := range uint64(3) {
			s := open()
			r := rand.New(rand.NewPCG(seed, 7))
			for _, n := range []int{0, 1, 40} {
				all := writeDated(t, s, r, n, 9)
				for from := -12; from < 180; from += 1 + r.IntN(15) {
					for _, opt := range []mdb.ReadOption{mdb.WithBatchSize(1000), mdb.WithBatchSize(1), mdb.WithBatchBytes(1)} {
						what, got, want := sincePages(t, s, all, from, mdb.TimeMargin(10*time.Second), opt)
						for i := range what {
							if !slices.Equal(got[i], want[i]) {
								t.Errorf("%s of %d since %d: got %d, want %d", what[i], n, from, got[i], want[i])
							}
						}
					}
				}
				exec(t, s.Pool(), `DELETE FROM message_store.messages`)
			}
		}
	})
}

// TestSinceMargin checks that a message whose transaction took longer than the margin may be missed,
// that a longer margin finds it, and what the default is.
func TestSinceMargin(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, open func() *mdb.Store) {
		s := open()
		for i, begun := range []int{1000, 0, 1030} { // the second has taken 1,000 seconds
			exec(t, s.Pool(), `INSERT INTO message_store.messages (stream_name, type, position, data, time) VALUES ('c0-0', 'Happened', $1, '{}', $2)`, i, second(begun))
		}
		for _, test := range []struct {
			from int
			opts mdb.CategoryOptions
			want []int64
		}{
			{995, mdb.CategoryOptions{mdb.TimeMargin(10 * time.Second)}, []int64{3}},
			{995, nil, []int64{3}},
			{995, mdb.CategoryOptions{mdb.TimeMargin(1001 * time.Second)}, []int64{1, 3}},
			{995, mdb.CategoryOptions{mdb.TimeMargin(1 << 62)}, []int64{1, 3}},
			{1031, nil, nil},
			{-1, nil, []int64{1, 2, 3}},
		} {
			page, err := s.GetCategoryMessages(t.Context(), "c0", mdb.Since(second(test.from)), test.opts)
			if got := globalPositions(page); err != nil || !slices.Equal(got, test.want) {
				t.Errorf("since %d: got %d, %v, want %d", test.from, got, err, test.want)
			}
		}
		tx := begin(t, s.Pool())
		if page, err := s.WithTx(tx).GetStreamMessages(t.Context(), "c0-0", mdb.Since(second(1020))); err != nil || !slices.Equal(globalPositions(page), []int64{3}) {
			t.Errorf("got %d, %v in a transaction", globalPositions(page), err)
		}
	})
}

// TestSinceArguments checks what Since cannot be combined with.
func TestSinceArguments(t *testing.T) {
	t.Parallel()
	s := newStore(t, barePool(t, "host=/nowhere"))
	h := func(context.Context, mdb.Message) error { return nil }
	now := mdb.Since(time.Now())
	_, position := s.GetCategoryMessages(t.Context(), "account", now, mdb.AfterGlobalPosition(3))
	_, backwards := s.GetAllMessages(t.Context(), now, mdb.Backwards())
	_, year := s.GetAllMessages(t.Context(), mdb.Since(time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC)))
	_, alone := s.GetStreamMessages(t.Context(), "account-1", mdb.TimeMargin(time.Hour))
	_, negative := s.GetStreamMessages(t.Context(), "account-1", now, mdb.TimeMargin(-time.Hour))
	for want, errs := range map[string][]error{
		"start: got Since and a position":      {position},
		"order: got Since and Backwards":       {backwards},
		"want a year from 1 to 9999":           {year},
		"time margin: got one without Since":   {alone},
		"time margin: got -1h0m0s, want at le": {negative},
		"start: got Since, want a position":    {s.SubscribeToStream(t.Context(), "account-1", h, now), s.SubscribeToAll(t.Context(), h, now)},
	} {
		for _, err := range errs {
			if e := wantError[*mdb.ArgumentError](t, err); len(e.Faults) != 1 || !strings.Contains(e.Error(), want) {
				t.Errorf("got error %v, want %q in it", e, want)
			}
		}
	}
}
