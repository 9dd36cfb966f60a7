package consumer

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/messagedb-go/messagedb/mdb"
)

// A countedReading counts how many readers run.
type countedReading struct {
	reading

	running *atomic.Int32
}

func (r countedReading) run(ctx context.Context) error {
	r.running.Add(1)
	defer r.running.Add(-1)
	return r.reading.run(ctx)
}

// TestMemberLoggerExits checks that neither handlers nor readers go on after a function such as a logger has ended the goroutine of Run.
func TestMemberLoggerExits(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := newHall(t, 2)
		var readers, handlers atomic.Int32
		c := hire(t, h, letters(t, 20, 2), func(ctx context.Context, _ mdb.Message) error {
			handlers.Add(1)
			defer handlers.Add(-1)
			<-ctx.Done()
			return nil
		}, func(mc *memberConfig, _ *engineConfig) {
			mc.logger = slog.New(exitingLogger{slog.DiscardHandler})
			open := mc.readers
			mc.readers = func(partitions int) map[string]reading {
				counted := make(map[string]reading)
				for category, r := range open(partitions) {
					counted[category] = countedReading{r, &readers}
				}
				return counted
			}
		})
		pass(time.Second)
		if readers.Load() != 1 || handlers.Load() == 0 {
			t.Fatalf("%d readers, %d handlers", readers.Load(), handlers.Load())
		}
		h.set(func() { h.down = errNoAnswer }) // which is logged
		pass(3 * time.Second)
		if readers.Load() != 0 || handlers.Load() != 0 {
			t.Errorf("%d readers and %d handlers go on", readers.Load(), handlers.Load())
		}
		c.ended <- errClosing // instead of run
	})
}
