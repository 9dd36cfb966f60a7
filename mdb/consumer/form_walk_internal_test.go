package consumer

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// A walk breaks the connection of a form's call after one of the messages of the protocol, and
// repeats the call while the server still has the session of the first one.
type walk struct {
	form, effect string
	handler      Handler
	stand        *stand
	sent         int  // the connection breaks after so many messages of the client; -1: see received
	received     int  // or before so many of the server
	late         bool // the session receives the rest of the first call, or ends
}

func (w walk) String() string {
	return fmt.Sprintf("%s, %s, broken after %d messages sent, or %d received, late %t", w.form, w.effect, w.sent, w.received, w.late)
}

// run returns what is wrong afterwards, and whether the repetition had to wait.
func (w walk) run(t *testing.T, tap *tap) (faults []string, waited bool) {
	t.Helper()
	s := w.stand
	s.next()

	// The connections of the pool are those that will break, so the test looks through another.
	tap.reset(w.sent, w.received)
	done, err := s.handle(w.handler)
	tap.mu.Lock()
	broken := tap.held != nil
	tap.mu.Unlock()
	if !broken {
		t.Fatalf("%v: the call ends without that: %d, %v", w, done, err)
	}
	if done != 0 || err == nil {
		faults = append(faults, fmt.Sprintf("the first call returns %d, %v", done, err))
	}

	type outcome struct {
		done int
		err  error
	}
	redone := make(chan outcome, 1)
	go func() {
		var o outcome
		for range 10 { // as often as the engine repeats what does not count
			if o.done, o.err = s.handle(w.handler); o.done > 0 || !isTransient(o.err) && !isConflict(o.err) {
				break
			}
		}
		redone <- o
	}()
	var o outcome
	for ended := false; !ended && !waited; {
		select {
		case o = <-redone:
			ended = true
		default:
			waited = value[bool](t, s.observer, `SELECT EXISTS (SELECT FROM pg_locks AS l JOIN pg_database AS d ON d.datname = current_database()
				JOIN pg_stat_activity AS a USING (pid) WHERE NOT l.granted AND a.datname = d.datname)`)
		}
	}
	tap.release(w.late)
	if waited {
		o = <-redone
	}
	if o.done != 1 || o.err != nil {
		faults = append(faults, fmt.Sprintf("the repetition returns %d, %v", o.done, o.err))
	}
	for _, table := range []string{"log", "once"} {
		if n := value[int](t, s.observer, `SELECT count(*) FROM public.`+table+` WHERE message = $1`, s.messages[0].ID.String()); table == w.effect && n != 1 {
			faults = append(faults, fmt.Sprintf("there are %d effects", n))
		}
	}
	position := value[int64](t, s.observer, `SELECT position FROM message_store_consumers.checkpoints WHERE consumer = $1`, s.member.Consumer)
	if position != s.messages[0].GlobalPosition {
		faults = append(faults, fmt.Sprintf("the checkpoint is at %d, want %d", position, s.messages[0].GlobalPosition))
	}
	s.row.Position = position
	return faults, waited
}

// effectsOf are statements with an effect that can be seen. Those of once wait for each other.
var effectsOf = map[string]string{"log": insertLog, "once": insertOnce}

// walks returns all walks of the forms, on a store whose connections the tap breaks.
func walks(t *testing.T, s *stand, tap *tap, sqls map[string]string) (all []walk) {
	t.Helper()
	for effect, sql := range sqls {
		for name, h := range txHandlers(sql, nil) {
			own := standOn(t, s.store, 0)
			own.observer = s.observer
			var sent, received int
			for range 2 { // the first call prepares statements
				own.next()
				tap.reset(-1, -1)
				if done, err := own.handle(h); done != 1 || err != nil {
					t.Fatal(done, err)
				}
				own.row.Position = own.messages[0].GlobalPosition
				_, sent, received = tap.counts()
			}
			for n := 1; n <= sent; n++ {
				all = append(all, walk{name, effect, h, own, n, -1, false}, walk{name, effect, h, own, n, -1, true})
			}
			for n := range received {
				all = append(all, walk{name, effect, h, own, -1, n, false})
			}
		}
	}
	return all
}

func walkStand(t *testing.T, mode pgx.QueryExecMode) (*stand, *tap) {
	t.Helper()
	tap := new(tap)
	url := ownDatabase(t)
	s := newStand(t, 0, url, execMode(mode), tap.attach)
	s.observer = newPool(t, url)
	return s, tap
}

// TestUnknownOutcomes checks that a message has one effect wherever the connection breaks, while
// the server still runs the first call, and completes it late or not at all. Some walks repeat
// the call before the first one has ended, and wait for it; others overtake it.
func TestUnknownOutcomes(t *testing.T) {
	t.Parallel()
	modes, effects := execModes, effectsOf
	if testing.Short() {
		modes, effects = []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol}, map[string]string{"once": insertOnce}
	}
	for _, mode := range modes {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			s, tap := walkStand(t, mode)
			all, waits := walks(t, s, tap, effects), 0
			for _, w := range all {
				faults, waited := w.run(t, tap)
				for _, fault := range faults {
					t.Errorf("%v: %s", w, fault)
				}
				if waited {
					waits++
				}
			}
			t.Logf("%d walks, of which %d waited for the first call", len(all), waits)
			if waits == 0 {
				t.Error("no call was repeated while the first one was still running")
			}
		})
	}
}

// TestUnknownOutcomesNeedPosition checks that the walks find what happens without the position in
// the fence: two effects.
func TestUnknownOutcomesNeedPosition(t *testing.T) {
	t.Parallel()
	s, tap := walkStand(t, pgx.QueryExecModeCacheStatement)
	definition := value[string](t, s.observer, `SELECT pg_get_functiondef('message_store_consumers.move'::regproc)`)
	const position = " AND c.position = $6"
	if strings.Count(definition, position) != 1 {
		t.Fatalf("the function has changed: %s", definition)
	}
	exec(t, s.observer, strings.Replace(definition, position, "", 1))
	for _, w := range walks(t, s, tap, map[string]string{"log": insertLog}) {
		if faults, _ := w.run(t, tap); len(faults) > 0 {
			return
		}
	}
	t.Error("the walks do not notice that the fence does not compare the position")
}
