package mdbtest

import (
	"context"
	"errors"
	"testing"

	"github.com/messagedb-go/messagedb/mdb"
)

// errCaughtUp is the cause with which CatchUp ends the context of a subscription.
var errCaughtUp = errors.New("mdbtest: the subscription has caught up")

// CatchUp runs a subscription until it has handled all messages that exist, and then ends
// it and returns when it has returned. It calls subscribe once, with an option that
// subscribe must pass to [mdb.Store.SubscribeToStream] or [mdb.Store.SubscribeToCategory],
// together with other options of its own. The option is [mdb.OnLive], so it must come after
// another OnLive, which it replaces.
//
// The test fails immediately if the subscription ends for another reason, such as an error
// of the handler. subscribe may return nil once its context has ended.
func CatchUp(t testing.TB, subscribe func(ctx context.Context, live mdb.SubscribeOption) error) {
	t.Helper()
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	err := subscribe(ctx, mdb.OnLive(func(live bool) {
		if live {
			cancel(errCaughtUp)
		}
	}))
	switch {
	case context.Cause(ctx) == nil:
		t.Fatalf("mdbtest: CatchUp: the subscription ended before it had caught up: %v", err)
	case err != nil && !errors.Is(err, errCaughtUp) && !errors.Is(err, context.Canceled):
		t.Fatalf("mdbtest: CatchUp: the subscription had caught up, and then failed: %v", err)
	}
}
