package doorbell

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/messagedb-go/messagedb/internal/names"
)

// TestRouting checks which subscriptions a notification wakes.
func TestRouting(t *testing.T) {
	t.Parallel()
	b := newBell(1000)
	sleepers := map[string]*Sleeper{
		"stream":   b.on("a-1"),
		"part":     b.on("a-1+x"),
		"category": b.on("a"),
		"member 0": b.Subscribe(Interest{Category: "a", Member: 0, Size: 2}),
		"member 1": b.Subscribe(Interest{Category: "a", Member: 1, Size: 2}),
		"wants":    b.Subscribe(Interest{Category: "a", Wants: func(stream string) bool { return stream == "a-1" }}),
		"other":    b.on("b"),
	}
	owner := fmt.Sprint("member ", max(names.Hash64("1"), -names.Hash64("1"))%2)
	ownerOfEmpty := fmt.Sprint("member ", names.Member("a-", 2))
	for payload, want := range map[string][]string{
		"a-1":      {"stream", "category", owner, "wants"},
		"a-1+x":    {"part", "category", owner}, // they have one cardinal id
		"a-1+y":    {"category", owner},
		"a":        {"category"},
		"a-":       {"category", ownerOfEmpty},
		"b-1":      {"other"},
		"c-1":      {},
		"-":        {},
		"A-1":      {},
		"a1-1":     {},
		"a-é":      {"category", "member 0", "member 1", "wants"}, // the server may hash it otherwise
		"":         {"stream", "part", "category", "member 0", "member 1", "wants", "other"},
		"\x00\xff": {},
	} {
		b.shards[0].onNotification(payload)
		var got []string
		for name, s := range sleepers {
			if rung(s) {
				got = append(got, name)
			}
			s.BeforeRead()
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("woken by %q: got %q, want %q", payload, got, want)
		}
	}
}

// TestSetListening checks that all subscriptions wake when the connection is proved or
// lost, and what state their categories are in then.
func TestSetListening(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBell(100)
		s, disabled := b.on("a"), b.on("d")
		disabled.category.offUntil = time.Now().Add(time.Minute)
		expect := func(what string, state, other state) {
			t.Helper()
			if s.category.state != state || disabled.category.state != other || s.category.wanted || !rung(s) || !rung(disabled) {
				t.Errorf("%s: got categories %+v and %+v, woken: %v and %v; want states %d and %d, both woken",
					what, s.category, disabled.category, rung(s), rung(disabled), state, other)
			}
			s.BeforeRead()
			disabled.BeforeRead()
		}
		b.shards[0].setListening(true)
		expect("the connection is proved", stateCooling, stateOff)
		s.category.state = stateArmed
		b.shards[0].setListening(false)
		expect("the connection is lost", stateOff, stateOff)
		if d, fallback := b.delay(s, time.Hour, 0); d != time.Hour || fallback || s.category.wanted {
			t.Errorf("without a connection: got delay %v, wanted %v; want %v, false", d, s.category.wanted, time.Hour)
		}
		<-time.After(2 * time.Minute)
		b.shards[0].setListening(true)
		expect("the connection is proved again", stateCooling, stateCooling)
	})
}

// TestCool checks that rings over the limit cool the categories that ring the most, as
// many as needed, and that only their subscriptions wake.
func TestCool(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		rates  map[string]float64
		armed  []string
		cooled []string
	}{
		// The rings are those of other stores.
		{map[string]float64{"a": 0}, []string{"a"}, nil},
		{map[string]float64{"a": 0, "b": 0.9, "c": 0.9}, []string{"a", "b", "c"}, nil},
		{map[string]float64{"a": 0, "b": 0.9, "c": 1}, []string{"a", "b"}, []string{"c"}},
		{map[string]float64{"a": 10, "b": 20, "c": 300}, []string{"a", "b"}, []string{"c"}},
		{map[string]float64{"a": 40, "b": 41, "c": 42}, []string{"a"}, []string{"b", "c"}},
		{map[string]float64{"a": 60, "b": 70}, nil, []string{"a", "b"}},
		{map[string]float64{"a": 1, "b": 2, "c": 3, "d": 4}, []string{"a", "b", "c"}, []string{"d"}},
	} {
		b := newBell(100)
		sleepers := make(map[string]*Sleeper)
		now := time.Now()
		for category, rate := range test.rates {
			sleepers[category] = b.on(category)
			settle(b, sleepers[category])
			sleepers[category].category.rate.add(now, rate)
		}
		for _, s := range sleepers { // settle of a later one cools those before it
			s.category.state = stateArmed
			s.BeforeRead()
		}
		cold := b.on("cold")
		cold.category.state = stateCooling
		b.shards[0].woken = false
		b.shards[0].cool(now)
		var armed, cooled []string
		for category, s := range sleepers {
			if s.category.state == stateArmed {
				armed = append(armed, category)
			} else {
				cooled = append(cooled, category)
			}
			if rung(s) != (s.category.state == stateCooling) {
				t.Errorf("rates %v: category %s is in state %d, its subscription was woken: %v", test.rates, category, s.category.state, rung(s))
			}
		}
		slices.Sort(armed)
		slices.Sort(cooled)
		if !slices.Equal(armed, test.armed) || !slices.Equal(cooled, test.cooled) {
			t.Errorf("rates %v: got armed %v, cooled %v; want %v, %v", test.rates, armed, cooled, test.armed, test.cooled)
		}
		if b.shards[0].woken != (len(cooled) > 0) || rung(cold) {
			t.Errorf("rates %v: listener woken: %v, want %v; subscription to a cooling category woken: %v, want false", test.rates, b.shards[0].woken, len(cooled) > 0, rung(cold))
		}
	}
}

// TestCoolInterval checks that the polls of all cooling categories together are limited.
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
			t.Errorf("%d cooling, %d armed: got %v, want %v", test.cooling, test.armed, got, test.want)
		}
	}
}
