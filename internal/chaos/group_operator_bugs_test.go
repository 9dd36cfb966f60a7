package chaos

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	mdbconsumer "github.com/messagedb-go/messagedb/mdb/consumer"
)

// breaking changes a row of the consumers' tables when something happens to it.
func breaking(event, change string) string {
	return `CREATE FUNCTION public.break() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN ` + change + `; RETURN NEW; END $$;
CREATE TRIGGER break BEFORE ` + event + ` EXECUTE FUNCTION public.break()`
}

// newPartitions are checkpoints that a resize adds. Those of a new consumer have no epoch.
const newPartitions = "INSERT ON message_store_consumers.checkpoints FOR EACH ROW WHEN (NEW.epoch > 0)"

// resizeTo changes the number of partitions of the first consumer.
func resizeTo(ctx context.Context, w *durableWork, partitions int) error {
	return mdbconsumer.Admin(w.pool).Resize(ctx, w.histories[0].consumer, partitions)
}

// TestOperatorValidators checks that the validators find what is wrong with groups whose operator, or what he calls, has a deliberate
// bug.
func TestOperatorValidators(t *testing.T) {
	needsCI(t)
	t.Parallel()
	for _, tt := range []groupBug{
		{validator: "NoHole", bug: "new partitions that begin too late", forms: []string{"Each"}, sql: breaking(newPartitions, "NEW.position := (SELECT max(m.global_position) FROM message_store.messages AS m)"), prepare: resizing, inject: func(ctx context.Context, w *durableWork) error {
			h, admin := w.histories[0], mdbconsumer.Admin(w.pool)
			if err := errors.Join(w.untilMore(ctx, w.running[h]...), admin.Pause(ctx, h.consumer, ""), w.ticked(ctx, h), w.ticked(ctx, h)); err != nil {
				return err
			}
			// There is something that the new partitions can leave out.
			if err := w.until(ctx, `SELECT count(*) >= 100 FROM message_store.messages WHERE global_position > (SELECT max(position) FROM message_store_consumers.checkpoints)`); err != nil {
				return err
			}
			return errors.Join(resizeTo(ctx, w, 32), admin.Resume(ctx, h.consumer), w.untilMore(ctx, w.running[h]...))
		}},
		{validator: "Bounded", bug: "new partitions that begin at the beginning", forms: []string{"Each"}, sql: breaking(newPartitions, "NEW.position := 0"), prepare: resizing, inject: func(ctx context.Context, w *durableWork) error {
			h := w.histories[0]
			if err := errors.Join(w.untilMore(ctx, w.running[h]...), w.until(ctx, "SELECT count(*) = 16 FROM message_store_consumers.checkpoints WHERE position > 0"), w.sample(ctx)); err != nil {
				return err
			}
			return errors.Join(resizeTo(ctx, w, 32), w.untilDoubled(ctx))
		}},
		{
			validator: "Once", bug: "a barrier that does not wait for slow partitions", forms: []string{"EachTx"}, prepare: resizing,
			sql: `CREATE OR REPLACE FUNCTION message_store_consumers.uneven(consumer bigint, OUT checkpoints bigint, OUT categories text[]) LANGUAGE sql AS $$ SELECT 0::bigint, '{}'::text[] $$`,
			inject: func(ctx context.Context, w *durableWork) error {
				for to := 15; ; to = 31 - to {
					if err := errors.Join(w.untilMore(ctx, w.running[w.histories[0]]...), resizeTo(ctx, w, to)); err != nil {
						return err
					}
					if found, err := w.is(ctx, nil, "SELECT EXISTS (SELECT FROM public.effects GROUP BY consumer, message HAVING count(*) > 1)"); found || err != nil {
						return err
					}
				}
			},
		},
		{
			validator: "OneOwner", bug: "a resize that frees partitions while handlers run", forms: []string{"Each"}, prepare: resizing,
			sql: breaking("UPDATE ON message_store_consumers.checkpoints FOR EACH ROW WHEN (NEW.epoch <> OLD.epoch AND NEW.member = OLD.member)", "NEW.member := NULL"),
			inject: func(ctx context.Context, w *durableWork) error {
				for to := 32; ; to = 48 - to {
					if err := errors.Join(w.untilMore(ctx, w.running[w.histories[0]]...), resizeTo(ctx, w, to), w.untilMore(ctx, w.running[w.histories[0]]...)); err != nil {
						return err
					}
					if found, err := w.is(ctx, nil, `SELECT EXISTS (
	SELECT FROM (SELECT *, max(epoch) OVER (PARTITION BY consumer, message_store.cardinal_id(stream) ORDER BY n) AS greatest FROM public.effects) AS e
	WHERE epoch < greatest)`); found || err != nil {
						return err
					}
				}
			},
		},
		{
			validator: "Paused", bug: "a pause that nobody notices", forms: []string{"Each"},
			sql: breaking("UPDATE OF paused ON message_store_consumers.consumers FOR EACH ROW", "NEW.paused := NULL"),
			inject: func(ctx context.Context, w *durableWork) error {
				h := w.histories[0]
				if err := w.untilMore(ctx, w.running[h]...); err != nil {
					return err
				}
				return w.paused(ctx, h)
			},
		},
		{validator: "Once", bug: "effects that are deleted before the seek", forms: []string{"EachTx"}, inject: func(ctx context.Context, w *durableWork) error {
			h := w.histories[0]
			if err := w.untilMore(ctx, w.running[h]...); err != nil {
				return err
			}
			if err := pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error { return forgetEffects(ctx, tx, h.consumer, 0) }); err != nil {
				return err
			}
			if err := w.untilMore(ctx, w.running[h]...); err != nil {
				return err
			}
			if _, err := mdbconsumer.Admin(w.pool).Seek(ctx, h.consumer, mdbconsumer.ToBeginning()); err != nil {
				return err
			}
			return w.untilDoubled(ctx)
		}},
		{
			validator: "NoHole", bug: "a skip that leaves out two messages", forms: []string{"Each"}, prepare: poisoned,
			sql: breaking("UPDATE ON message_store_consumers.parked FOR EACH ROW WHEN (NEW.position > OLD.position AND NEW.due IS DISTINCT FROM OLD.due)", "NEW.position := NEW.position + 1"),
			inject: func(ctx context.Context, w *durableWork) error {
				h := w.histories[0]
				if err := w.until(ctx, "SELECT EXISTS (SELECT FROM message_store_consumers.parked)"); err != nil {
					return err
				}
				for range 3 { // so that something waits
					if err := errors.Join(w.skip(ctx, h), w.untilMore(ctx, w.running[h]...)); err != nil {
						return err
					}
				}
				return nil
			},
		},
	} {
		t.Run(tt.validator+"/"+tt.bug, func(t *testing.T) {
			t.Parallel()
			w := newGroupWork(testdb.Consumers(t), *seedFlag)
			tt.check(t, w)
		})
	}
}

