package mdbcontainer_test

import (
	"strings"
	"testing"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdbcontainer"
)

// TestSnapshot checks that Restore brings back the messages, the global position and the
// trigger of the last Snapshot, and that stores with open connections go on working.
func TestSnapshot(t *testing.T) {
	t.Parallel()
	for _, database := range []string{mdbcontainer.DefaultDatabase, "postgres"} {
		t.Run(database, func(t *testing.T) {
			t.Parallel()
			c := start(t, mdbcontainer.WithDatabase(database), mdbcontainer.WithNotify())
			if err := c.Restore(t.Context()); err == nil || !strings.Contains(err.Error(), "call Snapshot first") {
				t.Fatalf("got %v, want an error that asks for Snapshot", err)
			}

			s := open(t, c)
			idle(t, s, 4)
			first := write(t, s, "account-123")
			snapshot(t, c)
			second := write(t, s, "account-123")
			for range 3 {
				idle(t, s, 4)
				restore(t, c)
				if v := version(t, s, "account-123"); v != 0 {
					t.Errorf("the stream is at %d, want 0", v)
				}
				if again := write(t, s, "account-123"); again.GlobalPosition != second.GlobalPosition {
					t.Errorf("wrote to position %d, want %d again, the next after %d",
						again.GlobalPosition, second.GlobalPosition, first.GlobalPosition)
				}
				if n := query[int](t, c, triggers); n != 1 {
					t.Errorf("%d triggers, want 1", n)
				}
			}

			// A later snapshot replaces the first.
			snapshot(t, c)
			write(t, s, "account-123")
			restore(t, c)
			if v := version(t, s, "account-123"); v != 1 {
				t.Errorf("the stream is at %d, want 1", v)
			}
		})
	}
}

func snapshot(t *testing.T, c *mdbcontainer.Container) {
	t.Helper()
	if err := c.Snapshot(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func restore(t *testing.T, c *mdbcontainer.Container) {
	t.Helper()
	if err := c.Restore(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// idle makes the store's pool open n connections, which are idle afterwards.
func idle(t *testing.T, s *mdb.Store, n int) {
	t.Helper()
	for range n {
		conn, err := s.Pool().Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Release()
	}
}
