package mdb_test

import (
	"slices"
	"testing"

	"github.com/messagedb-go/messagedb/internal/scan"
	"github.com/messagedb-go/messagedb/internal/source"
	"github.com/messagedb-go/messagedb/mdb"
)

// TestForkOfTwoCursors checks that two cursors on one source both go back to the last message
// that is left, and together report each lost message once.
func TestForkOfTwoCursors(t *testing.T) {
	t.Parallel()
	for name, farFirst := range map[string]bool{"the farther one first": true, "the nearer one first": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLossy(t)
			l.write(200)
			lost := missingOf(t, l, 50)
			s := newStore(t, newPool(t, l.url))
			src, far := sourceAtEnd(t, s, "account")
			page, err := src.Next(t.Context(), source.Checkpoint{}, 100)
			if err != nil || page.End.Position != 100 || far.Position != 200 {
				t.Fatalf("got cursors at %d and %d, error %v", page.End.Position, far.Position, err)
			}
			l.lose(150, 3)
			cursors := []source.Checkpoint{page.End, far}
			if farFirst {
				slices.Reverse(cursors)
			}
			var gone []source.Anchor
			for _, c := range cursors {
				page, err := src.Next(t.Context(), c, mdb.DefaultBatchSize)
				if err != nil || !page.Forked || page.End.Position != 50 {
					t.Fatalf("after %d: got %d messages, forked: %t, to %d, error %v, want a fork to 50", c.Position, len(page.Messages), page.Forked, page.End.Position, err)
				}
				gone = append(gone, page.Gone...)
			}
			slices.SortFunc(gone, func(a, b source.Anchor) int { return int(a.Position - b.Position) })
			if !slices.Equal(gone, lost) {
				t.Errorf("got %d lost messages, want %d, each once", len(gone), len(lost))
			}
			if got, want := s.Stats(), (mdb.Stats{Forks: 2, Missing: 150}); got != want {
				t.Errorf("got stats %+v, want %+v", got, want)
			}
		})
	}
}

// missingOf returns the anchors of the messages after the position.
func missingOf(t *testing.T, l *lossy, position int64) (anchors []source.Anchor) {
	t.Helper()
	for _, m := range selected(t, l.pool, ofAccount) {
		if m.Global > position {
			anchors = append(anchors, source.Anchor{Position: m.Global, ID: m.ID, Time: scan.Micros(m.Time)})
		}
	}
	return anchors
}
