package doorbell

import (
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/messagedb-go/messagedb/internal/names"
)

func newBell(perSecond int) *Bell {
	return New(Config{Fallback: 4 * time.Second, Recheck: time.Minute, PerSecond: perSecond, Logger: slog.New(slog.DiscardHandler)})
}

// on adds a subscription to a stream, or to a category if the name has no ID.
func (b *Bell) on(name string) *Sleeper {
	in := Interest{Category: names.Category(name)}
	if names.ID(name) != "" {
		in.Stream = name
	}
	return b.Subscribe(in)
}

// settle makes the category armed, and its subscriptions have read since.
func settle(b *Bell, sleepers ...*Sleeper) {
	b.setListening(true)
	for _, s := range sleepers {
		s.category.wanted = true
		b.armed([]string{s.category.name}, []bool{true})
	}
	for _, s := range sleepers {
		s.BeforeRead()
	}
}

func rung(s *Sleeper) bool { return len(s.rung) > 0 }

func TestRate(t *testing.T) {
	t.Parallel()
	now := time.Now()
	var h rate
	for range 10 {
		h.add(now, 1)
	}
	for _, test := range []struct {
		after time.Duration
		want  float64
	}{{0, 10}, {time.Second, 10 / math.E}, {time.Hour, 0}} {
		if got := h.at(now.Add(test.after)); math.Abs(got-test.want) > 1e-6 {
			t.Errorf("after %v: %v, want %v", test.after, got, test.want)
		}
	}
	// What comes at a steady pace is so much a second.
	for range 10_000 {
		now = now.Add(10 * time.Millisecond)
		h.add(now, 1)
	}
	if got := h.at(now); got < 99 || got > 102 {
		t.Errorf("at 100 a second: %v", got)
	}
}

func TestLimiterTake(t *testing.T) {
	t.Parallel()
	now := time.Now()
	b := limiter{perSecond: 100}
	spend := func(n int) (over int) {
		for range n {
			if b.take(now) {
				over++
			}
		}
		return over
	}
	for _, test := range []struct {
		what string
		wait time.Duration
		n    int
		over int
	}{
		{"as many at once as in a second", 0, 100, 0},
		{"one more", 0, 1, 1},
		{"what it was over is saved again", time.Second, 100, 1},
		{"a second's worth", time.Second, 99, 0},
		{"one more than that", 0, 1, 1},
		{"no more is saved than a second's worth", time.Hour, 101, 1},
		{"a burst", time.Second, 10_000, 9901},
		{"which has not silenced it for longer", 3 * time.Second, 99, 0},
	} {
		now = now.Add(test.wait)
		if over := spend(test.n); over != test.over {
			t.Errorf("%s: %d of %d are over the limit, want %d", test.what, over, test.n, test.over)
		}
	}
}

func TestLimiterReserve(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for _, test := range []struct {
		spent int
		rate  float64
		want  bool
		left  float64
	}{
		{0, 0, true, 100},
		{0, 50, true, 50},
		{0, 75, true, 25},
		{0, 76, false, 100},
		{0, 1000, false, 100},
		{75, 0, true, 25},
		{75, 0.9, true, 25}, // as good as silent
		{75, 1, false, 25},
		{76, 0, false, 24},
		{150, 0, false, -50},
	} {
		b := limiter{perSecond: 100}
		for range test.spent {
			b.take(now)
		}
		if got := b.reserve(now, test.rate); got != test.want {
			t.Errorf("%d spent, rate %v: granted %v, want %v", test.spent, test.rate, got, test.want)
		}
		// What has been given away is missing, or else many could have it at once.
		if !b.last.IsZero() && b.left != test.left {
			t.Errorf("%d spent, rate %v: %v left, want %v", test.spent, test.rate, b.left, test.left)
		}
	}
}

func TestCool(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		heats  map[string]float64
		armed  []string
		cooled []string
	}{
		{map[string]float64{"a": 0}, nil, []string{"a"}},
		{map[string]float64{"a": 10, "b": 20, "c": 300}, []string{"a", "b"}, []string{"c"}},
		{map[string]float64{"a": 40, "b": 41, "c": 42}, []string{"a"}, []string{"b", "c"}},
		{map[string]float64{"a": 60, "b": 70}, nil, []string{"a", "b"}},
		{map[string]float64{"a": 1, "b": 2, "c": 3, "d": 4}, []string{"a", "b", "c"}, []string{"d"}},
	} {
		b := newBell(100)
		sleepers := make(map[string]*Sleeper)
		now := time.Now()
		for category, heat := range test.heats {
			sleepers[category] = b.on(category)
			settle(b, sleepers[category])
			sleepers[category].category.rate.add(now, heat)
		}
		for category, s := range sleepers { // a later one has the bell heard anew
			s.category.state = stateArmed
			s.BeforeRead()
			_ = category
		}
		cold := b.on("cold")
		cold.category.state = stateCooling
		b.woken = false
		b.cool(now)
		var armed, cooled []string
		for category, s := range sleepers {
			if s.category.state == stateArmed {
				armed = append(armed, category)
			} else {
				cooled = append(cooled, category)
			}
			if rung(s) != (s.category.state == stateCooling) {
				t.Errorf("%v: a subscription in %s, which is in state %d, was woken: %v", test.heats, category, s.category.state, rung(s))
			}
		}
		slices.Sort(armed)
		slices.Sort(cooled)
		if !slices.Equal(armed, test.armed) || !slices.Equal(cooled, test.cooled) {
			t.Errorf("%v: armed %v, want %v; cooled %v, want %v", test.heats, armed, test.armed, cooled, test.cooled)
		}
		if !b.woken || rung(cold) {
			t.Errorf("%v: the key is not given up, or somebody else is woken", test.heats)
		}
	}
}

