package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/messagedb-go/messagedb/mdb"
)

var tailCommand = command{
	name:  "tail",
	args:  []string{"STREAM|CATEGORY"},
	short: "print new messages of a stream or a category as they are written",
	long: `Prints new messages of a stream or a category as they are written, in the format of
read, until it is interrupted, and then exits with 0. It starts with the next message;
-from 0 prints the existing messages first. Several categories, or with -all the whole store, are
printed in the order of global positions.

If the NOTIFY trigger is installed, tail is notified of new messages; otherwise it polls.
After a lost connection it prints the error, reconnects and continues.`,
	examples: `mdb tail account
mdb tail -from 0 -json account-123
mdb tail -limit 1 -type Closed account-123`,
	setup: selecting((*app).tail, (*selection).declare, mdb.WithNotify()),
}

func (a *app) tail(ctx context.Context, s *mdb.Store, sel *selection) error {
	printer := a.printer(sel.json)
	handle := func(_ context.Context, m mdb.Message) error { return sel.print(printer, m) }
	retry := mdb.OnRetry(func(r mdb.Retry) {
		if r.Attempt == 1 {
			a.complain(fmt.Errorf("retrying: %w", r.Err))
		}
	})
	var err error
	switch {
	case sel.isAll():
		opts := []mdb.AllSubscribeOption{retry, sel.every}
		if sel.fromEnd() {
			opts = append(opts, mdb.FromEnd())
		}
		err = s.SubscribeToAll(ctx, handle, opts...)
	case sel.isCategory():
		opts := []mdb.CategorySubscribeOption{retry, sel.category}
		if sel.fromEnd() {
			opts = append(opts, mdb.FromEnd())
		}
		err = s.SubscribeToCategory(ctx, sel.name.Category(), handle, opts...)
	default:
		opts := []mdb.StreamSubscribeOption{retry, sel.stream}
		if sel.fromEnd() {
			opts = append(opts, mdb.FromEnd())
		}
		err = s.SubscribeToStream(ctx, sel.name, handle, opts...)
	}
	if errors.Is(err, errEnough) || ctx.Err() != nil {
		err = nil // -limit is reached, or the user has stopped it
	}
	return err
}

// fromEnd reports whether no position is given.
func (sel *selection) fromEnd() bool { return sel.from == nil && sel.after == nil }
