package consumer_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/mdb/consumer"
)

// A scenario is what a failover takes away from consumers, and when. Its functions are called
// with each consumer of it, in this order. A function that is nil does nothing.
type scenario struct {
	name   string
	begin  func(t *testing.T, p *past, c *course) // the standby receives everything
	lose   func(t *testing.T, p *past, c *course) // the standby receives nothing more
	before func(t *testing.T, p *past, c *course) // the standby is promoted, and the consumers do not know it
	opts   []consumer.Option
	parked int // on the new primary, at the end
	// rewound says that confirmed checkpoints are lost.
	rewound bool
}

var scenarios = []scenario{
	{
		// The messages are replicated, and what was done with them is not: neither effects, nor
		// checkpoints, nor what was parked. Nothing is written afterwards.
		name:  "kept",
		begin: beginHeld,
		lose: func(t *testing.T, p *past, c *course) {
			c.open()
			c.settled(t, p.old, 1)
		},
		before: func(t *testing.T, p *past, c *course) {
			if n, parked := c.missing(t, p.next), c.parked(t, p.next); n != 40 || parked != 0 || c.stored(t, p.next) {
				t.Fatalf("the new primary lacks %d effects and has %d parked streams, want 40 and 0", n, parked)
			}
		},
		parked: 1, rewound: true,
	},
	{
		// The same, and the partitions were given to a second process meanwhile.
		name:  "claims",
		begin: beginHeld,
		lose: func(t *testing.T, p *past, c *course) {
			second := c.run(t)
			c.open()
			c.until(t, "each process has its share", func() bool {
				return c.runs[0].Stats().Partitions == 2 && second.Stats().Partitions == 2
			})
			c.write(t, p.old, 20)
			c.settled(t, p.old, 1)
		},
		before: func(t *testing.T, p *past, c *course) { c.write(t, p.next, 15) },
		parked: 1, rewound: true,
	},
	{
		// Messages are lost with everything that was done with them. Others have their positions.
		name: "lost",
		lose: func(t *testing.T, p *past, c *course) {
			c.write(t, p.old, 30)
			c.settled(t, p.old, 0)
		},
		before:  func(t *testing.T, p *past, c *course) { c.write(t, p.next, 20) },
		rewound: true,
	},
	{
		// Messages are lost that a process has read, and not handled. It could handle them on the new
		// primary, because its tick, its reads and everything else get an answer later.
		name: "queued",
		lose: func(t *testing.T, p *past, c *course) {
			c.hold()
			c.write(t, p.old, 30)
			c.until(t, "all is read", func() bool { return c.runs[0].Stats().Waiting == 30 })
		},
		before: func(t *testing.T, p *past, c *course) { c.write(t, p.next, 30) },
	},
	{
		// The consumer is new, and no trace of it is left.
		name:  "new",
		begin: func(t *testing.T, p *past, c *course) { c.write(t, p.old, 20) },
		lose: func(t *testing.T, p *past, c *course) {
			c.run(t)
			c.settled(t, p.old, 0)
		},
		rewound: true,
	},
}

func beginHeld(t *testing.T, p *past, c *course) {
	t.Helper()
	c.hold()
	c.write(t, p.old, 40)
	c.writePoison(t, p.old)
	c.until(t, "all is read", func() bool { return c.runs[0].Stats().Waiting == 43 })
}

// TestHistoryFailover checks that no failover to a standby that lacks the last transactions
// costs a message of the new primary, or repeats an effect: consumers go back to what is there,
// also if nothing is written any more, and do not end.
func TestHistoryFailover(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	p := newPast(t)
	of := make(map[*course]*scenario)
	each := func(f func(s *scenario) func(*testing.T, *past, *course)) {
		t.Helper()
		for _, c := range p.courses {
			if step := f(of[c]); step != nil {
				step(t, p, c)
			}
		}
	}
	for i := range scenarios {
		s := &scenarios[i]
		for _, form := range historyForms {
			c := p.course(t, s.name, form, s.opts...)
			of[c] = s
			if s.name != "new" {
				c.run(t)
				c.write(t, p.old, 20)
			}
		}
	}
	for _, c := range p.courses {
		if len(c.runs) > 0 {
			c.settled(t, p.old, 0)
		}
	}
	each(func(s *scenario) func(*testing.T, *past, *course) { return s.begin })
	p.Hold(t)
	each(func(s *scenario) func(*testing.T, *past, *course) { return s.lose })
	p.promote(t)
	each(func(s *scenario) func(*testing.T, *past, *course) { return s.before })

	blocked := blockAllButHandlers(t, p.next)
	p.arrive(t)
	for _, c := range p.courses {
		if of[c].name != "queued" {
			continue
		}
		c.open()
	}
	for _, c := range p.courses {
		if of[c].name == "queued" {
			c.rest(t)
		}
	}
	if err := blocked.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}

	for _, c := range p.courses {
		c.settled(t, p.next, of[c].parked)
		if n := c.rewound(); n == 0 && of[c].rewound {
			t.Errorf("%s: no checkpoint was counted as rewound\n%s", c.name, c.journal.String())
		}
		c.write(t, p.next, 10)
	}
	for _, c := range p.courses {
		c.settled(t, p.next, of[c].parked)
		c.check(t, p.next)
	}
}

// blockAllButHandlers locks what ticks, claims and reads need, until the transaction ends.
func blockAllButHandlers(t *testing.T, db *pgxpool.Pool) pgx.Tx {
	t.Helper()
	tx, err := db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
	for _, sql := range []string{
		"LOCK TABLE message_store_consumers.consumers, message_store_consumers.members IN EXCLUSIVE MODE",
		"LOCK TABLE message_store.messages IN ACCESS EXCLUSIVE MODE",
	} {
		if _, err := tx.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	return tx
}
