package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"

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

A line consists of the time, the global position, the stream and the position, the
type, the data and the metadata. With -json the lines are JSON, which "write -lines"
reads.`,
	examples: `mdb read account-123
mdb read -after 1000 -limit 20 account
mdb read -group 0/3 account
mdb read -backwards -limit 20 account
mdb read -since 1h account
mdb read -all -types Opened,Closed
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

	var messages iter.Seq2[mdb.Message, error]
	switch {
	case sel.isAll():
		messages = s.AllMessages(ctx, sel.every)
	case sel.isCategory():
		messages = s.CategoryMessages(ctx, sel.name.Category(), sel.category)
	default:
		messages = s.StreamMessages(ctx, sel.name, sel.stream)
	}
	for m, err := range messages {
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

// A selection says which messages of a stream, of categories or of all read and tail print.
type selection struct {
	name  mdb.StreamName // of a stream or of one category
	all   bool
	some  []mdb.Category // several
	types []string
	limit int64 // 0: none
	typ   string
	json  bool

	from, after *int64
	backwards   bool
	since       *time.Time
	correlation string
	group       string

	stream   mdb.StreamOptions
	category mdb.CategoryOptions
	every    mdb.AllOptions
	printed  int64
}

func (sel *selection) declare(fs *flag.FlagSet) {
	numberFlag(fs, "from", "start at this `POSITION`, a global position for a category", func(n int64) { sel.from = &n })
	numberFlag(fs, "after", "start after this `POSITION`, a global position for a category", func(n int64) { sel.after = &n })
	fs.Func("limit", "stop after printing `N` messages", func(given string) (err error) {
		if sel.limit, err = strconv.ParseInt(given, 10, 64); err != nil || sel.limit < 1 {
			return errors.New("want a number, at least 1")
		}
		return nil
	})
	fs.StringVar(&sel.typ, "type", "", "print only messages of this `TYPE`; the others are read, too")
	fs.Func("types", "print only messages of the types `TYPE,TYPE`", func(given string) error {
		sel.types = strings.Split(given, ",")
		return nil
	})
	fs.BoolVar(&sel.all, "all", false, "all categories, instead of a name")
	fs.StringVar(&sel.correlation, "correlation", "", "for a category: only messages whose correlation stream is in this `CATEGORY`")
	fs.StringVar(&sel.group, "group", "", "for a category: only the streams of `MEMBER/SIZE` of a consumer group, such as 0/3")
	fs.BoolVar(&sel.json, "json", false, "print lines of JSON")
}

// declareRead declares the options of read that tail has not.
func (sel *selection) declareRead(fs *flag.FlagSet) {
	sel.declare(fs)
	fs.BoolVar(&sel.backwards, "backwards", false, "print the latest message first; -from and -after go back from there")
	fs.Func("since", "start with the messages of a `TIME`, such as 2026-11-23T09:30:00Z, or with those of the last 90s, 15m or 24h", func(given string) error {
		t, err := parseTime(given)
		if err != nil {
			return errors.New("want a time such as 2026-11-23T09:30:00Z, or a duration such as 1h")
		}
		sel.since = &t
		return nil
	})
}

// parseTime returns a time, or the one that was a duration ago.
func parseTime(given string) (time.Time, error) {
	if d, err := time.ParseDuration(given); err == nil && d >= 0 {
		return time.Now().Add(-d), nil
	}
	return time.Parse(time.RFC3339, given)
}

// check turns the command's options into options of the library.
func (sel *selection) check(args []string) (err error) {
	if err := sel.checkNames(args); err != nil {
		return err
	}
	if sel.from != nil && sel.after != nil {
		return usage("-from and -after exclude each other")
	}
	if sel.limit > 0 && sel.limit < mdb.DefaultBatchSize && sel.typ == "" && (sel.types == nil || sel.isAll()) {
		size := mdb.WithBatchSize(int(sel.limit))
		sel.add(size)
	}
	if sel.from != nil {
		sel.startAt(mdb.FromPosition(*sel.from), mdb.FromGlobalPosition(*sel.from))
	}
	if sel.after != nil {
		sel.startAt(mdb.AfterPosition(*sel.after), mdb.AfterGlobalPosition(*sel.after))
	}
	if sel.since != nil && (sel.backwards || sel.from != nil || sel.after != nil) {
		return usage("-since excludes -from, -after and -backwards")
	}
	if sel.backwards {
		sel.add(mdb.Backwards())
	}
	if sel.since != nil {
		sel.add(mdb.Since(*sel.since))
	}
	if sel.isAll() && (sel.correlation != "" || sel.group != "") {
		return usage("-correlation and -group need one category")
	}
	if !sel.isCategory() && (sel.correlation != "" || sel.group != "") {
		return usage("-correlation and -group need a category, got the stream %q", string(sel.name))
	}
	if sel.correlation != "" {
		sel.category = append(sel.category, mdb.WithCorrelation(mdb.Category(sel.correlation)))
	}
	if sel.group != "" {
		memberText, sizeText, _ := strings.Cut(sel.group, "/")
		member, memberErr := strconv.Atoi(memberText)
		size, sizeErr := strconv.Atoi(sizeText)
		if memberErr != nil || sizeErr != nil {
			return usage("-group: want MEMBER/SIZE, such as 0/3, got %q", sel.group)
		}
		sel.category = append(sel.category, mdb.AsConsumerGroup(member, size))
	}
	return nil
}

// checkNames checks the arguments.
func (sel *selection) checkNames(args []string) (err error) {
	if sel.all || len(args) > 1 {
		if sel.all {
			if _, err := exactly(args); err != nil {
				return err
			}
		}
		for _, arg := range args {
			n, err := name(arg)
			if err != nil {
				return err
			}
			if strings.Contains(arg, "-") {
				return usage("several names must be those of categories, got the stream %q", arg)
			}
			sel.some = append(sel.some, n.Category())
		}
		if sel.some != nil {
			sel.every = append(sel.every, mdb.InCategories(sel.some...))
		}
		if sel.types != nil {
			sel.every = append(sel.every, mdb.OfTypes(sel.types...))
		}
		return nil
	}
	if args, err = exactly(args, "STREAM|CATEGORY"); err != nil {
		return err
	}
	sel.name, err = name(args[0])
	return err
}

// add adds an option to those of all kinds of reads.
func (sel *selection) add(opt mdb.ReadOption) {
	sel.stream, sel.category, sel.every = append(sel.stream, opt), append(sel.category, opt), append(sel.every, opt)
}

// startAt adds a position to the options of the reads that it is for.
func (sel *selection) startAt(inStream mdb.StreamOption, global mdb.GlobalOption) {
	sel.stream, sel.category, sel.every = append(sel.stream, inStream), append(sel.category, global), append(sel.every, global)
}

// isAll reports whether several categories are read, or all.
func (sel *selection) isAll() bool { return sel.all || sel.some != nil }

// isCategory decides by the name, as the server does.
func (sel *selection) isCategory() bool {
	return !strings.Contains(string(sel.name), "-")
}

var errEnough = errors.New("the limit is reached")

// print prints the message if it is selected. It returns errEnough after the last one.
func (sel *selection) print(p *printer, m mdb.Message) error {
	if sel.typ != "" && m.Type != sel.typ || sel.types != nil && !slices.Contains(sel.types, m.Type) {
		return nil
	}
	if err := p.message(m); err != nil {
		return err
	}
	if sel.printed++; sel.printed == sel.limit {
		return errEnough
	}
	return nil
}
