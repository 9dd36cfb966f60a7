package chaos

import (
	"context"
	"sync"
	"testing"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
)

// brokenHandlers are bugs of handlers without a transaction: they return the messages whose
// effects are written.
var brokenHandlers = map[string]func([]mdb.Message) []mdb.Message{"forgetful": forgets, "swapping": swaps}

// forgets returns nothing for some messages.
func forgets(ms []mdb.Message) []mdb.Message {
	if ms[0].Position%10 == 3 {
		return nil
	}
	return ms
}

var swapped sync.Map

// swaps keeps some messages until it is called for the next one of the stream.
func swaps(ms []mdb.Message) []mdb.Message {
	if ms[0].Position%10 == 3 {
		swapped.Store(ms[0].Stream, ms[0])
		return nil
	}
	if m, kept := swapped.LoadAndDelete(ms[0].Stream); kept {
		return append(ms, m.(mdb.Message))
	}
	return ms
}

// unfenced is a move for everybody, from anywhere.
const unfenced = `CREATE OR REPLACE FUNCTION message_store_consumers.move(consumer bigint, category text, partition integer, member uuid, epoch bigint,
	"from" bigint, "to" bigint, anchor uuid, anchor_time timestamptz) RETURNS void LANGUAGE sql AS $$
UPDATE message_store_consumers.checkpoints AS c SET position = greatest(c.position, $7) WHERE c.consumer = $1 AND c.category = $2 AND c.partition = $3 $$`

// tampering returns SQL that changes what is written to checkpoints, under a condition.
func tampering(condition, change string) string {
	return `CREATE FUNCTION public.tamper() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF ` + condition + ` THEN ` + change + `; END IF; RETURN NEW; END $$;
CREATE TRIGGER tamper BEFORE UPDATE ON message_store_consumers.checkpoints FOR EACH ROW EXECUTE FUNCTION public.tamper()`
}

// oftenTags cuts a connection at every nth result of a statement.
func oftenTags(nth int) func(side, string) verdict {
	tags := often(nth)
	return func(from side, message string) verdict {
		if message != "CommandComplete" {
			return verdict{}
		}
		return tags(from, message)
	}
}

// TestDurableValidators checks that each validator finds the violations of a durable consumer
// with a deliberate bug, and none without.
func TestDurableValidators(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		validator, bug, form string
		sql, handler         string // the bug of the server, or of the handler
		cut                  bool   // whether connections are cut
	}{
		{validator: "none", bug: "no bug", form: "Each"},
		{validator: "Once", bug: "a fence that lets everything pass", form: "EachTx", sql: unfenced, cut: true},
		{validator: "Once", bug: "effects without their checkpoints", form: "EachTx", sql: tampering("NEW.epoch = OLD.epoch AND random() < 0.2", "NEW.position := OLD.position")},
		{validator: "Ordered", bug: "messages in the wrong order", form: "Each", handler: "swapping"},
		{validator: "NoHole", bug: "messages that are forgotten", form: "Each", handler: "forgetful"},
		{validator: "NoHole", bug: "claims that pass over messages", form: "Each", sql: tampering("NEW.epoch <> OLD.epoch", "NEW.position := NEW.position + 20")},
		{validator: "OneOwner", bug: "the same epoch for each claim", form: "BatchTx", sql: tampering("NEW.epoch <> OLD.epoch", "NEW.epoch := 1")},
		{validator: "Bounded", bug: "a claim that loses the position", form: "Each", sql: tampering("NEW.epoch <> OLD.epoch", "NEW.position := 0")},
	} {
		t.Run(tt.validator+"/"+tt.bug, func(t *testing.T) {
			t.Parallel()
			url := testdb.Consumers(t)
			w := newDurableWork(url, *seedFlag)
			w.forms, w.messages, w.inside, w.bug = []string{tt.form}, 100, true, tt.handler
			if tt.sql != "" {
				execute(t, connect(t, url), tt.sql)
			}
			p := newProxy(t, url)
			w.proxies = func(int) string { return p.url() }
			if tt.cut {
				p.onMessage(oftenTags(11))
			}
			violations, _ := w.run(t, func(ctx context.Context) error {
				if tt.validator == "Once" {
					w.hopeless = true
					defer p.onMessage(nil)
					return w.untilDoubled(ctx)
				}
				return w.takeOver(ctx, w.histories[0])
			})
			t.Log(len(violations[tt.validator]), "violations, stuck", w.stuck)
			if tt.validator == "none" && (len(violations) > 0 || w.stuck != nil) || tt.validator != "none" && len(violations[tt.validator]) == 0 {
				t.Errorf("%s finds no violation; all violations: %v (seed %d)", tt.validator, violations, *seedFlag)
			}
		})
	}
}

// takeOver ends the first process after checkpoints of its partitions have moved, and waits
// until the second one has handled messages of one of these partitions.
func (w *durableWork) takeOver(ctx context.Context, h *durableHistory) error {
	first, second := w.running[h][0], w.running[h][1]
	if err := w.untilHandled(ctx, first, 20); err != nil {
		return err
	}
	if err := w.until(ctx, `SELECT EXISTS (SELECT FROM public.effects AS e JOIN message_store_consumers.checkpoints AS c USING (partition)
WHERE e.process = $1 AND e.global_position <= c.position)`, first.task.Process); err != nil {
		return err
	}
	if err := w.sample(ctx); err != nil {
		return err
	}
	if err := first.end(ctx); err != nil {
		return err
	}
	if err := w.sample(ctx); err != nil {
		return err
	}
	w.running[h] = w.running[h][1:]
	return w.until(ctx, `SELECT EXISTS (SELECT FROM public.effects AS a JOIN public.effects AS b USING (partition)
WHERE a.process = $1 AND b.process = $2 AND b.n > a.n)`, first.task.Process, second.task.Process)
}

// untilDoubled waits until a message has two effects.
func (w *durableWork) untilDoubled(ctx context.Context) error {
	return w.until(ctx, "SELECT EXISTS (SELECT FROM public.effects GROUP BY consumer, message HAVING count(*) > 1)")
}

// until waits until a query returns true.
func (w *durableWork) until(ctx context.Context, sql string, args ...any) error {
	for {
		var is bool
		if err := w.pool.QueryRow(ctx, sql, args...).Scan(&is); err != nil || is {
			return err
		}
		tick()
	}
}
