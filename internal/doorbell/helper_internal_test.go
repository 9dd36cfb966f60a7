package doorbell

import (
	"log/slog"
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

// settle arms the categories of the subscriptions, all of which have read since then.
func settle(b *Bell, sleepers ...*Sleeper) {
	b.shards[0].setListening(true)
	for _, s := range sleepers {
		s.category.wanted = true
		b.shards[0].armed([]string{s.category.name}, []bool{true})
	}
	for _, s := range sleepers {
		s.BeforeRead()
	}
}

func rung(s *Sleeper) bool { return len(s.rung) > 0 }
