package doorbell

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestFree checks that bells which begin at the same time have at most twice their quarter
// until those that were first have given up some.
func TestFree(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		others, bells, keys, want int
	}{
		{0, 0, 0, 100},
		{100, 1, 0, 50},
		{180, 3, 0, 20},
		{200, 3, 0, 0},
		{400, 4, 10, 0},
	} {
		r := room{table: lockTable{capacity: 400, others: test.others, bells: test.bells}}
		if got := r.free(test.keys); got != test.want {
			t.Errorf("%+v: got %d, want %d", test, got, test.want)
		}
	}
}

// TestBound checks for how many keys a bell finds room.
func TestBound(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		table lockTable
		want  int
	}{
		{lockTable{capacity: 400}, 100},
		{lockTable{capacity: 400, foreign: 40}, 90},
		{lockTable{capacity: 400, foreign: 400}, 0},
		{lockTable{capacity: 400, foreign: 4000}, 0},
		{lockTable{capacity: 400, others: 30, bells: 1}, 70},
		{lockTable{capacity: 400, others: 100, bells: 1}, 50}, // they have to give up half
		{lockTable{capacity: 400, others: 400, bells: 4}, 20},
	} {
		if got := test.table.bound(); got != test.want {
			t.Errorf("%+v: got %d, want %d", test.table, got, test.want)
		}
	}
}

// TestRoom checks how many keys are shared between two looks, and what is left after the
// table was full.
func TestRoom(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for _, test := range []struct{ keys, step int }{{0, 12}, {36, 8}, {90, 8}, {95, 5}, {100, 0}, {120, 0}} {
		r := room{}
		r.update(lockTable{capacity: 400}, test.keys, now, time.Minute)
		if r.step != test.step {
			t.Errorf("with %d of 100 keys: got a step of %d, want %d", test.keys, r.step, test.step)
		}
		if r.stale(test.keys, now.Add(freshFor)) || !r.stale(test.keys, now.Add(freshFor+1)) {
			t.Error("a look allows more keys for another time than freshFor")
		}
		if r.step = 0; r.stale(test.keys, now) != (test.keys < 100) {
			t.Errorf("with %d of 100 keys, all of the step used: got stale %v", test.keys, test.keys >= 100)
		}
	}

	var r room
	r.update(lockTable{capacity: 800}, 0, now, time.Minute)
	r.full(160, now, time.Minute)
	var bounds []int
	for range 14 {
		now = now.Add(time.Minute)
		r.update(lockTable{capacity: 800}, 0, now, time.Minute)
		bounds = append(bounds, r.bound())
		r.update(lockTable{capacity: 800}, 0, now, time.Minute) // another look does not let it grow
	}
	if got, want := fmt.Sprint(bounds), "[80 90 101 113 127 142 159 178 200 200 200 200 200 200]"; got != want {
		t.Errorf("bounds in the minutes after the table was full: got %s, want %s", got, want)
	}
	r.full(0, now, time.Minute)
	for _, want := range []int{0, 8, 16} {
		now = now.Add(time.Minute)
		if r.update(lockTable{capacity: 800}, 0, now, time.Minute); r.bound() != want {
			t.Errorf("after the table was full without a key: got %d, want %d", r.bound(), want)
		}
	}
}

const saysTooMany = "too many categories for the server's lock table"

// TestCrowded checks that a bell has no more keys than there is room for, that the other
// categories are polled as their strategies say, and that a warning says so once.
func TestCrowded(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, db *database) {
		db.capacity, db.foreign = 440, 40
		var log strings.Builder
		b := db.bell(&log)
		loops := subscribeAll(t, b, "a", 250)
		pass(10 * time.Second)
		wantStats(t, "250 categories with room for 100", b, Stats{Listening: true, Armed: 100, Off: 150, Crowded: 150})
		if most := db.counts().most; most != 140 {
			t.Errorf("got up to %d locks, want 140", most)
		}
		reads := b.Stats().Reads
		pass(10 * time.Second)
		if reads = b.Stats().Reads - reads; reads < 1500 || reads > 1510 {
			t.Errorf("got %d reads in 10 s, want 1500: those of 150 strategies", reads)
		}
		for range 100 {
			pass(10 * time.Second)
			if most := db.counts().most; most != 140 {
				t.Fatalf("got %d locks, want 140", most)
			}
		}
		if n := strings.Count(log.String(), saysTooMany); n != 1 || !strings.Contains(log.String(), "limit=100 locks=440 used_by_others=40") {
			t.Errorf("got %d warnings, want one with the figures: %s", n, &log)
		}
		if looks, most := db.counts().looks, 2+1020/10; looks > 100+most {
			t.Errorf("got %d looks, want no more than one for each key, and %d", looks, most)
		}

		// Others take more of the table.
		db.set(func() { db.foreign = 240 })
		pass(lookInterval)
		wantStats(t, "room for 50", b, Stats{Listening: true, Armed: 50, Off: 200, Crowded: 200})
		if keys := db.get(db.keys); keys != 50 {
			t.Errorf("got %d keys, want 50", keys)
		}
		db.set(func() { db.foreign = 40 })
		pass(2 * time.Minute)
		wantStats(t, "room for 100 again", b, Stats{Listening: true, Armed: 100, Off: 150, Crowded: 150})

		// The connection is lost, and there is a larger table.
		db.set(func() { db.capacity = 4400 })
		db.kill()
		pass(10 * time.Second)
		wantStats(t, "room for all", b, Stats{Listening: true, Armed: 250})
		stopAll(loops)
	})
}

