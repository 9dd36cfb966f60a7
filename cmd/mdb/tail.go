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
	short: "print the messages of a stream or a category as they are written",
	long: `Prints the messages of a stream or a category as read does, when they are written,
until it is interrupted, which is exit status 0. It begins with the next message;
-from 0 prints those that are there first. Where the NOTIFY trigger is installed it
is woken by it, otherwise it polls. It outlasts lost connections, and tells of them.`,
	examples: `mdb tail account
mdb tail -from 0 -json account-123
mdb tail -limit 1 -type Closed account-123`,
	setup: selecting((*app).tail, mdb.WithNotify()),
}

func (a *app) tail(ctx context.Context, s *mdb.Store, sel *selection) error {
	printer := a.printer(sel.json)
	handle := func(_ context.Context, m mdb.Message) error { return sel.print(printer, m) }
	retry := mdb.OnRetry(func(r mdb.Retry) {
		if r.Attempt == 1 {
			a.complain(fmt.Errorf("trying again: %w", r.Err))
		}
	})
	var err error
	if sel.isCategory() {
		opts := append([]mdb.CategorySubscribeOption{mdb.FromEnd(), retry}, as[mdb.CategorySubscribeOption](sel.category)...)
		err = s.SubscribeToCategory(ctx, sel.name.Category(), handle, opts...)
	} else {
		opts := append([]mdb.StreamSubscribeOption{mdb.FromEnd(), retry}, as[mdb.StreamSubscribeOption](sel.stream)...)
		err = s.SubscribeToStream(ctx, sel.name, handle, opts...)
	}
	if errors.Is(err, errEnough) || ctx.Err() != nil {
		err = nil // as it was asked for
	}
	return err
}