func resizing(w *durableWork) { w.resized, w.slow = true, true }

// TestPromotionValidators checks that the validators find what a promotion has lost, although it should not be possible.
func TestPromotionValidators(t *testing.T) {
	needsCI(t)
	t.Parallel()
	for _, tt := range []struct {
		validator, bug string
		forms          []string
		inject         func(ctx context.Context, t *testing.T, w *durableWork, x *promotions) error
	}{
		{validator: "NoHole", bug: "effects that are not replicated", forms: []string{"EachTx"}, inject: func(ctx context.Context, t *testing.T, w *durableWork, x *promotions) error {
			if err := x.promote(ctx, t, w, false); err != nil {
				return err
			}
			_, err := w.pool.Exec(ctx, `DELETE FROM public.effects WHERE n <= 20`)
			return err
		}},
		{validator: "Once", bug: "checkpoints that are not replicated", forms: []string{"EachTx"}, inject: func(ctx context.Context, t *testing.T, w *durableWork, x *promotions) error {
			if _, err := w.pool.Exec(ctx, `ALTER TABLE message_store_consumers.checkpoints SET UNLOGGED`); err != nil {
				return err
			}
			return errors.Join(x.promote(ctx, t, w, true), w.untilDoubled(ctx))
		}},
	} {
		t.Run(tt.validator+"/"+tt.bug, func(t *testing.T) {
			t.Parallel()
			x := newPromotions(t)
			b := groupBug{validator: tt.validator, forms: tt.forms, inject: func(ctx context.Context, w *durableWork) error {
				return errors.Join(w.untilMore(ctx, w.running[w.histories[0]]...), tt.inject(ctx, t, w, x))
			}}
			b.check(t, newGroupWork(x.relay.URL("postgres"), *seedFlag))
		})
	}
}

