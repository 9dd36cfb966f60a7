package mdb_test

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// TestAnchoredPollOnWire checks that an empty poll with an anchor is one round trip, whose
// answer does not contain the last message.
func TestAnchoredPollOnWire(t *testing.T) {
	t.Parallel()
	for way, opts := range map[string][]mdb.StoreOption{"procedures": nil, "direct": {mdb.WithDirectSQL()}} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			var w wire
			s := newStore(t, newPool(t, testdb.Shared(t), oneConnection, w.attach), opts...)
			category := mdbtest.Category("poll")
			random := make([]byte, 1<<19)
			_, _ = rand.Read(random)
			write(t, s, category.Stream("1"), mdb.NewMessage("Happened", []string{hex.EncodeToString(random)}))
			src, at := sourceAtEnd(t, s, category)
			for i := range 10 {
				trips, received := w.trips.Load(), w.received.Load()
				page, err := src.Next(t.Context(), at, mdb.DefaultBatchSize)
				if err != nil || len(page.Messages) > 0 || page.Forked {
					t.Fatal(page, err)
				}
				if n := w.trips.Load() - trips; i > 0 && n != 1 { // the first one prepares
					t.Errorf("got %d round trips, want 1", n)
				}
				if n := w.received.Load() - received; i > 0 && n > 500 {
					t.Errorf("received %d bytes, want no payload", n)
				}
			}
		})
	}
}

// TestAllocsOfAnchoredPolls checks the allocations of an empty poll with an anchor.
func TestAllocsOfAnchoredPolls(t *testing.T) {
	measured(t, func(t *testing.T, s *mdb.Store, ctx context.Context, watch float64) {
		want := anchoredDirectAllocs + watch
		if strings.HasPrefix(t.Name(), "TestAllocsOfAnchoredPolls/procedures") {
			want = anchoredAllocs + watch
		}
		category := mdbtest.Category("allocs")
		seed(t, s, category.Stream("1"), 3)
		src, at := sourceAtEnd(t, s, category)
		got := allocs(want, func() {
			if page, err := src.Next(ctx, at, mdb.DefaultBatchSize); err != nil || len(page.Messages) > 0 || page.Forked {
				t.Fatal(page, err)
			}
		})
		if got > want {
			t.Errorf("got %v allocations, want at most %v", got, want)
		}
	})
}

// TestAnchorPlans checks that each statement about anchors uses the index made for it.
func TestAnchorPlans(t *testing.T) {
	t.Parallel()
	pool := newPool(t, testdb.New(t), oneConnection)
	fill(t, pool)
	arguments := map[string][]string{
		"direct_stream_anchored":   {"'common3-7', 0, 1000", "'common3-7', 1000000, 1000", "'rare-1', 0, 10"},
		"direct_category_anchored": {"'common3', 0, 1000", "'common3', 1000000, 10", "'rare', 0, 1000", "'none', 0, NULL"},
		"look_in_stream":           {"'common3-7', 3", "'none-1', 0"},
		"look_in_category":         {"1000", "1000000"},
		"last_in_stream":           {"'common3-7'", "'none-1'"},
		"last_in_category":         {"'common3'", "'rare'", "'none'"},
		"before_in_stream":         {"'common3-7', 3", "'rare-1', 100"},
		"before_in_category":       {"'common3', 40000", "'rare', 1000000"},
		"later_in_stream":          {"'common3-7', 3", "'rare-1', 100"},
		"later_in_category":        {"'common3', 40000", "'rare', 1000000"},
		"compare_in_stream":        {"'common3-7', ARRAY[1, 3, 5]"},
		"compare_in_category":      {"ARRAY[1, 1000, 30000]"},
	}
	texts := mdb.AnchorStatements()
	if len(texts) != len(arguments) {
		t.Fatalf("got %d statements, want %d", len(texts), len(arguments))
	}
	eachPlan(t, pool, texts, arguments, func(name, call, plan string, analyzed bool) {
		index := "messages_category"
		switch {
		case strings.HasSuffix(name, "stream") || strings.Contains(name, "_stream_"):
			index = "messages_stream"
		case name == "look_in_category" || name == "compare_in_category":
			index = "messages_pkey"
		}
		if !strings.Contains(plan, index) || strings.Contains(plan, "Seq Scan") || strings.Contains(plan, "Sort") {
			t.Errorf("%s, analyzed: %t: want the index %s:\n%s", call, analyzed, index, plan)
		}
	})
}
