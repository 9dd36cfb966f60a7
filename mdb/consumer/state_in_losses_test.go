package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
)

// A ruin is a store that loses its last messages, or gets them back, without another timeline.
type ruin struct{ *pgxpool.Pool }

func newRuin(t *testing.T) (r ruin, url string) {
	t.Helper()
	url = testdb.New(t)
	r = ruin{directPool(t, url)}
	sqlExec(t, r.Pool, `CREATE SCHEMA lost; CREATE TABLE lost.messages AS TABLE message_store.messages WITH NO DATA`)
	return r, url
}

func (r ruin) end(t *testing.T) int64 {
	t.Helper()
	return sqlValue[int64](t, r.Pool, `SELECT coalesce(max(global_position), 0) FROM message_store.messages`)
}

// lose loses the messages after a position, whose positions are used again.
func (r ruin) lose(t *testing.T, after int64) {
	t.Helper()
	sqlExec(t, r.Pool, `WITH gone AS (DELETE FROM message_store.messages WHERE global_position > $1 RETURNING *) INSERT INTO lost.messages SELECT * FROM gone`, after)
	sqlExec(t, r.Pool, `SELECT setval('message_store.messages_global_position_seq', $1)`, after)
}

// restore goes back to what was lost after a position.
func (r ruin) restore(t *testing.T, after int64) {
	t.Helper()
	// In one transaction, so that nobody sees the store without either.
	sqlExec(t, r.Pool, fmt.Sprintf(`DELETE FROM message_store.messages WHERE global_position > %[1]d;
INSERT INTO message_store.messages SELECT * FROM lost.messages WHERE global_position > %[1]d;
SELECT setval('message_store.messages_global_position_seq', (SELECT max(global_position) FROM message_store.messages))`, after))
}

// eachForm runs a test with each form.
func eachForm(t *testing.T, f func(t *testing.T, form string)) {
	t.Helper()
	pgtest.NeedTime(t)
	t.Parallel()
	for _, form := range historyForms {
		t.Run(form, func(t *testing.T) {
			t.Parallel()
			f(t, form)
		})
	}
}

// newRuined returns a consumer of two processes that have handled some messages, and the end of these.
func newRuined(t *testing.T, scenario, form string) (o *outpost, r ruin, end int64) {
	t.Helper()
	r, url := newRuin(t)
	state := newState(t)
	o = outpostOf(t, newCourse(t, scenario, form, url), state)
	o.join(t, "a")
	o.join(t, "b")
	o.until(t, "each process has its share", func() bool {
		return !slices.ContainsFunc(o.runs, func(s *shift) bool { return s.Stats().Partitions != 2 })
	})
	o.write(t, r.Pool, 40)
	o.arrived(t, r.Pool, 0)
	return o, r, r.end(t)
}

// TestStateInLosses checks two losses after one another, of which the second one is of messages that were handled after the first, or is larger
// than that.
func TestStateInLosses(t *testing.T) {
	eachForm(t, func(t *testing.T, form string) {
		o, r, end := newRuined(t, "losses", form)
		o.write(t, r.Pool, 50)
		o.arrived(t, r.Pool, 0)
		r.lose(t, end+20)
		o.write(t, r.Pool, 40)
		o.arrived(t, r.Pool, 0)
		r.lose(t, end+30)
		o.write(t, r.Pool, 30)
		o.arrived(t, r.Pool, 0)
		r.lose(t, end+5)
		o.write(t, r.Pool, 30)
		o.arrived(t, r.Pool, 0)
		o.verify(t, r.Pool)
	})
}

// TestStateInDeleted checks that a deletion is no loss of what follows: a process takes over a partition that is far before a deleted message, and
// then the store loses its last messages.
func TestStateInDeleted(t *testing.T) {
	eachForm(t, func(t *testing.T, form string) {
		r, url := newRuin(t)
		o := outpostOf(t, newCourse(t, "deleted", form, url), newState(t))
		a := o.join(t, "a")
		stuck := startNamed(t, o.store, o.name, mdb.Category(o.name), consumer.Each(func(ctx context.Context, _ mdb.Message) error {
			<-ctx.Done()
			return ctx.Err()
		}), append(slices.Clone(o.opts), consumer.WithInstance("b"), consumer.WithDrainTimeout(0), consumer.StateIn(o.state))...)
		o.until(t, "each process has its share", func() bool { return a.Stats().Partitions == 2 && stuck.Stats().Partitions == 2 })
		o.write(t, r.Pool, 2500) // two pages, and more than one after them
		end := r.end(t)
		o.until(t, "one process has handled its messages", func() bool {
			return sqlValue[bool](t, o.state, `SELECT bool_and(c.position = $1) FROM message_store_consumers.checkpoints AS c
JOIN message_store_consumers.members AS m ON m.id = c.member WHERE m.instance = 'a'`, end)
		})
		sqlExec(t, r.Pool, `DELETE FROM message_store.messages WHERE global_position = $1`, end-2400)
		stuck.end(t)
		o.arrived(t, r.Pool, 0)
		r.lose(t, end-5)
		o.write(t, r.Pool, 30)
		o.arrived(t, r.Pool, 0)
		o.verify(t, r.Pool)
	})
}

