package doorbell

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/messagedb-go/messagedb/internal/trigger"
)

const saysOff = "notifications unavailable"

// TestTriggerMissing checks that a bell without the trigger looks for it now and then, and
// as soon as a notification says that it was installed or removed, all on one connection.
func TestTriggerMissing(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, db *database) {
		db.missing = true
		var log strings.Builder
		b := db.bell(&log)
		a := subscribe(t, b, "a")
		pass(time.Minute + 1)
		wantStats(t, "without the trigger", b, Stats{Off: 1})
		if n := db.counts(); n.looks != 4 || n.connects != 1 {
			t.Errorf("got %d looks and %d connections in a minute, want 4 and 1", n.looks, n.connects)
		}
		set := func(missing bool) {
			db.set(func() { db.missing = missing })
			db.notify(trigger.Changed)
			pass(2 * time.Second)
		}
		for range 3 {
			set(false)
			wantStats(t, "installed", b, Stats{Listening: true, Armed: 1})
			set(true)
			wantStats(t, "removed", b, Stats{Off: 1})
			if keys := db.get(db.keys); keys != 0 {
				t.Errorf("got %d keys without the trigger, want none", keys)
			}
		}
		if n := db.counts().connects; n != 1 || strings.Count(log.String(), saysOff) != 1 || !strings.Contains(log.String(), "schema.InstallNotify") {
			t.Errorf("got %d connections, want 1, and one warning with the remedy: %s", n, &log)
		}
		a.stop()
	})
}

// TestUnrung checks that a bell looks for the trigger when messages arrive without a ring:
// without it the bell is off, and with it the category is armed less and less often.
func TestUnrung(t *testing.T) {
	t.Parallel()
	unrung := func(t *testing.T, b *Bell, l *loop) {
		t.Helper()
		for range 2 {
			l.reads <- 1
			pass(b.config.Fallback + latestRing)
		}
	}
	t.Run("the trigger is gone", func(t *testing.T) {
		t.Parallel()
		run(t, func(t *testing.T, db *database) {
			var log strings.Builder
			b := db.bell(&log)
			b.config.Fallback = 5 * time.Second
			a := subscribe(t, b, "a")
			pass(time.Second)
			db.set(func() { db.missing = true })
			unrung(t, b, a)
			wantStats(t, "disabled", b, Stats{Off: 1})
			pass(10 * b.config.Recheck)
			if n := db.counts().shares; n != 1 {
				t.Errorf("got %d attempts to share keys, want one", n)
			}
			db.set(func() { db.missing = false })
			db.notify(trigger.Changed)
			pass(2 * time.Second)
			wantStats(t, "enabled again", b, Stats{Listening: true, Armed: 1})
			if !strings.Contains(log.String(), "not installed or not enabled") {
				t.Errorf("no warning: %s", &log)
			}
			a.stop()
		})
	})
	for _, always := range []bool{false, true} {
		t.Run("the trigger does not fire", func(t *testing.T) {
			t.Parallel()
			run(t, func(t *testing.T, db *database) {
				db.always = always
				var log strings.Builder
				b := db.bell(&log)
				b.config.Fallback = 5 * time.Second
				a := subscribe(t, b, "a")
				pass(time.Second)
				for i, periods := range []int{1, 2, 4, 8, 16, 16} {
					unrung(t, b, a)
					pass(time.Duration(periods)*time.Minute - 10*time.Second)
					wantStats(t, "disabled", b, Stats{Listening: true, Off: 1})
					pass(12 * time.Second)
					wantStats(t, "armed again", b, Stats{Listening: true, Armed: 1})
					if n := db.counts().shares; n != i+2 {
						t.Errorf("got %d attempts to share keys, want %d", n, i+2)
					}
				}
				if n := strings.Count(log.String(), "messages arrive without a notification"); n != 6 || always == strings.Contains(log.String(), "ENABLE ALWAYS TRIGGER message_store_notify") {
					t.Errorf("got %d warnings, want 6, with the remedy: %s", n, &log)
				}
				// A ring shows that all is well again.
				db.write("a")
				pass(time.Second)
				unrung(t, b, a)
				pass(b.config.Recheck + 2*time.Second)
				wantStats(t, "armed again after a ring", b, Stats{Listening: true, Armed: 1})
				a.stop()
			})
		})
	}
}

// TestFailures checks after which delays a bell connects again.
func TestFailures(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name     string
		set      func(db *database)
		connects int // in ten minutes
		says     string
	}{
		{"all is well", func(*database) {}, 1, ""},
		{"notifications get lost", func(db *database) { db.deaf = true }, 10, "does not arrive"},
		{"the server refuses", func(db *database) { db.refuses = errors.New("no") }, 80, "connect to listen: no"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			run(t, func(t *testing.T, db *database) {
				test.set(db)
				var log strings.Builder
				b := db.bell(&log)
				a := subscribe(t, b, "a")
				pass(10 * time.Minute)
				if n := db.counts().connects; n < test.connects || n > test.connects*3/2+1 {
					t.Errorf("got %d connections, want about %d", n, test.connects)
				}
				warnings := strings.Count(log.String(), saysOff)
				if test.says == "" && warnings != 0 || test.says != "" && (warnings != 1 || !strings.Contains(log.String(), test.says)) {
					t.Errorf("got %d warnings, want one that says %q: %s", warnings, test.says, &log)
				}
				a.stop()
			})
		})
	}
}

