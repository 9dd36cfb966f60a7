package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"iter"

	"github.com/messagedb-go/messagedb/mdb"
)

var readCommand = command{
	name:  "read",
	args:  []string{"STREAM|CATEGORY"},
	short: "print the messages of a stream or a category",
	long: `Prints the messages of a stream, such as account-123, in the order of their positions,
or those of a category, such as account, in the order of their global positions. It
prints all of them unless there is a -limit. With -backwards it prints the latest first, and with
-since those of a time and later; both need the privilege to read the table, which the role
message_store has.

Several categories, or with -all the whole store, are read in the order of global positions. Where
positions are missing, read waits for the transactions that may still write them.

The server selects by -type and -types in several categories, in the whole store, and in a category with
-backwards; otherwise all messages are transferred. With several categories or -all, -correlation
transfers all of them, too: with -all, the whole store.

A line consists of the time, the global position, the stream and the position, the
type, the data and the metadata. With -json the lines are JSON, which "write -lines"
reads.`,
	examples: `mdb read account-123
mdb read -after 1000 -limit 20 account
mdb read -group 0/3 account
mdb read -backwards -limit 20 account
mdb read -since 1h account
mdb read -all -types Opened,Closed
mdb read -all -correlation order-7
mdb read -json account-123 | mdb -d "$OTHER_URL" write -lines -idempotent account-123`,
	setup: selecting((*app).read, (*selection).declareRead),
}

// selecting returns the setup of a command that works on a selection.
func selecting(do func(*app, context.Context, *mdb.Store, *selection) error, declare func(*selection, *flag.FlagSet), opts ...mdb.ConnectOption) func(*flag.FlagSet) action {
	return func(fs *flag.FlagSet) action {
		var sel selection
		declare(&sel, fs)
		return func(ctx context.Context, a *app, args []string) error {
			if err := sel.check(args); err != nil {
				return err
			}
			return a.withStore(ctx, func(s *mdb.Store) error {
				return sel.explain(do(a, ctx, s, &sel))
			}, opts...)
		}
	}
}

func (a *app) read(ctx context.Context, s *mdb.Store, sel *selection) (err error) {
	printer := a.printer(sel.json)
	buffer := bufio.NewWriter(a.stdout)
	printer.w = buffer
	defer func() { err = errors.Join(err, buffer.Flush()) }()

	for m, err := range sel.messages(ctx, s) {
		if err != nil {
			return err
		}
		if err := sel.print(printer, m); errors.Is(err, errEnough) {
			return nil
		} else if err != nil {
			return err
		}
	}
	switch {
	case sel.printed > 0:
		return nil
	case sel.isAll():
		return nothing("no messages found")
	}
	return noMessages(sel.name)
}

// messages returns those that the options of the library select.
func (sel *selection) messages(ctx context.Context, s *mdb.Store) iter.Seq2[mdb.Message, error] {
	switch {
	case sel.isAll() || sel.likeAll():
		return s.AllMessages(ctx, sel.every)
	case sel.isCategory():
		return s.CategoryMessages(ctx, sel.name.Category(), sel.category)
	}
	return s.StreamMessages(ctx, sel.name, sel.stream)
}
