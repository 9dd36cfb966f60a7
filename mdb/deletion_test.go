package mdb_test

import (
	"slices"
	"testing"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
)

// TestDeletion checks what docs/retention.md says of messages that the owner deletes: what
// happens to versions, positions, IDs and subscriptions.
func TestDeletion(t *testing.T) {
	t.Parallel()
	pool := newPool(t, testdb.New(t))
	s := newStore(t, pool)
	const stream = mdb.StreamName("account-1")
	first := mdb.NewMessage("Opened", nil)
	for _, m := range []mdb.ProposedMessage{first, mdb.NewMessage("Deposited", nil), mdb.NewMessage("Closed", nil)} {
		write(t, s, stream, m)
	}
	positions := func() (all []int64) {
		t.Helper()
		for m, err := range s.StreamMessages(t.Context(), stream) {
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, m.Position)
		}
		return all
	}

	// The last message keeps the version.
	exec(t, pool, `DELETE FROM message_store.messages WHERE stream_name = 'account-1' AND position < 2`)
	if got := positions(); !slices.Equal(got, []int64{2}) {
		t.Errorf("positions %v, want that of the last message", got)
	}
	if version, err := s.StreamVersion(t.Context(), stream); err != nil || version != 2 {
		t.Errorf("version %d, %v, want 2", version, err)
	}
	if w, err := s.WriteMessage(t.Context(), stream, mdb.NewMessage("Archived", nil), mdb.ExpectVersion(2)); err != nil || w.Position != 3 {
		t.Errorf("got %+v, %v, want position 3", w, err)
	}

	// The ID of a deleted message is free again.
	if w, err := s.WriteMessage(t.Context(), "account-2", first, mdb.Idempotent()); err != nil || w.Duplicate {
		t.Errorf("got %+v, %v, want a new message", w, err)
	}

	// Without any message, a stream begins at 0 again. A subscription to the category delivers
	// what follows; one to the stream ends.
	inCategory, inStream := receiveCategory(t, s, "account", mdb.FromEnd()), receiveStream(t, s, stream, mdb.AfterPosition(3))
	inCategory.untilLive(t)
	inStream.untilLive(t)
	exec(t, pool, `DELETE FROM message_store.messages WHERE stream_name = 'account-1'`)
	for i := range 5 {
		expected := mdb.ExpectVersion(int64(i) - 1)
		if w := write(t, s, stream, mdb.NewMessage("Again", nil), expected); w.Position != int64(i) {
			t.Errorf("position %d, want %d", w.Position, i)
		}
	}
	for i, m := range inCategory.next(t, 5) {
		if m.Position != int64(i) {
			t.Errorf("the category delivers position %d, want %d", m.Position, i)
		}
	}
	fork := wantError[*mdb.ForkError](t, <-inStream.dropped)
	if len(fork.Missing) != 1 || fork.Missing[0].Position != 3 || fork.Stream != stream || fork.After != mdb.NoStream {
		t.Errorf("got %+v, want the message at position 3", fork)
	}
}