// TestStateInTakeover checks that a process takes over from another one that has not noticed a loss, and has a message in a handler, whose transaction
// comes too late: the partitions continue after the last message that is left.
func TestStateInTakeover(t *testing.T) {
	eachForm(t, func(t *testing.T, form string) {
		o, r, end := newRuined(t, "takeover", form)
		o.write(t, r.Pool, 30)
		o.arrived(t, r.Pool, 0)
		o.hold()
		o.write(t, r.Pool, 30)
		o.until(t, "all is read, and every process handles something", func() bool {
			a, b := o.runs[0].Stats(), o.runs[1].Stats()
			return a.Running > 0 && b.Running > 0 && a.Waiting+b.Waiting == 30
		})
		b := o.runs[1]
		for _, p := range o.plants[b] {
			p.cut()
		}
		o.without(b)
		r.lose(t, end+10)
		o.write(t, r.Pool, 60)
		o.open()
		o.until(t, "the other process has gone back", func() bool {
			return o.runs[0].Stats().Rewound > 0 && o.runs[0].Stats().Waiting == 0 && o.runs[0].Stats().Running == 0
		})
		o.until(t, "the process is deleted", func() bool { // a tick that was under way may renew its lease after the first time
			return sqlValue[int](t, o.state, `WITH found AS (UPDATE message_store_consumers.members SET woke = NULL, seen = clock_timestamp() - lease - interval '1 second'
WHERE instance = 'b' RETURNING 1) SELECT count(*) FROM found`) == 0
		})
		o.arrived(t, r.Pool, 0)
		o.verify(t, r.Pool)
	})
}

// TestStateInParked checks that what is parked survives a loss: a stream that was replayed further than its messages that are left is replayed
// from there, and one that was parked because of a lost message is not parked any more.
func TestStateInParked(t *testing.T) {
	eachForm(t, func(t *testing.T, form string) {
		o, r, _ := newRuined(t, "parked", form)
		o.writePoison(t, r.Pool)
		o.arrived(t, r.Pool, 1)
		end := r.end(t)
		say := func(stream, kind string) {
			sqlExec(t, r.Pool, `SELECT message_store.write_message(gen_random_uuid()::varchar, $1 || $2, $3, '{}')`, o.name, stream, kind)
		}
		// These are replayed up to one that fails.
		o.cured.Store(true)
		say("-poisoned", "Happened")
		say("-poisoned", "Happened")
		say("-poisoned", "Worse")
		say("-x-poisoned", "Worse")
		if err := o.runs[0].Replay(t.Context()); err != nil {
			t.Fatal(err)
		}
		position := func() int64 {
			return sqlValue[int64](t, o.state, `SELECT coalesce(max(position), -1) FROM message_store_consumers.parked WHERE stream = $1`, o.name+"-poisoned")
		}
		o.until(t, "the stream is replayed", func() bool { return position() == 5 && o.parked(t, o.state) == 2 })
		r.lose(t, end)
		o.cured.Store(false)
		for range 4 {
			say("-poisoned", "Happened")
		}
		o.write(t, r.Pool, 20)
		o.arrived(t, r.Pool, 0)
		handled := o.effects(t)
		for id := range o.messages(t, r.Pool) {
			if n := handled[id]; n == 0 || n > 1 && form != "Each" {
				t.Errorf("a message has %d effects", n)
			}
		}
		o.verify(t, r.Pool)
	})
}

// fails checks that a process ends with a ForkError, and handles nothing.
func (o *outpost) fails(t *testing.T, s *shift, before int) {
	t.Helper()
	var fork *mdb.ForkError
	if err := s.wait(); !errors.As(err, &fork) {
		t.Fatalf("Run returned %v, want a ForkError", err)
	}
	if after := len(o.effects(t)); after != before {
		t.Errorf("got %d messages handled, want %d as before", after, before)
	}
}

// TestStateInBack checks that processes end if the store goes back to messages that were lost, because nobody knows any more which of them were
// handled: those that have noticed the loss, and those that are started later.
func TestStateInBack(t *testing.T) {
	eachForm(t, func(t *testing.T, form string) {
		o, r, end := newRuined(t, "back", form)
		o.write(t, r.Pool, 30)
		o.arrived(t, r.Pool, 0)
		r.lose(t, end)
		o.write(t, r.Pool, 10)
		o.arrived(t, r.Pool, 0)
		before := len(o.effects(t))
		r.restore(t, end)
		for _, s := range o.runs {
			o.fails(t, s, before)
		}
		o.runs = nil
		o.fails(t, o.join(t, "c"), before)
	})
}

