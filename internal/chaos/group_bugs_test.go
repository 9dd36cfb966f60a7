package chaos

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// shortLease is a server on which leases are shorter than processes believe, as if these did not look at their clocks.
const shortLease = `CREATE FUNCTION public.shorten() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.lease := '3 seconds'; RETURN NEW; END $$;
CREATE TRIGGER shorten BEFORE INSERT ON message_store_consumers.members FOR EACH ROW EXECUTE FUNCTION public.shorten()`

// parkingBug changes what is parked.
func parkingBug(when, change string) string {
	return `CREATE FUNCTION public.park() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN ` + change + `; RETURN NEW; END $$;
CREATE TRIGGER park BEFORE ` + when + ` EXECUTE FUNCTION public.park()`
}

// A groupBug is a bug of a group's server, handlers, protocol or operator, which a validator must find.
type groupBug struct {
	validator, bug string
	forms          []string
	sql            string // of the bug
	prepare        func(w *durableWork)
	inject         func(ctx context.Context, w *durableWork) error
}

// check checks that the validator finds the bug. What is not handled in the end is a hole, so those for which it looks for holes
// handle everything that they can.
func (b groupBug) check(t *testing.T, w *durableWork) {
	t.Helper()
	w.forms, w.hopeless, w.messages = b.forms, b.validator != "NoHole", 0
	if b.prepare != nil {
		b.prepare(w)
	}
	if b.sql != "" {
		execute(t, connect(t, w.url), b.sql)
	}
	violations, _ := w.run(t, func(ctx context.Context) error { return b.inject(ctx, w) })
	w.expect(t, b.validator, violations)
}

// TestGroupValidators checks that the validators find what is wrong with groups whose server, handler or protocol has a
// deliberate bug.
func TestGroupValidators(t *testing.T) {
	pgtest.NeedTime(t)
	t.Parallel()
	for _, tt := range []groupBug{
		{validator: "OneOwner", bug: "processes that are alive lose their membership", forms: []string{"Each"}, inject: func(ctx context.Context, w *durableWork) error {
			for {
				p := w.running[w.histories[0]][w.rng.IntN(w.processes)]
				if err := w.untilMore(ctx, p); err != nil {
					return err
				}
				_, err := w.pool.Exec(ctx, `WITH gone AS (DELETE FROM message_store_consumers.members WHERE info ~ ('process ' || $1 || '\M') RETURNING consumer)
SELECT message_store_consumers.ring(consumer) FROM gone`, p.proc.pid())
				if found, err := w.is(ctx, err, staleEffects+")"); found || err != nil {
					return err
				}
			}
		}},
		{validator: "OneOwner", bug: "processes do not look at their clocks", forms: []string{"Each"}, sql: shortLease, prepare: func(w *durableWork) {
			w.lease, w.pause, w.writers = time.Hour, time.Millisecond, 4
		}, inject: func(ctx context.Context, w *durableWork) error {
			h := w.histories[0]
			for {
				p := w.running[h][w.rng.IntN(w.processes)]
				if err := errors.Join(w.freeze(ctx, h, p, 6*time.Second), w.untilMore(ctx, p)); err != nil {
					return err
				}
				freezes := h.freezes[p.task.Process]
				if found, err := w.is(ctx, nil, staleEffects+" AND process = $1 AND begun > $2)", p.task.Process, freezes[len(freezes)-1].to); found || err != nil {
					return err
				}
			}
		}},
		{
			validator: "Ordered", bug: "messages do not wait for a parked one", forms: []string{"Each"},
			sql: parkingBug("INSERT ON message_store_consumers.parked FOR EACH ROW", "NEW.upto := NEW.position"), prepare: poisoned,
			inject: func(ctx context.Context, w *durableWork) error {
				h := w.histories[0]
				for {
					if err := w.until(ctx, "SELECT EXISTS (SELECT FROM message_store_consumers.parked)"); err != nil {
						return err
					}
					for i := range w.running[h] {
						if err := w.murder(ctx, h, i); err != nil {
							return err
						}
					}
					if _, err := w.pool.Exec(ctx, `INSERT INTO public.healed VALUES ($1) ON CONFLICT DO NOTHING`, h.consumer); err != nil {
						return err
					}
					if found, err := w.is(ctx, nil, overtakenEffects); found || err != nil {
						return err
					}
				}
			},
		},
		{
			validator: "NoHole", bug: "a replay leaves out the message that was parked", forms: []string{"Each", "EachTx"},
			sql:     parkingBug("INSERT ON message_store_consumers.parked FOR EACH ROW WHEN (NEW.attempts > 0)", "NEW.position := NEW.position + 1"),
			prepare: poisoned,
			inject: func(ctx context.Context, w *durableWork) error {
				if err := w.until(ctx, "SELECT count(DISTINCT consumer) = 2 FROM message_store_consumers.parked"); err != nil {
					return err
				}
				return w.replayed(ctx)
			},
		},
	} {
		t.Run(tt.validator+"/"+tt.bug, func(t *testing.T) {
			t.Parallel()
			tt.check(t, newGroupWork(testdb.Consumers(t), *seedFlag))
		})
	}
}

