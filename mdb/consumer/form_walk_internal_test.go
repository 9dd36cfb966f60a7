package consumer

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/mdb"
)

// A walk breaks the connection of a call after one of the messages of the protocol, and
// repeats the call while the server still has the session of the first one.
type walk struct {
	name     string
	act      *walkAct
	sent     int  // the connection breaks after so many messages of the client; -1: see received
	received int  // or before so many of the server
	late     bool // the session receives the rest of the first call, or ends
}

// A walkAct is what a walk does with the message of a stand.
type walkAct struct {
	*stand

	prepare func()              // before the first call; may be nil
	first   func() (int, error) // how many messages are done with
	again   func() (int, error) // the next call
	check   func() string       // what is wrong afterwards, apart from the checkpoint; may be empty
}

func (w walk) String() string {
	return fmt.Sprintf("%s, broken after %d messages sent, or %d received, late %t", w.name, w.sent, w.received, w.late)
}

// next writes the next message.
func (a *walkAct) next() {
	a.stand.next()
	if a.prepare != nil {
		a.prepare()
	}
}

// run returns what is wrong afterwards, and whether the repetition had to wait.
func (w walk) run(t *testing.T, tap *tap) (faults []string, waited bool) {
	t.Helper()
	s := w.act
	s.next()

	// The connections of the pool are those that will break, so the test looks through another.
	tap.reset(w.sent, w.received)
	done, err := s.first()
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
			if o.done, o.err = s.again(); o.done > 0 || !isTransient(o.err) && !isConflict(o.err) {
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
	if fault := s.check(); fault != "" {
		faults = append(faults, fault)
	}
	position := value[int64](t, s.observer, `SELECT position FROM message_store_consumers.checkpoints WHERE consumer = $1`, s.member.Consumer)
	if position != s.messages[0].GlobalPosition {
		faults = append(faults, fmt.Sprintf("the checkpoint is at %d, want %d", position, s.messages[0].GlobalPosition))
	}
	s.row.Position = position
	return faults, waited
}

// effects returns how many effects the message has in a table.
func (s *stand) effects(table string) int {
	s.Helper()
	return value[int](s, s.observer, `SELECT count(*) FROM public.`+table+` WHERE message = $1`, s.messages[0].ID.String())
}

// parkedAt returns at which position the message's stream is parked, or -1, and how often.
func (s *stand) parkedAt() (position int64, times int) {
	s.Helper()
	row := s.observer.QueryRow(s.Context(), `SELECT coalesce(max(position), -1), count(*) FROM message_store_consumers.parked WHERE consumer = $1`, s.member.Consumer)
	if err := row.Scan(&position, &times); err != nil {
		s.Fatal(err)
	}
	return position, times
}

// handlingAct is a walk's act that handles the message.
func handlingAct(s *stand, h Handler, effect string) *walkAct {
	handle := func() (int, error) { return s.handle(h) }
	return &walkAct{stand: s, first: handle, again: handle, check: func() string {
		if n := s.effects(effect); n != 1 {
			return fmt.Sprintf("there are %d effects", n)
		}
		return ""
	}}
}

// replayingAct is a walk's act that replays the message, which the checkpoint has not reached: the call moves it there, and the
// stream is parked from the next message on.
func replayingAct(s *stand, h Handler, effect string) *walkAct {
	a := handlingAct(s, h, effect)
	a.prepare = func() {
		exec(s, s.observer, `DELETE FROM message_store_consumers.parked WHERE consumer = $1`, s.member.Consumer)
		m := s.messages[0]
		if err := ledger.Park(s.Context(), s.observer, s.member, s.row.Epoch, ledger.Parked{
			Partition: s.row.Partition, Key: m.Stream.CardinalID(), Stream: string(m.Stream), Position: m.Position, GlobalPosition: m.GlobalPosition, Attempts: 1,
		}, ""); err != nil {
			s.Fatal(err)
		}
	}
	a.first = func() (int, error) {
		ctx, cancel := context.WithTimeout(s.Context(), testTimeout)
		defer cancel()
		c := s.calling(s.messages)
		c.from.To = s.messages[0].GlobalPosition
		c.deliveries[0].replayed = &replayed{from: s.messages[0].Position}
		return h.form(s.config).call(ctx, c)
	}
	a.again = a.first
	handled := a.check
	a.check = func() string {
		if position, times := s.parkedAt(); position != s.messages[0].Position+1 || times != 1 {
			return fmt.Sprintf("the stream is parked %d times, at %d", times, position)
		}
		return handled()
	}
	return a
}

// parkingAct is a walk's act that parks the message, in a transaction that moves the checkpoint and in which OnPark is called. The
// next call parks it again, or handles it if h is not nil.
func parkingAct(s *stand, h *Handler, effect string) *walkAct {
	s.Helper()
	c, err := New(s.store, s.config.consumer, s.category, Each(func(context.Context, mdb.Message) error { return nil }),
		OnPark(func(ctx context.Context, tx pgx.Tx, _ Parked) error {
			_, err := tx.Exec(ctx, insertLog, s.messages[0].ID.String())
			return err
		}))
	if err != nil {
		s.Fatal(err)
	}
	c.member = newMember(memberConfig{})
	c.member.self.Store(&s.member)
	r := &running{Consumer: c, link: besideOf(s.store)}
	park := func() (int, error) {
		ctx, cancel := context.WithTimeout(s.Context(), testTimeout)
		defer cancel()
		call := s.calling(s.messages)
		move := call.move()
		err := r.park(ctx, &call.deliveries[0], Failure{Message: s.messages[0], Attempt: 1, Err: errBroken}, &move)
		switch {
		case err == nil:
			return 1, nil
		case ledger.IsFenced(err): // the first call has succeeded, and the engine reads the checkpoint
			return 1, nil
		}
		return 0, Transient(err)
	}
	a := &walkAct{stand: s, first: park, again: park}
	a.prepare = func() {
		exec(s, s.observer, `DELETE FROM message_store_consumers.parked WHERE consumer = $1`, s.member.Consumer)
	}
	if h != nil {
		a.again = func() (int, error) { return s.handle(*h) }
	}
	a.check = func() string {
		_, times := s.parkedAt()
		told, handled := s.effects("log"), 0
		if h != nil {
			handled = s.effects(effect)
		}
		if told != times || times+handled != 1 {
			return fmt.Sprintf("the message is parked %d times, was handled %d times, and OnPark has %d effects", times, handled, told)
		}
		return ""
	}
	return a
}

// effectsOf are statements with an effect that can be seen. Those of once wait for each other.
var effectsOf = map[string]string{"log": insertLog, "once": insertOnce}

// walks returns all walks of the forms' calls that make an act of, on a store whose connections the tap breaks.
func walks(t *testing.T, s *stand, tap *tap, sqls map[string]string, of func(s *stand, h Handler, effect string) *walkAct) (all []walk) {
	t.Helper()
	for effect, sql := range sqls {
		for name, h := range txHandlers(sql, nil) {
			own := standOn(t, s.store, 0)
			own.observer = s.observer
			all = append(all, places(t, name+", "+effect, tap, of(own, h, effect))...)
		}
	}
	return all
}

// places returns the walks of an act, one for each place at which the connection can break.
func places(t *testing.T, name string, tap *tap, a *walkAct) (all []walk) {
	t.Helper()
	var sent, received int
	for range 2 { // the first call prepares statements
		a.next()
		tap.reset(-1, -1)
		if done, err := a.first(); done != 1 || err != nil {
			t.Fatal(done, err)
		}
		a.row.Position = a.messages[0].GlobalPosition
		_, sent, received = tap.counts()
	}
	for n := 1; n <= sent; n++ {
		all = append(all, walk{name, a, n, -1, false}, walk{name, a, n, -1, true})
	}
	for n := range received {
		all = append(all, walk{name, a, -1, n, false})
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

// allWalks reports whether the tests should take all walks, as make test-consumers asks.
func allWalks() bool { return os.Getenv("MDB_TEST_WALKS") == "all" }

// TestUnknownOutcomes checks that a message has one effect wherever the connection breaks, while
// the server still runs the first call, and completes it late or not at all. Some walks repeat
// the call before the first one has ended, and wait for it; others overtake it. It checks the same of a
// replay, which moves the checkpoint and the parked row, and of a parking that is repeated, or whose message is handled
// then.
func TestUnknownOutcomes(t *testing.T) {
	t.Parallel()
	modes, effects := []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeSimpleProtocol}, effectsOf
	switch {
	case allWalks():
		modes = execModes
	case testing.Short():
		modes, effects = []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol}, map[string]string{"once": insertOnce}
	}
	for act, of := range map[string]func(t *testing.T, s *stand, tap *tap) []walk{
		"handle": func(t *testing.T, s *stand, tap *tap) []walk { return walks(t, s, tap, effects, handlingAct) },
		"replay": func(t *testing.T, s *stand, tap *tap) []walk { return walks(t, s, tap, effects, replayingAct) },
		"park, then handle": func(t *testing.T, s *stand, tap *tap) []walk {
			return walks(t, s, tap, map[string]string{"once": insertOnce}, func(s *stand, h Handler, effect string) *walkAct { return parkingAct(s, &h, effect) })
		},
		"park again": func(t *testing.T, s *stand, tap *tap) []walk { return places(t, "park", tap, parkingAct(s, nil, "")) },
	} {
		for _, mode := range modes {
			t.Run(act+" "+mode.String(), func(t *testing.T) {
				t.Parallel()
				s, tap := walkStand(t, mode)
				all, waits := of(t, s, tap), 0
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
	for _, w := range walks(t, s, tap, map[string]string{"log": insertLog}, handlingAct) {
		if faults, _ := w.run(t, tap); len(faults) > 0 {
			return
		}
	}
	t.Error("the walks do not notice that the fence does not compare the position")
}
