package mdb

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/interleave"
	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/source"
	"github.com/messagedb-go/messagedb/internal/testdb"
)

// A replicaStage is a primary and a replica that replays only when a step says so, and a subscription that reads only when a
// step says so.
type replicaStage struct {
	*pgtest.Pair

	t                *testing.T
	primary, replica *pgxpool.Pool
	writer, store    *Store

	source   *messageSource
	stream   StreamName
	rung     bool // a notification has arrived since the last read
	asleep   bool // the subscription waits for a notification
	from     checkpoint
	messages int // of a page
	written  []uuid.UUID
	got      []uuid.UUID
}

func newReplicaStage(t *testing.T, opts ...StoreOption) *replicaStage {
	t.Helper()
	s := &replicaStage{Pair: testdb.Pair(t), t: t}
	open := func(url string) *pgxpool.Pool {
		cfg, err := pgxpool.ParseConfig(url)
		if err != nil {
			t.Fatal(err)
		}
		if testdb.Official() {
			Configure(cfg, StoreFirst())
		} else {
			Configure(cfg)
		}
		pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pool.Close)
		return pool
	}
	s.primary, s.replica = open(s.Primary.URL("postgres")), open(s.Standby.URL("postgres"))
	var err error
	if s.writer, err = New(s.primary); err != nil {
		t.Fatal(err)
	}
	if s.store, err = New(s.primary, append(opts, WithReplica(s.replica), WithLogger(slog.New(slog.DiscardHandler)))...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.store.Close)
	for !s.store.replica.serving(t.Context()) { // it may have been slow
		s.exec(s.primary, "SELECT")
	}
	s.store.replica.patience = 5 * time.Millisecond
	s.hold()
	return s
}

func (s *replicaStage) exec(pool *pgxpool.Pool, sql string) {
	s.t.Helper()
	if _, err := pool.Exec(s.t.Context(), sql); err != nil {
		s.t.Fatal(err)
	}
}

// hold stops the replay.
func (s *replicaStage) hold() {
	s.t.Helper()
	s.exec(s.replica, "SELECT pg_wal_replay_pause()")
	for paused := false; !paused; {
		if err := s.replica.QueryRow(s.t.Context(), "SELECT pg_get_wal_replay_pause_state() = 'paused'").Scan(&paused); err != nil {
			s.t.Fatal(err)
		}
	}
}

// begin begins a walk, with a stream of its own.
func (s *replicaStage) begin(n, messages int) {
	s.t.Helper()
	category := Category(fmt.Sprintf("walk%d", n))
	s.stream, s.messages = category.Stream("1"), messages
	s.rung, s.asleep, s.from, s.written, s.got = false, false, source.At(0), nil, nil
	s.source = s.store.categorySource(category, readConfig{batchBytes: DefaultBatchBytes})
	s.source.beforeRead = func() (woken bool) {
		woken, s.rung = s.rung, false
		return woken
	}
	s.store.replica.serves.Store(true)
}

// take takes a step.
func (s *replicaStage) take(step string) {
	s.t.Helper()
	switch step {
	case "write":
		w, err := s.writer.WriteMessage(s.t.Context(), s.stream, NewMessage("Happened", 1))
		if err != nil {
			s.t.Fatal(err)
		}
		s.written = append(s.written, w.ID)
		s.rung = true // which comes after the commit
	case "replay":
		s.exec(s.replica, "SELECT pg_wal_replay_resume()")
		s.CatchUp(s.t)
		s.hold()
	case "leave":
		s.store.replica.serves.Store(false)
		s.store.replica.next = time.Now().Add(time.Hour)
	case "return":
		s.store.replica.serves.Store(true)
	case "read":
		s.read()
	}
}

// read is what the loop of a subscription does next: it reads a page, unless it waits.
func (s *replicaStage) read() {
	s.t.Helper()
	if s.asleep && !s.rung {
		return
	}
	page, err := s.source.Next(s.t.Context(), s.from, s.messages)
	if err != nil || page.Forked || page.Unreadable != nil {
		s.t.Fatalf("got page %+v, error %v", page, err)
	}
	for _, m := range page.Messages {
		s.got = append(s.got, m.ID)
	}
	s.from, s.asleep = page.End, !page.Full
}

// TestReplicaWalk takes the steps of a writer, of the replay and of a subscription in every order, and those of a replica that reads
// leave. The subscription then has every message once and in order when it sleeps, although nothing but the notifications of the
// writes has woken it.
func TestReplicaWalk(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	for way, opts := range map[string][]StoreOption{"procedures": nil, "direct": {WithDirectSQL()}} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			s := newReplicaStage(t, opts...)
			writes, reads := []string{"write", "write"}, []string{"read", "read"}
			walks := interleave.All(writes, []string{"replay", "replay"}, reads)
			walks = slices.Concat(walks, interleave.All(writes, []string{"replay"}, []string{"leave", "return"}, reads[:1]))
			for n, steps := range walks {
				s.begin(n, 1+n%3)
				for _, step := range steps {
					s.take(step)
				}
				for s.rung || !s.asleep {
					s.read()
				}
				if !slices.Equal(s.got, s.written) {
					t.Errorf("%s: got messages %v, want %v", strings.Join(steps, ", "), s.got, s.written)
				}
			}
			if stats := s.store.Stats(); stats.ReplicaReads == 0 || stats.ReplicaFallbacks == 0 || stats.Forks > 0 {
				t.Errorf("got stats %+v", stats)
			}
		})
	}
}
