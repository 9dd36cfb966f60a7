package doorbell

import (
	"context"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestExits checks that a hook which ends a goroutine of the bell, as t.FailNow does, is logged as the reason, and that the bell is off until
// there is another goroutine.
func TestExits(t *testing.T) {
	t.Parallel()
	for _, at := range []string{"connect", "listening", "notify"} {
		t.Run(at, func(t *testing.T) {
			t.Parallel()
			run(t, func(t *testing.T, db *database) {
				var log strings.Builder
				b := db.bell(&log)
				var exits atomic.Bool
				in := func(place string) {
					if place == at && exits.CompareAndSwap(true, false) {
						runtime.Goexit()
					}
				}
				notify, connect := b.config.Notify, b.shards[0].connect
				b.shards[0].connect = func(ctx context.Context) (server, error) {
					in("connect")
					return connect(ctx)
				}
				b.config.Notify = func(ctx context.Context, shard int, payload string) (time.Time, error) {
					in("notify")
					return notify(ctx, shard, payload)
				}
				b.config.Listening = func(bool) { in("listening") }
				exits.Store(true)
				a := subscribe(t, b, "a")
				pass(2 * time.Second)
				wantStats(t, "after the exit", b, Stats{Off: 1})
				pass(time.Minute)
				if n := strings.Count(log.String(), errExits.Error()); n != 1 {
					t.Errorf("got %d warnings with the reason, want 1: %s", n, &log)
				}
				a.stop()
				again := subscribe(t, b, "a")
				pass(2 * time.Second)
				wantStats(t, "another subscription", b, Stats{Listening: true, Armed: 1})
				again.stop()
				if n := db.get(func() int { return len(db.conns) }); n != 0 {
					t.Errorf("got %d connections after the last subscription, want none", n)
				}
			})
		})
	}
}

// TestAskingExits checks that no category waits for notifications after the goroutine that asks for their shards was ended.
func TestAskingExits(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, _ *database) {
		c := newCluster(2)
		var log strings.Builder
		b := c.bell(&log)
		place := b.config.Place
		var exits atomic.Bool
		b.config.Place = func(ctx context.Context, categories []string) ([]int, error) {
			if exits.Load() {
				runtime.Goexit()
			}
			return place(ctx, categories)
		}
		a := subscribe(t, b, "a")
		pass(2 * time.Second)
		wantStats(t, "at first", b, Stats{Listening: true, Armed: 1})
		exits.Store(true)
		pass(time.Minute)
		wantStats(t, "after the exit", b, Stats{Listening: true, Off: 1})
		if n := strings.Count(log.String(), errExits.Error()); n != 1 {
			t.Errorf("got %d warnings with the reason, want 1: %s", n, &log)
		}
		a.stop()
	})
}
