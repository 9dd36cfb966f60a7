package mdb_test

import (
	"testing"
	"time"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// A listenHook passes on what it receives, and panics in the first two calls if it is to.
type listenHook struct {
	states chan bool
	panics int
	stats  func() mdb.NotifyStats // needs the lock of the notifications
}

func (h *listenHook) OnListening(listening bool) {
	h.states <- listening
	if got := h.stats().Listening; got != listening {
		panic("the state is another one")
	}
	if h.panics > 0 {
		h.panics--
		panic("OnListening")
	}
}

func (h *listenHook) want(t *testing.T, want bool) {
	t.Helper()
	select {
	case got := <-h.states:
		if got != want {
			t.Errorf("got %t, want %t", got, want)
		}
	case <-time.After(testTimeout):
		t.Fatalf("OnListening(%t) is not called", want)
	}
}

// TestHooksOfNotify checks that hooks receive when notifications arrive, when they no longer do, and when they do again,
// also if a hook panics.
func TestHooksOfNotify(t *testing.T) {
	t.Parallel()
	for name, panics := range map[string]int{"a hook": 0, "a hook that panics": 2} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := testdb.Notifying(t)
			h := &listenHook{states: make(chan bool), panics: panics}
			s := newStore(t, newPool(t, url), append(waitingOnly(), mdb.WithHooks(h))...)
			h.stats = s.NotifyStats
			f := followCategory(t, s, mdbtest.Category("notified"))
			h.want(t, true)
			if panics == 0 { // otherwise the session ends without that
				exec(t, s.Pool(), killListeners)
			}
			h.want(t, false)
			h.want(t, true)
			f.cancel()
			h.want(t, false)
			<-f.done
		})
	}
}
