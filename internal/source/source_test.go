package source

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/uuid"
)

func anchorOf(position int64) Anchor {
	a := Anchor{Position: position, Time: position * 1000}
	a.ID = uuid.NewSHA1(uuid.Nil, []byte{byte(position), byte(position >> 8), byte(position >> 16)})
	return a
}

// TestCheckpointReach checks that however messages arrive, a checkpoint has at most 17
// anchors, in descending order, and for each distance an anchor that is at most nine times as
// far back, up to a distance of 8^8. Positions may have gaps, which no anchor can fill.
func TestCheckpointReach(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 0))
		var c Checkpoint
		var all []int64 // positions
		position, gap := int64(0), int64(1)
		for range 3000 {
			n := 1 + random.IntN(3)
			if random.IntN(20) == 0 {
				n = 1000
			}
			if random.IntN(50) == 0 {
				gap = int64(1) << random.IntN(10)
			}
			page := make([]Anchor, n)
			for i := range page {
				position += 1 + random.Int64N(gap)
				page[i] = anchorOf(position)
				all = append(all, position)
			}
			c = c.Advance(n, func(i int) Anchor { return page[i] })
			checkReach(t, c, all)
			if t.Failed() {
				t.Fatalf("seed %d", seed)
			}
		}
	}
}

func checkReach(t *testing.T, c Checkpoint, all []int64) {
	t.Helper()
	anchors := c.Anchors()
	newest := all[len(all)-1]
	if len(anchors) > 17 || anchors[0].Position != newest || c.Position != newest {
		t.Errorf("got %d anchors, position %d, the newest %v, want at most 17, and %d", len(anchors), c.Position, anchors[0], newest)
	}
	for i := 1; i < len(anchors); i++ {
		near, far := anchors[i-1], anchors[i]
		if far.Position >= near.Position || far != anchorOf(far.Position) {
			t.Errorf("got anchor %v after %v", far, near)
		}
		// The message after the farther one: if none is between, the gap cannot be smaller.
		next, _ := slices.BinarySearch(all, far.Position+1)
		if d := newest - all[next]; all[next] != near.Position && d > 9*max(newest-near.Position, 1) {
			t.Errorf("got anchors at distances %d and %d, and a message at %d", newest-near.Position, newest-far.Position, d)
		}
	}
	if oldest := newest - anchors[len(anchors)-1].Position; len(anchors) == 17 && oldest < 1<<24 && anchors[16].Position != all[0] {
		t.Errorf("got the oldest anchor at distance %d", oldest)
	}
}

// TestCheckpointLimits checks positions at the limits of their type.
func TestCheckpointLimits(t *testing.T) {
	t.Parallel()
	c := At(0)
	for _, p := range []int64{0, 1, math.MaxInt64 / 2, math.MaxInt64 - 1, math.MaxInt64} {
		c = c.Advance(1, func(int) Anchor { return Anchor{Position: p} })
	}
	if n := len(c.Anchors()); n < 4 || n > 5 {
		t.Errorf("got %d anchors", n)
	}
	if Known(nil).Position != 0 || len(c.Advance(0, nil).Anchors()) != len(c.Anchors()) {
		t.Error("got another checkpoint for nothing")
	}
}

// TestCheckpointOfKnown checks that the anchors of a checkpoint remain if they are selected
// again, as when its text is parsed.
func TestCheckpointOfKnown(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	var c Checkpoint
	for p := int64(1); p < 1<<40; p += 1 + random.Int64N(1+p/4) {
		c = c.Advance(1, func(int) Anchor { return anchorOf(p) })
		if again := Known(c.Anchors()); !slices.Equal(again.Anchors(), c.Anchors()) || again.Position != c.Position {
			t.Fatalf("got %v, want %v", again, c)
		}
	}
}

