package consumer

import (
	"math"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/internal/scan"
	"github.com/messagedb-go/messagedb/internal/source"
	"github.com/messagedb-go/messagedb/mdb"
)

// A walker reads messages into a trail.
type walker struct {
	*testing.T
	trail trail
}

// read adds the messages after an index, up to another one.
func (w *walker) read(messages []mdb.Message, from, to int) {
	w.trail.add(through(source.Checkpoint{}, messages[:from]), messages[from:to], messages[to-1].GlobalPosition)
}

// knows checks what the trail knows up to a message, without the base.
func (w *walker) knows(m *mdb.Message, want []mdb.Message) {
	w.Helper()
	got := w.trail.upto(m.ID)
	if len(got) != len(want)+1 {
		w.Fatalf("got %d messages, want %d and the base", len(got), len(want))
	}
	for i := range want {
		if got[i+1] != anchorOf(&want[i]) {
			w.Errorf("got %v as message %d, want %v", got[i+1], i, anchorOf(&want[i]))
		}
	}
}

// histories returns two histories that have the first messages in common.
func histories(t *testing.T, common, n int) (old, other []mdb.Message) {
	t.Helper()
	s := newShelf(t)
	s.fill(n, 2)
	branch := &shelf{t: t, next: s.messages[common-1].GlobalPosition + 1, messages: append([]mdb.Message(nil), s.messages[:common]...)}
	branch.fill(n-common, 2)
	return s.messages, branch.messages
}

// messagesAt returns messages at positions.
func messagesAt(positions ...int64) (messages []mdb.Message) {
	for _, position := range positions {
		messages = append(messages, mdb.Message{ID: uuid.New(), GlobalPosition: position, Time: time.UnixMicro(math.MaxInt32)})
	}
	return messages
}

// TestTrail checks that a trail has no gap, and that it begins a branch where a page has other messages.
func TestTrail(t *testing.T) {
	t.Parallel()
	old, now := histories(t, 6, 12)
	t.Run("pages follow each other, and overlap", func(t *testing.T) {
		t.Parallel()
		w := &walker{T: t}
		w.read(old, 2, 5)
		w.read(old, 5, 8)
		w.read(old, 3, 10)
		w.read(old, 0, 4)
		w.knows(&old[9], old[2:10])
	})
	t.Run("a page that leaves out others begins a new trail", func(t *testing.T) {
		t.Parallel()
		w := &walker{T: t}
		w.read(old, 0, 4)
		w.read(old, 6, 9)
		w.knows(&old[8], old[6:9])
		if w.trail.upto(old[3].ID) != nil {
			t.Error("messages before a gap are known")
		}
		if got := w.trail.branchOf(old[3].ID); len(got) != 5 || got[4] != anchorOf(&old[3]) {
			t.Errorf("got %v of the trail before", got)
		}
	})
	t.Run("a page of another history begins a branch", func(t *testing.T) {
		t.Parallel()
		w := &walker{T: t}
		w.read(old, 0, 10)
		w.read(now, 4, 9)
		w.knows(&now[8], now[:9])
		if got := w.trail.branchOf(old[9].ID); len(got) != 5 || got[0] != anchorOf(&old[5]) || got[1] != anchorOf(&old[6]) {
			t.Errorf("got %v", got)
		}
	})
	t.Run("a page of another history that ends before what is lost", func(t *testing.T) {
		t.Parallel()
		old, now := messagesAt(1, 20, 25), messagesAt(1, 15, 30)
		now[0] = old[0]
		w := &walker{T: t}
		w.read(old, 0, 3)
		w.read(now, 0, 2)
		w.read(now, 2, 3)
		w.knows(&now[2], now)
	})
	t.Run("a page that begins in another history", func(t *testing.T) {
		t.Parallel()
		old, now := messagesAt(1, 20, 21, 22), messagesAt(1, 21, 23)
		now[0] = old[0]
		w := &walker{T: t}
		w.read(old, 0, 4)
		w.read(now, 2, 3)
		w.knows(&now[2], now[2:])
		if got := w.trail.branchOf(old[3].ID); len(got) != 5 {
			t.Errorf("got %v of the trail before", got)
		}
	})
	t.Run("a page of the old history that comes late", func(t *testing.T) {
		t.Parallel()
		w := &walker{T: t}
		w.read(old, 0, 8)
		w.trail.forkAt(anchorOf(&old[6]))
		w.read(old, 5, 9)
		w.read(now, 6, 8)
		w.knows(&now[7], now[:8])
	})
	t.Run("the oldest are forgotten", func(t *testing.T) {
		t.Parallel()
		s := newShelf(t)
		s.fill(2*mostTrail, 1)
		w := &walker{T: t}
		for i := 0; i < len(s.messages); i += 1024 {
			w.read(s.messages, i, i+1024)
		}
		if n := len(w.trail.messages); n > mostTrail*3/2 || n < mostTrail {
			t.Errorf("got %d messages", n)
		}
		n := len(s.messages) - len(w.trail.messages)
		if w.trail.base != anchorOf(&s.messages[n-1]) {
			t.Errorf("got the base %v", w.trail.base)
		}
		w.knows(&s.messages[len(s.messages)-1], s.messages[n:])
	})
}

// TestBeginsWithAnchor checks that the reading of a checkpoint whose messages are in another database begins with its anchor: the server to which the
// page leads may be another one than that where the anchor was found.
func TestBeginsWithAnchor(t *testing.T) {
	t.Parallel()
	row := ledger.Row{Position: 7, Anchor: ledger.Anchor{ID: uuid.New(), Time: time.UnixMicro(math.MaxInt32).UTC()}}
	m := &member{memberConfig: memberConfig{anchored: true}}
	got := m.beginning(&row).Anchors()
	if want := (source.Anchor{Position: 7, ID: row.ID, Time: scan.Micros(row.Time)}); len(got) != 1 || got[0] != want {
		t.Errorf("got %v, want %v", got, want)
	}
	m.anchored = false
	if c := m.beginning(&row); c.Position != 7 || len(c.Anchors()) != 0 {
		t.Errorf("got %v without StateIn", c)
	}
}
