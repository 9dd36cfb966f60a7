package barrier

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"time"
)

// report logs which transactions a barrier waits for. Each is logged once, because an operator has
// to look for its session once.
func (b *Barrier) report(ctx context.Context, left string, waited time.Duration) {
	reported := strings.Split(b.reported, ",")
	if !slices.ContainsFunc(strings.Split(left, ","), func(one string) bool { return !slices.Contains(reported, one) }) {
		return
	}
	sessions, err := b.server.Sessions(ctx, left)
	if err != nil {
		return // the next statement reports it
	}
	b.reported = left
	b.logger.LogAttrs(ctx, slog.LevelWarn, "a read of all categories waits for open transactions that have locked a category",
		slog.String("transactions", sessions), slog.Duration("waited", waited))
}
