package mdb_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// TestGetMessage checks that a message is found by its ID, in one round trip and in all modes of pgx,
// and that the error names an ID that no message has.
func TestGetMessage(t *testing.T) {
	t.Parallel()
	for _, mode := range execModes {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			var w wire
			s := newStore(t, newPool(t, testdb.Shared(t), execMode(mode), oneConnection, w.attach))
			stream := mdbtest.Category("one").Stream("1")
			var ids []uuid.UUID
			for i := range 3 {
				ids = append(ids, write(t, s, stream, mdb.NewMessage("Happened", map[string]int{"n": i})).ID)
			}
			if _, err := s.GetMessage(t.Context(), ids[0]); err != nil { // prepares
				t.Fatal(err)
			}
			trips := w.trips.Load()
			m, err := s.GetMessage(t.Context(), ids[1])
			if err != nil || m.ID != ids[1] || m.Stream != stream || m.Position != 1 || string(m.Data) != `{"n": 1}` {
				t.Errorf("got %v, %v", m, err)
			}
			if n := w.trips.Load() - trips; n != 1 && mode.String() == "cache statement" {
				t.Errorf("got %d round trips, want 1", n)
			}
			tx := begin(t, s.Pool())
			if m, err := s.WithTx(tx).GetMessage(t.Context(), ids[2]); err != nil || m.Position != 2 {
				t.Errorf("got %v, %v in a transaction", m, err)
			}
			if err := tx.Rollback(t.Context()); err != nil {
				t.Fatal(err)
			}
			none := uuid.New()
			if _, err := s.GetMessage(t.Context(), none); !errors.Is(err, mdb.ErrNoMessage) || !strings.Contains(err.Error(), none.String()) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestGetMessageErrors checks the errors for a message that cannot be read, and for a role that may
// not read the table.
func TestGetMessageErrors(t *testing.T) {
	t.Parallel()
	pool := newPool(t, testdb.New(t))
	s := newStore(t, pool)
	insert(t, pool, "account-1", 0, "Happened", `'{"poison": "54000"}'`, `'{}'`)
	id := value[uuid.UUID](t, pool, `SELECT id FROM message_store.messages`)
	denied := newStore(t, newPool(t, pool.Config().ConnString(), asRole(newRole(t, pool))))
	_, err := denied.GetMessage(t.Context(), id)
	if setup := wantError[*mdb.SetupError](t, err); !strings.Contains(setup.Remedy, "GRANT message_store") {
		t.Errorf("got %v", setup)
	}
	unreadable(t, pool)
	_, err = s.GetMessage(t.Context(), id)
	checkUnreadable(t, err, mdb.UnreadableError{ID: id, Stream: "account-1", Type: "Happened", Position: 0, GlobalPosition: 1})
}