// TestHistory checks that a history remembers the last few thousand messages, uses a bounded
// amount of memory, and accepts those of a cursor at an earlier position.
func TestHistory(t *testing.T) {
	t.Parallel()
	var h History
	for p := int64(1); p <= 20_000; p += 100 {
		h.Add(100, func(i int) Anchor { return anchorOf(p + int64(i)) }, true)
		if n := len(h.messages); n > mostAnchors || n < min(keptAnchors, int(p)+99) {
			t.Fatalf("got %d messages after %d", n, p+99)
		}
	}
	h.Add(3, func(i int) Anchor { return anchorOf(int64(i) + 19_000) }, true) // known
	h.Add(3, func(i int) Anchor { return anchorOf(int64(i) + 1) }, true)      // too old
	known := h.Known(At(20_000))
	for i, a := range known {
		if a != anchorOf(20_000-int64(i)) {
			t.Fatalf("got %v, want %d", a, 20_000-i)
		}
	}
	if len(known) < keptAnchors {
		t.Errorf("got %d, want at least %d", len(known), keptAnchors)
	}
	if got := h.Known(At(19_000)); got[0] != anchorOf(19_000) {
		t.Errorf("got %v, want only what is known up to the checkpoint", got[0])
	}
	var large History
	large.Add(100_000, func(i int) Anchor { return anchorOf(int64(i)) }, true)
	if n := len(large.messages); n > mostAnchors || large.messages[n-1].Position != 99_999 {
		t.Errorf("got %d messages", n)
	}
}

// TestHistoryLose checks that messages which are gone are forgotten, and that heads which no
// filter has selected do not count as messages.
func TestHistoryLose(t *testing.T) {
	t.Parallel()
	var h History
	from := At(0).Advance(1, func(int) Anchor { return anchorOf(2) })
	h.Add(2, func(i int) Anchor { return anchorOf(int64(i) + 5) }, true) // 5, 6
	h.Add(1, func(int) Anchor { return anchorOf(9) }, false)
	h.Add(1, func(int) Anchor { return anchorOf(12) }, false)
	h.Add(1, func(int) Anchor { return anchorOf(12) }, true) // it is selected after all
	from = from.Advance(1, func(int) Anchor { return anchorOf(12) })
	known := h.Known(from)
	positions := func(anchors []Anchor) (p []int64) {
		for _, a := range anchors {
			p = append(p, a.Position)
		}
		return p
	}
	if got, want := positions(known), []int64{12, 9, 6, 5, 2}; !slices.Equal(got, want) {
		t.Fatalf("got %v, want %v", got, want)
	}
	if got, want := positions(h.Lose(known[:3])), []int64{6, 12}; !slices.Equal(got, want) {
		t.Errorf("got %v lost, want %v", got, want)
	}
	if got, want := positions(h.Known(Known(known[3:]))), []int64{5, 2}; !slices.Equal(got, want) {
		t.Errorf("got %v known, want %v", got, want)
	}
	if got, want := positions(h.Lose([]Anchor{anchorOf(5), anchorOf(2)})), []int64{2, 5}; !slices.Equal(got, want) {
		t.Errorf("got %v lost, want %v", got, want)
	}
}

// TestHistoryLoseAgain checks that a message which came back after its loss is reported if it is lost again, although by then
// only a checkpoint knows it.
func TestHistoryLoseAgain(t *testing.T) {
	t.Parallel()
	var h History
	one := []Anchor{anchorOf(1)}
	for range 2 {
		h.Add(mostAnchors, func(i int) Anchor { return anchorOf(1 + int64(i)) }, true)
		h.Add(1, func(int) Anchor { return anchorOf(1 + mostAnchors) }, true) // which makes it forget the first ones
		if got := h.Lose(one); !slices.Equal(got, one) {
			t.Errorf("got %v lost, want %v", got, one)
		}
		if got := h.Lose(one); len(got) > 0 {
			t.Errorf("got %v lost, which another cursor has found", got)
		}
		h = History{lost: h.lost}
	}
}
