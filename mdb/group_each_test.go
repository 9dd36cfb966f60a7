package mdb_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// TestGroupEach checks that the writes of WriteEach to one category are one transaction, except those whose order in a stream
// matters, and that one which fails fails no other.
func TestGroupEach(t *testing.T) {
	t.Parallel()
	url := refusing(t)
	onGroups(t, func(t *testing.T, way ...mdb.StoreOption) {
		s := newStore(t, newPool(t, url, connections(10)), way...)
		category, other := mdbtest.Category("each"), mdbtest.Category("other")
		old := mdb.NewMessage("Happened", nil)
		write(t, s, category.Stream("old"), old)
		message := func() mdb.ProposedMessage { return mdb.NewMessage("Happened", nil) }
		var ws []mdb.Write
		for i := range 10 {
			ws = append(ws, mdb.Write{Stream: category.Stream(fmt.Sprint(i)), Message: message()})
		}
		ws = append(ws,
			mdb.Write{Stream: category.Stream("several"), Message: message(), Options: []mdb.WriteOption{mdb.ExpectVersion(5)}},
			mdb.Write{Stream: category.Stream("wrong"), Message: message(), Options: []mdb.WriteOption{mdb.ExpectVersion(5)}},
			mdb.Write{Stream: category.Stream("several"), Message: message()},
			mdb.Write{Stream: category.Stream("taken"), Message: old},
			mdb.Write{Stream: category.Stream("old"), Message: old, Options: []mdb.WriteOption{mdb.Idempotent()}},
			mdb.Write{Stream: category.Stream("refused"), Message: mdb.NewMessage(refusedType, nil)},
			mdb.Write{Stream: other.Stream("only"), Message: message()},
		)
		results := s.WriteEach(t.Context(), ws)
		for i, r := range results[:10] {
			if r.Err != nil || r.Written.Position != 0 || r.Written.ID != ws[i].Message.ID {
				t.Errorf("write %d: got %+v, want it written", i, r)
			}
		}
		wantError[*mdb.WrongVersionError](t, results[10].Err)
		wantError[*mdb.WrongVersionError](t, results[11].Err)
		if skipped := wantError[*mdb.SkippedError](t, results[12].Err); skipped.Failed != 10 {
			t.Errorf("got skipped after %d, want 10", skipped.Failed)
		}
		wantError[*mdb.DuplicateIDError](t, results[13].Err)
		if r := results[14]; r.Err != nil || !r.Written.Duplicate {
			t.Errorf("got %+v, want the message that is there", r)
		}
		wantCode(t, results[15].Err, refusedCode)
		if r := results[16]; r.Err != nil {
			t.Errorf("got error %v in a category with one write", r.Err)
		}
		if n := value[int](t, s.Pool(), `SELECT count(DISTINCT xmin::text)::int FROM message_store.messages WHERE message_store.category(stream_name) = $1 AND stream_name <> $2`, string(category), string(category.Stream("old"))); n != 1 {
			t.Errorf("got %d transactions, want 1", n)
		}
		if n := len(rows(t, s.Pool(), category)) + len(rows(t, s.Pool(), other)); n != 12 {
			t.Errorf("got %d messages, want 12", n)
		}
		wantNoGroups(t, s)
	})
}

// TestGroupEachContext checks that WriteEach returns if its context ends, before or after its writes are sent with others.
func TestGroupEachContext(t *testing.T) {
	t.Parallel()
	onGroups(t, func(t *testing.T, way ...mdb.StoreOption) {
		holder := newStore(t, newPool(t, testdb.Shared(t)))
		s := newStore(t, groupPool(t), way...)
		for _, locked := range []bool{false, true} {
			category := mdbtest.Category("each")
			var release func()
			if locked {
				release = holdLock(t, holder, category)
			} else {
				release = mdb.HoldTurn(s, category)
			}
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan []mdb.WriteResult)
			go func() {
				var ws []mdb.Write
				for i, m := range proposals(3) {
					ws = append(ws, mdb.Write{Stream: category.Stream(fmt.Sprint(i)), Message: m})
				}
				ended <- s.WriteEach(ctx, ws)
			}()
			if locked {
				untilBlocked(t, holder.Pool(), category, 1)
			} else {
				inTime(t, "the writes wait", func() bool { return mdb.Waiting(s, category) == 3 })
			}
			cancel()
			for i, r := range <-ended {
				if !errors.Is(r.Err, context.Canceled) || isUnknown(r.Err) != locked {
					t.Errorf("sent %t: write %d: got error %v", locked, i, r.Err)
				}
			}
			release()
			wantNoGroups(t, s)
			want := 0
			if locked { // the group goes on
				want = 3
			}
			if got := rows(t, holder.Pool(), category); len(got) != want {
				t.Errorf("sent %t: got %d messages, want %d", locked, len(got), want)
			}
		}
	})
}
