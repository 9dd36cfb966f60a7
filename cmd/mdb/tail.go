package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"slices"
	"strconv"

	"github.com/messagedb-go/messagedb/mdb"
)

var tailCommand = command{
	name:  "tail",
	args:  []string{"STREAM|CATEGORY"},
	short: "print new messages of a stream or a category as they are written",
	long: `Prints new messages of a stream or a category as they are written, in the format of
read, until it is interrupted, and then exits with 0. It starts with the next message;
-n 20 prints the last 20 first, and -from 0 all that exist. Several categories, or with -all the whole store, are
printed in the order of global positions.

If the NOTIFY trigger is installed, tail is notified of new messages; otherwise it polls.
After a lost connection it prints the error, reconnects and continues.`,
	examples: `mdb tail account
mdb tail -n 20 account
mdb tail -from 0 -json account-123
mdb tail -limit 1 -type Closed account-123`,
	setup: selecting((*app).tail, (*selection).declareTail, mdb.WithNotify()),
}

func (a *app) tail(ctx context.Context, s *mdb.Store, sel *selection) error {
	printer := a.printer(sel.json)
	handle := func(_ context.Context, m mdb.Message) error { return sel.print(printer, m) }
	retry := mdb.OnRetry(func(r mdb.Retry) {
		if r.Attempt == 1 {
			a.complain(fmt.Errorf("retrying: %w", r.Err))
		}
	})
	err := sel.printLast(ctx, s, printer)
	switch {
	case err != nil:
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

// declareTail declares the options of tail.
func (sel *selection) declareTail(fs *flag.FlagSet) {
	sel.declare(fs)
	fs.Func("n", "print the last `N` messages first", func(given string) (err error) {
		if sel.last, err = strconv.Atoi(given); err != nil || sel.last < 1 {
			return errors.New("want a number, at least 1")
		}
		return nil
	})
}

// printLast prints the last messages up to the end, after which the subscription then starts.
func (sel *selection) printLast(ctx context.Context, s *mdb.Store, p *printer) error {
	if sel.last == 0 {
		return nil
	}
	end, err := sel.end(ctx, s)
	if err != nil {
		return err
	}
	back := *sel
	back.backwards = true
	back.stream, back.category, back.every = slices.Clone(sel.stream), slices.Clone(sel.category), slices.Clone(sel.every)
	var last []mdb.Message
	if end >= back.first() {
		back.startAt(mdb.FromPosition(end), mdb.FromGlobalPosition(end))
		back.add(mdb.Backwards())
		if sel.last < mdb.DefaultBatchSize && !back.filters() {
			back.add(mdb.WithBatchSize(sel.last))
		}
		for m, err := range back.messages(ctx, s) {
			if err != nil {
				return err
			}
			if !sel.selects(&m) {
				continue
			}
			if last = append(last, m.Clone()); len(last) == sel.last {
				break
			}
		}
	}
	for _, m := range slices.Backward(last) {
		if err := sel.print(p, m); err != nil {
			return err
		}
	}
	sel.startAt(mdb.AfterPosition(end), mdb.AfterGlobalPosition(end))
	return nil
}

// end returns the position up to which messages are there.
func (sel *selection) end(ctx context.Context, s *mdb.Store) (int64, error) {
	switch {
	case sel.isAll():
		return s.Head(ctx)
	case sel.isCategory():
		return s.CategoryHead(ctx, sel.name.Category())
	}
	return s.StreamVersion(ctx, sel.name)
}

// first returns the position of the first message that there can be.
func (sel *selection) first() int64 {
	if sel.isAll() || sel.isCategory() {
		return 1
	}
	return 0
}

// fromEnd reports whether no position is given.
func (sel *selection) fromEnd() bool { return sel.unpositioned() && sel.last == 0 }
