package mdb_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
)

// onGroups runs a test on stores with WithGroupCommit, by procedures and by direct SQL.
func onGroups(t *testing.T, test func(t *testing.T, way ...mdb.StoreOption)) {
	t.Helper()
	for name, way := range map[string][]mdb.StoreOption{"procedures": nil, "direct": {mdb.WithDirectSQL()}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, append(slices.Clip(way), mdb.WithGroupCommit())...)
		})
	}
}

// groupPool opens a pool with a connection for each write of the tests.
func groupPool(t testing.TB, prepare ...func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	return newPool(t, testdb.Shared(t), append([]func(*pgxpool.Config){connections(20)}, prepare...)...)
}

const (
	refusedType = "Refused"
	refusedCode = "MD999"
)

// refusing returns the URL of a database of which a trigger refuses the messages of refusedType.
func refusing(t testing.TB) string {
	t.Helper()
	url := testdb.New(t)
	exec(t, newPool(t, url), `
		CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '`+refusedCode+`'; END $$;
		CREATE TRIGGER refuse BEFORE INSERT ON message_store.messages FOR EACH ROW WHEN (NEW.type = '`+refusedType+`') EXECUTE FUNCTION refuse()`)
	return url
}

// A queued is a write that waits for the turn of its category.
type queued struct {
	written []mdb.Written
	err     error
	cancel  context.CancelFunc
	done    chan struct{}
}

// enqueue starts a write to a category whose turn is held, and returns when it waits.
func enqueue(t testing.TB, s *mdb.Store, stream mdb.StreamName, ms []mdb.ProposedMessage, opts ...mdb.WriteOption) *queued {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	q := &queued{cancel: cancel, done: make(chan struct{})}
	before := mdb.Waiting(s, stream.Category())
	go func() {
		defer close(q.done)
		q.written, q.err = s.WriteMessages(ctx, stream, ms, opts...)
	}()
	inTime(t, "a write waits", func() bool { return mdb.Waiting(s, stream.Category()) == before+1 })
	t.Cleanup(cancel)
	return q
}

// result waits for the end of the write.
func (q *queued) result(t testing.TB) ([]mdb.Written, error) {
	t.Helper()
	select {
	case <-q.done:
	case <-time.After(testTimeout):
		t.Fatal("a write does not end")
	}
	return q.written, q.err
}

// inTime waits until the condition is true.
func inTime(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(testTimeout); !condition(); time.Sleep(20 * time.Microsecond) { //nolint:forbidigo // nothing signals what is waited for
		if time.Now().After(end) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

// wantNoGroups checks that the store has nothing under way.
func wantNoGroups(t testing.TB, s *mdb.Store) {
	t.Helper()
	inTime(t, "no group is under way", func() bool {
		queues, active := mdb.Groups(s)
		return queues == 0 && active == 0
	})
}