func poisoned(w *durableWork) { w.poisoned, w.streams = 2, 2000 }

// staleEffects asks for effects of a partition after one with a greater epoch.
const staleEffects = `SELECT EXISTS (
	SELECT FROM (SELECT *, max(epoch) OVER (PARTITION BY consumer, partition ORDER BY n) AS greatest FROM public.effects) AS e
	WHERE epoch < greatest`

// overtakenEffects asks for effects of messages that should have waited for a parked one. A message of a
// poisoned stream may be handled if nothing was parked before it.
const overtakenEffects = `SELECT EXISTS (
	SELECT FROM public.effects AS e JOIN message_store_consumers.parked AS p ON p.key = message_store.cardinal_id(e.stream)
	WHERE e.global_position > p.global_position AND NOT e.replayed)`

// is asks the server, unless there is an error.
func (w *durableWork) is(ctx context.Context, err error, sql string, args ...any) (yes bool, _ error) {
	if err == nil {
		err = w.pool.QueryRow(ctx, sql, args...).Scan(&yes)
	}
	return yes, err
}

// expect fails the test if a validator has found nothing.
func (w *durableWork) expect(t *testing.T, validator string, violations map[string][]string) {
	t.Helper()
	t.Log(len(violations[validator]), "violations, stuck", w.stuck)
	if len(violations[validator]) == 0 {
		t.Errorf("%s finds no violation; all violations: %v, stuck %v (seed %d)", validator, violations, w.stuck, *seedFlag)
	}
}

// TestPooledValidators checks that Once finds a fence that lets everything pass, through PgBouncer.
func TestPooledValidators(t *testing.T) {
	needsCI(t)
	s, direct := ownServer(t)
	admin := connect(t, direct)
	if err := schema.InstallConsumers(t.Context(), admin); err != nil {
		t.Fatal(err)
	}
	if _, err := schema.PinSearchPath(t.Context(), admin); err != nil {
		t.Fatal(err)
	}
	execute(t, admin, unfenced)
	p := newProxy(t, s.URL("postgres"))
	through := pgBouncers(t)[0].Start(t, p.url(), "transaction")
	w := newGroupWork(direct, *seedFlag)
	w.forms, w.hopeless, w.messages, w.pooled, w.conns = []string{"EachTx"}, true, 0, true, 1
	w.proxies = func(int) string { return through }
	p.onMessage(oftenTags(11))
	violations, _ := w.run(t, func(ctx context.Context) error {
		defer p.onMessage(nil)
		return w.untilDoubled(ctx)
	})
	w.expect(t, "Once", violations)
}

// TestSlept checks that what a frozen process had begun may come too late, and that nothing that it begins later may.
func TestSlept(t *testing.T) {
	t.Parallel()
	at := func(seconds int) time.Time { return time.Unix(int64(seconds), 0) }
	for name, tt := range map[string]struct {
		form           string
		begun, written time.Time
		found          bool
	}{
		"begun before":               {"Each", at(9), at(20), false},
		"begun after":                {"Each", at(20), at(20), true},
		"written before":             {"Each", at(8), at(9), true},
		"begun before, transactions": {"EachTx", at(9), at(20), true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := &durableHistory{form: tt.form, freezes: map[int][]freeze{1: {{at(10), at(19)}}}, effects: []effect{
				{n: 1, process: 2, epoch: 8, global: 5}, {n: 2, process: 1, epoch: 7, global: 5, begun: tt.begun, written: tt.written},
			}, samples: []durableSample{{last: 1, checkpoints: []int64{5}}}}
			if got := len(oneOwner(h, nil)) > 0; got != tt.found {
				t.Errorf("OneOwner finds something: %v", got)
			}
			if got := len(repeatsBounded(h, nil)) > 0; got != tt.found {
				t.Errorf("Bounded finds something: %v", got)
			}
		})
	}
}