// TestPanics checks that panics of hooks of the pool, which run in goroutines of the bell, are
// logged as reasons, and do not end the process.
func TestPanics(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, db *database) {
		var log strings.Builder
		b := db.bell(&log)
		notify, connect := b.config.Notify, b.shards[0].connect
		var broken atomic.Value
		broken.Store("connect")
		b.shards[0].connect = func(ctx context.Context) (server, error) {
			if broken.Load() == "connect" {
				panic("of BeforeConnect")
			}
			return connect(ctx)
		}
		b.config.Notify = func(ctx context.Context, shard int, payload string) (time.Time, error) {
			if broken.Load() == "notify" {
				panic("of PrepareConn")
			}
			return notify(ctx, shard, payload)
		}
		a := subscribe(t, b, "a")
		pass(time.Minute)
		wantStats(t, "panics of BeforeConnect", b, Stats{Off: 1})
		broken.Store("notify")
		pass(time.Minute)
		wantStats(t, "panics of PrepareConn", b, Stats{Off: 1})
		broken.Store("")
		pass(time.Minute)
		wantStats(t, "no more panics", b, Stats{Listening: true, Armed: 1})
		for _, want := range []string{"panic: of BeforeConnect", "panic: of PrepareConn"} {
			if strings.Count(log.String(), want) != 1 {
				t.Errorf("want one warning with %q: %s", want, &log)
			}
		}
		if !strings.Contains(log.String(), "stack=") {
			t.Errorf("no stack: %s", &log)
		}
		a.stop()
	})
}

// A blockingHandler blocks the goroutine that logs.
type blockingHandler struct {
	slog.Handler
	release chan struct{}
}

func (h blockingHandler) Handle(context.Context, slog.Record) error {
	<-h.release
	return nil
}

// TestStopDoesNotHang checks that neither a hook that ignores its context nor a logger that
// blocks keeps the last subscription from ending, or the next one from starting, and that
// there is never more than one goroutine that listens.
func TestStopDoesNotHang(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, db *database) {
		release := make(chan struct{})
		b := db.bell(nil)
		b.config.Logger = slog.New(blockingHandler{slog.DiscardHandler, release})
		connect, blocked, active := b.shards[0].connect, true, 0
		b.shards[0].connect = func(ctx context.Context) (server, error) {
			if active++; active > 1 {
				t.Error("two goroutines connect at the same time")
			}
			defer func() { active-- }()
			if blocked {
				<-release
				return nil, errors.New("too late")
			}
			return connect(ctx)
		}
		for range 3 {
			a := subscribe(t, b, "a")
			pass(2 * time.Second)
			stopped := make(chan struct{})
			go func() {
				a.stop()
				close(stopped)
			}()
			pass(2 * stopTimeout)
			select {
			case <-stopped:
			default:
				t.Fatal("the last subscription does not end")
			}
		}
		blocked = false
		close(release)
		a := subscribe(t, b, "a")
		pass(2 * time.Second)
		wantStats(t, "no longer blocked", b, Stats{Listening: true, Armed: 1})
		a.stop()
		if n := db.get(func() int { return len(db.conns) }); n != 0 {
			t.Errorf("got %d connections after the last subscription, want none", n)
		}
	})
}

// TestArmPauses checks that a bell whose categories are all kept busy by writers spends no
// more than half of its time on them, and soon has a key after the writer has ended, also
// if its strategy polls once an hour.
func TestArmPauses(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, db *database) {
		db.latency = 10 * time.Millisecond
		b := db.bell(nil)
		quiet := subscribe(t, b, "quiet")
		pass(time.Second)
		// Every statement is about another category, because they are due one after the other.
		busy := make(map[string]*loop)
		for i := range 8 {
			db.set(func() { db.busy[string(rune('a'+i))] = true })
			s := b.on(string(rune('a' + i)))
			defer s.Close()
			s.BeforeRead()
			if d, _ := b.delay(s, 2*time.Millisecond, 0); d > 100*time.Millisecond {
				t.Fatalf("a cooling category is polled every %v", d)
			}
		}
		shares := db.counts().shares
		pass(10 * time.Second)
		if n := db.counts().shares - shares; n > 500 || n < 100 {
			t.Errorf("got %d statements of 10 ms in 10 s, want half of the time at most", n)
		}
		stopAll(busy)
		quiet.stop()
	})
	run(t, func(t *testing.T, db *database) {
		b := db.bell(nil)
		db.busy["a"] = true
		pass(time.Second)
		s := b.on("a")
		pass(time.Second)
		for range 60 * 100 {
			s.BeforeRead()
			_ = s.Sleep(t.Context(), time.Hour, 0, nil, nil)
		}
		db.set(func() { db.busy["a"] = false })
		pass(maxArmRetry)
		wantStats(t, "the writer has ended", b, Stats{Listening: true, Armed: 1})
		s.Close()
	})
}

