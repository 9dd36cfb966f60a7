package mdb_test

import (
	"errors"
	"reflect"
	"testing"

	"github.com/messagedb-go/messagedb/internal/source"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

func openCategory(t *testing.T, s *mdb.Store, category mdb.Category) *source.Opened[mdb.Message] {
	t.Helper()
	open := source.Opener.(func(*mdb.Store, mdb.Category, source.Hooks) (*source.Opened[mdb.Message], error)) //nolint:forcetypeassert // what mdb sets
	opened, err := open(s, category, source.Hooks{})
	if err != nil {
		t.Fatal(err)
	}
	return opened
}

// TestFirstPage checks that a page after a position of which nothing is known is one round trip, and the same as the look-up of the
// position's anchor and a page after that.
func TestFirstPage(t *testing.T) {
	t.Parallel()
	for way, opts := range map[string][]mdb.StoreOption{"procedures": nil, "direct": {mdb.WithDirectSQL()}} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			var w wire
			s := newStore(t, newPool(t, testdb.Shared(t), oneConnection, w.attach), opts...)
			category := mdbtest.Category("first")
			var positions []int64
			for range 5 {
				written := write(t, s, category.Stream("1"), mdb.NewMessage("Happened", nil))
				positions = append(positions, written.GlobalPosition)
				write(t, s, mdbtest.Category("other").Stream("1"), mdb.NewMessage("Happened", nil)) // has a position between
			}
			for i, most := range []int{2, 100} {
				for _, at := range []int64{positions[0] - 1, positions[1], positions[1] + 1, positions[4]} {
					trips := w.trips.Load()
					from, page, ok := openCategory(t, s, category).First(t.Context(), at, positions[3], most)
					if n := w.trips.Load() - trips; n != 1 && (i > 0 || at > positions[0]) { // the first one prepares
						t.Errorf("after %d: got %d round trips, want 1", at, n)
					}
					other := openCategory(t, s, category)
					wantFrom, err := other.After(t.Context(), at)
					if err != nil {
						t.Fatal(err)
					}
					want, err := other.Next(t.Context(), wantFrom, most)
					if err != nil {
						t.Fatal(err)
					}
					if !ok {
						t.Fatalf("after %d: nothing was read", at)
					}
					if !reflect.DeepEqual(from, wantFrom) {
						t.Errorf("after %d: the page begins at %+v, want %+v", at, from, wantFrom)
					}
					if !reflect.DeepEqual(page, want) {
						t.Errorf("after %d: got %+v, want %+v", at, page, want)
					}
				}
			}
		})
	}
}

// TestFirstPageAhead checks that nothing is read if the store has not used a position, and that After says so.
func TestFirstPageAhead(t *testing.T) {
	t.Parallel()
	s := newStore(t, newPool(t, testdb.New(t)))
	category := mdbtest.Category("first")
	write(t, s, category.Stream("1"), mdb.NewMessage("Happened", nil))
	opened := openCategory(t, s, category)
	for _, positions := range [][2]int64{{1, 5}, {5, 5}, {5, 1}} {
		if _, page, ok := opened.First(t.Context(), positions[0], positions[1], 10); ok || len(page.Messages) > 0 {
			t.Errorf("after %d, of which %d is to be used: got %v", positions[0], positions[1], page)
		}
	}
	var ahead *mdb.AheadError
	if _, err := opened.After(t.Context(), 5); !errors.As(err, &ahead) {
		t.Errorf("got %v, want an AheadError", err)
	}
	if _, _, ok := opened.First(t.Context(), 1, 1, 10); !ok {
		t.Error("nothing was read although the positions are used")
	}
}
