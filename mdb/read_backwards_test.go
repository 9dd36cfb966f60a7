package mdb_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
)

// collected returns the global positions of a sequence.
func collected(t testing.TB, messages iter.Seq2[mdb.Message, error]) (all []int64) {
	t.Helper()
	for m, err := range messages {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, m.GlobalPosition)
	}
	return all
}

// reversed returns the positions up to one, the last one first.
func reversed(positions []int64, last int64) []int64 {
	all := slices.DeleteFunc(slices.Clone(positions), func(p int64) bool { return p > last })
	slices.Reverse(all)
	return all
}

// TestBackwards checks that each read goes backwards from each position, in pages of several sizes
// and with each filter, and returns what it returns forwards.
func TestBackwards(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, open func() *mdb.Store) {
		s := open()
		for i := range 40 {
			insert(t, s.Pool(), mdb.StreamName(fmt.Sprintf("c%d-%d", i%3, i%5)), i, fmt.Sprintf("T%d", i%4), `'{}'`,
				fmt.Sprintf(`'{"correlationStreamName": "origin%d-1"}'`, i%2))
			draw(t, s.Pool(), i%3)
		}
		var inStream []int64
		for m, err := range s.StreamMessages(t.Context(), "c1-2") {
			if err != nil {
				t.Fatal(err)
			}
			inStream = append(inStream, m.Position)
		}
		for _, size := range []int{1, 3, 1000} {
			for from := range int64(45) {
				got := []int64{}
				for m, err := range s.StreamMessages(t.Context(), "c1-2", mdb.Backwards(), mdb.WithBatchSize(size), mdb.FromPosition(from)) {
					if err != nil {
						t.Fatal(err)
					}
					got = append(got, m.Position)
				}
				if want := reversed(inStream, from); !slices.Equal(got, want) {
					t.Errorf("stream from %d, pages of %d: got %d, want %d", from, size, got, want)
				}
			}
			for _, opts := range []mdb.CategoryOptions{
				nil,
				{mdb.WithCorrelation("origin1")},
				{mdb.AsConsumerGroup(1, 2)},
				{mdb.AsConsumerGroup(0, 2), mdb.WithCorrelation("origin0")},
			} {
				forwards := collected(t, s.CategoryMessages(t.Context(), "c2", opts))
				for _, from := range []int64{0, 7, 33, 78, 79, 1000} {
					got := collected(t, s.CategoryMessages(t.Context(), "c2", opts, mdb.Backwards(), mdb.WithBatchSize(size), mdb.FromGlobalPosition(from)))
					if want := reversed(forwards, from); !slices.Equal(got, want) {
						t.Errorf("%d options from %d, pages of %d: got %d, want %d", len(opts), from, size, got, want)
					}
				}
			}
			for _, opts := range []mdb.AllOptions{
				nil,
				{mdb.InCategories("c0", "c2", "c7")},
				{mdb.OfTypes("T1", "T2")},
				{mdb.OfTypes("T3"), mdb.InCategories("c1", "c2")},
				{mdb.OfTypes("None")},
			} {
				forwards := collected(t, s.AllMessages(t.Context(), opts))
				for _, from := range []int64{0, 7, 33, 78, 79, 1000} {
					got := collected(t, s.AllMessages(t.Context(), opts, mdb.Backwards(), mdb.WithBatchSize(size), mdb.FromGlobalPosition(from)))
					if want := reversed(forwards, from); !slices.Equal(got, want) {
						t.Errorf("all, %d options from %d, pages of %d: got %d, want %d", len(opts), from, size, got, want)
					}
				}
			}
		}
		all := collected(t, s.AllMessages(t.Context()))
		for i, p := range all {
			page, err := s.GetAllMessages(t.Context(), mdb.Backwards(), mdb.AfterGlobalPosition(p), mdb.WithBatchSize(2))
			want := reversed(all[:i], p)
			if want = want[:min(2, len(want))]; err != nil || !slices.Equal(globalPositions(page), want) {
				t.Errorf("after %d: got %d, %v, want %d", p, globalPositions(page), err, want)
			}
		}
		page, err := s.GetStreamMessages(t.Context(), "c1-2", mdb.Backwards(), mdb.Unlimited())
		if err != nil || len(page) != len(inStream) || page[0].Position != inStream[len(inStream)-1] {
			t.Errorf("got %v, %v without a position and a limit", page, err)
		}
		tx := begin(t, s.Pool())
		category, err := s.WithTx(tx).GetCategoryMessages(t.Context(), "c2", mdb.Backwards(), mdb.WithBatchSize(1))
		if err != nil || len(category) != 1 || category[0].Position != 38 {
			t.Errorf("got %v, %v in a transaction", category, err)
		}
		if _, err := s.GetStreamMessages(t.Context(), "c9-1", mdb.Backwards(), mdb.RequireStream()); !errors.Is(err, mdb.ErrNoStream) {
			t.Errorf("got %v for a stream that does not exist", err)
		}
	})
}