// TestOperated checks what validators say about messages that operators left out, effects of before a seek, pauses, and numbers of
// partitions.
func TestOperated(t *testing.T) {
	t.Parallel()
	at := func(seconds int) time.Time { return time.Unix(int64(seconds), 0) }
	const stream = mdb.StreamName("durable-1")
	store := make([]stored, 4)
	for i := range store {
		store[i] = stored{id: uuid.New(), stream: stream, position: int64(i), global: int64(10 + i)}
	}
	// handled returns effects of messages, by their positions.
	handled := func(epoch int64, positions ...int) (effects []effect) {
		for _, p := range positions {
			m := store[p]
			effects = append(effects, effect{message: m.id, stream: m.stream, global: m.global, process: 1, partition: partitionOf(stream, 8), epoch: epoch, begun: at(p)})
		}
		return effects
	}
	all := handled(5, 0, 1, 2, 3)
	resized := handled(5, 0, 1, 2, 3)
	for i := range resized[2:] {
		resized[2+i].epoch, resized[2+i].partition = 7, partitionOf(stream, 9)
	}
	for name, tt := range map[string]struct {
		h    durableHistory
		want string // the validator that finds something
	}{
		"all":                            {durableHistory{effects: all}, ""},
		"one is missing":                 {durableHistory{effects: handled(5, 0, 1, 2)}, "NoHole"},
		"one is skipped":                 {durableHistory{effects: handled(5, 0, 2, 3), skips: map[place]int{{stream, 1}: 0}}, ""},
		"one is skipped, then a seek":    {durableHistory{effects: append(handled(5, 0), handled(7, 2, 3)...), skips: map[place]int{{stream, 1}: 0}, seeks: []seek{{7, 10, 13}}}, "NoHole"},
		"a seek, then one is skipped":    {durableHistory{effects: append(handled(5, 0), handled(7, 2, 3)...), skips: map[place]int{{stream, 1}: 1}, seeks: []seek{{7, 10, 13}}}, ""},
		"a seek forward":                 {durableHistory{effects: append(handled(5, 0), handled(7, 3)...), seeks: []seek{{7, 12, 10}}}, ""},
		"a seek forward over too much":   {durableHistory{effects: append(handled(5, 0), handled(7, 3)...), seeks: []seek{{7, 11, 10}}}, "NoHole"},
		"a seek forward, one afterwards": {durableHistory{effects: append(handled(5, 0), handled(7, 2, 3)...), seeks: []seek{{7, 12, 10}}}, "Bounded"},
		"a late effect":                  {durableHistory{form: "EachTx", effects: append(handled(5, 0, 3), handled(7, 1, 2)...), seeks: []seek{{7, 10, 13}}}, "Once"},
		"disorder after a seek":          {durableHistory{effects: append(handled(5, 0), handled(7, 2, 1, 3)...), seeks: []seek{{7, 10, 13}}}, "Ordered"},
		"a pause":                        {durableHistory{effects: all, pauses: []freeze{{at(4), at(9)}}}, ""},
		"a call in a pause":              {durableHistory{effects: all, pauses: []freeze{{at(1), at(3)}}}, "Paused"},
		"a resize":                       {durableHistory{effects: resized, resizes: []resize{{7, 9}}}, ""},
		"the former partition":           {durableHistory{effects: append(handled(5, 0, 1), handled(7, 2, 3)...), resizes: []resize{{7, 9}}}, "OneOwner"},
		"a former process":               {durableHistory{effects: append(handled(7, 0, 1), handled(5, 2, 3)...)}, "OneOwner"},
		"a message is repeated after a resize": {durableHistory{
			effects: append(resized, handled(7, 3)...), resizes: []resize{{7, 9}}, samples: []durableSample{{last: 4, checkpoints: slices64(9, 13)}},
		}, "Bounded"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := tt.h
			if h.partitions = 8; h.form == "" {
				h.form = "Each"
			}
			for i := range h.effects {
				if h.effects[i].n = int64(i + 1); h.partitionsAt(h.effects[i].epoch) == 9 && name != "the former partition" {
					h.effects[i].partition = partitionOf(stream, 9)
				}
			}
			h.markLate()
			found := validateDurable([]*durableHistory{&h}, store)
			if len(found[tt.want]) == 0 && tt.want != "" || tt.want == "" && len(found) > 0 {
				t.Errorf("got %v, want what %q finds", found, tt.want)
			}
		})
	}
}

func slices64(n int, value int64) []int64 {
	s := make([]int64, n)
	for i := range s {
		s[i] = value
	}
	return s
}
