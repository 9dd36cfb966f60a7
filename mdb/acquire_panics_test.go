package mdb_test

import (
	"context"
	"testing"
	"time"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// TestAcquirePanics checks that a connection is given back if a tracer of pgx panics before the statement of a call.
func TestAcquirePanics(t *testing.T) {
	t.Parallel()
	for name, used := range map[string]bool{"at the first use": false, "while the server may be down": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			panics := &failingTracer{fail: func() { panic("on purpose") }}
			s := newStore(t, newPool(t, testdb.Shared(t), oneConnection, panics.attach))
			stream := mdbtest.Category("panics").Stream("1")
			if used {
				write(t, s, stream, mdb.NewMessage("Happened", nil))
				mdb.LoseConnection(s)
			}
			panics.at.Store("TraceQueryStart")
			func() {
				defer func() {
					if recover() == nil {
						t.Error("no panic")
					}
				}()
				_, _ = s.WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", nil))
			}()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if _, err := s.WriteMessage(ctx, stream, mdb.NewMessage("Happened", nil)); err != nil {
				t.Errorf("after the panic: %v", err)
			}
		})
	}
}
