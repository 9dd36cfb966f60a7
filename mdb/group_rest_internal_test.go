package mdb

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// TestRests checks when the writes to a stream stay out of groups, and for how long.
func TestRests(t *testing.T) {
	t.Parallel()
	now := time.Unix(1, 0)
	r := newRests(slog.New(slog.DiscardHandler))
	r.now = func() time.Time { return now }
	refusal := &pgconn.PgError{Code: "MD999"}
	members := []*member{{proposedWrite: &proposedWrite{stream: "a-1"}}}

	r.failed("a-1", refusal)
	if r.has("a-1") {
		t.Error("a write rests after one refusal")
	}
	r.succeeded(members)
	r.failed("a-1", refusal)
	if r.has("a-1") {
		t.Error("a write rests after refusals with a success between them")
	}
	r.failed("a-1", nil)
	r.failed("a-1", takenID())
	r.failed("a-1", (&proposedWrite{stream: "a-1"}).wrongVersion(3))
	if r.has("a-1") {
		t.Error("a write rests after failures that do not undo a group")
	}
	r.failed("a-1", refusal)
	if !r.has("a-1") || r.has("a-2") {
		t.Error("after two refusals running, want that stream alone to rest")
	}
	now = now.Add(groupRest)
	if r.has("a-1") {
		t.Error("a write rests for too long")
	}
	r.failed("a-1", refusal)
	if !r.has("a-1") {
		t.Error("a write that is refused again does not rest")
	}
	r.refused(allStreams)
	r.refused(allStreams)
	if !r.has("a-2") {
		t.Error("after refusals of the statement, want all writes to rest")
	}
	now = now.Add(groupRest)
	r.succeeded(members)
	if r.any.Load() {
		t.Error("a stream is remembered after a success")
	}
	for i := range 3 * maxRests {
		r.refused(StreamName(fmt.Sprint("b-", i)))
	}
	if n := len(r.streams); n > maxRests {
		t.Errorf("%d streams are remembered, want at most %d", n, maxRests)
	}
}
