package doorbell

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// TestSleep checks what wakes a subscription, and that what happens while it reads is
// not forgotten when it goes to sleep.
func TestSleep(t *testing.T) {
	t.Parallel()
	const long = time.Hour
	for _, test := range []struct {
		name   string
		ring   func(b *Bell, when string)
		wakes  bool // early
		armed  bool
		sleeps time.Duration // at most, if it is not woken
	}{
		{"a ring before the read", func(b *Bell, when string) {
			if when == "before" {
				b.shards[0].onNotification("a-1")
			}
		}, false, true, 4 * time.Second},
		{"a ring during the read", func(b *Bell, when string) {
			if when == "read" {
				b.shards[0].onNotification("a-1")
			}
		}, true, true, 0},
		{"a ring during the sleep", func(b *Bell, when string) {
			if when == "asleep" {
				b.shards[0].onNotification("a-1")
			}
		}, true, true, 0},
		{"the connection is lost during the read", func(b *Bell, when string) {
			if when == "read" {
				b.shards[0].setListening(false)
			}
		}, true, true, 0},
		{"the connection is lost during the sleep", func(b *Bell, when string) {
			if when == "asleep" {
				b.shards[0].setListening(false)
			}
		}, true, true, 0},
		{"cooled during the read", func(b *Bell, when string) {
			if when == "read" {
				b.mu.Lock()
				defer b.mu.Unlock()
				b.categories["a"].rate.add(time.Now(), 1)
				b.shards[0].cool(time.Now())
			}
		}, true, true, 0},
		{"cooled during the sleep", func(b *Bell, when string) {
			if when == "asleep" {
				b.mu.Lock()
				defer b.mu.Unlock()
				b.categories["a"].rate.add(time.Now(), 1)
				b.shards[0].cool(time.Now())
			}
		}, true, true, 0},
		{"armed during the read", func(b *Bell, when string) {
			if when == "read" {
				b.mu.Lock()
				b.categories["a"].wanted = true
				b.mu.Unlock()
				b.shards[0].armed([]string{"a"}, []bool{true})
			}
		}, true, false, 0},
		{"written by the store itself, when armed", func(b *Bell, when string) {
			if when == "read" {
				b.Wrote("a-1")
			}
		}, false, true, 4 * time.Second},
		{"written by the store itself, when off", func(b *Bell, when string) {
			if when == "before" {
				b.shards[0].setListening(false)
			}
			if when == "read" {
				b.Wrote("a-1")
			}
		}, true, true, 0},
		{"written by the store itself, when cooling", func(b *Bell, when string) {
			if when == "read" {
				b.Wrote("a-1")
			}
		}, false, false, minCoolInterval},
		{"nothing, when off", func(b *Bell, when string) {
			if when == "before" {
				b.shards[0].setListening(false)
			}
		}, false, true, long},
		{"nothing, when cooling", func(*Bell, string) {}, false, false, minCoolInterval},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBell(100)
				s := b.on("a-1")
				b.shards[0].setListening(true)
				if test.armed {
					settle(b, s)
				}
				test.ring(b, "before")
				s.BeforeRead()
				test.ring(b, "read")
				begun := time.Now()
				done := make(chan struct{})
				go func() {
					defer close(done)
					_ = s.Sleep(t.Context(), long, 0, nil, nil)
				}()
				synctest.Wait()
				test.ring(b, "asleep")
				<-done
				slept := time.Since(begun)
				if test.wakes && slept != 0 || !test.wakes && (slept < test.sleeps*3/4 || slept > test.sleeps) {
					t.Errorf("slept for %v; want to be woken: %v, otherwise to sleep for %v", slept, test.wakes, test.sleeps)
				}
			})
		})
	}
	t.Run("the context ends", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			b := newBell(100)
			s := b.on("a-1")
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			begun := time.Now()
			s.BeforeRead()
			_ = s.Sleep(ctx, long, 0, nil, nil)
			if slept := time.Since(begun); slept != time.Second {
				t.Errorf("slept for %v, want %v", slept, time.Second)
			}
		})
	})
}
