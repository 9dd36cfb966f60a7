package consumer_test

import (
	"errors"
	"log/slog"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
)

// A squad is a consumer that several processes run, each with a pool of its own.
type squad struct {
	*course

	plants map[*shift]*plant
}

// join starts a process, which replaces the one that has the instance.
func (s *squad) join(t *testing.T, instance string) *shift {
	t.Helper()
	p := plantOn(t, s.store)
	store, err := mdb.New(p.Pool(), mdb.WithLogger(slog.New(slog.NewTextHandler(&s.journal, nil))))
	if err != nil {
		t.Fatal(err)
	}
	r := startNamed(t, store, s.name, mdb.Category(s.name), s.handler(), append(slices.Clone(s.opts), consumer.WithInstance(instance))...)
	s.runs = append(s.runs, r)
	s.plants[r] = p
	return r
}

// without leaves out a process that is to end, or that nobody can reach.
func (s *squad) without(r *shift) {
	s.runs = slices.DeleteFunc(s.runs, func(o *shift) bool { return o == r })
}

// crash cuts a process off, and ends its lease.
func (s *squad) crash(t *testing.T, db *pgxpool.Pool, r *shift, instance string) {
	t.Helper()
	s.plants[r].cut()
	s.without(r)
	s.expire(t, db, instance)
}

// expire ends the leases of an instance, until another process has deleted it.
func (s *squad) expire(t *testing.T, db *pgxpool.Pool, instance string) {
	t.Helper()
	s.until(t, "the process is deleted", func() bool { // a tick that was under way may renew its lease after the first time
		tag, err := db.Exec(t.Context(), `UPDATE message_store_consumers.members AS m SET woke = NULL, seen = clock_timestamp() - lease - interval '1 second'
FROM message_store_consumers.consumers AS c WHERE c.id = m.consumer AND c.name = $1 AND m.instance = $2`, s.name, instance)
		if err != nil {
			t.Fatal(err)
		}
		return tag.RowsAffected() == 0
	})
}

// shared waits until the processes have all partitions, as equally as possible.
func (s *squad) shared(t *testing.T, partitions int) {
	t.Helper()
	s.until(t, "each process has its share", func() bool {
		for _, r := range s.runs {
			if n := r.Stats().Partitions; n < partitions/len(s.runs) || n > (partitions+len(s.runs)-1)/len(s.runs) {
				return false
			}
		}
		return true
	})
}

// held waits until the processes have read so many messages, and each has one in a handler.
func (s *squad) held(t *testing.T, messages int) {
	t.Helper()
	s.until(t, "all is read, and every process handles something", func() bool {
		n := 0
		for _, r := range s.runs {
			stats := r.Stats()
			if stats.Running == 0 {
				return false
			}
			n += stats.Waiting
		}
		return n == messages
	})
}

// TestGroupFailover checks groups whose partitions pass from one process to another around a failover to a standby that lacks the
// last transactions: takeovers that are lost with it, and takeovers on the new primary while the former owner is handling a
// message. Every message of the new primary is handled, and with forms that write in a transaction, once.
func TestGroupFailover(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	const partitions = 6
	p := newPast(t)
	var squads []*squad
	for _, form := range historyForms {
		s := &squad{p.course(t, "group", form, consumer.WithPartitions(partitions)), make(map[*shift]*plant)}
		squads = append(squads, s)
		t.Cleanup(s.open)
		for _, instance := range []string{"a", "b", "c"} {
			s.join(t, instance)
		}
		s.write(t, p.old, 30)
	}
	for _, s := range squads {
		s.shared(t, partitions)
		s.settled(t, p.old, 0)
	}
	p.Hold(t)

	for _, s := range squads {
		s.hold()
		s.write(t, p.old, 60)
		s.writePoison(t, p.old)
		s.held(t, 63)
		a, b := s.runs[0], s.runs[1]
		s.without(b)
		s.join(t, "b")
		s.until(t, "the instance has another process", func() bool { return s.runs[len(s.runs)-1].Stats().Partitions == 2 })
		s.open()
		if err := b.wait(); !errors.Is(err, consumer.ErrReplaced) {
			t.Errorf("%s: the replaced process ended with %v", s.name, err)
		}
		s.without(a)
		a.end(t)
		s.join(t, "d")
		s.shared(t, partitions)
		s.write(t, p.old, 10)
		s.settled(t, p.old, 1)
		s.hold()
		s.write(t, p.old, 40)
		s.held(t, 40)
	}

	p.promote(t)
	for _, s := range squads {
		s.write(t, p.next, 70)
		s.writePoison(t, p.next)
	}
	p.arrive(t)
	for _, s := range squads {
		s.open()
		s.expire(t, p.next, "a") // it had left, and has come back
		s.shared(t, partitions)
		s.settled(t, p.next, 1)
		s.hold()
		s.write(t, p.next, 60)
		s.held(t, 60)
		c, b := s.runs[0], s.runs[1]
		s.crash(t, p.next, c, "c")
		s.without(b)
		s.join(t, "b")
		s.shared(t, partitions)
		s.open()
		if err := b.wait(); !errors.Is(err, consumer.ErrReplaced) {
			t.Errorf("%s: the replaced process ended with %v", s.name, err)
		}
	}
	for _, s := range squads {
		s.settled(t, p.next, 1)
		s.join(t, "c")
		s.write(t, p.next, 10)
	}
	for _, s := range squads {
		s.settled(t, p.next, 1)
		rewound := int64(0)
		for r := range s.plants {
			rewound += r.Stats().Rewound
		}
		if rewound == 0 {
			t.Errorf("%s: no checkpoint was counted as rewound\n%s", s.name, s.journal.String())
		}
		s.check(t, p.next)
	}
}
