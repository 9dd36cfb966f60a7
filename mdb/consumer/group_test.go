package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
)

// logClaims lets the server record which member gets which partition.
const logClaims = `
CREATE TABLE public.claims (n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, partition integer NOT NULL, before uuid, member uuid NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE FUNCTION public.log_claim() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
	INSERT INTO public.claims (partition, before, member) VALUES (NEW.partition, OLD.member, NEW.member);
	RETURN NULL;
END $$;
CREATE TRIGGER log_claim AFTER UPDATE ON message_store_consumers.checkpoints FOR EACH ROW WHEN (NEW.epoch <> OLD.epoch) EXECUTE FUNCTION public.log_claim()`

// A team is several processes with instances that run a consumer of 64 partitions, and notice changes immediately.
type team struct {
	*testing.T

	store   *mdb.Store
	handled record
	members []*shift
	plants  []*plant
	late    int // so many partitions may move yet because of the last change
}

func newTeam(t *testing.T) *team {
	t.Helper()
	s := withConsumers.Store(t)
	if _, err := s.Pool().Exec(t.Context(), logClaims); err != nil {
		t.Fatal(err)
	}
	return &team{T: t, store: s}
}

// start starts a process, in place of that with this number. Its lease never ends by itself.
func (m *team) start(number int) {
	m.Helper()
	p := plantOn(m.T, m.store)
	s, err := mdb.New(p.Pool(), mdb.WithNotify())
	if err != nil {
		m.Fatal(err)
	}
	if number == len(m.members) {
		m.members, m.plants = append(m.members, nil), append(m.plants, nil)
	}
	m.plants[number] = p
	m.members[number] = start(m.T, s, m.handled.handler(), consumer.WithLease(time.Hour), consumer.WithInstance(fmt.Sprint(number)))
}

// scan reads one row.
func (m *team) scan(sql string, args []any, into ...any) {
	m.Helper()
	if err := m.store.Pool().QueryRow(m.Context(), sql, args...).Scan(into...); err != nil {
		m.Fatal(err)
	}
}

// shared reports whether so many members have all partitions, as equally as possible.
func (m *team) shared(size int) bool {
	m.Helper()
	var members, partitions, least, most int
	m.scan(`SELECT count(*), coalesce(sum(n), 0)::bigint, coalesce(min(n), 0), coalesce(max(n), 0) FROM (
		SELECT count(c.partition) AS n FROM message_store_consumers.members AS m
		LEFT JOIN message_store_consumers.checkpoints AS c ON c.member = m.id GROUP BY m.id) AS s`, nil, &members, &partitions, &least, &most)
	return members == size && partitions == consumer.DefaultPartitions && most-least <= 1
}

// owners returns the instance that has each partition.
func (m *team) owners() (owners []string) {
	m.Helper()
	m.scan(`SELECT array_agg(m.instance ORDER BY c.partition) FROM message_store_consumers.checkpoints AS c
		JOIN message_store_consumers.members AS m ON m.id = c.member`, nil, &owners)
	return owners
}

// changes calls f, waits until size members share the partitions, and checks that so many have moved, each of them once. If two
// processes give some away at the same time, and cannot have equal shares, one more may move. It may do so during the next change, and
// move again because of that.
func (m *team) changes(what string, size, moved int, f func()) {
	m.Helper()
	late, most := m.late, moved+m.late
	if consumer.DefaultPartitions%moved != 0 {
		most++
	}
	var before int64
	m.scan(`SELECT coalesce(max(n), 0) FROM public.claims`, nil, &before)
	f()
	var claims, partitions int
	var log string
	eventually(m.T, what, func() bool {
		m.scan(`SELECT count(*), count(DISTINCT partition), coalesce(string_agg(format('%s: %s -> %s', partition, before, member), E'\n' ORDER BY n), '')
			FROM public.claims WHERE n > $1`, []any{before}, &claims, &partitions, &log)
		return claims >= moved && m.shared(size)
	})
	if claims > most || claims-partitions > late {
		m.Errorf("%s: %d claims of %d partitions, want %d, each once:\n%s", what, claims, partitions, moved, log)
	}
	m.late = 0
	if consumer.DefaultPartitions%moved != 0 {
		m.late = most - claims
	}
}

