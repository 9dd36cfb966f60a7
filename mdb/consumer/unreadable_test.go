package consumer_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
)

// unreadable makes the server fail for each message of the type Poison when it prints its data, as it
// fails for a text that is too long.
const unreadable = `
	ALTER TABLE message_store.messages RENAME TO stored;
	CREATE FUNCTION message_store.printed(type varchar, v jsonb) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$
		BEGIN
			IF type = 'Poison' THEN
				RAISE EXCEPTION 'out of memory' USING ERRCODE = '54000';
			END IF;
			RETURN v;
		END$$;
	CREATE VIEW message_store.messages AS
		SELECT id, stream_name, type, position, global_position, message_store.printed(type, data) AS data, metadata, time
		FROM message_store.stored;
	GRANT SELECT ON message_store.messages TO message_store`

// TestUnreadable checks with handlers of all forms that a message that cannot be read is parked, that the
// checkpoint moves to it although its time is not known, also if it is the last one, and that it stops neither
// CatchUp nor the messages that are written later.
func TestUnreadable(t *testing.T) {
	t.Parallel()
	all := forms(nil)
	all["EachQueued"] = consumer.Handler{}
	for name := range all {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := withConsumers.Store(t)
			var handled record
			h := forms(func(_ context.Context, m mdb.Message) error { handled.add(m); return nil })[name]
			if name == "EachQueued" {
				h = consumer.EachQueued(func(_ *pgx.Batch, m mdb.Message) error { handled.add(m); return nil })
			}
			c, err := consumer.New(s, "mailer", "signup", h, consumer.WithPartitions(1))
			if err != nil {
				t.Fatal(err)
			}
			var last int64
			for i, typ := range []string{"SignedUp", "Poison", "SignedUp", "Poison"} {
				w, err := s.WriteMessage(t.Context(), mdb.StreamName(fmt.Sprintf("signup-%d", i)), mdb.NewMessage(typ, nil))
				if err != nil {
					t.Fatal(err)
				}
				last = w.GlobalPosition
			}
			if _, err := s.Pool().Exec(t.Context(), unreadable); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if err := c.CatchUp(ctx); err != nil {
				t.Fatalf("CatchUp returned %v: %+v", err, c.Stats())
			}
			var position int64
			var anchored bool
			var parked []string
			if err := s.Pool().QueryRow(t.Context(), `
				SELECT c.position, EXISTS (SELECT FROM message_store.stored AS m WHERE m.id = c.anchor AND m.global_position = c.position),
					(SELECT array_agg(p.stream ORDER BY p.stream) FROM message_store_consumers.parked AS p)
				FROM message_store_consumers.checkpoints AS c`).Scan(&position, &anchored, &parked); err != nil {
				t.Fatal(err)
			}
			if position != last || !anchored {
				t.Errorf("the checkpoint is at %d, its message is there: %t; want %d", position, anchored, last)
			}
			if want := []string{"signup-1", "signup-3"}; !slices.Equal(parked, want) {
				t.Errorf("got %v parked, want %v", parked, want)
			}
			if got := handled.sorted(); len(got) != 2 {
				t.Errorf("got %v handled, want two messages", got)
			}
		})
	}
}

// readable makes the messages readable again.
const readable = `CREATE OR REPLACE FUNCTION message_store.printed(type varchar, v jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS 'SELECT v'`

// TestUnreadableHeals checks that a message that could not be read is handled by the same run when it can be read, in a replay and
// when the checkpoint has gone back to before it.
func TestUnreadableHeals(t *testing.T) {
	t.Parallel()
	for _, again := range []string{"replay", "seek"} {
		t.Run(again, func(t *testing.T) {
			t.Parallel()
			s := withConsumers.Store(t)
			for i, typ := range []string{"SignedUp", "Poison", "SignedUp"} {
				if _, err := s.WriteMessage(t.Context(), mdb.StreamName(fmt.Sprintf("signup-%d", i)), mdb.NewMessage(typ, nil)); err != nil {
					t.Fatal(err)
				}
			}
			sqlExec(t, s.Pool(), unreadable)
			var handled record
			c := start(t, s, handled.handler(), consumer.WithPartitions(1), consumer.WithLease(time.Hour))
			eventually(t, "the message is parked", func() bool { return c.Stats().Parked == 1 && len(handled.sorted()) == 2 })
			sqlExec(t, s.Pool(), readable)
			want := 3
			if again == "replay" {
				if err := c.Replay(t.Context(), "signup-1"); err != nil {
					t.Fatal(err)
				}
			} else {
				want = 5
				sqlExec(t, s.Pool(), `SELECT message_store_consumers.seek('mailer', NULL, 0, NULL, '0', false)`)
			}
			eventually(t, "it is handled", func() bool { return len(handled.sorted()) == want })
			if parked := c.Stats().Parked; parked != 1 {
				t.Errorf("got %d parked", parked)
			}
		})
	}
}

// TestUnreadableElsewhere checks that a consumer with StateIn replays a message that could not be read, and that nothing follows.
func TestUnreadableElsewhere(t *testing.T) {
	t.Parallel()
	s := withConsumers.Store(t)
	if _, err := s.WriteMessage(t.Context(), "signup-1", mdb.NewMessage("Poison", nil)); err != nil {
		t.Fatal(err)
	}
	sqlExec(t, s.Pool(), unreadable)
	var handled record
	c := start(t, s, handled.handler(), consumer.WithPartitions(1), consumer.StateIn(newState(t)))
	eventually(t, "the message is parked", func() bool { return c.Stats().Parked == 1 })
	sqlExec(t, s.Pool(), readable)
	if err := c.Replay(t.Context(), "signup-1"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is handled", func() bool { return len(handled.sorted()) == 1 })
}