func TestCoolInterval(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		cooling, armed int
		want           time.Duration
	}{
		{0, 100, 10 * time.Millisecond},
		{1, 0, 10 * time.Millisecond},
		{5, 1000, 10 * time.Millisecond},
		{6, 0, 12 * time.Millisecond},
		{500, 0, time.Second},
		{500, 500, time.Second},
		{5000, 0, 10 * time.Second},
	} {
		b := newBell(100)
		for i := range test.cooling {
			b.on(fmt.Sprintf("cooling%d-%d", i%7, i)).category.state = stateCooling
		}
		for i := range test.armed {
			b.on(fmt.Sprintf("armed-%d", i)).category.state = stateArmed
		}
		if got := b.coolInterval(); got != test.want {
			t.Errorf("%d cooling, %d armed: %v, want %v", test.cooling, test.armed, got, test.want)
		}
	}
}

func TestPlan(t *testing.T) {
	t.Parallel()
	now := time.Now()
	b := newBell(100)
	b.listener.shared = map[string]bool{"armed": true, "cooled": true, "gone": true, "again": true, "off": true}
	for category, r := range map[string]category{
		"armed":  {state: stateArmed},
		"cooled": {state: stateCooling},
		"again":  {state: stateCooling, wanted: true}, // is given up first, and shared anew
		"off":    {state: stateOff},
		"wanted": {state: stateCooling, wanted: true},
		"later":  {state: stateCooling, wanted: true, nextTry: now.Add(2 * time.Second)},
		"sooner": {state: stateCooling, wanted: true, nextTry: now.Add(time.Second)},
		"idle":   {state: stateCooling},
		"lost":   {state: stateOff, wanted: true},
	} {
		b.on(category)
		r.name, r.sleepers = category, b.categories[category].sleepers
		*b.categories[category] = r
	}
	unlock, arm, next := b.plan(now)
	slices.Sort(unlock)
	slices.Sort(arm)
	if got, want := strings.Join(unlock, " "), "again cooled gone off"; got != want {
		t.Errorf("gives up %q, want %q", got, want)
	}
	if got, want := strings.Join(arm, " "), "again wanted"; got != want {
		t.Errorf("shares %q, want %q", got, want)
	}
	if want := now.Add(time.Second); !next.Equal(want) {
		t.Errorf("looks again in %v, want %v", next.Sub(now), want.Sub(now))
	}
}

func TestArmed(t *testing.T) {
	t.Parallel()
	t.Run("granted", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			b := newBell(100)
			b.listening = true
			s, other := b.on("a-1"), b.on("b-1")
			for want := range int64(3) {
				s.category.state, s.category.wanted = stateCooling, true
				s.BeforeRead()
				// The last subscription to the third one has ended meanwhile.
				b.armed([]string{"a", "b", "c"}, []bool{true, true, true})
				if s.category.state != stateArmed || s.category.wanted || s.category.epoch != want+1 || !rung(s) {
					t.Errorf("the room is %+v, the subscription is woken: %v", s.category, rung(s))
				}
				if s.epoch == s.category.epoch {
					t.Error("a read from before counts")
				}
				if d, fallback := b.delay(s, time.Hour, 0); d != 0 || fallback {
					t.Errorf("sleeps for %v before it has read", d)
				}
			}
			if other.category.state != stateCooling || rung(other) {
				t.Error("a category is armed that was not wanted")
			}
		})
	})
	t.Run("refused", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			b := newBell(100)
			b.listening = true
			s := b.on("a")
			s.BeforeRead()
			b.delay(s, 100*time.Millisecond, 0)
			if !b.woken || !s.category.wanted {
				t.Fatal("an empty read does not arm")
			}
			var retries []time.Duration
			for range 9 {
				b.armed([]string{"a"}, []bool{false})
				_, arm, next := b.plan(time.Now())
				if len(arm) > 0 {
					t.Fatal("tries again at once")
				}
				retries = append(retries, time.Until(next))
				<-time.After(time.Until(next))
				if _, arm, _ := b.plan(time.Now()); len(arm) != 1 {
					t.Fatal("does not try again")
				}
			}
			if got, want := fmt.Sprint(retries), "[1ms 2ms 4ms 8ms 16ms 32ms 64ms 100ms 100ms]"; got != want {
				t.Errorf("tries again after %s, want %s", got, want)
			}
			b.delay(s, time.Hour, 0) // the strategy has grown patient meanwhile
			b.armed([]string{"a"}, []bool{false})
			if _, _, next := b.plan(time.Now()); time.Until(next) != minArmRetry<<9 {
				t.Errorf("tries again after %v, want %v", time.Until(next), minArmRetry<<9)
			}
			if rung(s) || s.category.state != stateCooling {
				t.Error("armed, or woken for nothing")
			}
		})
	})
}