// TestStateInRewritten checks that a lost message which its producer writes again, with its ID, is handled as any other new message, also by a process
// that was started after it.
func TestStateInRewritten(t *testing.T) {
	eachForm(t, func(t *testing.T, form string) {
		o, r, end := newRuined(t, "rewritten", form)
		o.write(t, r.Pool, 30)
		o.arrived(t, r.Pool, 0)
		r.lose(t, end)
		o.write(t, r.Pool, 30)
		o.arrived(t, r.Pool, 0)
		first := sqlValue[string](t, r.Pool, `SELECT id::text FROM lost.messages WHERE global_position = $1`, end+1)
		sqlExec(t, o.state, `DELETE FROM public.effects WHERE id = $1::text::uuid`, first)
		sqlExec(t, r.Pool, `SELECT message_store.write_message(id::varchar, stream_name, type, data) FROM lost.messages WHERE id = $1::text::uuid`, first)
		o.write(t, r.Pool, 10)
		o.arrived(t, r.Pool, 0)
		c := o.join(t, "c")
		o.until(t, "it has a share", func() bool { return c.Stats().Partitions == 1 })
		o.write(t, r.Pool, 10)
		o.arrived(t, r.Pool, 0)
		o.verify(t, r.Pool)
	})
}

// TestStateInForgotten checks that a process which does not know which messages are left ends, and moves nothing.
func TestStateInForgotten(t *testing.T) {
	eachForm(t, func(t *testing.T, form string) {
		o, r, end := newRuined(t, "forgotten", form)
		o.write(t, r.Pool, 30)
		o.arrived(t, r.Pool, 0)
		for _, s := range o.runs {
			s.end(t)
		}
		o.runs = nil
		r.lose(t, end)
		o.write(t, r.Pool, 40)
		o.fails(t, o.join(t, "c"), len(o.effects(t)))
		o.runs = nil
		if _, err := consumer.Admin(o.state).Seek(t.Context(), o.name, consumer.ToPosition(end)); !errors.As(err, new(*consumer.ConflictError)) {
			t.Errorf("a Seek without the store returned %v, want a ConflictError", err)
		}
		if _, err := consumer.Admin(o.state, consumer.Messages(o.store)).Seek(t.Context(), o.name, consumer.ToPosition(end)); err != nil {
			t.Fatal(err)
		}
		o.join(t, "d")
		o.arrived(t, r.Pool, 0)
		o.verify(t, r.Pool)
	})
}

// TestStateInPausedBack checks that a process which has gone back ends if the store returns to what was lost before the process has read
// anything else: the last message that it knows is in both histories.
func TestStateInPausedBack(t *testing.T) {
	eachForm(t, func(t *testing.T, form string) {
		o, r, end := newRuined(t, "paused", form)
		o.write(t, r.Pool, 30)
		o.arrived(t, r.Pool, 0)
		admin := consumer.Admin(o.state)
		if err := admin.Pause(t.Context(), o.name, ""); err != nil {
			t.Fatal(err)
		}
		a, b := o.runs[0], o.runs[1]
		o.until(t, "both are paused", func() bool { return a.Stats().Paused && b.Stats().Paused })
		r.lose(t, end)
		o.write(t, r.Pool, 5)
		o.without(b)
		b.end(t)
		o.until(t, "checkpoints have gone back", func() bool {
			return sqlValue[bool](t, o.state, `SELECT count(*) FILTER (WHERE gone <> '{}') = 2 FROM message_store_consumers.checkpoints`)
		})
		before := len(o.effects(t))
		r.restore(t, end)
		if err := admin.Resume(t.Context(), o.name); err != nil {
			t.Fatal(err)
		}
		o.fails(t, a, before)
	})
}

// TestStateInSoughtBack checks that an operator can move the checkpoints after the store has returned to what was lost, also while a process runs
// that has gone back before.
func TestStateInSoughtBack(t *testing.T) {
	eachForm(t, func(t *testing.T, form string) {
		o, r, end := newRuined(t, "sought", form)
		o.write(t, r.Pool, 30)
		o.arrived(t, r.Pool, 0)
		r.lose(t, end)
		o.write(t, r.Pool, 5)
		o.arrived(t, r.Pool, 0)
		admin := consumer.Admin(o.state, consumer.Messages(o.store))
		if err := admin.Pause(t.Context(), o.name, ""); err != nil {
			t.Fatal(err)
		}
		o.until(t, "both are paused", func() bool { return o.runs[0].Stats().Paused && o.runs[1].Stats().Paused })
		r.restore(t, end)
		sqlExec(t, o.state, `DELETE FROM public.effects WHERE global_position > $1`, end)
		if _, err := admin.Seek(t.Context(), o.name, consumer.ToPosition(end)); err != nil {
			t.Fatal(err)
		}
		if err := admin.Resume(t.Context(), o.name); err != nil {
			t.Fatal(err)
		}
		o.arrived(t, r.Pool, 0)
		o.verify(t, r.Pool)
	})
}
