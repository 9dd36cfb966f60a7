package consumer

import (
	"errors"
	"fmt"
	"testing"

	"github.com/messagedb-go/messagedb/mdb"
)

// TestLimitCutsCalls checks that a form that calls handlers one by one stops between two of them, and commits those that were called.
func TestLimitCutsCalls(t *testing.T) {
	t.Parallel()
	store := newStand(t, 0, database(t)).store
	for _, name := range []string{"EachTx", "EachQueued", "BatchTx"} {
		for _, after := range []int{0, 1, 3} {
			t.Run(fmt.Sprint(name, after), func(t *testing.T) {
				s := standOn(t, store, 5)
				c := s.calling(s.messages)
				e := newEngine(engineConfig{})
				c.upto = &e.upto
				called := 0
				limit := func() {
					if after == called {
						e.limit(&s.messages[0].GlobalPosition, true)
					}
				}
				limit()
				h := txHandlers(insertLog, func(mdb.Message) error { called++; limit(); return nil })[name]
				done, err := h.form(s.config).call(t.Context(), c)
				want := after
				if name == "BatchTx" && after > 0 { // one handler has all
					want = 5
				}
				if done != want || called != want || !errors.Is(err, errNotBegun) && after == 0 || err != nil && after > 0 {
					t.Errorf("got %d done, %d calls and %v, want %d", done, called, err, want)
				}
				s.check(want)
			})
		}
	}
}

// TestLimitAfterFailure checks that a limit during a transaction of which a message has failed does not let the handlers be called
// again for those before it, and does not count as a failure.
func TestLimitAfterFailure(t *testing.T) {
	t.Parallel()
	s := newStand(t, 3, database(t))
	c := s.calling(s.messages)
	e := newEngine(engineConfig{})
	c.upto = &e.upto
	called := 0
	h := txHandlers(insertLog, func(m mdb.Message) error {
		if called++; called < 3 {
			return nil
		}
		e.limit(nil, true)
		return errors.New("failed")
	})["EachTx"]
	if done, err := h.form(s.config).call(t.Context(), c); done != 0 || called != 3 || !errors.Is(err, errNotBegun) {
		t.Errorf("got %d done, %d calls and %v", done, called, err)
	}
	s.check(0)
}