// TestCloseUnlocks checks that the key of a category is given up when its last subscription
// ends, although nothing else happens.
func TestCloseUnlocks(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, db *database) {
		b := db.bell(nil)
		a, other := subscribe(t, b, "a"), subscribe(t, b, "b")
		pass(time.Second)
		wantStats(t, "two categories", b, Stats{Listening: true, Armed: 2})
		a.stop()
		synctest.Wait()
		if keys := db.get(db.keys); keys != 1 {
			t.Errorf("got %d keys, want 1", keys)
		}
		other.stop()
	})
}

// TestForeignRings checks that many rings for other stores' categories take the bell neither
// from silent categories nor from new ones.
func TestForeignRings(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, db *database) {
		b := db.bell(nil)
		loops := subscribeAll(t, b, "a", 3)
		pass(time.Second)
		ring := func() {
			for range 1000 {
				<-time.After(4 * time.Millisecond)
				db.notify("foreign-1")
			}
		}
		reads := b.Stats().Reads
		ring()
		wantStats(t, "three silent categories", b, Stats{Listening: true, Armed: 3})
		if n := b.Stats().Reads - reads; n != 0 {
			t.Errorf("got %d reads, want none", n)
		}
		loops["new"] = subscribe(t, b, "new")
		ring()
		wantStats(t, "a new one", b, Stats{Listening: true, Armed: 4})
		// Those that ring themselves are cooled.
		for range 100 {
			<-time.After(time.Millisecond)
			db.write("new")
			db.notify("foreign-1")
			db.notify("foreign-1")
		}
		synctest.Wait()
		wantStats(t, "one that rings", b, Stats{Listening: true, Armed: 3, Cooling: 1})
		stopAll(loops)
	})
}

// TestNamelessRings checks that rings without a name are limited like others.
func TestNamelessRings(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, db *database) {
		b := db.bell(nil)
		loops := subscribeAll(t, b, "a", 300)
		pass(time.Second)
		for range 1000 {
			<-time.After(time.Millisecond)
			db.notify("")
		}
		synctest.Wait()
		if armed := b.Stats().Armed; armed > 150 {
			t.Errorf("got %d of 300 categories armed, want at most half", armed)
		}
		stopAll(loops)
	})
}

// TestSettled checks that a subscription counts as settled only from its first read after its
// category was armed, whether or not it has been woken for it.
func TestSettled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBell(100)
		expect := func(what string, want bool) {
			t.Helper()
			if b.Settled() != want {
				t.Errorf("%s: got %v, want %v", what, b.Settled(), want)
			}
		}
		expect("no subscription", false)
		s := b.on("a")
		b.shards[0].setListening(true)
		s.BeforeRead()
		expect("cooling", false)
		s.category.wanted = true
		b.shards[0].armed([]string{"a"}, []bool{true})
		expect("armed", false)
		_ = s.Sleep(t.Context(), time.Hour, 0, nil, nil) // is woken to read
		expect("woken, before the read", false)
		s.BeforeRead()
		expect("reading", true)
		b.shards[0].onNotification("a-1")
		expect("rung", false)
	})
}

// TestEncodings checks that the members of a group are woken for a name outside ASCII whose
// hash only the server knows.
func TestEncodings(t *testing.T) {
	t.Parallel()
	for _, ascii := range []bool{false, true} {
		run(t, func(t *testing.T, db *database) {
			db.ascii = ascii
			b := db.bell(nil)
			var members []*Sleeper
			for i := range int64(3) {
				members = append(members, b.Subscribe(Interest{Category: "a", Member: i, Size: 3}))
			}
			other := b.on("a-ü")
			pass(time.Second)
			for _, test := range []struct {
				stream string
				want   int
			}{{"a-x", 1}, {"a-é", map[bool]int{false: 1, true: 3}[ascii]}, {"a", 0}} {
				for _, s := range append(members, other) {
					s.BeforeRead()
				}
				b.shards[0].onNotification(test.stream)
				woken := 0
				for _, s := range members {
					if rung(s) {
						woken++
					}
				}
				if woken != test.want || rung(other) {
					t.Errorf("%s, not UTF-8: %v: got %d members woken, another stream: %v; want %d, false", test.stream, ascii, woken, rung(other), test.want)
				}
			}
			for _, s := range append(members, other) {
				s.Close()
			}
		})
	}
}