// TestAllBackwardsWaitsForNothing checks that a read of all categories that goes backwards returns
// what is visible, also on a standby.
func TestAllBackwardsWaitsForNothing(t *testing.T) {
	t.Parallel()
	pool := newPool(t, testdb.New(t))
	s := newStore(t, pool)
	first := write(t, s, "fast-1", mdb.NewMessage("Happened", nil)).GlobalPosition
	write(t, s.WithTx(begin(t, pool)), "slow-1", mdb.NewMessage("Happened", nil))
	last := write(t, s, "fast-1", mdb.NewMessage("Happened", nil)).GlobalPosition
	want := []int64{last, first}
	pretendStandby(t, pool, true)
	standby := newStore(t, newPool(t, pool.Config().ConnString(), pretendedStandby))
	for _, opts := range []mdb.AllOptions{nil, {mdb.InCategories("fast")}, {mdb.OfTypes("Happened")}} {
		for _, s := range []*mdb.Store{s, standby} {
			if got := collected(t, s.AllMessages(t.Context(), opts, mdb.Backwards())); !slices.Equal(got, want) {
				t.Errorf("got %d, want %d", got, want)
			}
		}
	}
}

// TestBackwardsUnreadable checks that a read that goes backwards names a message which cannot be
// read after those that follow it, and can go past it.
func TestBackwardsUnreadable(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, open func() *mdb.Store) {
		s := open()
		for i := range 6 {
			data := `'{}'`
			if i == 3 {
				data = `'{"poison": "54000"}'`
			}
			insert(t, s.Pool(), "account-1", i, "Happened", data, `'{}'`)
		}
		unreadable(t, s.Pool())
		check := func(what string, page []mdb.Message, err error) {
			t.Helper()
			checkUnreadable(t, err, mdb.UnreadableError{Stream: "account-1", Type: "Happened", Position: 3, GlobalPosition: 4})
			if got := globalPositions(page); !slices.Equal(got, []int64{6, 5}) {
				t.Errorf("%s: got %d before it", what, got)
			}
		}
		page, err := s.GetStreamMessages(t.Context(), "account-1", mdb.Backwards())
		check("stream", page, err)
		page, err = s.GetCategoryMessages(t.Context(), "account", mdb.Backwards())
		check("category", page, err)
		for _, opts := range []mdb.AllOptions{nil, {mdb.OfTypes("Happened")}, {mdb.InCategories("account")}} {
			page, err = s.GetAllMessages(t.Context(), opts, mdb.Backwards())
			check("all", page, err)
			page, err = s.GetAllMessages(t.Context(), opts, mdb.Backwards(), mdb.AfterGlobalPosition(4))
			if got := globalPositions(page); err != nil || !slices.Equal(got, []int64{3, 2, 1}) {
				t.Errorf("got %d, %v after it", got, err)
			}
		}
		exec(t, s.Pool(), `DELETE FROM message_store.stored WHERE position > 3`)
		_, err = s.GetLastCategoryMessage(t.Context(), "account")
		checkUnreadable(t, err, mdb.UnreadableError{Stream: "account-1", Type: "Happened", Position: 3, GlobalPosition: 4})
	})
}

// TestBackwardsArguments checks what rejects Backwards.
func TestBackwardsArguments(t *testing.T) {
	t.Parallel()
	s := newStore(t, barePool(t, "host=/nowhere"), mdb.WithConditions())
	h := func(context.Context, mdb.Message) error { return nil }
	_, condition := s.GetCategoryMessages(t.Context(), "account", mdb.Backwards(), mdb.WithCondition("true"))
	for want, errs := range map[string][]error{
		"condition: got one":   {condition},
		"order: got Backwards": {s.SubscribeToStream(t.Context(), "account-1", h, mdb.Backwards()), s.SubscribeToCategory(t.Context(), "account", h, mdb.Backwards()), s.SubscribeToAll(t.Context(), h, mdb.Backwards())},
	} {
		for _, err := range errs {
			if e := wantError[*mdb.ArgumentError](t, err); len(e.Faults) != 1 || !strings.Contains(e.Error(), want) {
				t.Errorf("got error %v, want %q in it", e, want)
			}
		}
	}
}

// TestGetLastCategoryMessage checks that the last message of a category is found, also that of a type
// that is farther away than a statement looks, on a Store and in a transaction.
func TestGetLastCategoryMessage(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, open func() *mdb.Store) {
		s := open()
		exec(t, s.Pool(), `INSERT INTO message_store.messages (stream_name, type, position, data)
SELECT CASE WHEN i = 12001 THEN 'other-1' ELSE 'account-1' END, CASE i WHEN 1 THEN 'Rare' WHEN 11999 THEN 'Changed' ELSE 'Common' END, i, '{}' FROM generate_series(1, 12001) AS i`)
		tx := begin(t, s.Pool())
		for _, c := range []calls{s, s.WithTx(tx)} {
			for typ, want := range map[string]int64{"": 12000, "Changed": 11999, "Common": 12000, "Rare": 1, "None": 0} {
				var opts []mdb.LastMessageOption
				if typ != "" {
					opts = append(opts, mdb.OfType(typ))
				}
				m, err := c.GetLastCategoryMessage(t.Context(), "account", opts...)
				if want == 0 && (!errors.Is(err, mdb.ErrNoMessage) || err.Error() != "mdb: no message of type None in category account") || want > 0 && (err != nil || m.GlobalPosition != want || string(m.Data) != "{}") {
					t.Errorf("%q: got %v, %v, want %d", typ, m, err, want)
				}
			}
			if _, err := c.GetLastCategoryMessage(t.Context(), "none"); !errors.Is(err, mdb.ErrNoMessage) || err.Error() != "mdb: no message in category none" {
				t.Errorf("got %v", err)
			}
			_, err := c.GetLastCategoryMessage(t.Context(), "a-b", mdb.OfType(""))
			if e := wantError[*mdb.ArgumentError](t, err); len(e.Faults) != 2 {
				t.Errorf("got %v", e)
			}
		}
	})
}