// TestCrowdedYields checks that a category that has messages gets the key of one that has
// had none for the longest time, if that has had it for a while.
func TestCrowdedYields(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, db *database) {
		db.capacity = 40
		b := db.bell(nil)
		loops := subscribeAll(t, b, "a", 10)
		pass(time.Second)
		state := func() (armed map[string]bool) {
			b.mu.Lock()
			defer b.mu.Unlock()
			armed = make(map[string]bool)
			for name, c := range b.categories {
				armed[name] = c.state == stateArmed
			}
			return armed
		}
		late := subscribe(t, b, "late")
		ringOf := "a7"
		for range 30 { // silence of the others, and of the late one
			pass(10 * time.Second)
			if !db.write(ringOf) {
				t.Fatal("a category with room has no key")
			}
		}
		if state()["late"] {
			t.Error("a category without messages got the key of another one")
		}
		late.reads <- 1
		pass(2 * time.Minute)
		after := state()
		if !after["late"] || !after[ringOf] {
			t.Errorf("got armed categories %v, want those that had messages", after)
		}
		if keys := db.get(db.keys); keys != 10 {
			t.Errorf("got %d keys, want 10", keys)
		}
		wantStats(t, "one has given way", b, Stats{Listening: true, Armed: 10, Off: 1, Crowded: 1})

		// All have messages now, so none gives way.
		last := subscribe(t, b, "last")
		for range 30 {
			pass(10 * time.Second)
			for name, armed := range state() {
				if armed {
					db.write(name)
				}
			}
			select {
			case last.reads <- 1:
			default:
			}
		}
		if state()["last"] {
			t.Error("a busy category got the key of another busy one")
		}
		loops["late"], loops["last"] = late, last
		stopAll(loops)
	})
}

// TestManyBells checks that bells that start together never use the whole table, and that
// each gets a fair part of the room in the end.
func TestManyBells(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, db *database) {
		const bells = 8
		db.capacity, db.latency = 3200, time.Millisecond
		small := db.bell(nil)
		loops := subscribeAll(t, small, "small", 10)
		all := []*Bell{small}
		for i := range bells - 1 {
			b := db.bell(nil)
			all = append(all, b)
			for j := range 500 {
				name := fmt.Sprint("bell", i, "_", j)
				loops[name] = subscribeEvery(t, b, name, 10*time.Second) // their polls cost time and do not matter
			}
		}
		pass(10 * time.Minute)
		if most := db.counts().most; most >= db.capacity/2 {
			t.Errorf("got up to %d of %d locks, want less than half", most, db.capacity)
		}
		if keys := db.get(db.keys); keys > 800 || keys < 700 {
			t.Errorf("got %d keys, want almost 800, and no more", keys)
		}
		for i, b := range all {
			if got, want := b.Stats().Armed, 100; i > 0 && got < want*9/10 || i == 0 && got != 10 {
				t.Errorf("bell %d: got %d keys, want its fair part of %d, or 10", i, got, want)
			}
		}
		stopAll(loops)
	})
}

// TestTableFull checks that a bell is off for a while after the lock table was full, and
// then has half as many keys, and later more.
func TestTableFull(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, db *database) {
		db.capacity = 800
		var log strings.Builder
		b := db.bell(&log)
		loops := subscribeAll(t, b, "a", 100)
		pass(10 * time.Second)
		wantStats(t, "at first", b, Stats{Listening: true, Armed: 100})
		db.set(func() { db.foreign = 700 }) // and the bell does not look
		b.shards[0].listener.room.step = 100
		more := subscribeAll(t, b, "b", 4)
		pass(2 * time.Second)
		wantStats(t, "the table is full", b, Stats{Off: 104})
		if connects := db.counts().connects; connects != 1 {
			t.Errorf("got %d connections, want none for a while", connects)
		}
		if n := strings.Count(log.String(), "lock table is full"); n != 1 {
			t.Errorf("got %d warnings, want one: %s", n, &log)
		}
		db.set(func() { db.foreign = 0 })
		pass(b.config.Recheck - 3*time.Second)
		wantStats(t, "almost a minute later", b, Stats{Off: 104})
		pass(10 * time.Second)
		wantStats(t, "a minute later", b, Stats{Listening: true, Armed: 50, Off: 54, Crowded: 54})
		pass(10 * b.config.Recheck)
		wantStats(t, "much later", b, Stats{Listening: true, Armed: 104})
		stopAll(loops)
		stopAll(more)
	})
}

// TestAdmitKeeps checks that a category keeps a new key for a while, also if another one has
// had messages since, and then gives it up.
func TestAdmitKeeps(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBell(100)
		holder, other := b.on("a"), b.on("b")
		settle(b, holder)
		pass(time.Second)
		want := func() (crowded bool) {
			other.category.state, other.category.wanted, other.category.used = stateCooling, true, time.Now()
			_, crowded = b.shards[0].admit(time.Now(), []string{"b"}, 0, 0)
			return crowded
		}
		pass(b.config.Recheck - 2*time.Second)
		if !want() || holder.category.state != stateArmed || other.category.state != stateOff || !other.category.crowded {
			t.Errorf("soon: got %+v and %+v, want the first to keep its key", holder.category, other.category)
		}
		pass(2 * time.Second)
		if want() || holder.category.state != stateOff || !holder.category.crowded || !rung(holder) || !other.category.wanted || !b.shards[0].woken {
			t.Errorf("later: got %+v and %+v, want the first to give its key up", holder.category, other.category)
		}
	})
}
