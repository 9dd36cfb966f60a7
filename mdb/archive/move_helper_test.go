package archive_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/backoff"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/archive"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

const (
	moving       mdb.Category   = "account"
	movingStream mdb.StreamName = "account-1"
)

// A scene is two shards, and a database with the placement of a proxy, through which it finds the shard of each call.
type scene struct {
	t      *testing.T
	shards [2]*mdb.Store
	proxy  *pgxpool.Pool

	acknowledged []mdb.Written
}

func newScene(t *testing.T) *scene {
	t.Helper()
	s := &scene{t: t, proxy: openPool(t, testdb.Empty(t))}
	for i := range s.shards {
		pool := openPool(t, testdb.New(t))
		if err := schema.InstallShard(t.Context(), pool, i); err != nil {
			t.Fatal(err)
		}
		// Without retries: a test makes them where it wants them.
		store, err := mdb.New(pool, mdb.WithRetry(mdb.RetryPolicy{Attempts: 1, For: -1}))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(store.Close)
		s.shards[i] = store
	}
	if _, err := s.proxy.Exec(t.Context(), `CREATE SCHEMA message_store_proxy;
CREATE TABLE message_store_proxy.placement (category text PRIMARY KEY, shard integer NOT NULL);
CREATE FUNCTION message_store_proxy.shard_of(stream_name varchar) RETURNS integer LANGUAGE sql STABLE
RETURN coalesce((SELECT p.shard FROM message_store_proxy.placement AS p WHERE p.category = split_part(stream_name, '-', 1)), 0)`); err != nil {
		t.Fatal(err)
	}
	return s
}

func openPool(t testing.TB, url string, prepare ...func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range prepare {
		f(cfg)
	}
	mdb.Configure(cfg, mdb.StoreFirst())
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// mover moves the category from one shard to the other one.
func (s *scene) mover(from, to int) *archive.Mover {
	return &archive.Mover{Category: moving, From: s.shards[from].Pool(), To: s.shards[to].Pool(), Proxies: []*pgxpool.Pool{s.proxy}}
}

func (s *scene) placed() int {
	s.t.Helper()
	var shard int
	if err := s.proxy.QueryRow(s.t.Context(), `SELECT message_store_proxy.shard_of($1)`, string(moving)).Scan(&shard); err != nil {
		s.t.Fatal(err)
	}
	return shard
}

// write writes to a stream on the shard that has it, or on the given one, as a proxy does that has looked before. It reports
// whether the shard has acknowledged the message.
func (s *scene) write(shard int, stream mdb.StreamName) bool {
	s.t.Helper()
	written, err := s.shards[shard].WriteMessage(s.t.Context(), stream, mdb.NewMessage("Happened", nil))
	if moved := (*mdb.MovedError)(nil); errors.As(err, &moved) {
		return false
	}
	if err != nil {
		s.t.Error(err)
		return false
	}
	s.acknowledged = append(s.acknowledged, written)
	return true
}

// missing returns how many of the acknowledged messages are not where the proxy looks, or have not the positions of their
// acknowledgements, or are not in the order in which they were acknowledged.
func (s *scene) missing() (missing int) {
	s.t.Helper()
	var found []mdb.Message
	for m, err := range s.shards[s.placed()].CategoryMessages(s.t.Context(), moving) {
		if err != nil {
			s.t.Fatal(err)
		}
		found = append(found, m)
	}
	last := -1
	for _, w := range s.acknowledged {
		i := slices.IndexFunc(found, func(m mdb.Message) bool {
			return m.ID == w.ID && m.Position == w.Position && m.GlobalPosition == w.GlobalPosition
		})
		if i <= last {
			missing++
			continue
		}
		last = i
	}
	return missing
}

// blocked waits until a session of the shard waits for the lock of a category.
func (s *scene) blocked(shard int) {
	s.t.Helper()
	eventually(s.t, "a session waits for the lock of the category", func() (waits bool) {
		if err := s.shards[shard].Pool().QueryRow(s.t.Context(), `SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
	AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))`).Scan(&waits); err != nil {
			s.t.Error(err)
			return true
		}
		return waits
	})
}

// eventually waits until f returns true.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	often := backoff.Policy{Min: time.Millisecond, Max: time.Millisecond}
	for !f() {
		if often.Wait(ctx, 1) != nil {
			t.Errorf("not within a minute: %s", what)
			return
		}
	}
}

var errKilled = errors.New("killed")

// killAt lets the mover fail after the nth of its steps, and returns the name of that step.
func killAt(m *archive.Mover, n int) *archive.MoveStep {
	var at archive.MoveStep
	m.After(func(step archive.MoveStep) error {
		if n--; n == 0 {
			at = step
			return errKilled
		}
		return nil
	})
	return &at
}

func state(t *testing.T, m *archive.Mover) archive.MoveState {
	t.Helper()
	found, err := m.State(context.WithoutCancel(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	return found
}