// TestGroupMoves checks on a server that a process which joins, leaves, crashes or returns moves only as many partitions as it
// must, and that no message is lost or repeated while nobody crashes.
func TestGroupMoves(t *testing.T) {
	t.Parallel()
	m := newTeam(t)
	writing, stop := context.WithCancel(t.Context())
	written := make(chan []int64, 1)
	go func() {
		var positions []int64
		for writing.Err() == nil {
			w, err := m.store.WriteMessage(t.Context(), mdb.StreamName(fmt.Sprintf("signup-%d", len(positions)%500)), mdb.NewMessage("SignedUp", nil))
			if err != nil {
				t.Error(err)
				break
			}
			positions = append(positions, w.GlobalPosition)
			<-time.After(time.Millisecond)
		}
		written <- positions
	}()
	m.changes("one process", 1, 64, func() { m.start(0) })
	m.changes("two", 2, 32, func() { m.start(1) })
	m.changes("three", 3, 21, func() { m.start(2) })
	m.changes("four", 4, 16, func() { m.start(3) })
	before := m.owners()
	m.changes("one that leaves", 3, 16, func() { m.members[1].end(t) })
	m.changes("one that returns", 4, 16, func() { m.start(1) })
	if got := m.owners(); !slices.Equal(got, before) {
		t.Errorf("after a restart the owners are %v, want %v as before", got, before)
	}
	stop()
	want := <-written
	eventually(t, "everything is handled", func() bool { return len(m.handled.sorted()) >= len(want) })
	if got := m.handled.sorted(); !slices.Equal(got, want) {
		t.Errorf("got %d messages handled, want each of %d once", len(got), len(want))
	}

	m.changes("a second one with the instance", 4, 16, func() {
		older := m.members[2]
		m.start(2)
		if err := older.wait(); !errors.Is(err, consumer.ErrReplaced) {
			t.Errorf("the older one ended with %v", err)
		}
	})
	if got := m.owners(); !slices.Equal(got, before) {
		t.Errorf("after a replacement the owners are %v, want %v as before", got, before)
	}
	m.changes("one that crashes and is started again", 4, 16, func() {
		m.plants[3].cut()
		m.start(3)
	})
	if got := m.owners(); !slices.Equal(got, before) {
		t.Errorf("after a crash the owners are %v, want %v as before", got, before)
	}
	m.changes("one that crashes", 3, 16, func() {
		m.plants[1].cut()
		eventually(t, "it is deleted", func() bool { // a tick that was under way may renew its lease after the first time, as if the clock had been set
			tag, err := m.store.Pool().Exec(t.Context(), `UPDATE message_store_consumers.members SET woke = NULL, seen = clock_timestamp() - lease - interval '1 second' WHERE instance = '1'`)
			if err != nil {
				t.Fatal(err)
			}
			return tag.RowsAffected() == 0
		})
	})
	for _, number := range []int{0, 2} {
		if s := m.members[number].Stats(); s.Losses != 0 || s.Joins != 1 {
			t.Errorf("process %d has lost its lease: %+v", number, s)
		}
	}
}

// TestGroupOfOneConnection checks that processes whose pools have one connection share a consumer with each form, hand over, and
// keep their leases.
func TestGroupOfOneConnection(t *testing.T) {
	t.Parallel()
	for _, form := range []string{"Each", "Batch", "EachTx", "BatchTx", "EachQueued"} {
		t.Run(form, func(t *testing.T) {
			t.Parallel()
			store := withConsumers.Store(t)
			if _, err := store.Pool().Exec(t.Context(), "CREATE TABLE public.sent (position bigint NOT NULL)"); err != nil {
				t.Fatal(err)
			}
			run := func() *shift {
				one := plantOn(t, store, func(cfg *pgxpool.Config) { cfg.MaxConns = 1 })
				return start(t, one.Store, sending(form, one.Pool()), consumer.WithLease(time.Hour), consumer.WithWorkers(4))
			}
			first, second := run(), run()
			eventually(t, "each has its share", func() bool { return first.Stats().Partitions == 32 && second.Stats().Partitions == 32 })
			want := signUp(t, store, 50)
			sent := func() (positions []int64) {
				rows, _ := store.Pool().Query(t.Context(), "SELECT position FROM public.sent ORDER BY position")
				positions, err := pgx.CollectRows(rows, pgx.RowTo[int64])
				if err != nil {
					t.Fatal(err)
				}
				return positions
			}
			eventually(t, "something is handled", func() bool { return len(sent()) > 0 })
			first.end(t)
			want = append(want, signUp(t, store, 50)...)
			eventually(t, "everything is handled", func() bool { return len(sent()) >= len(want) })
			second.end(t)
			if got := sent(); !slices.Equal(got, want) {
				t.Errorf("got %d effects, want one of each of %d messages", len(got), len(want))
			}
			if n := first.Stats().Losses + second.Stats().Losses; n != 0 {
				t.Errorf("got %d leases lost", n)
			}
		})
	}
}

// sending returns a handler of a form that inserts the positions of messages into a table.
func sending(form string, pool *pgxpool.Pool) consumer.Handler {
	const insert = "INSERT INTO public.sent SELECT unnest($1::bigint[])"
	positions := func(ms ...mdb.Message) (positions []int64) {
		for _, m := range ms {
			positions = append(positions, m.GlobalPosition)
		}
		return positions
	}
	switch form {
	case "Each":
		return consumer.Each(func(ctx context.Context, m mdb.Message) error {
			_, err := pool.Exec(ctx, insert, positions(m))
			return err
		})
	case "Batch":
		return consumer.Batch(func(ctx context.Context, ms []mdb.Message) error {
			_, err := pool.Exec(ctx, insert, positions(ms...))
			return err
		})
	case "EachTx":
		return consumer.EachTx(func(ctx context.Context, tx pgx.Tx, m mdb.Message) error {
			_, err := tx.Exec(ctx, insert, positions(m))
			return err
		})
	case "BatchTx":
		return consumer.BatchTx(func(ctx context.Context, tx pgx.Tx, ms []mdb.Message) error {
			_, err := tx.Exec(ctx, insert, positions(ms...))
			return err
		})
	}
	return consumer.EachQueued(func(b *pgx.Batch, m mdb.Message) error {
		b.Queue(insert, positions(m))
		return nil
	})
}
