package consumer_test

import (
	"slices"
	"testing"
	"time"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/mdb/consumer"
)

// TestPositionStreamFailover checks that no failover to a standby that lacks the last transactions costs a message of the new primary: a
// consumer with a position stream goes back to what the stream says there, and does not end.
func TestPositionStreamFailover(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	p := newPast(t)
	of := map[*course]*scenario{}
	each := func(f func(s *scenario) func(*testing.T, *past, *course)) {
		t.Helper()
		for _, c := range p.courses {
			if step := f(of[c]); step != nil {
				step(t, p, c)
			}
		}
	}
	kept := scenario{
		// The messages are replicated, and what was done with them is not, nor the position. Nothing is written afterwards.
		name: "kept",
		begin: func(t *testing.T, p *past, c *course) {
			t.Helper()
			c.hold()
			c.write(t, p.old, 40)
			c.until(t, "all is read", func() bool { return c.runs[0].Stats().Waiting == 40 })
		},
		lose: func(t *testing.T, p *past, c *course) {
			t.Helper()
			c.open()
			c.settled(t, p.old, 0)
		},
		before: func(t *testing.T, p *past, c *course) {
			t.Helper()
			if n := c.missing(t, p.next); n != 40 || c.stored(t, p.next) {
				t.Fatalf("the new primary lacks %d effects, want 40", n)
			}
		},
		rewound: true,
	}
	chosen := []*scenario{&kept}
	for i := range scenarios {
		if slices.Contains([]string{"lost", "queued", "new"}, scenarios[i].name) {
			chosen = append(chosen, &scenarios[i])
		}
	}
	for _, s := range chosen {
		c := p.course(t, "stream_"+s.name, "Each")
		c.opts = []consumer.Option{consumer.InPositionStream("x"), consumer.FlushEvery(time.Millisecond, 1), consumer.WithWorkers(2)}
		c.positions = c.name + ":position-x"
		of[c] = s
		if s.name != "new" {
			c.run(t)
			c.write(t, p.old, 20)
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
		if of[c].name == "queued" {
			c.open()
			c.rest(t)
		}
	}
	if err := blocked.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, c := range p.courses {
		c.settled(t, p.next, 0)
		if n := c.rewound(); n == 0 && of[c].rewound {
			t.Errorf("%s: no checkpoint was counted as rewound\n%s", c.name, c.journal.String())
		}
		c.write(t, p.next, 10)
	}
	for _, c := range p.courses {
		c.settled(t, p.next, 0)
		c.check(t, p.next)
	}
}
